"""Many slots that are greenlets: the pool process of ``--pool gevent`` and ``--pool eventlet``.

The process starts from nothing and is patched before the application is imported (see ``child_main``), so that what
blocks in it waits for one job only. A limit or a cancellation reaches a body where it waits; one that never does holds
up the others, until its hard limit ends the process.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from umbel.errors import SoftTimeLimitExceeded
from umbel.pools import frames
from umbel.pools.ends import crash_code
from umbel.pools.frames import Cancel, Deadline
from umbel.pools.inbox import LinkClosed
from umbel.pools.limits import Terminated

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from umbel.pools.base import Work
    from umbel.pools.child import Station
    from umbel.pools.greenlets import Greenlets, Timer


class _Job:
    """One job; also the soft limit of its body, a context manager."""

    def __init__(self, work: Work, greenlets: Greenlets) -> None:
        self.work = work
        self.greenlet: Any = None
        self.begun = False
        self.terminated = False
        self._greenlets = greenlets
        self._seconds: float | None = None
        self._timer: Timer | None = None

    def limit(self, seconds: float | None) -> _Job:
        """The limit of the body that is about to be entered."""
        self._seconds = seconds
        return self

    def __enter__(self) -> None:
        self._timer = self._greenlets.timer(self._seconds, SoftTimeLimitExceeded)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer = None

    def soften(self) -> None:
        """Raise SoftTimeLimitExceeded in the body, if it is inside."""
        if self._timer is not None and self.greenlet is not None:
            self._greenlets.throw(self.greenlet, SoftTimeLimitExceeded)

    def terminate(self) -> None:
        """End the job where it waits."""
        self.terminated = True
        if self.begun and self.greenlet is not None:
            self._greenlets.throw(self.greenlet, Terminated)


class GreenSlots:
    """The slots of one process and the jobs in them; ``on_exit`` ends the process."""

    def __init__(self, station: Station, on_exit: Callable[[int], None], greenlets: Greenlets) -> None:
        self._station = station
        self._greenlets = greenlets
        self._on_exit = on_exit
        self._wanted = station.settings.slots
        self._jobs: dict[int, _Job] = {}
        self._leaving = False
        self._ended = greenlets.event()
        self._here = greenlets.local()  # its ``job``: of this greenlet
        station.on_slots = self._resize
        station.inbox.on_cancel = self._cancel
        station.runner.soft_limit = self._soft
        station.runner.hard_limit = self._hard

    def serve(self) -> int:
        """Run jobs until it is time to leave; the exit code."""
        self._station.runner.slot_init()
        if not self._station.come_up():
            return 1
        self._greenlets.spawn(self._read)
        self._ended.wait()
        return 0

    def _read(self) -> None:
        while self._station.inbox.receive():
            self._fill()
        # Nobody listens any more.
        self._on_exit(1)

    def _resize(self, slots: int) -> None:
        self._wanted = slots

    def _fill(self) -> None:
        inbox, jobs = self._station.inbox, self._jobs
        while not self._leaving and len(jobs) < self._wanted:
            work = inbox.take()
            if work is None:
                self._leaving = inbox.told_to_leave
                break
            job = jobs[work.seq] = _Job(work, self._greenlets)
            self._station.outbox.begin(work)
            job.greenlet = self._greenlets.spawn(self._run, job)
        if self._leaving and not jobs:
            self._ended.set()

    def _run(self, job: _Job) -> None:
        station = self._station
        self._here.job = job
        try:
            self._attempt(job)
            station.after_job()
        except LinkClosed:
            self._on_exit(1)
        except BaseException as error:
            self._crash(error)
        del self._jobs[job.work.seq]
        self._fill()

    def _attempt(self, job: _Job) -> None:
        station = self._station
        report = None
        try:
            if not job.terminated:
                job.begun = True
                report = station.runner.run(job.work)
        except Terminated:
            report = None
        finally:
            job.begun = False
        if job.terminated or report is None:
            station.outbox.send(frames.CANCELLED, job.work.seq)
        else:
            station.outbox.report(report)

    def _crash(self, error: BaseException) -> None:
        """A job has ended more than itself: so ends the process."""
        self._on_exit(crash_code(error))

    def _cancel(self, cancel: Cancel) -> None:
        job = self._jobs.get(cancel.seq)
        if job is None:
            return
        if cancel.signal == signal.SIGUSR1:
            job.soften()
        else:
            job.terminate()

    def _soft(self, seconds: float | None) -> _Job:
        job: _Job = self._here.job
        return job.limit(seconds)

    def _hard(self, seconds: float) -> None:
        job: _Job = self._here.job
        self._station.outbox.send(frames.DEADLINE, Deadline(job.work.seq, seconds))
