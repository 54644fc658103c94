"""Soft time limits: SoftTimeLimitExceeded raised in the body of a task, and never anywhere else.

Where the body runs in a process's main thread an alarm signal does it, which also wakes system calls. In other
threads it is an asynchronous exception, which Python delivers between two instructions of Python: a body that is
blocked in C sees it when it comes back.
"""

from __future__ import annotations

import ctypes
import math
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from umbel.errors import SoftTimeLimitExceeded, TimeLimitExceeded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType


class _Here(threading.local):
    """The limit that the body of this thread is under."""

    limit: AlarmLimit | ThreadLimit | None = None


_here = _Here()


class Terminated(SystemExit):
    """Ends a body on request, as a signal would end its process: no handler of the task is called."""


class Diversion(Protocol):
    """An async body and its loop, to which limits go that would otherwise be raised wherever the thread is."""

    def in_body(self) -> bool:
        """Whether the body itself runs at this moment, so that what is raised in the thread is raised in it."""

    def interrupt(self, limit: type[BaseException]) -> None:
        """Raise the limit where the body awaits. Called in any thread, and by signal handlers."""


@contextmanager
def diverted(target: Diversion) -> Iterator[None]:
    """Within it, the limit of this thread's body is told to ``target``."""
    limit = _here.limit
    if limit is None:
        yield
        return
    limit.target = target
    try:
        yield
    finally:
        limit.target = None


#: How much earlier than computed an alarm may ring and still be the right one, in seconds.
_CLOCK_SLACK = 0.001


class AlarmLimit:
    """The soft limit of a process that runs one job at a time in its main thread.

    SIGALRM ends the time; SIGUSR1 does so at once, as Celery's processes do. Both raise only while a body runs, and
    an alarm that rings late, for a body that has ended, is recognised by the clock and ignored.
    """

    def __init__(self) -> None:
        self._inside = False
        self._deadline: float | None = None
        self._seconds: float | None = None
        self.target: Diversion | None = None

    def install(self) -> None:
        """Take over SIGUSR1; call in the main thread."""
        signal.signal(signal.SIGUSR1, self._on_signal)

    def __call__(self, seconds: float | None) -> AlarmLimit:
        """The limit of the body that is about to be entered."""
        self._seconds = seconds
        return self

    def __enter__(self) -> None:
        _here.limit = self
        self._inside = True
        seconds = self._seconds
        if seconds is not None:
            # Installed each time: the last task may have used SIGALRM for itself.
            signal.signal(signal.SIGALRM, self._on_signal)
            self._deadline = time.monotonic() + seconds
            signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside = False
        if self._deadline is not None:
            self._deadline = None
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if not self._inside:
            return
        if signum == signal.SIGALRM and (
            self._deadline is None or time.monotonic() < self._deadline - _CLOCK_SLACK
        ):
            return
        # Once for a body: what it does about it is not interrupted again.
        self._inside = False
        if self.target is None or self.target.in_body():
            raise SoftTimeLimitExceeded
        self.target.interrupt(SoftTimeLimitExceeded)


class _Alarm:
    """One exception to be raised in one thread at one time."""

    __slots__ = ("at", "error", "fired", "limit", "thread_id")

    def __init__(self, at: float, error: type[BaseException], thread_id: int, limit: ThreadLimit) -> None:
        self.at = at
        self.limit = limit
        self.error = error
        self.thread_id = thread_id
        self.fired = False


