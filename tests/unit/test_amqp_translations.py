"""What is put over is what the ordinary way gives, to the byte, whatever looks like what came before."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from tests.unit.test_amqp_messages import CELERYS
from umbel.brokers.amqp.messages import from_wire, pack_amqp, to_wire
from umbel.brokers.amqp.translations import PayloadReader, PayloadWriter
from umbel.core.destination import Destination
from umbel.core.envelope import Envelope
from umbel.stores.amqp.consumers import Delivered
from umbel.stores.amqp.contents import pack_properties
from umbel.stores.amqp.shapes import PropertyReader

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    ["", "x" * 31, "x" * 32, "x" * 255, "x" * 256, "é" * 127, "é" * 128, "umbel 0001".ljust(40, "\x01")]
)
VALUES = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.just([None, None]) | TEXTS
#: Few names, so that messages look alike often.
HEADERS = st.dictionaries(
    st.sampled_from(["id", "task", "lang", "eta", "retries", "redelivered", "x-delivery-count", "umbel-due"]),
    VALUES,
    max_size=5,
)
PROPERTIES = st.fixed_dictionaries(
    {"content_type": st.just("application/json"), "headers": HEADERS},
    optional={
        "content_encoding": st.just("utf-8"),
        "delivery_mode": st.sampled_from([1, 2]),
        "priority": st.integers(0, 255),
        "correlation_id": TEXTS.filter(lambda text: len(text.encode()) < 256),
        "reply_to": TEXTS.filter(lambda text: len(text.encode()) < 256),
        "message_id": st.sampled_from(["", "m"]),
        "expiration": st.sampled_from(["10", "20"]),
    },
)
BODIES = st.sampled_from([b"", b"[]", b"x" * 255, b"x" * 256, b"x" * 65536])


def delivered(properties, body=b"[]", key="celery", raw=None):
    packed = pack_properties(properties) if raw is None else raw
    return Delivered(1, False, "", key, body, packed, PropertyReader())


def changed(properties, text):
    """The same with other texts of its own."""
    headers = {
        name: text if isinstance(value, str) else value for name, value in properties["headers"].items()
    }
    more = {name: text for name in ("correlation_id", "reply_to") if name in properties}
    return {**properties, "headers": headers, **more}


@settings(max_examples=50)
@given(st.lists(st.tuples(PROPERTIES, BODIES), max_size=4), st.text("aé", max_size=50))
def test_payloads_are_read_as_the_ordinary_way_reads_them(messages, text):
    reader = PayloadReader()
    for properties, body in messages:
        for each in (properties, changed(properties, text), properties):
            message = delivered(each, body)
            assert reader.read(message) == from_wire(each, body, "", "celery")


@settings(max_examples=50)
@given(st.lists(st.tuples(HEADERS, PROPERTIES, BODIES), max_size=4), st.text("aé", max_size=50))
def test_payloads_are_written_as_the_ordinary_way_writes_them(messages, text):
    writer = PayloadWriter()
    for headers, properties, body in messages:
        for each in (properties, changed(properties, text), properties):
            rest = {name: value for name, value in each.items() if name != "headers"}
            envelope = Envelope({**headers, **each["headers"]}, rest, "application/json", "utf-8", body)
            payload = pack_amqp(envelope, Destination("", text, "celery", priority=3))
            wire, expected = to_wire(payload)
            found = writer.write(payload)
            if found is None:
                writer.learn(payload, wire)
            else:
                assert found == (pack_properties(wire), expected)


def celerys(text):
    headers = {**CELERYS["headers"], "id": text, "argsrepr": f"({text!r},)"}
    return {**CELERYS, "headers": headers, "correlation_id": text}


def test_a_message_of_a_known_kind_is_not_read():
    class Unused(PropertyReader):
        def read(self, data, at, end):
            raise AssertionError("it was read")

    reader = PayloadReader()
    reader.read(delivered(celerys("one")))
    message = delivered(celerys("another"))
    message.reader = Unused()
    assert reader.read(message) == from_wire(celerys("another"), b"[]", "", "celery")


def test_a_payload_of_a_known_kind_is_written_at_once():
    writer = PayloadWriter()
    first, second = (from_wire(celerys(text), b"[1]", "", "celery") for text in ("one", "another"))
    assert writer.write(first) is None
    writer.learn(first, to_wire(first)[0])
    wire, body = to_wire(second)
    assert writer.write(second) == (pack_properties(wire), body)


def test_a_payload_with_an_eta_is_left_to_whoever_knows_where_it_waits():
    headers = {**celerys("one")["headers"], "eta": "2026-11-22T12:00:00+00:00"}
    payload = from_wire({**celerys("one"), "headers": headers}, b"[1]", "", "celery")
    writer = PayloadWriter()
    writer.learn(payload, to_wire(payload)[0])
    assert writer.write(payload) is None


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_properties_that_end_too_early_are_no_message_of_a_known_kind(cut):
    reader = PayloadReader()
    reader.read(delivered(celerys("one")))
    raw = pack_properties(celerys("two"))[:-cut]
    message = delivered({}, raw=raw)
    assert reader.read(message) == from_wire(message.properties, b"[]", "", "celery")


def test_properties_that_nobody_can_read_are_none(caplog):
    message = delivered({}, raw=b"\x20\x00\x00\x00\x00\x04\x01\xff\x00\x00")
    assert message.properties == {"headers": {}}
    assert "none of AMQP's" in caplog.text
    assert PayloadReader().read(message) == from_wire({"headers": {}}, b"[]", "", "celery")
