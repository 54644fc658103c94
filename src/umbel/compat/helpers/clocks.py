"""Logical time, by kombu's names."""

from __future__ import annotations

from itertools import pairwise
from threading import Lock
from typing import Any, NamedTuple

__all__ = ["LamportClock", "timetuple"]


class timetuple(NamedTuple):
    """An event's place in time; comparing two says which happened before."""

    clock: int | None
    timestamp: float
    id: str
    obj: Any = None

    def __lt__(self, other: Any) -> bool:
        mine, theirs = self[0], other[0]
        if mine and theirs:
            return self[2] < other[2] if mine == theirs else bool(mine < theirs)
        return bool(self[1] < other[1])

    def __gt__(self, other: Any) -> bool:
        return bool(other < self)

    def __le__(self, other: Any) -> bool:
        return not other < self

    def __ge__(self, other: Any) -> bool:
        return not self < other


class LamportClock:
    """A counter that is never behind what it has heard of others."""

    def __init__(self, initial_value: int = 0, Lock: Any = Lock) -> None:
        self.value = initial_value
        self.mutex = Lock()

    def adjust(self, other: int) -> int:
        """Hear of another's time."""
        with self.mutex:
            self.value = max(self.value, other) + 1
            return self.value

    def forward(self) -> int:
        """Something happens."""
        with self.mutex:
            self.value += 1
            return self.value

    def sort_heap(self, h: Any) -> Any:
        """The first of some events."""
        if h[0][0] == h[1][0]:
            same = [first for first, second in pairwise(h) if first[0] == second[0]]
            return min(same, key=lambda event: event[1])
        return h[0]

    def __str__(self) -> str:
        return str(self.value)

    def __repr__(self) -> str:
        return f"<LamportClock: {self.value}>"
