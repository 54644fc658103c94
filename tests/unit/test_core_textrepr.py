"""The text of arguments: what Celery 5.7's saferepr answers, kept as examples, and never an error."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.core.textrepr import safe_repr

EXAMPLES: list[tuple[Any, str]] = [
    ((2, 3), "(2, 3)"),
    ((2,), "(2,)"),
    ((), "()"),
    ({}, "{}"),
    ([], "[]"),
    (set(), "set()"),
    (frozenset(), "frozenset()"),
    ({1}, "{1}"),
    (frozenset({1}), "frozenset({1})"),
    ("it's", "'it\\'s'"),
    (("a\n\\b",), "('a\n\\b',)"),
    ({"x": 1, "y": [1.5, None, True]}, "{'x': 1, 'y': [1.5, None, True]}"),
    ({1: (2,), (3,): b"x"}, "{1: (2,), (3,): b'x'}"),
    (b"\xff\x00", "b'ff00'"),
    (Decimal("1.50"), "Decimal('1.50')"),
    (date(2026, 1, 2), "datetime.date(2026, 1, 2)"),
    ([[[[1]]]], "[[[[...]]]]"),
    ([[[(1,), (1, 2), {}]]], "[[[(...,), (...), {...}]]]"),
    (range(3), "range(0, 3)"),
]


@pytest.mark.parametrize(("value", "text"), EXAMPLES)
def test_text_is_celery_s(value: Any, text: str) -> None:
    assert safe_repr(value) == text


@pytest.mark.parametrize(
    ("value", "maxlen", "text"),
    [
        (["a" * 30, 1], 10, "['" + "a" * 9 + "...', ...]"),
        ((["b", "c", "d"], 1), 8, "(['b', 'c...', ...])"),
        (list(range(100)), 12, "[0, 1, 2, 3, , ...]"),
        (set(), 3, "set..."),
        (b"abcdef", 3, "b'abc...'"),
    ],
)
def test_what_is_left_out_is_marked_and_brackets_are_closed(value: Any, maxlen: int, text: str) -> None:
    assert safe_repr(value, maxlen) == text


def test_a_container_within_itself_is_named() -> None:
    value: list[Any] = [1]
    value.append(value)
    assert safe_repr(value) == f"[1, <Recursion on list with id={id(value)}>]"


class Stubborn:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("value", [Stubborn(), [10**5000], (10**5000,), {"x": [Stubborn()]}], ids=type)
def test_a_value_that_cannot_be_shown_does_not_raise(value: Any) -> None:
    assert "<Unrepresentable <class " in safe_repr(value)


def test_deep_nesting_without_a_limit_does_not_raise() -> None:
    value: list[Any] = []
    for _ in range(5000):
        value = [value]
    assert safe_repr(value, None, 0) == "[" * 5001 + "]" * 5001


@given(
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
    ),
    st.integers(1, 200),
)
def test_the_text_is_about_as_long_as_asked(value: Any, maxlen: int) -> None:
    # One value may double by escaping quotes, and the marks and brackets come on top.
    assert len(safe_repr(value, maxlen)) <= 3 * maxlen + 40
