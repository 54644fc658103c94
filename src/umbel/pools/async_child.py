"""Many slots on one event loop: the pool process of ``--pool asyncio``.

A job whose task is ``async def`` is a task of the loop, in a context of its own. A plain one runs in a thread, so that
it holds up nobody. Limits and cancellation reach a body where it awaits: its soft limit is raised there, once, and
what it awaits is cancelled. A body that does not await holds up all others; ``LoopWatch`` says so.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, TypeVar

from umbel.errors import SoftTimeLimitExceeded
from umbel.pools import frames
from umbel.pools.driving import Drive
from umbel.pools.ends import crash_code
from umbel.pools.frames import Cancel, Deadline
from umbel.pools.inbox import LinkClosed
from umbel.pools.limits import ThreadLimit, Timekeeper
from umbel.pools.loopwatch import LoopWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from umbel.pools.base import Report, Work
    from umbel.pools.child import Station

T = TypeVar("T")

#: The number of the job that runs in this context.
_seq: ContextVar[int] = ContextVar("umbel_job", default=-1)


class LoopSlots:
    """The slots of one process and the jobs in them.

    Args:
        station: the process's ends of the wire.
        on_exit: ends the process with this status, when a job has ended more than itself.
    """

    def __init__(self, station: Station, on_exit: Callable[[int], None]) -> None:
        self._station = station
        self._on_exit = on_exit
        self._wanted = station.settings.slots
        self._jobs: dict[int, LoopJob] = {}
        self._leaving = False
        self._keeper = Timekeeper()
        self._local = threading.local()
        self._loop: asyncio.AbstractEventLoop
        self._ended: asyncio.Event
        self._watch: LoopWatch
        self._threads: ThreadPoolExecutor
        station.on_slots = self._resize
        station.inbox.on_cancel = self._cancel
        station.runner.soft_limit = self._soft
        station.runner.hard_limit = self._hard

    def serve(self) -> int:
        """Run jobs until it is time to leave; the exit code."""
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(self._serve())

    async def _serve(self) -> int:
        station = self._station
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._threads = self._make_threads()
        self._watch = LoopWatch(self._loop, station.settings, self._describe_current)
        station.runner.slot_init()
        if not await self._come_up():
            return 1
        link = station.inbox.fileno()
        self._loop.add_reader(link, self._on_readable)
        try:
            await self._ended.wait()
        finally:
            self._loop.remove_reader(link)
            self._watch.end()
            await station.runner.aclose()
        return 0

    async def _come_up(self) -> bool:
        """Prepare for jobs and say so; false when that failed, which has been said too."""
        station = self._station
        try:
            await station.runner.aopen()
        except Exception as error:
            station.outbox.send(frames.FAILED, "".join(traceback.format_exception(error)))
            return False
        return station.come_up()

    def _make_threads(self) -> ThreadPoolExecutor:
        # As many as there may be jobs: a plain one never waits for another. They are made when they are needed.
        return ThreadPoolExecutor(self._wanted, "ThreadPoolExecutor-0", self._station.runner.slot_init)

    def _resize(self, slots: int) -> None:
        if slots > self._wanted:
            self._threads.shutdown(wait=False)
            self._wanted = slots
            self._threads = self._make_threads()
        self._wanted = slots

    # Jobs

    def _on_readable(self) -> None:
        if not self._station.inbox.receive_now():
            # Nobody listens any more.
            self._on_exit(1)
        self._fill()

    def _fill(self) -> None:
        inbox, jobs = self._station.inbox, self._jobs
        while not self._leaving and len(jobs) < self._wanted:
            work = inbox.take()
            if work is None:
                self._leaving = inbox.told_to_leave
                break
            self._begin(work)
        if self._leaving and not jobs:
            self._ended.set()

    def _begin(self, work: Work) -> None:
        self._station.outbox.begin(work)
        job = self._jobs[work.seq] = LoopJob(self, work)
        job.task = self._loop.create_task(self._run(job))
        if self._watch.asleep:
            self._watch.wake()

    async def _run(self, job: LoopJob) -> None:
        station, work = self._station, job.work
        _seq.set(work.seq)
        try:
            report: Report | None = None
            try:
                report = await station.runner.arun(work, job)
            except asyncio.CancelledError:
                if not job.terminated:
                    raise
            if job.terminated or report is None:
                # Whatever the body made of it: a terminated job has no report.
                station.outbox.send(frames.CANCELLED, work.seq)
            else:
                station.outbox.report(report)
            station.after_job()
        except LinkClosed:
            self._on_exit(1)
        except BaseException as error:
            self._crash(error)
        del self._jobs[work.seq]
        self._fill()

    def _crash(self, error: BaseException) -> None:
        """A job has ended more than itself: so ends the process."""
        self._on_exit(crash_code(error))

    def _cancel(self, cancel: Cancel) -> None:
        """The supervisor wants a job ended, or its soft limit to be now."""
        job = self._jobs.get(cancel.seq)
        if job is None:
            return
        if cancel.signal == signal.SIGUSR1:
            job.soften()
        elif not job.terminate():
            self._station.outbox.send(frames.CANNOT, cancel)

    def run_in_thread(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """Run it in a thread that soft limits reach, in the present context."""

        def run() -> T:
            try:
                return call()
            finally:
                self._station.outbox.end_copy()

        return self._loop.run_in_executor(self._threads, copy_context().run, run)

    def _soft(self, seconds: float | None) -> ThreadLimit:
        limit: ThreadLimit | None = getattr(self._local, "limit", None)
        if limit is None:
            limit = self._local.limit = ThreadLimit(self._keeper)
        limit.clear()
        return limit(seconds)

    def _hard(self, seconds: float) -> None:
        self._station.outbox.send(frames.DEADLINE, Deadline(_seq.get(), seconds))

    def _describe_current(self) -> str:
        current = asyncio.current_task(self._loop)
        for job in list(self._jobs.values()):
            if job.task is current:
                return job.title
        return "something that no task has awaited"


class LoopJob:
    """One job: the ``AsyncSlot`` that its runner is given."""

    __slots__ = ("_drive", "_slots", "_threaded", "task", "terminated", "title", "work")

    def __init__(self, slots: LoopSlots, work: Work) -> None:
        self._slots = slots
        self.work = work
        self.task: asyncio.Task[None]
        self.terminated = False
        self.title = f"job {work.seq}"
        self._drive: Drive[Any] | None = None
        self._threaded = False

    async def run(self, coroutine: Coroutine[Any, Any, T], soft_limit: float | None) -> T:
        """Await the body; after ``soft_limit`` seconds SoftTimeLimitExceeded is raised where it awaits."""
        if self.terminated:
            coroutine.close()
            raise asyncio.CancelledError
        drive = Drive(coroutine, self.task)
        self._drive = drive
        if soft_limit is None:
            return await drive.run()
        timer = asyncio.get_running_loop().call_later(soft_limit, drive.interrupt, SoftTimeLimitExceeded)
        try:
            return await drive.run()
        finally:
            timer.cancel()

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Run something that blocks in a thread."""
        if self.terminated:
            raise asyncio.CancelledError
        self._threaded = True
        try:
            return await self._slots.run_in_thread(call)
        finally:
            self._threaded = False

    def soften(self) -> None:
        """Raise SoftTimeLimitExceeded in the body; nothing happens when it does not await, or was told before."""
        if self._drive is not None:
            self._drive.interrupt(SoftTimeLimitExceeded)

    def terminate(self) -> bool:
        """Cancel the job; false when it runs in a thread."""
        if self._threaded:
            return False
        self.terminated = True
        if self._drive is not None:
            self.task.cancel()
        return True


def _loop_factory() -> Any:
    try:
        import uvloop  # only these processes pay for its import
    except ImportError:
        return None
    return uvloop.new_event_loop