class Timekeeper:
    """Raises exceptions in other threads when their time is up. Its thread starts with the first alarm."""

    def __init__(self) -> None:
        # Entered by statement alone, never through the condition's own method: an exception that is raised in this
        # thread just then would leave the lock taken for ever.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._alarms: set[_Alarm] = set()
        self._thread: threading.Thread | None = None
        self._sleeps_until = 0.0
        self._ending = False

    def set(self, seconds: float, error: type[BaseException], limit: ThreadLimit) -> _Alarm:
        """Raise ``error`` in the calling thread, ``seconds`` from now, unless ``cancel`` comes first."""
        alarm = _Alarm(time.monotonic() + seconds, error, threading.get_ident(), limit)
        with self._lock:
            self._alarms.add(alarm)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="umbel-timekeeper", daemon=True)
                self._thread.start()
            elif alarm.at < self._sleeps_until:
                self._changed.notify()
        return alarm

    def cancel(self, alarm: _Alarm) -> None:
        """Called by the alarm's own thread: after it, the exception is not raised, nor pending."""
        with self._lock:
            self._alarms.discard(alarm)
        if alarm.fired:
            _take_back(alarm.thread_id)

    def interrupt(self, limit: ThreadLimit, error: type[BaseException]) -> None:
        """Raise ``error`` in the body of another thread at once.

        Where it has not been entered yet a Terminated waits for that, and anything else is forgotten. After a
        Terminated nothing else is raised in it.
        """
        with self._lock:
            if limit.terminated:
                return
            if error is Terminated:
                limit.terminated = True
                self._alarms.difference_update(limit.alarms)
            if not limit.inside:
                return
            alarm = _Alarm(0.0, error, limit.thread_id, limit)
            limit.alarms.append(alarm)
            self._fire(alarm)

    def enter(self, limit: ThreadLimit) -> None:
        """The calling thread enters a body; raises what has waited for that."""
        with self._lock:
            if limit.terminated:
                raise Terminated
            limit.inside, limit.thread_id = True, threading.get_ident()

    def leave(self, limit: ThreadLimit) -> None:
        """The calling thread has left it."""
        with self._lock:
            limit.inside = False

    def end(self) -> None:
        """End the thread, if it was started."""
        with self._lock:
            self._ending = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        with self._lock:
            while not self._ending:
                now = time.monotonic()
                self._ring(now)
                self._sleeps_until = min((alarm.at for alarm in self._alarms), default=math.inf)
                self._changed.wait(None if self._sleeps_until == math.inf else self._sleeps_until - now)

    def _ring(self, now: float) -> None:
        for alarm in [alarm for alarm in self._alarms if alarm.at <= now]:
            self._alarms.remove(alarm)
            self._fire(alarm)

    @staticmethod
    def _fire(alarm: _Alarm) -> None:
        target = alarm.limit.target
        if target is not None and not target.in_body():
            target.interrupt(alarm.error)
            return
        alarm.fired = True
        _raise_in_thread(alarm.thread_id, alarm.error)


class ThreadLimit:
    """The limits of one slot in a thread.

    ``hard`` serves where the process cannot be ended, because it is the worker itself: TimeLimitExceeded is raised
    in the body, which a body blocked in C does not see.
    """

    def __init__(self, keeper: Timekeeper) -> None:
        self._keeper = keeper
        self._seconds: float | None = None
        self._hard_at: float | None = None
        self.alarms: list[_Alarm] = []
        self.target: Diversion | None = None
        self.inside = False  #: a body is being run
        self.thread_id = 0  #: of the thread that runs it
        self.terminated = False  #: the job is being ended on request

    def begin(self) -> None:
        """Another job has the slot."""
        self.terminated = False

    def interrupt(self, error: type[BaseException]) -> None:
        """Raise it in the body; called in another thread."""
        self._keeper.interrupt(self, error)

    def __call__(self, seconds: float | None) -> ThreadLimit:
        """The limit of the body that is about to be entered."""
        self._seconds = seconds
        return self

    def hard(self, seconds: float) -> None:
        """Raise TimeLimitExceeded in the body, ``seconds`` from now."""
        self._hard_at = time.monotonic() + seconds

    def __enter__(self) -> None:
        _here.limit = self
        self._keeper.enter(self)
        if self._seconds is not None:
            self.alarms.append(self._keeper.set(self._seconds, SoftTimeLimitExceeded, self))
        if self._hard_at is not None:
            self.alarms.append(self._keeper.set(self._hard_at - time.monotonic(), TimeLimitExceeded, self))
            self._hard_at = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def clear(self) -> None:
        """Nothing is raised any more after this. Called again by the slot, in case leaving the body was interrupted."""
        self._hard_at = None
        self._keeper.leave(self)
        while self.alarms:
            self._keeper.cancel(self.alarms[-1])
            self.alarms.pop()

    def clear_surely(self) -> None:
        """As ``clear``, though what is raised at last may be raised in the middle of it."""
        while True:
            try:
                self.clear()
            except (SoftTimeLimitExceeded, TimeLimitExceeded, Terminated):
                continue
            return


class _TakenBackError(BaseException):
    """Takes the place of an exception that came too late, and is caught where it is raised."""


def _take_back(thread_id: int) -> None:
    """Nothing is pending for the calling thread any more; ``thread_id`` is its own.

    Setting None would do that too, and leave the interpreter looking for it before every step from then on: it takes
    its mark down when it raises one. CPython 3.11 stands still in a thread that is profiled then.
    """
    try:
        _raise_in_thread(thread_id, _TakenBackError)
        while True:  # The interpreter looks when a loop turns.
            pass
    except _TakenBackError:
        return


def _raise_in_thread(thread_id: int, error: type[BaseException]) -> None:
    """The thread raises it at its next step; it takes the place of one that waits there."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), ctypes.py_object(error))
