"""What arrives reads as py-amqp reads it, whatever looks like what came before."""

from decimal import Decimal
from struct import pack

import amqp
import hypothesis.strategies as st
import pytest
from amqp import spec
from amqp.serialization import decode_properties_basic, dumps
from hypothesis import example, given

from tests.unit.test_amqp_messages import CELERYS
from umbel.stores.amqp.address import parse_address
from umbel.stores.amqp.dialogue import Dialogue
from umbel.stores.amqp.shapes import PropertyReader

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.just("x" * 300)
SHORT = st.text(max_size=4, alphabet="aé0")
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | TEXTS
    | st.binary(max_size=6)
    | st.just(Decimal("1.5"))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SHORT, inner, max_size=3),
    max_leaves=4,
)
#: Few names, so that messages look alike often.
HEADERS = st.dictionaries(st.sampled_from(["id", "task", "eta", "retries", "stamps", "x-é"]), VALUES)
PROPERTIES = st.fixed_dictionaries(
    {},
    optional={
        "content_type": SHORT,
        "content_encoding": SHORT,
        "headers": HEADERS,
        "delivery_mode": st.sampled_from([1, 2]),
        "priority": st.integers(0, 255),
        "correlation_id": SHORT,
        "reply_to": SHORT,
        "expiration": SHORT,
        "message_id": SHORT,
        "timestamp": st.integers(0, 2**40),
        "app_id": SHORT,
    },
)


def written(properties):
    """As py-amqp writes them."""
    message = amqp.Message(b"")
    message.properties = {
        name: value for name, value in properties.items() if name not in ("headers", "timestamp")
    }
    if "headers" in properties:
        message.properties["application_headers"] = properties["headers"]
    return message._serialize_properties()


def expected(data):
    properties = dict(decode_properties_basic(data, 0)[0])
    headers = properties.pop("application_headers", {})
    return {**properties, "headers": headers}


def read(reader, data, before=b"", after=b""):
    return reader.read(before + data + after, len(before), len(before) + len(data))


@given(st.lists(PROPERTIES, max_size=12), st.binary(max_size=3))
@example(
    [{**CELERYS, "headers": {**CELERYS["headers"], "id": text}} for text in ("1", "é", "x" * 300, "")], b""
)
def test_messages_read_as_the_library_reads_them(messages, around):
    reader = PropertyReader()
    for properties in messages:
        data = written(properties)
        for _ in range(2):
            assert read(reader, data, around, around) == expected(data)


@given(st.lists(PROPERTIES, min_size=1, max_size=3), st.data())
def test_broken_bytes_read_as_the_library_reads_them(messages, data):
    reader = PropertyReader()
    for properties in messages:
        read(reader, written(properties))
    whole = bytearray(written(messages[-1]))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] = data.draw(st.integers(0, 255))
    broken = bytes(whole)
    try:
        properties, end = decode_properties_basic(broken, 0)
    except Exception as error:
        with pytest.raises(type(error)):
            read(reader, broken)
    else:
        if end == len(broken):
            assert read(reader, broken) == expected(broken)


def test_a_name_that_comes_twice_counts_as_it_came_last():
    def table(*entries):
        packed = b"".join(dumps("s", (name,)) + value for name, value in entries)
        return pack(">HI", 0x2000, len(packed)) + packed

    reader = PropertyReader()
    for number in (b"1", b"2"):
        data = table(("a", b"S\0\0\0\1" + number), ("a", b"V"))
        assert read(reader, data) == {"headers": {"a": None}}


def test_messages_do_not_share_what_is_changed():
    reader = PropertyReader()
    data = written({"headers": {"id": "1", "stamps": {}}})
    for _ in range(3):
        found = read(reader, data)
        found["headers"]["redelivered"] = True
        found["priority"] = 3
    assert read(reader, data) == {"headers": {"id": "1", "stamps": {}}}


class Unanswered:
    """Waits for nothing."""

    def done(self):
        return True

    def set_result(self, result):
        """Not wanted."""

    def set_exception(self, error):
        """Not wanted."""


@given(
    st.lists(st.tuples(st.booleans(), PROPERTIES, st.binary(max_size=4) | st.just(b"b" * 9000)), max_size=6),
    st.integers(1, 700),
)
def test_deliveries_arrive_in_any_pieces(messages, piece):
    address, _ = parse_address("amqp://", {"frame_max": 4096})
    sending, receiving = Dialogue(address, lambda: None), Dialogue(address, lambda: None)
    for number, (redelivered, properties, body) in enumerate(messages, 1):
        content = amqp.Message(body)
        content.properties = {
            ("application_headers" if name == "headers" else name): value
            for name, value in properties.items()
            if name != "timestamp"
        }
        arguments = dumps("sLbss", ("me", number, redelivered, "é", f"key{number}"))
        sending.write_frame(1, 1, spec.Basic.Deliver, arguments, content)
    wire = bytes(sending.take())
    arrived = []
    receiving.channel(Unanswered()).consumers.add("me", arrived.append, lambda: None)
    for at in range(0, len(wire), piece):
        receiving.feed(wire[at : at + piece])
    assert receiving.lost is None
    for number, (delivered, (redelivered, properties, body)) in enumerate(
        zip(arrived, messages, strict=True), 1
    ):
        assert (delivered.tag, delivered.redelivered, delivered.body) == (number, redelivered, body)
        assert (delivered.exchange, delivered.routing_key) == ("é", f"key{number}")
        assert delivered.properties == expected(written(properties))


def test_what_is_no_frame_ends_the_connection():
    address, _ = parse_address("amqp://", {})
    sending = Dialogue(address, lambda: None)
    content = amqp.Message(b"body")
    content.properties = {"application_headers": {"id": "1"}}
    sending.write_frame(1, 1, spec.Basic.Deliver, dumps("sLbss", ("me", 1, False, "", "q")), content)
    wire = bytes(sending.take())
    marks = [place for place, byte in enumerate(wire) if byte == 0xCE]
    assert len(marks) == 3
    for place in marks:
        receiving = Dialogue(address, lambda: None)
        arrived = []
        receiving.channel(Unanswered()).consumers.add("me", arrived.append, lambda: None)
        receiving.feed(wire[:place] + b"\0" + wire[place + 1 :])
        assert receiving.lost is not None
        assert not arrived
