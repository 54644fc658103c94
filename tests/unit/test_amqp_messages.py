"""Payloads as AMQP messages: what is packed comes back to the byte, and what Celery writes is read."""

from datetime import UTC, datetime

import hypothesis.strategies as st
import pytest
from hypothesis import given

from umbel.brokers.amqp.messages import BROKERS_OWN, OURS, from_wire, pack_amqp, to_wire
from umbel.core.destination import Destination
from umbel.core.message import Call
from umbel.core.protocol import Envelope, build_message, encode, pack_kombu, peek, read_envelope
from umbel.errors import EncodeError

TO_QUEUE = Destination("", "q", "q")

#: AMQP's properties of a message as Celery 5.7 sent it to RabbitMQ 3.10.
CELERYS = {
    "content_type": "application/json",
    "content_encoding": "utf-8",
    "headers": {
        "lang": "py",
        "task": "wapp.add",
        "id": "1111",
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": "1111",
        "parent_id": None,
        "argsrepr": "(2, 2)",
        "kwargsrepr": "{}",
        "origin": "gen14176@vm",
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    },
    "delivery_mode": 2,
    "priority": 5,
    "correlation_id": "1111",
    "reply_to": "428f0c40-45f6-3d75-8cbf-b702d76c63e4",
    "expiration": "100000",
}
BODY = b'[[2, 2], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'


def envelope(headers=None, properties=None, body=BODY, content_type="application/json"):
    headers = {"task": "t", "id": "1"} if headers is None else headers
    return Envelope(headers, properties or {}, content_type, "utf-8", body)


def roundtrip(payload, **how):
    properties, body = to_wire(payload)
    return from_wire(properties, body, "", "q", **how)


def test_a_call_goes_out_as_celery_writes_it():
    call = Call("wapp.add", "1111", (2, 2), {}, reply_to=CELERYS["reply_to"], priority=5, expiration=100.0)
    call.origin = "gen14176@vm"
    made = encode(build_message(call), "json", None)
    properties, body = to_wire(pack_amqp(made, TO_QUEUE))
    assert properties == CELERYS
    assert list(properties["headers"]) == list(CELERYS["headers"])
    assert body == BODY.replace(b" ", b"")


def test_celerys_message_is_read():
    payload = from_wire(CELERYS, BODY, "", "q")
    header = peek(payload)
    assert (header.id, header.task, header.priority, header.reply_to) == (
        "1111",
        "wapp.add",
        5,
        CELERYS["reply_to"],
    )
    read = read_envelope(payload)
    assert read.headers == CELERYS["headers"]
    assert (read.content_type, read.content_encoding, read.body) == ("application/json", "utf-8", BODY)
    assert read.properties["delivery_info"] == {"exchange": "", "routing_key": "q"}
    assert read.properties["expiration"] == "100000"


def test_celerys_message_goes_on_as_it_came():
    assert to_wire(from_wire(CELERYS, BODY, "", "q")) == (CELERYS, BODY)


def test_a_redelivered_one_is_marked_where_celery_looks():
    read = read_envelope(
        from_wire({**CELERYS, "headers": dict(CELERYS["headers"])}, BODY, "", "q", redelivered=True)
    )
    assert read.headers["redelivered"] is True
    assert read.properties["delivery_info"]["redelivered"] is True


def test_a_bare_message_is_read():
    read = read_envelope(from_wire({}, b"hello", "x", "k"))
    assert (read.headers, read.content_type, read.body) == ({}, "", b"hello")


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.just("\ud800")
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
names = st.text().filter(lambda name: name not in OURS and name not in BROKERS_OWN)


@given(
    st.dictionaries(names, values | st.datetimes() | st.binary(), max_size=6),
    st.dictionaries(
        st.sampled_from(["correlation_id", "priority", "expiration", "timestamp", "user_id", "type", "own"]),
        values.filter(lambda value: value is not None),
        max_size=4,
    ),
    st.binary(max_size=40),
)
def test_what_is_packed_comes_back(headers, properties, body):
    payload = pack_amqp(envelope(headers, properties, body), TO_QUEUE)
    back = roundtrip(payload)
    assert read_envelope(back) == read_envelope(payload)


@given(st.binary(max_size=200))
def test_whatever_it_is_it_comes_back(payload):
    properties, body = to_wire(payload)
    again = from_wire(properties, body)
    if "umbel-payload" in properties["headers"]:
        assert again == payload
    else:
        assert read_envelope(again).body == read_envelope(payload).body


