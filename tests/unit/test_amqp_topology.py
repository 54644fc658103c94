"""What is declared on a connection before it is used, and what is said when that is refused."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from umbel.brokers.amqp.messages import pack_amqp
from umbel.brokers.amqp.topology import MissingQueues, Placed, Topology, explain_refusal
from umbel.core.bindings import Binding
from umbel.core.destination import Destination
from umbel.core.protocol import Envelope
from umbel.core.queues import Broadcast, Exchange, Queue, QueueTable, binding
from umbel.core.records import Publication
from umbel.core.topology import QueueDefinition, define
from umbel.errors import BrokerError
from umbel.stores.amqp.faults import ChannelClosedError
from umbel.stores.amqp.requests import bind_queue, declare_exchange, declare_queue


def asked(steps: Any, refusals: dict[Any, Exception] | None = None) -> list[Any]:
    """The requests of some steps; those named in ``refusals`` are refused."""
    found: list[Any] = []
    try:
        request = next(steps)
        while True:
            found.append(request)
            refusal = (refusals or {}).get(request.method)
            request = steps.send(()) if refusal is None else steps.throw(refusal)
    except StopIteration:
        return found


def to_queue(name: str) -> Destination:
    return Destination("", name, name)


CELERYS = [declare_exchange("q", "direct"), declare_queue("q"), bind_queue("q", "q", "q")]


def test_an_unknown_queue_is_made_as_celery_makes_it() -> None:
    placed = Placed(Topology())
    assert asked(placed.steps(to_queue("q"))) == CELERYS
    assert placed.missing([Publication(to_queue("q"), b"")]) == []


def test_missing_queues_follow_their_settings() -> None:
    topology = Topology(MissingQueues("quorum", "topic", 9))
    requests = asked(Placed(topology).steps(Destination("q", "q", None, "topic")))
    assert requests == [
        declare_exchange("q", "topic"),
        declare_queue("q", arguments={"x-queue-type": "quorum", "x-max-priority": 9}),
        bind_queue("q", "q", "q"),
    ]


def test_a_definition_says_everything() -> None:
    media = Exchange(
        "media", "headers", durable=False, auto_delete=True, arguments={"alternate-exchange": "x"}
    )
    queue = Queue(
        "video",
        media,
        "key",
        bindings=[binding(Exchange("more", "topic"), "a.#")],
        durable=False,
        auto_delete=True,
        queue_arguments={"x-queue-type": "quorum"},
        binding_arguments={"x-match": "all", "kind": "video"},
        expires=1.5,
        message_ttl=60,
        max_length=10,
        max_length_bytes=1000,
        max_priority=5,
    )
    topology = Topology()
    topology.declare((), [define(queue)])
    assert asked(Placed(topology).steps(to_queue("video"))) == [
        declare_exchange(
            "media", "headers", durable=False, auto_delete=True, arguments={"alternate-exchange": "x"}
        ),
        declare_exchange("more", "topic"),
        declare_queue(
            "video",
            durable=False,
            auto_delete=True,
            arguments={
                "x-queue-type": "quorum",
                "x-expires": 1500,
                "x-message-ttl": 60_000,
                "x-max-length": 10,
                "x-max-length-bytes": 1000,
                "x-max-priority": 5,
            },
        ),
        bind_queue("video", "media", "key", {"x-match": "all", "kind": "video"}),
        bind_queue("video", "more", "a.#"),
    ]


def test_kombus_queues_are_read_by_their_attributes() -> None:
    exchange = SimpleNamespace(name="x", type="fanout", durable=True, auto_delete=False, arguments=None)
    queue = SimpleNamespace(
        name="q", exchange=exchange, routing_key="", bindings=set(), durable=True, max_priority=3
    )
    definition = define(queue)
    assert definition.arguments == {"x-max-priority": 3}
    assert definition.bindings[0].exchange.type == "fanout"
    assert define(Queue("q")).bindings == ()


@pytest.mark.parametrize("exchange", [Exchange("amq.topic", "topic"), Exchange("x", no_declare=True)])
def test_some_exchanges_are_left_alone(exchange: Exchange) -> None:
    topology = Topology()
    topology.declare((), [define(Queue("q", exchange, "k"))])
    assert asked(Placed(topology).steps(to_queue("q"))) == [
        declare_queue("q"),
        bind_queue("q", exchange.name, "k"),
    ]


def test_a_queue_that_must_not_be_declared_is_used_as_it_is() -> None:
    topology = Topology()
    topology.declare((), [define(Queue("q", Exchange("x"), "k", no_declare=True))])
    placed = Placed(topology)
    assert asked(placed.steps(to_queue("q"))) == []
    assert placed.missing([Publication(to_queue("q"), b"")]) == []


def test_an_exchange_is_declared_with_all_queues_bound_to_it() -> None:
    topology = Topology()
    topology.declare([Binding("a", "x", "topic", "a.#"), Binding("b", "x", "topic", "b.#")], ())
    placed, to = Placed(topology), Destination("x", "a.b", None, "topic")
    assert asked(placed.steps(to)) == [
        declare_exchange("x", "topic"),
        declare_queue("a"),
        bind_queue("a", "x", "a.#"),
        declare_queue("b"),
        bind_queue("b", "x", "b.#"),
    ]
    topology.declare([Binding("b", "x", "topic", "c.#")], ())
    assert placed.missing([Publication(to, b"")]) == [to]
    assert asked(placed.steps(to)) == [bind_queue("b", "x", "b.#"), bind_queue("b", "x", "c.#")]


def test_repeating_a_declaration_changes_nothing() -> None:
    topology, definition = Topology(), define(Queue("q", Exchange("x"), "k"))
    topology.declare([Binding("q", "x", "direct", "k")], [definition])
    version = topology.version
    topology.declare([Binding("q", "x", "direct", "k")], [definition])
    assert topology.version == version


def test_what_belongs_to_its_consumer_is_not_made_by_senders() -> None:
    topology = Topology()
    queue = Broadcast("news")
    topology.declare((), [define(queue), define(Queue("mine", Exchange("x"), "k", exclusive=True))])
    placed = Placed(topology)
    to = Destination("news", "", None, "fanout")
    assert asked(placed.steps(to)) == [declare_exchange("news", "fanout")]
    assert asked(placed.steps(Destination("x", "k", None))) == [declare_exchange("x", "direct")]
    consumes = asked(placed.queue_steps(topology.queue(queue.name), consumes=True))
    assert consumes == [declare_queue(queue.name, auto_delete=True), bind_queue(queue.name, "news")]
    assert not topology.is_mandatory(to)


def test_only_broadcasts_may_reach_nobody() -> None:
    topology = Topology()
    topology.declare((), [define(Queue("all", Exchange("f", "fanout"), ""))])
    assert topology.is_mandatory(to_queue("q"))
    assert topology.is_mandatory(Destination("t", "k", None, "topic"))
    assert topology.is_mandatory(Destination("f", "", None, "fanout"))
    assert not topology.is_mandatory(Destination("celery.pidbox", "", None, "fanout"))
    assert not topology.is_mandatory(Destination("celeryev", "a.b", None, "broadcast"))


def test_an_exchange_that_nobody_made() -> None:
    passive = declare_exchange("x", passive=True)
    gone = {passive.method: ChannelClosedError(404, "NOT_FOUND - no exchange 'x' in vhost '/'")}
    placed = Placed(Topology())
    with pytest.raises(BrokerError, match="no queue is bound to the topic exchange 'x' for routing key 'k'"):
        asked(placed.steps(Destination("x", "k", None, "topic")), gone)
    orders = Destination("x", "", None, "fanout")
    assert asked(placed.steps(orders), gone) == [passive]
    assert placed.compose(Publication(orders, b"")) is None
    assert placed.missing([Publication(orders, b"")]) == [orders]
    assert asked(placed.steps(orders)) == [passive]
    assert placed.compose(Publication(orders, b"")) is not None


def test_messages_go_where_celery_sends_them() -> None:
    placed = Placed(Topology())
    for to, way in [
        (to_queue("q"), ("", "q", True)),
        (Destination("x", "k", None, "topic"), ("x", "k", True)),
        (Destination("q", "q", "q"), ("q", "q", True)),
        (Destination("", "answers"), ("", "answers", True)),
        (Destination("celery.pidbox", "", None, "fanout"), ("celery.pidbox", "", False)),
    ]:
        message = placed.compose(Publication(to, b"?"))
        assert message is not None
        assert (message.exchange, message.routing_key, message.mandatory) == way


@pytest.mark.parametrize(
    ("queue_type", "countdown", "waits"),
    [("classic", 4.9, False), ("classic", 60, True), ("quorum", 1.9, False), ("quorum", 4.9, True)],
)
def test_what_is_due_soon_goes_to_a_classic_queue_at_once(
    queue_type: str, countdown: float, waits: bool
) -> None:
    placed = Placed(Topology(MissingQueues(queue_type)))
    eta = datetime.fromtimestamp(time.time() + countdown, UTC).isoformat()
    to = to_queue("q")
    payload = pack_amqp(
        Envelope({"task": "t", "id": "1", "eta": eta}, {}, "application/json", "utf-8", b"[]"), to
    )
    message = placed.compose(Publication(to, payload))
    assert message is not None
    assert (message.exchange == "") is not waits
    assert (placed.new_delays == [to]) is waits


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            (
                "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': "
                "received 'false' but current is 'true'"
            ),
            r"queue 'q' exists with durable true, but is declared here with false",
        ),
        (
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-max-priority' for queue 'q' in vhost '/': "
                "received the value '10' of type 'signedint' but current is none"
            ),
            r"queue 'q' exists with x-max-priority none, but is declared here with 10",
        ),
        (
            (
                "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'x' in vhost 'v': "
                "received 'topic' but current is 'direct'"
            ),
            r"exchange 'x' exists with type direct, but is declared here with topic",
        ),
        ("PRECONDITION_FAILED - invalid arg 'x-expires'", r"refused a declaration: .*x-expires"),
    ],
)
def test_a_conflict_says_what_differs(text: str, said: str) -> None:
    with pytest.raises(BrokerError, match=said):
        raise explain_refusal(ChannelClosedError(406, text))


def test_a_queue_of_another_connection() -> None:
    text = "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could be"
    assert "queue 'q' is exclusive to another connection" in str(
        explain_refusal(ChannelClosedError(405, text))
    )


# The table of an application's queues


def test_the_table_defines_its_queues() -> None:
    table = QueueTable([Queue("a", Exchange("x"), "k")], max_priority=7)
    definition = table.definition("a")
    assert definition is not None
    assert definition.arguments == {"x-max-priority": 7}
    assert table.definition("a") is definition
    assert table.definition("other") is None
    assert [each.name for each in table.definitions_to("x")] == ["a"]
    table.add(Queue("a", Exchange("x"), "other"))
    assert table.definition("a") is not definition


def test_a_queue_given_as_an_object_is_defined_and_not_added() -> None:
    table = QueueTable([Queue("a")])
    table.note_given(Queue("b", Exchange("x"), "k", max_priority=3))
    definition = table.definition("b")
    assert isinstance(definition, QueueDefinition)
    assert definition.arguments == {"x-max-priority": 3}
    assert set(table) == {"a"}


def test_broadcast_queues() -> None:
    one, other = Broadcast("news"), Broadcast("news")
    assert one.name != other.name
    assert one.name.startswith("bcast.")
    assert (one.alias, one.exchange.name, one.exchange.type, one.auto_delete) == (
        "news",
        "news",
        "fanout",
        True,
    )
    assert Broadcast("news", queue="mine").name == "mine"
    assert Broadcast("news", queue="mine", unique=True).name.startswith("mine.")
    assert QueueTable([one])["news"] is one
