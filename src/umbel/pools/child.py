"""What a pool process does: take a job, run it, report it, again.

The same code serves a process with one slot (its main thread), a process with several (threads that take turns at
the inbox), and slots inside the worker's own process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING

from umbel.errors import SoftTimeLimitExceeded
from umbel.pools import frames
from umbel.pools.ends import crash_code, report_crash
from umbel.pools.frames import Cancel, Deadline
from umbel.pools.inbox import Inbox, LinkClosed, Outbox
from umbel.pools.limits import AlarmLimit, Terminated, ThreadLimit, Timekeeper
from umbel.pools.memory import MemoryWatch
from umbel.pools.relay import relay_logs

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from types import FrameType
    from typing import NoReturn

    from umbel.pools.base import JobRunner, Report, Work
    from umbel.pools.frames import ProcessSettings
    from umbel.pools.permits import Permits

#: Of a process that a signal asked to end: Celery's processes leave with the signal's number.
_TERMINATED = int(signal.SIGTERM)
#: Seconds from the begin of a job within which others may be begun that follow it. Then it is others' turn.
_RUN_ON = 0.05


class Station:
    """One pool process: its ends of the wire, its settings and its runner."""

    def __init__(
        self, link: socket.socket, permits: Permits, settings: ProcessSettings, runner: JobRunner
    ) -> None:
        self.outbox = Outbox(link)
        self.inbox = Inbox(link, permits, self.outbox, self._on_slots)
        self.settings = settings
        self.runner = runner
        self.on_slots: Callable[[int], None] | None = None
        self._memory = MemoryWatch(settings.max_memory) if settings.max_memory else None

    def come_up(self) -> bool:
        """Prepare for jobs and say so; false when that failed, which has been said too."""
        try:
            self.runner.process_init()
        except Exception as error:
            self.outbox.send(frames.FAILED, "".join(traceback.format_exception(error)))
            return False
        self.outbox.send(frames.UP, os.getpid())
        return True

    def after_job(self) -> None:
        """Between two jobs: has this process grown too big? It goes on until it is told to leave."""
        if self._memory is not None and (used := self._memory.excess()) is not None:
            self._memory = self._memory.next(used)
            self.outbox.send(frames.HEAVY, used)

    def _on_slots(self, slots: int) -> None:
        if self.on_slots is not None:
            self.on_slots(slots)


class MainThreadSlot:
    """One slot, in the main thread of its process.

    SIGTERM raises SystemExit in a running body, so that its ``finally`` clauses run, and ends a waiting process at
    once; a report that is being written is finished first.
    """

    def __init__(self, station: Station) -> None:
        self._station = station
        self._limit = AlarmLimit()
        self._seq = -1
        self._may_raise = True
        self._terminated = False
        station.runner.soft_limit = self._limit
        station.runner.hard_limit = self._tell_deadline

    def serve(self) -> int:
        """Run jobs until it is time to leave; the exit code."""
        self._limit.install()
        signal.signal(signal.SIGTERM, self._on_sigterm)
        station = self._station
        station.runner.slot_init()
        if not station.come_up():
            return 1
        inbox = station.inbox
        while not self._terminated and (work := inbox.next()) is not None:
            self._run(work)
        return _TERMINATED if self._terminated else 0

    def _run(self, work: Work) -> None:
        self._seq = work.seq
        self._station.outbox.begin(work)
        if not work.runs_on:
            self._attempt(work)
            return
        until = time.monotonic() + _RUN_ON
        following: Work | None = work
        while following is not None:
            following = self._attempt(following, until)

    def _attempt(self, work: Work, until: float = 0.0) -> Work | None:
        """Run and report one job; gives what it goes on with, if it is not too late for that."""
        station = self._station
        report = station.runner.run(work)
        self._may_raise = False
        if self._terminated:
            # Whatever the body made of it: a terminated job has no report.
            return None
        following = None
        if time.monotonic() < until and not station.inbox.waiting:
            following = station.runner.follow(work, report)
        report.goes_on = following is not None
        station.outbox.report(report)
        station.after_job()
        self._may_raise = True
        return following

    def _tell_deadline(self, seconds: float) -> None:
        self._station.outbox.send(frames.DEADLINE, Deadline(self._seq, seconds))

    def _on_sigterm(self, signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._terminated = True
        if self._may_raise:
            raise SystemExit(_TERMINATED)


class Bell:
    """What the main thread of a process with threads for slots waits for: somebody rings.

    The supervisor does so with SIGUSR1, for that is heard whatever the slots do. The signal has a handler, and is not
    ignored or blocked, because programs that tasks start would inherit either.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)

    def answer_signals(self) -> None:
        """Have SIGUSR1 ring it; called in the main thread."""
        signal.signal(signal.SIGUSR1, _nothing)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def ring(self) -> None:
        """Wake whoever waits."""
        with contextlib.suppress(BlockingIOError):  # it has been rung often enough
            os.write(self._write, b"!")

    def wait(self) -> None:
        """Return when it has been rung since the last time."""
        os.read(self._read, 4096)

    def close(self) -> None:
        """Take it down."""
        os.close(self._read)
        os.close(self._write)


def _nothing(signum: int, frame: FrameType | None) -> None:
    """The byte in the wake-up channel says it all."""


