"""The text of values, short and safe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from umbel.core.textrepr import safe_repr

__all__ = ("reprstream", "saferepr")


def saferepr(o: Any, maxlen: int | None = None, maxlevels: int = 3, seen: Any = None) -> str:
    """``repr`` that is bounded in length and depth and never raises."""
    return safe_repr(o, maxlen, maxlevels)


def reprstream(
    stack: Any, seen: Any = None, maxlevels: int = 3, level: int = 0, isinstance: Any = isinstance
) -> Iterator[Any]:
    """The text of a stack of values, one after the other."""
    while stack:
        for value in stack.popleft():
            yield safe_repr(value, None, maxlevels), stack
