"""Wait for a condition, never for a while.

The polls start at a millisecond apart and grow to fifty, so that a condition that is met soon costs nothing and one
that takes long does not keep a core busy.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

Value = TypeVar("Value")

_FIRST_PAUSE = 0.001  #: seconds
_LONGEST_PAUSE = 0.05
_GROWTH = 1.4


class NeverHappenedError(AssertionError):
    """The condition was not met in time; the message says what was waited for and what was seen last."""


def wait_until(
    predicate: Callable[[], Value], *, timeout: float = 30.0, what: str | Callable[[], str]
) -> Value:
    """Call ``predicate`` until it gives something true, and return that.

    ``what`` completes the sentence "waited 30 s for …"; a function is called only when the wait failed, to tell the
    state by then. Raises NeverHappenedError after ``timeout`` seconds. What the predicate raises passes through.
    """
    for pause in _pauses(timeout):
        value = predicate()
        if value:
            return value
        time.sleep(pause)
    value = predicate()
    if not value:
        raise NeverHappenedError(_failure(timeout, what, value))
    return value


async def wait_until_async(
    predicate: Callable[[], Awaitable[Value]], *, timeout: float = 30.0, what: str | Callable[[], str]
) -> Value:
    """As ``wait_until`` for a coroutine function, without blocking the event loop."""
    for pause in _pauses(timeout):
        value = await predicate()
        if value:
            return value
        await asyncio.sleep(pause)
    value = await predicate()
    if not value:
        raise NeverHappenedError(_failure(timeout, what, value))
    return value


def _pauses(timeout: float) -> Iterator[float]:
    """The pauses between polls, the last of them ending at the deadline."""
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while (left := deadline - time.monotonic()) > 0:
        yield min(pause, left)
        pause = min(pause * _GROWTH, _LONGEST_PAUSE)


def _failure(timeout: float, what: str | Callable[[], str], last: object) -> str:
    story = what() if callable(what) else what
    return f"waited {timeout:g} s for {story}; the last answer was {last!r}"
