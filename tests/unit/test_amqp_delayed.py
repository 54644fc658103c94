"""The layout of delayed messages: Celery's to the letter, because Celery's workers and clients use the same one."""

from fnmatch import fnmatchcase

import hypothesis.strategies as st
import pytest
from hypothesis import given

from umbel.brokers.amqp.delayed import (
    DELIVERY,
    ENTRY,
    LEVELS,
    LONGEST,
    can_wait,
    delay_by_eta,
    delay_message,
    delay_of,
    delayed_key,
    due_here,
    due_of_headers,
    exchange_bindings,
    is_delay_key,
    queue_binding,
    topology,
    without_delay,
)
from umbel.brokers.amqp.messages import from_wire, pack_amqp, to_wire
from umbel.core.destination import Destination
from umbel.core.protocol import Envelope, read_envelope
from umbel.stores.amqp import requests
from umbel.stores.amqp.confirms import Outgoing


def made(queue_type="quorum"):
    """The arguments of all declarations and bindings, by kind."""
    found = {"exchange": {}, "queue": {}, "queue binding": set(), "exchange binding": set()}
    for request in topology(queue_type):
        fields = request.arguments
        if request.method == requests.declare_exchange("x").method:
            found["exchange"][fields[1]] = fields
        elif request.method == requests.declare_queue("x").method:
            found["queue"][fields[1]] = fields
        elif request.method == requests.bind_queue("x", "y").method:
            found["queue binding"].add(fields[1:4])
        else:
            found["exchange binding"].add(fields[1:4])
    return found


def test_the_exchanges_are_celerys():
    names = [f"celery_delayed_{level}" for level in range(28)] + ["celery_delayed_delivery"]
    exchanges = made()["exchange"]
    assert sorted(exchanges) == sorted(names)
    for fields in exchanges.values():
        # type, passive, durable, auto_delete
        assert fields[2:6] == ("topic", False, True, False)


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
def test_the_queues_are_celerys(queue_type):
    queues = made(queue_type)["queue"]
    assert sorted(queues) == sorted(f"celery_delayed_{level}" for level in range(28))
    for level in range(28):
        # passive, durable, exclusive, auto_delete
        assert queues[f"celery_delayed_{level}"][2:6] == (False, True, False, False)
        expected = {
            "x-queue-type": queue_type,
            "x-overflow": "reject-publish",
            "x-message-ttl": 2**level * 1000,
            "x-dead-letter-exchange": f"celery_delayed_{level - 1}" if level else "celery_delayed_delivery",
        }
        if queue_type == "quorum":
            expected["x-dead-letter-strategy"] = "at-least-once"
        assert queues[f"celery_delayed_{level}"][-1] == expected


def test_the_bindings_are_celerys():
    found = made()
    assert found["queue binding"] == {
        (f"celery_delayed_{level}", f"celery_delayed_{level}", "*." * (27 - level) + "1.#")
        for level in range(28)
    }
    assert found["exchange binding"] == {
        (
            f"celery_delayed_{level - 1}" if level else "celery_delayed_delivery",
            f"celery_delayed_{level}",
            "*." * (27 - level) + "0.#",
        )
        for level in range(28)
    }


def test_the_bindings_of_a_topic_queue_are_celerys():
    made = list(exchange_bindings("videos", "media", "video.#"))
    assert [request.arguments[1:4] for request in made] == [
        ("media", "celery_delayed_delivery", "#.video.#"),
        ("videos", "media", "#.video.#"),
    ]
    assert next(exchange_bindings("all", "media", "#")).arguments[3] == "#"


def test_keys_are_celerys():
    assert delayed_key(1, "celery") == "0." * 27 + "1.celery"
    assert delayed_key(10, "a.b") == "0." * 24 + "1.0.1.0.a.b"
    assert delayed_key(LONGEST, "q") == "1." * 28 + "q"
    assert delayed_key(3, delayed_key(5, "q")) == delayed_key(3, "q")


@given(st.integers(1, LONGEST), st.text(min_size=1))
def test_a_key_is_found_again(seconds, key):
    assert is_delay_key(delayed_key(seconds, key))
    assert without_delay(delayed_key(seconds, key)) == without_delay(key)


@given(st.integers(1, LONGEST))
def test_a_message_waits_as_long_as_its_key_says(seconds):
    """Follow it: at each level a one means that queue's time, a zero the next level."""
    words = delayed_key(seconds, "q").split(".")
    waited = sum(2**level for level in range(LEVELS) if words[LEVELS - 1 - level] == "1")
    assert waited == seconds


