"""Calls at a time, in a thread."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

from .log import get_logger

__all__ = ("Entry", "Schedule", "Timer", "to_timestamp")

logger = get_logger(__name__)


def to_timestamp(d: Any, default_timezone: Any = None, time: Callable[[], float] = time.monotonic) -> Any:
    """An instant on the monotonic clock; a number as it is."""
    if isinstance(d, (int, float)) or d is None:
        return d
    return d.timestamp() - _wall() + time()


def _wall() -> float:
    return time.time()


class Entry:
    """A call to be made."""

    def __init__(self, fun: Callable[..., Any], args: Any = None, kwargs: Any = None) -> None:
        self.fun = fun
        self.args = args or ()
        self.kwargs = kwargs or {}
        self.canceled = False

    def __call__(self) -> Any:
        """Make it."""
        return self.fun(*self.args, **self.kwargs)

    def cancel(self) -> None:
        """Do not make it."""
        self.canceled = True

    cancelled = property(lambda self: self.canceled)


class Schedule:
    """Calls in the order of their times."""

    Entry: Any = Entry

    def __init__(self, max_interval: float | None = None, on_error: Any = None, **kwargs: Any) -> None:
        self.max_interval = max_interval or 1.0
        self.on_error = on_error
        self._heap: list[tuple[float, int, int, Any]] = []
        self._numbers = itertools.count()

    def enter_at(self, entry: Any, eta: float | None = None, priority: int = 0) -> Any:
        """Add a call at an instant of the monotonic clock; None: now."""
        due = time.monotonic() if eta is None else float(to_timestamp(eta))
        heapq.heappush(self._heap, (due, priority, next(self._numbers), entry))
        return entry

    def enter_after(self, secs: float, entry: Any, priority: int = 0) -> Any:
        """Add a call in so many seconds."""
        return self.enter_at(entry, time.monotonic() + secs, priority)

    def call_at(self, eta: Any, fun: Any, args: Any = (), kwargs: Any = None, priority: int = 0) -> Any:
        """As ``enter_at``, of a function."""
        return self.enter_at(self.Entry(fun, args, kwargs), eta, priority)

    def call_after(self, secs: float, fun: Any, args: Any = (), kwargs: Any = None, priority: int = 0) -> Any:
        """As ``enter_after``, of a function."""
        return self.enter_after(secs, self.Entry(fun, args, kwargs), priority)

    def call_repeatedly(
        self, secs: float, fun: Any, args: Any = (), kwargs: Any = None, priority: int = 0
    ) -> Any:
        """Add a call every so many seconds."""
        entry = self.Entry(fun, args, kwargs)

        def again() -> None:
            if not entry.canceled:
                try:
                    fun(*(args or ()), **(kwargs or {}))
                finally:
                    self.enter_after(secs, entry, priority)

        entry.fun, entry.args, entry.kwargs = again, (), {}
        return self.enter_after(secs, entry, priority)

    def due(self) -> tuple[float, Any]:
        """The next call if its time has come, else the seconds until then."""
        if not self._heap:
            return self.max_interval, None
        wait = self._heap[0][0] - time.monotonic()
        if wait > 0:
            return min(wait, self.max_interval), None
        return 0.0, heapq.heappop(self._heap)[3]

    def apply_entry(self, entry: Any) -> None:
        """Make a call; what it raises is handed to ``on_error``, else logged."""
        try:
            entry()
        except Exception as error:  # one call must not end those after it
            if not (self.on_error and self.on_error(error)):
                logger.exception("Error in timer: %r", error)  # noqa: TRY401

    def cancel(self, tref: Any) -> None:
        """Do not make a call."""
        tref.cancel()

    def clear(self) -> None:
        """Forget all calls."""
        self._heap.clear()

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def queue(self) -> list[Any]:
        """The calls in order."""
        return sorted(self._heap)


class Timer(threading.Thread):
    """Makes the calls of a schedule in a thread of its own."""

    Entry: Any = Entry
    Schedule: Any = Schedule

    def __init__(
        self,
        schedule: Any = None,
        on_error: Any = None,
        on_tick: Any = None,
        on_start: Any = None,
        max_interval: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(daemon=True, name="Timer")
        self.schedule = schedule or self.Schedule(max_interval, on_error)
        self.on_start = on_start
        self.on_tick = on_tick
        self.running = False
        self._wake = threading.Condition()
        self._ended = False

    def run(self) -> None:
        """Make the calls until ``stop``."""
        self.running = True
        while not self._ended:
            with self._wake:
                wait, entry = self.schedule.due()
                if entry is None:
                    if self.on_tick:
                        self.on_tick(wait)
                    self._wake.wait(wait)
                    continue
            if not entry.canceled:
                self.schedule.apply_entry(entry)
        self.running = False

    def stop(self) -> None:
        """End the thread."""
        with self._wake:
            self._ended = True
            self._wake.notify_all()
        if self.is_alive():
            self.join()

    def ensure_started(self) -> None:
        """Start the thread, unless it runs."""
        if not self.running and not self.is_alive():
            if self.on_start:
                self.on_start(self)
            self.start()

    def _enter(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.ensure_started()
        with self._wake:
            entry = method(*args, **kwargs)
            self._wake.notify_all()
        return entry

    def enter(self, entry: Any, eta: Any, priority: int = 0) -> Any:
        """As of ``Schedule``."""
        return self._enter(self.schedule.enter_at, entry, eta, priority=priority)

    def enter_after(self, *args: Any, **kwargs: Any) -> Any:
        """As of ``Schedule``."""
        return self._enter(self.schedule.enter_after, *args, **kwargs)

    def call_at(self, *args: Any, **kwargs: Any) -> Any:
        """As of ``Schedule``."""
        return self._enter(self.schedule.call_at, *args, **kwargs)

    def call_after(self, *args: Any, **kwargs: Any) -> Any:
        """As of ``Schedule``."""
        return self._enter(self.schedule.call_after, *args, **kwargs)

    def call_repeatedly(self, *args: Any, **kwargs: Any) -> Any:
        """As of ``Schedule``."""
        return self._enter(self.schedule.call_repeatedly, *args, **kwargs)

    def cancel(self, tref: Any) -> None:
        """Do not make a call."""
        tref.cancel()

    def clear(self) -> None:
        """Forget all calls."""
        self.schedule.clear()

    def empty(self) -> bool:
        """Whether there is no call to be made."""
        return not len(self.schedule)

    @property
    def queue(self) -> list[Any]:
        """The calls in order."""
        return list(self.schedule.queue)
