"""Waiting for results: for how long, for which of them, and where it is not allowed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar, Token
from time import monotonic
from typing import TYPE_CHECKING, Any

from umbel.errors import TimeoutError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from umbel.results.base import ResultBackend

#: Celery's words, which say what to do instead.
_WOULD_BLOCK = """\
Never call result.get() within a task!
See https://docs.celeryq.dev/en/latest/userguide/tasks.html\
#avoid-launching-synchronous-subtasks
"""

#: Whether waiting for a result here could wait for a slot that this very thread occupies.
_will_block: ContextVar[bool] = ContextVar("umbel_join_will_block", default=False)


def task_join_will_block() -> bool:
    """Whether this code runs as a worker's task, which must not wait for other tasks."""
    return _will_block.get()


def deny_join() -> Token[bool]:
    """Forbid waiting in this context until ``restore_join``."""
    return _will_block.set(True)


def restore_join(before: Token[bool]) -> None:
    """Undo ``deny_join``."""
    _will_block.reset(before)


def set_join_will_block(blocks: bool) -> None:
    """Deny or allow waiting in this context from here on; ``allow_join_result`` does so for a while."""
    _will_block.set(bool(blocks))


def assert_will_not_block() -> None:
    """Raise RuntimeError where waiting for a result is denied."""
    if task_join_will_block():
        raise RuntimeError(_WOULD_BLOCK)


@contextmanager
def allow_join_result() -> Iterator[None]:
    """Let a task wait for other tasks, at the risk of a deadlock when no slot is left for them."""
    token = _will_block.set(False)
    try:
        yield
    finally:
        _will_block.reset(token)


@contextmanager
def denied_join_result() -> Iterator[None]:
    """Refuse to wait for results, as inside a task."""
    token = _will_block.set(True)
    try:
        yield
    finally:
        _will_block.reset(token)


def is_own(backend: object) -> bool:
    """Whether a backend has the contract of ``results.base``, rather than being one that was written for Celery."""
    return hasattr(type(backend), "await_")


def tells_requests(backend: object) -> bool:
    """Whether documents have to say what was called, for a backend that was written for Celery."""
    return bool(getattr(backend, "tells_requests", False))


class Deadline:
    """Counts a timeout down over several waits."""

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else monotonic() + timeout

    def left(self) -> float | None:
        """Seconds left, never less than none; None without a timeout."""
        return None if self._end is None else max(0.0, self._end - monotonic())

    def check(self) -> None:
        """Raise TimeoutError when the time is up."""
        if self._end is not None and monotonic() >= self._end:
            raise TimeoutError("The operation timed out.")


def arrivals(
    backend: ResultBackend,
    task_ids: Sequence[str],
    timeout: float | None,
    interval: float,
    on_interval: Callable[[], Any] | None,
) -> Iterator[tuple[str, bytes]]:
    """Documents as they arrive, until all are ready; ``on_interval`` is called while none does."""
    deadline = Deadline(timeout)
    while True:
        left = deadline.left()
        patience = left if on_interval is None else min(interval, interval if left is None else left)
        try:
            for arrival in backend.wait(task_ids, patience):
                yield arrival
                deadline.check()
            return
        except TimeoutError:
            deadline.check()
            if on_interval is None:
                raise TimeoutError("The operation timed out.") from None
            on_interval()


@asynccontextmanager
async def arriving(
    backend: ResultBackend, task_ids: Sequence[str], timeout: float | None
) -> AsyncIterator[AsyncIterator[tuple[str, bytes]]]:
    """Documents as they arrive, for a coroutine; the backend stops waiting when the block is left."""
    stream = backend.await_(task_ids, timeout)
    try:
        yield stream
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()