def test_the_binding_of_a_queue_takes_its_messages_and_no_others():
    pattern = queue_binding("video").arguments[3]
    assert queue_binding("video").arguments[1:3] == ("video", DELIVERY)

    def matches(key):  # AMQP's * stands for one word, which in these keys is one character
        words, parts = key.split("."), pattern.split(".")
        return len(words) == len(parts) and all(map(fnmatchcase, words, parts))

    assert matches(delayed_key(5, "video"))
    assert not matches(delayed_key(5, "other.video"))
    assert not matches(delayed_key(5, "video.other"))


@pytest.mark.parametrize(
    ("left", "seconds"), [(-5, 0), (0, 0), (1.9, 0), (2.0, 2), (3.99, 3), (1e12, LONGEST)]
)
def test_a_delay_ends_up_to_a_second_early(left, seconds):
    assert delay_of(1000.0 + left, 1000.0) == seconds


@pytest.mark.parametrize(
    ("to", "can"),
    [
        (Destination("", "q", "q"), True),
        (Destination("media", "video.x", None, "topic"), True),
        (Destination("media", "video", None, "direct"), False),
        (Destination("news", "", None, "fanout"), False),
        (Destination("", "q" * 199, "q" * 199), True),
        (Destination("", "q" * 200, "q" * 200), False),
    ],
)
def test_what_can_wait(to, can):
    assert can_wait(to) is can


def test_a_message_that_waits_forgets_nothing():
    to = Destination("", "q", "q")
    payload = pack_amqp(Envelope({"task": "t", "id": "1"}, {"expiration": "5000"}, "a/b", "utf-8", b"x"), to)
    properties, body = to_wire(payload)
    sent = delay_message(Outgoing("", "q", properties, body), "q", due=1010.5, now=1000.0)
    assert (sent.exchange, sent.routing_key) == (ENTRY, delayed_key(10, "q"))
    assert "expiration" not in sent.properties, "it would go on through the levels when that is over"
    back = from_wire(sent.properties, sent.body, DELIVERY, sent.routing_key)
    assert read_envelope(back) == read_envelope(payload)


def test_what_is_due_soon_waits_with_who_fetches_it():
    properties = {"headers": {"task": "t"}, "delivery_mode": 2}
    sent = delay_message(Outgoing("", "q", properties, b""), "q", due=1001.5, now=1000.0)
    assert (sent.exchange, sent.routing_key) == ("", "q")
    assert sent.properties["headers"]["umbel-due"] == 1_001_500


@pytest.mark.parametrize(
    ("eta", "due"),
    [("1970-01-01T00:01:40+00:00", 100.0), (None, None), ("soon", None), (5, None)],
)
def test_the_instant_is_the_etas(eta, due):
    assert due_of_headers({"eta": eta}) == due


@pytest.mark.parametrize("wrong", [0.0, 3600.0, -3600.0])
def test_what_rabbitmq_has_waited_for_is_not_waited_for_again(wrong):
    """The receiver's clock is ``wrong`` by so much: it waits for the fraction of a second that the levels leave."""
    sent = delay_message(Outgoing("", "q", {"headers": {}}, b""), "q", due=1007.25, now=1000.0)
    due = due_here(sent.properties["headers"], now=1007.0 + wrong)
    assert due <= 1007.0 + wrong + 0.25
    assert wrong or due == 1007.25


@pytest.mark.parametrize("wrong", [0.0, 3600.0, -3600.0])
def test_what_is_due_soon_is_held_for_no_longer_than_that(wrong):
    eta = {"eta": "1970-01-01T01:00:03+00:00"}
    message = Outgoing("", "q", {"headers": dict(eta)}, b"")
    assert delay_by_eta(message, Destination("", "q", "q"), 3600.0, 5.0) is None
    due = due_here(message.properties["headers"], now=3601.0 + wrong)
    assert due <= 3601.0 + wrong + 3.0
    assert wrong or due == 3603.0


def test_what_was_sent_to_wait_without_saying_how_long_is_due_by_the_clock():
    assert due_here({"umbel-due": 5000}, now=1.0) == 5.0
    assert due_here({"eta": "1970-01-01T00:00:09+00:00"}, now=1.0) is None