@given(
    st.dictionaries(st.text(), values | st.binary() | st.datetimes(), max_size=5),
    st.binary(max_size=50),
)
def test_whatever_arrives_is_a_payload(headers, body):
    assert isinstance(from_wire({"headers": headers}, body, "x", "k"), bytes)


@pytest.mark.parametrize("junk", [b"", b"\x00", b"not json", b"{", b"[]", b'{"body": 3}'])
def test_garbage_is_carried_as_it_is(junk):
    assert roundtrip(junk) == junk


def test_headers_beyond_a_frame_travel_in_the_body():
    payload = pack_amqp(envelope({"task": "t", "id": "1", "huge": "x" * 200_000}), TO_QUEUE)
    properties, _body = to_wire(payload)
    assert len(str(properties)) < 1000
    assert roundtrip(payload) == payload


def test_what_a_table_cannot_hold_is_kept_and_the_rest_is_celerys_to_see():
    when = datetime(2026, 11, 22, 5, 36, 56, 82000, tzinfo=UTC)
    payload = pack_amqp(envelope({"task": "t", "id": "1", "when": when, "big": 2**70}), TO_QUEUE)
    properties, _ = to_wire(payload)
    assert properties["headers"]["task"] == "t"
    assert properties["headers"]["when"] == when
    assert "big" not in properties["headers"]
    assert read_envelope(roundtrip(payload)).headers == {"task": "t", "id": "1", "when": when, "big": 2**70}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("correlation_id", "x" * 256),
        ("correlation_id", "é" * 128),
        ("expiration", "-5"),
        ("expiration", str(2**32)),
        ("user_id", "somebody"),
        ("app_id", 5),
        ("anything", {"a": [1.5]}),
    ],
)
def test_properties_that_amqp_has_no_room_for_survive(name, value):
    payload = pack_amqp(envelope(properties={name: value}), TO_QUEUE)
    properties, _ = to_wire(payload)
    assert name not in properties
    assert read_envelope(roundtrip(payload)).properties[name] == value


def test_properties_that_neither_amqp_nor_json_has_a_form_for_are_left_out():
    made = envelope({"task": "t", "id": "1"}, {"correlation_id": "1", "signal": object(), "mine": 1})
    kept = read_envelope(roundtrip(pack_amqp(made, TO_QUEUE))).properties
    assert (kept["correlation_id"], kept["mine"]) == ("1", 1)
    assert "signal" not in kept
    with pytest.raises(EncodeError):
        pack_amqp(envelope({"task": "t", "id": "1", "bad": object()}, {"signal": object()}), TO_QUEUE)


@pytest.mark.parametrize(("priority", "on_wire"), [(3, 3), (-1, 0), (1000, 255)])
def test_priorities_are_what_an_octet_holds(priority, on_wire):
    assert to_wire(pack_amqp(envelope(properties={"priority": priority}), TO_QUEUE))[0]["priority"] == on_wire
    assert (
        to_wire(pack_amqp(envelope(), Destination("", "q", "q", priority=priority)))[0]["priority"] == on_wire
    )
    assert to_wire(b"junk", priority)[0]["priority"] == on_wire


def test_what_rabbitmq_wrote_is_shown_and_not_sent_again():
    death = {"queue": "q", "reason": "rejected", "count": 1}
    delay = {"queue": "celery_delayed_3", "reason": "expired", "count": 1}
    headers = {
        "task": "t",
        "id": "1",
        "x-death": [delay, death],
        "x-first-death-queue": "q",
        "x-delivery-count": 1,
    }
    payload = from_wire({"headers": headers}, b"", "", "q")
    assert read_envelope(payload).headers["x-death"] == [death]
    assert read_envelope(payload).headers["x-delivery-count"] == 1
    assert to_wire(payload)[0]["headers"] == {"task": "t", "id": "1"}


def test_the_way_through_the_delays_is_not_shown():
    death = {"queue": "celery_delayed_3", "reason": "expired", "count": 1}
    headers = {
        "task": "t",
        "id": "1",
        "x-death": [death],
        "x-first-death-queue": "celery_delayed_3",
        "umbel-exchange": "media",
        "umbel-routing-key": "video.x",
        "umbel-due": 5,
    }
    read = read_envelope(from_wire({"headers": headers}, b"", "celery_delayed_delivery", "0.0.video.x"))
    assert read.headers == {"task": "t", "id": "1"}
    assert read.properties["delivery_info"] == {"exchange": "media", "routing_key": "video.x"}


def test_kombus_form_is_sent_as_a_message_too():
    payload = pack_kombu(envelope({"task": "t", "id": "1"}), TO_QUEUE)
    properties, body = to_wire(payload)
    assert (properties["headers"], body) == ({"task": "t", "id": "1"}, BODY)
