"""JSON as kombu writes and reads it, and the fast way agreeing with the standard library."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import IntEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.core.json_types import (
    TypeRegistry,
    dumps_compact,
    dumps_json,
    is_plain,
    loads_json,
    loads_untagged,
)
from umbel.errors import DecodeError, EncodeError

TAGGED = [
    (datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), "datetime", "2026-01-02T03:04:05.000006+00:00"),
    (datetime.fromisoformat("2026-01-02"), "datetime", "2026-01-02T00:00:00"),
    (date(2026, 1, 2), "date", "2026-01-02"),
    (time(3, 4, 5), "time", "03:04:05"),
    (Decimal("1.50"), "decimal", "1.50"),
    (UUID(int=1), "uuid", {"hex": "00000000000000000000000000000001"}),
    (b"text", "bytes", "text"),
    (b"\xff\x00", "base64", "/wA="),
]

keys = st.text(max_size=5) | st.just("__type__") | st.just("__value__")
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)
special = st.recursive(
    plain
    | st.floats()
    | st.binary(max_size=8)
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.datetimes().map(lambda value: value.replace(fold=0))
    | st.dates()
    | st.times().map(lambda value: value.replace(fold=0))  # ISO text has no fold
    | st.text(st.characters(exclude_categories=()), max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def same(left: Any, right: Any) -> bool:
    return repr(left) == repr(right)  # tells NaN from null, True from 1 and -0.0 from 0


@pytest.mark.parametrize(("value", "marker", "text"), TAGGED)
def test_a_type_that_json_lacks_is_tagged_and_reads_back(value: Any, marker: str, text: Any) -> None:
    written = dumps_json([value])
    assert json.loads(written) == [{"__type__": marker, "__value__": text}]
    assert loads_json(written) == [value]
    assert loads_untagged(written) == json.loads(written)


def test_an_object_s_own_form_comes_first() -> None:
    class Stamp(datetime):
        def __json__(self) -> dict[str, int]:
            return {"year": self.year}

    assert dumps_json(Stamp(2026, 1, 1)) == b'{"year": 2026}'


def test_built_in_values_are_written_as_the_standard_library_does() -> None:
    class Level(IntEnum):
        LOW = 1

    value = {
        1: (1, 2),
        None: float("nan"),
        False: [math.inf, -math.inf],
        "big": 10**40,
        "level": Level.LOW,
        "é": "\ud800",
    }
    assert dumps_json(value).decode() == json.dumps(value)


@pytest.mark.parametrize("value", [{1, 2}, object(), {(1, 2): 3}, [frozenset()], 1j])
def test_a_value_without_a_form_is_an_error_that_names_its_type(value: Any) -> None:
    with pytest.raises(EncodeError, match=r"set|object|tuple|complex"):
        dumps_json(value)


def test_a_value_that_contains_itself_is_an_error() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(EncodeError, match="contains itself"):
        dumps_compact(value)


@given(special)
def test_what_is_written_reads_back(value: Any) -> None:
    assert same(loads_json(dumps_json(value)), value)
    assert same(loads_json(dumps_compact(value)), value)


@given(plain)
def test_the_fast_way_writes_the_same_value(value: Any) -> None:
    assert same(json.loads(dumps_compact(value)), json.loads(json.dumps(value)))


@given(special)
def test_plain_means_that_the_standard_library_alone_would_do(value: Any) -> None:
    if is_plain(value):
        assert same(json.loads(json.dumps(value)), value)


@given(
    st.recursive(
        plain | st.floats(), lambda inner: st.dictionaries(keys, inner, max_size=3), max_leaves=8
    ).map(json.dumps)
    | st.text(st.sampled_from('{}[]",:\\u0d8fe1E+-.NaInfity truels\x00\x7f\n'), max_size=30)
)
def test_reading_agrees_with_the_standard_library(text: str) -> None:
    try:
        expected = json.loads(text)
    except (ValueError, RecursionError):
        with pytest.raises(DecodeError):
            loads_untagged(text.encode())
        return
    assert same(loads_untagged(text.encode()), expected)


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(DecodeError):
        loads_json(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"1" * 5000,
        b'{"__type__":"nothing","__value__":1}',
        b'{"__type__":[],"__value__":1}',
        b'{"__type__":"uuid","__value__":{"nonsense":1}}',
        b'{"__type__":"decimal","__value__":"x"}',
        b'{"__type__":"base64","__value__":5}',
        b'{"\\u005f_type__":"date","__value__":"x"}',
    ],
)
def test_a_document_that_cannot_be_read_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError, match="JSON"):
        loads_json(data)


def test_a_tag_written_with_escapes_is_still_a_tag() -> None:
    assert loads_json(b'{"__\\u0074ype__":"date","__val\\u0075e__":"2026-01-02"}') == date(2026, 1, 2)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_read(kind: Any) -> None:
    assert loads_json(kind(b'{"a":[1]}')) == {"a": [1]}


def test_a_registered_type_is_written_and_read() -> None:
    class Money:
        def __init__(self, cents: int) -> None:
            self.cents = cents

    types = TypeRegistry()
    types.register(Money, "money", lambda money: money.cents, Money)
    assert types.encode(Money(5)) == {"__type__": "money", "__value__": 5}
    assert types.decode({"__type__": "money", "__value__": 7}).cents == 7
    types.register(Money, None, lambda money: money.cents)
    assert types.encode(Money(5)) == 5
