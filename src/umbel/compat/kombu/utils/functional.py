"""Small functions on functions and sequences."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, repeat
from typing import Any

from umbel.compat.helpers.functional import (
    LRUCache,
    accepts_argument,
    dictfilter,
    is_list,
    lazy,
    maybe_evaluate,
    maybe_list,
    memoize,
    retry_over_time,
)

__all__ = (
    "LRUCache",
    "dictfilter",
    "is_list",
    "lazy",
    "maybe_evaluate",
    "maybe_list",
    "memoize",
    "retry_over_time",
)


def fxrange(
    start: float = 1.0, stop: float | None = None, step: float = 1.0, repeatlast: bool = False
) -> Iterator[float]:
    """Numbers from ``start`` on."""
    current = start
    while stop is None or current <= stop:
        yield current
        current += step
    if repeatlast:
        yield from repeat(current - step)


def fxrangemax(
    start: float = 1.0, stop: float | None = None, step: float = 1.0, max: float = 100.0
) -> Iterator[float]:
    """Numbers from ``start`` on whose sum is at most ``max``."""
    total, current = 0.0, start
    for _ in count():
        if total >= max:
            return
        yield current
        if stop:
            current = min(current + step, stop)
        else:
            current += step
        total += current


def reprkwargs(kwargs: Any, sep: str = ", ", fmt: str = "{0}={1}") -> str:
    """Keywords as text."""
    return sep.join(fmt.format(name, repr(value)) for name, value in kwargs.items())


def reprcall(name: str, args: Any = (), kwargs: Any = None, sep: str = ", ") -> str:
    """A call as text."""
    shown = sep.join(map(repr, args or ()))
    keywords = reprkwargs(kwargs or {}, sep)
    return f"{name}({shown}{sep if shown and keywords else ''}{keywords})"
