"""The broker suite, part 8: what is sent to a named exchange reaches every queue that is bound for it, and only those.

What no queue is bound for does not vanish: the sender is told, or it is a dead letter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from umbel.brokers.base import Disposition, FetchPlan
from umbel.core.bindings import Binding
from umbel.core.destination import Destination
from umbel.core.records import Publication
from umbel.errors import BrokerError
from umbel.testing.contracts.broker_fixtures import BrokerFixtures, Q
from umbel.testing.contracts.support import PATIENCE, envelope, ids, message, send

if TYPE_CHECKING:
    from umbel.brokers.base import Broker, Consumer
    from umbel.testing.contracts.broker_fixtures import OpenConsumer
    from umbel.testing.contracts.support import BrokerWorld

#: Two exchanges of one name would be one.
DIRECT = [
    Binding("d1", "suite.direct", "direct", "key"),
    Binding("d2", "suite.direct", "direct", "key"),
    Binding("d3", "suite.direct", "direct", "other.#"),
]
TOPIC = [
    Binding("all", "suite.topic", "topic", "#"),
    Binding("media", "suite.topic", "topic", "media.#"),
    Binding("stars", "suite.topic", "topic", "*.image.*"),
    Binding("stars", "suite.topic", "topic", "media.*.jpg"),
    Binding("exact", "suite.topic", "topic", "a_b.c-d+e.(f)"),
]
QUEUES = sorted({binding.queue for binding in [*DIRECT, *TOPIC]})


def to_exchange(
    broker: Broker, name: str, key: str, exchange: str = "suite.topic", kind: str = "topic"
) -> Publication:
    """A publication whose queues the broker has to find, recognised by its name."""
    to = Destination(exchange, key, None, kind)
    return Publication(to, broker.pack(envelope(name), to))


def where(broker: Broker) -> dict[str, int]:
    """The queues of this part that hold messages, and how many."""
    return {queue: depth for queue in QUEUES if (depth := broker.depth(queue))}


class BindingContract(BrokerFixtures):
    """Direct and topic exchanges."""

    @pytest.fixture
    def bound(self, broker: Broker) -> Broker:
        """A broker object through which everything was declared."""
        if not broker.capabilities.bindings:
            pytest.skip("this broker has no bindings")
        broker.declare(DIRECT)
        broker.declare(TOPIC)
        return broker

    async def test_a_direct_exchange_compares_keys(self, bound: Broker, consumer: Consumer) -> None:
        publisher = bound.publisher()
        publisher.send([to_exchange(bound, "1", "key", "suite.direct", "direct")], timeout=PATIENCE)
        publisher.send([to_exchange(bound, "2", "other.#", "suite.direct", "direct")], timeout=PATIENCE)
        assert where(bound) == {"d1": 1, "d2": 1, "d3": 1}
        assert ids(await consumer.fetch(FetchPlan(("d1",)), 9, PATIENCE)) == ["1"]
        assert ids(await consumer.fetch(FetchPlan(("d2",)), 9, PATIENCE)) == ["1"]
        assert ids(await consumer.fetch(FetchPlan(("d3",)), 9, PATIENCE)) == ["2"]

    @pytest.mark.parametrize(
        ("key", "queues"),
        [
            ("media", ["all"]),
            ("media.video", ["all", "media"]),
            ("media.video.mp4.large", ["all", "media"]),
            ("media.image.png", ["all", "media", "stars"]),
            ("media.image.jpg", ["all", "media", "stars"]),
            ("other.image.png", ["all", "stars"]),
            ("other.image.png.gz", ["all"]),
            ("mediaX.video", ["all"]),
            ("a_b.c-d+e.(f)", ["all", "exact"]),
            ("media.#", ["all", "media"]),
        ],
    )
    def test_a_topic_exchange_compares_words(self, bound: Broker, key: str, queues: list[str]) -> None:
        if key == "media" and bound.capabilities.amqp_topics:
            queues = ["all", "media"]
        bound.publisher().send([to_exchange(bound, "1", key)], timeout=PATIENCE)
        assert where(bound) == dict.fromkeys(queues, 1)

    async def test_priorities_hold_in_every_queue(
        self, bound: Broker, world: BrokerWorld, consumer: Consumer
    ) -> None:
        if not world.priorities:
            pytest.skip("this broker has no priorities")
        for name, priority in (("late", world.last_priority), ("early", world.first_priority)):
            to = Destination("suite.direct", "key", None, "direct", priority)
            publication = Publication(to, bound.pack(envelope(name), to))
            bound.publisher().send([publication], timeout=PATIENCE)
        for queue in ("d1", "d2"):
            assert ids(await consumer.fetch(FetchPlan((queue,)), 2, PATIENCE)) == ["early", "late"]

    async def test_messages_of_both_kinds_keep_their_order(
        self, bound: Broker, world: BrokerWorld, consumer: Consumer
    ) -> None:
        publisher = world.connect().async_publisher()
        await consumer.fetch(FetchPlan(("media",)), 1, 0)
        bound.publisher().send([to_exchange(bound, "0", "media.x")], timeout=PATIENCE)
        batch = [
            message(bound, "1", "media"),
            to_exchange(bound, "2", "media.x"),
            message(bound, "3", "media"),
        ]
        await publisher.send(batch, timeout=PATIENCE)
        assert ids(await consumer.fetch(FetchPlan(("media",)), 9, PATIENCE)) == ["0", "1", "2", "3"]
        assert where(bound) == {"all": 2}
        await publisher.close()

    async def test_who_only_sends_needs_no_declaration(
        self, bound: Broker, world: BrokerWorld, consumer_of: OpenConsumer
    ) -> None:
        """A consumer puts in place what was declared through its broker object; others find it."""
        consumer = bound.consumer("declaring", 30)
        await consumer.open()
        stranger = world.connect()
        stranger.publisher().send([to_exchange(stranger, "1", "media.x")], timeout=PATIENCE)
        assert where(stranger) == {"all": 1, "media": 1}
        await consumer.close()
        stranger.publisher().send([to_exchange(stranger, "2", "media.x")], timeout=PATIENCE)
        assert where(stranger) == {"all": 2, "media": 2}

    def test_declaring_may_come_late_and_be_repeated(self, bound: Broker) -> None:
        publisher = bound.publisher()
        publisher.send([to_exchange(bound, "1", "media.x")], timeout=PATIENCE)
        bound.declare([*TOPIC, Binding("d1", "suite.topic", "topic", "media.x")])
        bound.declare(TOPIC)
        publisher.send([to_exchange(bound, "2", "media.x")], timeout=PATIENCE)
        assert where(bound) == {"all": 2, "media": 2, "d1": 1}

    async def test_what_no_queue_is_bound_for_is_refused(self, bound: Broker, world: BrokerWorld) -> None:
        batch = [
            message(bound, "1", "all"),
            to_exchange(bound, "2", "unheard", "suite.direct", "direct"),
            to_exchange(bound, "3", "media.x"),
        ]
        with pytest.raises(BrokerError, match=r"'suite\.direct'.*'unheard'"):
            bound.publisher().send(batch, timeout=PATIENCE)
        publisher = world.connect().async_publisher()
        with pytest.raises(BrokerError, match=r"'nowhere'.*'key'"):
            await publisher.send([to_exchange(bound, "4", "key", "nowhere")], timeout=PATIENCE)
        await publisher.close()
        sent = {} if bound.capabilities.atomic_sends else {"all": 2, "media": 1}
        assert where(bound) == sent

    async def test_it_tells_what_is_bound(
        self, bound: Broker, world: BrokerWorld, consumer_of: OpenConsumer
    ) -> None:
        consumer = bound.consumer("declaring", 30)
        await consumer.open()
        await consumer.close()
        try:
            told = set(world.connect().bound())
        except BrokerError as error:
            assert "management plugin" in str(error)  # noqa: PT017 - a broker may be unable to tell
        else:
            assert told >= {*DIRECT, *TOPIC}

    def test_other_types_are_passed_over(self, bound: Broker) -> None:
        bound.declare([Binding("d1", "suite.fanout", "fanout", "key")])
        with pytest.raises(BrokerError, match=r"suite\.fanout"):
            bound.publisher().send(
                [to_exchange(bound, "1", "key", "suite.fanout", "direct")], timeout=PATIENCE
            )

    async def test_settlement_sends_to_exchanges(self, bound: Broker) -> None:
        consumer = bound.consumer("settling", 30)
        await consumer.open()
        send(bound, "1")
        [delivery] = await consumer.fetch(Q, 1, PATIENCE)
        publish = [to_exchange(bound, "2", "media.x"), to_exchange(bound, "3", "other.image.gif")]
        await consumer.settle([Disposition(delivery.tag, publish=publish)])
        await consumer.settle([Disposition(delivery.tag, publish=publish)])
        assert where(bound) == {"all": 2, "media": 1, "stars": 1}
        await consumer.close()

    async def test_settlement_keeps_what_no_queue_is_bound_for(
        self, bound: Broker, consumer: Consumer
    ) -> None:
        send(bound, "1", "2")
        first, second = await consumer.fetch(Q, 2, PATIENCE)
        lost = [to_exchange(bound, name, "unheard", "suite.direct", "direct") for name in "abcd"]
        await consumer.settle(
            [
                Disposition(first.tag, publish=[lost[0], message(bound, "3")]),
                Disposition(b"", unheld=True, queue="q", publish=[lost[1]]),
                Disposition(b"", unheld=True, publish=[lost[2]]),
                Disposition(first.tag, publish=[lost[3]]),
                Disposition(second.tag),
            ]
        )
        letters = bound.dead_letters("q", 9)
        assert sorted(letter.payload for letter in letters) == sorted(each.payload for each in lost[:2])
        assert all("'suite.direct'" in letter.reason and "'unheard'" in letter.reason for letter in letters)
        assert bound.held_depth() == 0
        assert ids(await consumer.fetch(Q, 9, PATIENCE)) == ["3"]
