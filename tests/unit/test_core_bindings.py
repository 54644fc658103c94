"""Bindings: which of them match, and what is remembered of them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.core.bindings import Binding, Bindings, bindings_of, bound_queues, spread, topic_pattern
from umbel.core.destination import Destination
from umbel.core.records import Publication

WORDS = st.lists(st.sampled_from(["a", "b-c", "d_e", "(f)", "é"]), min_size=1, max_size=5)
PATTERNS = st.lists(st.sampled_from(["a", "b-c", "d_e", "(f)", "é", "*", "#"]), min_size=1, max_size=5)


def matched(pattern: list[str], words: list[str]) -> bool:
    """What the wildcards mean, word by word; ``#`` is any text between its dots."""
    if not pattern or not words:
        return not pattern and not words
    head, rest = pattern[0], pattern[1:]
    if head == "#":
        return any(matched(rest, words[count:]) for count in range(1, len(words) + 1))
    return head in ("*", words[0]) and matched(rest, words[1:])


@given(PATTERNS, WORDS)
def test_topics_are_matched_word_by_word(pattern: list[str], words: list[str]) -> None:
    binding = Binding("q", "x", "topic", ".".join(pattern))
    assert binding.matches(".".join(words)) == matched(pattern, words)


@given(st.text())
def test_any_key_makes_a_pattern_that_matches_itself(key: str) -> None:
    literal = key.replace("*", "").replace("#", "")
    assert re.match(topic_pattern(literal), literal)


@given(st.text(), st.text())
def test_direct_keys_are_equal(key: str, other: str) -> None:
    assert Binding("q", "x", "direct", key).matches(other) == (key == other)
    assert Binding("q", "x", "direct", key).pattern == ""


def test_patterns_are_written_as_kombu_writes_them() -> None:
    assert topic_pattern("media.#") == r"^media\..*?$"
    assert topic_pattern("*.a_b-c.*") == r"^[^\.]+\.a\_b\-c\.[^\.]+$"
    assert topic_pattern("a*b.\0 ") == r"^a*b\.\000\ $"


def test_what_was_declared_is_remembered_by_exchange() -> None:
    bindings = Bindings()
    first, second = Binding("a", "x", "direct", "k"), Binding("b", "y", "topic", "#")
    bindings.add([first, second, Binding("c", "z", "fanout"), Binding("d", "z", "headers")])
    bindings.add([first])
    assert set(bindings) == {first, second}
    assert bindings.to("x") == {first}
    assert bindings.to("z") == frozenset()


def test_queues_of_either_library_have_bindings() -> None:
    class KombuExchange:
        name, type = "x", None

    class KombuQueue:
        name, exchange, routing_key, bindings = "q", KombuExchange(), None, None

    assert bindings_of(KombuQueue()) == [Binding("q", "x", "direct", "")]


def test_publications_are_spread_over_the_queues() -> None:
    table = [
        Binding("b", "x", "topic", "#"),
        Binding("a", "x", "topic", "k"),
        Binding("a", "x", "topic", "*"),
    ]
    named, plain, lost, anonymous, broadcast = (
        Publication(Destination("x", "k", None, "topic", 3), b"1"),
        Publication(Destination("", "q", "q"), b"2"),
        Publication(Destination("y", "k", None, "topic"), b"3"),
        Publication(Destination("", "q"), b"4"),
        Publication(Destination("x", "k", None, "fanout"), b"5"),
    )
    asked: list[str] = []

    def bindings_to(exchange: str) -> list[Binding]:
        asked.append(exchange)
        return table if exchange == "x" else []

    assert spread([plain, plain], bindings_to) == ([plain, plain], [])
    routed, unbound = spread([named, plain, lost, anonymous, broadcast], bindings_to)
    assert [(each.destination.queue, each.payload) for each in routed] == [
        ("a", b"1"),
        ("b", b"1"),
        ("q", b"2"),
        ("q", b"4"),
        (None, b"5"),
    ]
    assert [each.destination.priority for each in routed[:2]] == [3, 3]
    assert unbound == [lost]
    assert asked == ["x", "y"]


@pytest.mark.parametrize("exchange", ["", "x"])
def test_the_anonymous_exchange_leads_to_the_queue_of_the_key(exchange: str) -> None:
    assert bound_queues(Destination(exchange, "q"), []) == ([] if exchange else ["q"])
