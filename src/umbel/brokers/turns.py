"""Choosing fairly among queues."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")


def take_turns(lines: Sequence[Sequence[tuple[int, T]]], limit: int) -> list[T]:
    """The first ``limit`` items of several lines of (priority, item), each line in order.

    The lowest number goes first whichever line it stands in; within one number the lines take turns.
    """
    by_priority: dict[int, list[list[T]]] = {}
    for line in lines:
        shares: dict[int, list[T]] = {}
        for priority, item in line:
            shares.setdefault(priority, []).append(item)
        for priority, share in shares.items():
            by_priority.setdefault(priority, []).append(share)
    chosen: list[T] = []
    for priority in sorted(by_priority):
        _deal(by_priority[priority], chosen, limit)
    return chosen


def _deal(shares: list[list[T]], chosen: list[T], limit: int) -> None:
    for turn in range(max(map(len, shares))):
        for share in shares:
            if len(chosen) == limit:
                return
            if turn < len(share):
                chosen.append(share[turn])


def rotate(queues: Sequence[str], start: int) -> list[str]:
    """The queues in their order, beginning with the one at ``start`` (modulo their number)."""
    if not queues:
        return []
    start %= len(queues)
    return [*queues[start:], *queues[:start]]
