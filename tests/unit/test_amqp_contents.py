"""What is written is what py-amqp would write, to the byte."""

from datetime import UTC, datetime
from decimal import Decimal

import amqp
import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from tests.unit.test_amqp_messages import CELERYS
from umbel.stores.amqp.contents import pack_properties
from umbel.stores.amqp.faults import UNWRITABLE

SHORT = st.text(max_size=4, alphabet="aé0\ud800")
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.sampled_from([0, 1, 0.0, 1.0, False, True, -0.0])  # equal, and written differently
    | st.floats()
    | SHORT
    | st.just("x" * 300)
    | st.binary(max_size=4)
    | st.sampled_from([Decimal("1.5"), datetime(2026, 1, 1, tzinfo=UTC)])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(SHORT, inner, max_size=2)
        | st.just([None, None])
    ),
    max_leaves=4,
)
PROPERTIES = st.fixed_dictionaries(
    {},
    optional={
        "headers": st.dictionaries(st.sampled_from(["id", "task", "retries", "é"]), VALUES) | st.none(),
        "delivery_mode": st.sampled_from([1, 2]),
        "priority": st.integers(0, 255),
        "content_type": SHORT,
        "content_encoding": SHORT | st.none(),
        "correlation_id": SHORT | st.none(),
        "reply_to": SHORT,
        "expiration": SHORT,
        "message_id": SHORT,
        "timestamp": st.integers(0, 2**63),
        "type": SHORT,
        "user_id": SHORT,
        "app_id": SHORT,
        "cluster_id": SHORT,
        "nobody's": st.just("unknown"),
    },
)


def as_the_library_writes(properties):
    message = amqp.Message(b"")
    message.properties = {**properties, "application_headers": properties.get("headers")}
    return message._serialize_properties()


@given(PROPERTIES)
@example(CELERYS)
def test_properties_are_written_as_the_library_writes_them(properties):
    for _ in range(2):
        assert pack_properties(properties) == as_the_library_writes(properties)


@pytest.mark.parametrize(
    "properties",
    [
        {"correlation_id": "x" * 256},
        {"content_type": "x" * 256},
        {"priority": 256},
        {"headers": {"x" * 256: None}},
        {"headers": {"x" * 256: "text"}},
        {"headers": {"big": 2**63}},
        {"headers": {"strange": object()}},
        {"headers": {"strange": [None, object()]}},
        {"headers": 1},
    ],
)
def test_what_cannot_be_written_is_an_error_as_of_the_library(properties):
    for _ in range(2):
        with pytest.raises(UNWRITABLE):
            pack_properties(properties)