class ThreadSlots:
    """Several slots, each a thread. The one that waits holds the turn, so that jobs begin in the order they came.

    While all of them are busy nobody reads; then the supervisor rings, and the thread that has started them reads.
    """

    def __init__(self, station: Station, on_exit: Callable[[int], None], *, inline: bool = False) -> None:
        self._station = station
        self._on_exit = on_exit
        self._inline = inline
        self._keeper = Timekeeper()
        self._turn = threading.Lock()
        self._slot = threading.local()
        self._threads: list[threading.Thread] = []
        self._wanted = station.settings.slots
        self._running = 0
        self._leaving = False
        self._jobs: dict[int, ThreadLimit] = {}
        #: Rung when there is something to read though all slots are busy, and when the last slot leaves.
        self.bell = Bell()
        station.on_slots = self._resize
        station.inbox.on_cancel = self._cancel
        station.runner.soft_limit = self._soft
        station.runner.hard_limit = self._hard

    def serve(self) -> int:
        """Run jobs until it is time to leave; the exit code."""
        if not self._inline:
            self.bell.answer_signals()
        if not self._station.come_up():
            return 1
        with self._turn:
            self._grow()
        while self._running:
            self.bell.wait()
            with self._turn:
                self._read()
        while self._threads:
            self._threads.pop().join()
        self._keeper.end()
        return 0

    def _grow(self) -> None:
        """Called with the turn held: a slot that leaves is not counted again meanwhile."""
        while self._running < self._wanted:
            name = f"ThreadPoolExecutor-0_{self._running}"
            self._running += 1
            # Daemons: a body that never ends must not keep the worker's own process.
            thread = threading.Thread(target=self._serve_slot, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _read(self) -> None:
        """Read what is there; its end is for the slots to see."""
        if not self._leaving:
            self._station.inbox.receive_now()

    def _resize(self, slots: int) -> None:
        """Called with the turn held, by the thread that read the frame."""
        self._wanted = slots
        self._grow()

    def _serve_slot(self) -> None:
        self._slot.limit = ThreadLimit(self._keeper)
        self._slot.seq = -1
        runner = self._station.runner
        try:
            runner.slot_init()
            while (work := self._take()) is not None:
                self._run(work)
            runner.slot_exit()
        except LinkClosed:
            self._end(0)
        except BaseException as error:
            self._end(crash_code(error))

    def _end(self, code: int) -> None:
        """A job has ended more than itself: so ends the process or, of a worker's own threads, every slot in turn."""
        self._leaving = True
        self._on_exit(code)
        self._station.inbox.close()
        with self._turn:
            self._leave()

    def _leave(self) -> None:
        """A slot has gone. Called with the turn held."""
        self._running -= 1
        if not self._running:
            self.bell.ring()

    def _take(self) -> Work | None:
        with self._turn:
            work = None
            if not self._leaving and self._running <= self._wanted:
                work = self._station.inbox.next()
                self._leaving = work is None
            if work is None:
                self._leave()
                return None
            limit: ThreadLimit = self._slot.limit
            limit.begin()
            self._jobs[work.seq] = limit
            return work

    def _run(self, work: Work) -> None:
        station = self._station
        self._slot.seq = work.seq
        station.outbox.begin(work)
        if self._inline and work.time_limit is not None:
            self._hard(work.time_limit)
        report = self._attempt(work)
        del self._jobs[work.seq]
        if report is None or self._slot.limit.terminated:
            # Whatever the body made of it: a terminated job has no report.
            station.outbox.send(frames.CANCELLED, work.seq)
        else:
            station.outbox.report(report)
        station.after_job()

    def _attempt(self, work: Work) -> Report | None:
        """The report; None when the job was ended on request."""
        limit: ThreadLimit = self._slot.limit
        report = None
        try:
            report = self._station.runner.run(work)
        except Terminated:
            report = None
        finally:
            limit.clear_surely()
        return report

    def _cancel(self, cancel: Cancel) -> None:
        """End a job, or its time. Called with the turn held: each job that was taken is known here, or has ended."""
        limit = self._jobs.get(cancel.seq)
        if limit is not None:
            limit.interrupt(SoftTimeLimitExceeded if cancel.signal == signal.SIGUSR1 else Terminated)

    def _soft(self, seconds: float | None) -> ThreadLimit:
        limit: ThreadLimit = self._slot.limit
        return limit(seconds)

    def _hard(self, seconds: float) -> None:
        if self._inline:
            self._slot.limit.hard(seconds)
        else:
            self._station.outbox.send(frames.DEADLINE, Deadline(self._slot.seq, seconds))


def run_process(
    link: socket.socket, permits: Permits, settings: ProcessSettings, make_runner: Callable[[], JobRunner]
) -> NoReturn:
    """Be a pool process until the end of this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        runner = make_runner()
    except Exception as error:
        Outbox(link).send(frames.FAILED, "".join(traceback.format_exception(error)))
        os._exit(1)
    station = Station(link, permits, settings, runner)
    if settings.log_level is not None:
        relay_logs(station.outbox, settings.log_level)
    try:
        code = _serve(station)
    except LinkClosed:
        code = 1
    except BaseException as error:
        code = crash_code(error)
    leave(runner, code)


def _serve(station: Station) -> int:
    if not station.settings.threads:
        return MainThreadSlot(station).serve()
    # A signal cannot be meant for one slot of several.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if station.settings.patch:
        from umbel.pools.green_child import GreenSlots  # only these processes pay for its import
        from umbel.pools.greenlets import greenlets_of

        greenlets = greenlets_of(station.settings.patch)
        return GreenSlots(station, lambda code: leave(station.runner, code), greenlets).serve()
    if station.settings.loop:
        from umbel.pools.async_child import LoopSlots  # only these processes pay for its import

        return LoopSlots(station, lambda code: leave(station.runner, code)).serve()
    return ThreadSlots(station, lambda code: leave(station.runner, code)).serve()


def leave(runner: JobRunner, code: int) -> NoReturn:
    """End this process, past whatever the application's threads and exit handlers would do."""
    try:
        runner.process_exit(code)
        runner.slot_exit()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException as error:
        report_crash(error)
    finally:
        os._exit(code & 0xFF)
