"""Choosing fairly among queues."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from umbel.brokers.turns import rotate, take_turns

_LINES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=8).map(sorted), max_size=5).map(
    lambda lines: [[(priority, (i, j)) for j, priority in enumerate(line)] for i, line in enumerate(lines)]
)


@given(_LINES, st.integers(0, 20))
def test_what_is_chosen(lines, limit) -> None:
    chosen = take_turns(lines, limit)
    everything = {item: priority for line in lines for priority, item in line}
    assert len(chosen) == len(set(chosen)) == min(limit, len(everything))
    priorities = [everything[item] for item in chosen]
    assert priorities == sorted(priorities)
    left = set(everything) - set(chosen)
    if chosen and left:
        assert min(everything[item] for item in left) >= priorities[-1]
    for number, line in enumerate(lines):
        mine = [item for item in chosen if item[0] == number]
        assert mine == [item for _, item in line[: len(mine)]]


@given(st.integers(1, 5), st.integers(0, 30))
def test_full_lines_share_equally(lines, limit) -> None:
    chosen = take_turns([[(0, line)] * 50 for line in range(lines)], limit)
    shares = [chosen.count(line) for line in range(lines)]
    assert max(shares) - min(shares) <= 1


@given(st.lists(st.text(), unique=True), st.integers(0, 100))
def test_a_rotation_keeps_everyone(queues, start) -> None:
    rotated = rotate(queues, start)
    assert sorted(rotated) == sorted(queues)
    if queues:
        assert rotated[0] == queues[start % len(queues)]
