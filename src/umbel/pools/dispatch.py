"""The pool that all kinds share: gives jobs to slots, gathers what comes back, loses none."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING

import msgspec

from umbel.pools import frames
from umbel.pools.base import Lost, Report, Work
from umbel.pools.deadlines import Deadlines
from umbel.pools.frames import Cancel, Deadline, FrameWriter, Started
from umbel.pools.member import RESET_FRAME, Member, Phase, control_frame
from umbel.pools.memory import TOO_HEAVY
from umbel.pools.pace import Pace
from umbel.pools.relay import handle_record
from umbel.pools.staff import Staff

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from umbel.pools.base import PoolListener
    from umbel.pools.frames import Frame
    from umbel.pools.options import PoolOptions
    from umbel.pools.process import Launcher

logger = logging.getLogger(__name__)

#: Bytes read from a pool process at a time.
_RECEIVE_BYTES = 256 * 1024
#: Every so often, in seconds, while a process holds more than it can begin: does it move? It must between two looks.
_LOOK_EVERY = 0.003
#: The same as long as no other process has room for what waits behind the many jobs of a loop, of which one may end
#: any moment.
_LOOK_AGAIN = 0.25
#: Seconds for the end of a process to become known after its link has closed, before it is killed.
_EOF_GRACE = 1.0
#: Signals that end a process without ado, so that no job is asked before.
_AT_ONCE = frozenset({signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT})
#: Signals that a pool process survives.
_HARMLESS = frozenset({0, signal.SIGUSR1, signal.SIGINT, signal.SIGCONT, signal.SIGCHLD, signal.SIGWINCH})


class ProcessPool:
    """A pool of processes, or of threads at the other end of the same wire; ``launcher`` makes the difference."""

    def __init__(self, options: PoolOptions, launcher: Launcher) -> None:
        self.size = options.processes * options.slots
        self._launcher = launcher
        # What waits for one of a loop's many slots waits for whichever is free first.
        self._pace = Pace(options.brief_seconds, options.slots if options.loop else 1)
        self._staff = Staff(
            options,
            launcher,
            self._pace,
            self._on_exit,
            self._on_launch,
            self._when_blocked,
            self._on_heavy,
            self._on_change,
        )
        self._deadlines = Deadlines(self._on_due)
        self._threads = options.threads
        self._loop_slots = options.loop
        self._most_memory = options.max_memory_per_child or 0
        self._limited = options.max_tasks_per_child is not None
        self._watches_memory = options.max_memory_per_child is not None and launcher.can_kill
        self.shares = options.slots > 1
        # Only processes with one slot do. Those that are worn out by a number of jobs have every job counted here.
        self.runs_on = launcher.can_kill and not options.threads and not self._limited
        self._open: list[Member] = []
        self._free = 0
        self._listener: PoolListener
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = False
        self._buffer = bytearray(_RECEIVE_BYTES)
        self._view = memoryview(self._buffer)
        self._writer = FrameWriter()
        self._decode_report = msgspec.msgpack.Decoder(Report).decode
        self._look: asyncio.TimerHandle | None = None
        self._idle: asyncio.Event | None = None
        self._gone: asyncio.Event | None = None

    def prepare(self) -> None:
        """Do what is best done before an event loop runs or a connection is open; ``start`` does it otherwise."""
        self._launcher.prepare()

    async def start(self, listener: PoolListener) -> None:
        """Start the processes; returns when all are up.

        Raises:
            WorkerLostError: one of them could not come up, and why.
        """
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._launcher.start()
        try:
            await self._staff.start()
        except BaseException:
            await self.stop(0.0)
            raise
        self._started = True

    def free(self) -> int:
        """How many jobs can be submitted so that each starts at once."""
        return self._free

    def depth(self) -> int:
        """How many brief jobs beyond ``free`` may share frames with busy processes now; 0 while jobs are long."""
        depth = self._pace.depth()
        if not depth:
            return 0
        if self._limited:
            return sum([member.room(depth) for member in self._open]) - self._free
        held = [len(member.held) for member in self._open if not member.resetting]
        # The slots of one loop share its thread: they do no more brief jobs in a given time than one would.
        slots = self._staff.slots + depth if self._loop_slots else self._staff.slots * (1 + depth)
        return max(0, len(held) * slots - sum(held) - self._free)

    def submit(self, works: Sequence[Work]) -> None:
        """Give jobs to slots, free slots first; what nobody can take is returned."""
        shares: list[tuple[Member, list[Work]]] = []
        at = 0
        for member, count in self._vacancies(len(works)):
            shares.append((member, list(works[at : at + count])))
            at += count
        if at < len(works):
            self._share_rest(list(works[at:]), shares)
        for member, share in shares:
            self._give(member, share)

    def begun(self) -> list[tuple[int, int]]:
        """The jobs that run now, announced or not: (seq, pid). Costs some microseconds a process."""
        return [
            (seq, member.process.pid)
            for member in self._staff.members
            if member.held and not member.ended
            for seq in member.begun()
        ]

    def pids(self) -> list[int]:
        """The ids of the pool processes."""
        return [member.process.pid for member in self._staff.members if member.process.pid]

    async def resize(self, size: int) -> None:
        """Grow, or shrink by stopping idle processes as they become idle. Growing is not waited for."""
        if size < 1:
            raise ValueError(f"a pool has at least one slot, not {size}")
        self.size = size
        if self._threads and self._staff.processes > 1:
            self._staff.processes = max(1, round(size / self._staff.slots))
            self._staff.balance()
        elif self._threads:
            self._staff.slots = size
            for member in self._staff.members:
                member.slots = size
                self._count(member)
                member.send(control_frame(frames.SLOTS, size))
                self._ring(member)
        else:
            self._staff.processes = size
            self._staff.balance()

    def restart(self) -> None:
        """Replace every process, each when its successor is up; what runs in it ends there."""
        if not self._launcher.can_kill:
            raise ValueError("the pool runs in the worker's own process: restart the worker")
        for member in self._staff.opened():
            member.to_replace = True
        self._staff.balance()

    def terminate_job(self, seq: int, signal: int) -> bool:
        """End a running job by sending its process a signal; false if it is not running here, or cannot be ended."""
        member = self._holder(seq)
        if member is None or not self._launcher.can_kill:
            return False
        # First of all, so that no other job can begin and be hit by the signal instead.
        returned = self._take_back(member)
        if returned:
            assert self._loop is not None
            self._loop.call_soon(self._listener.on_returned, returned)
        if seq not in member.held:
            return False
        if self._threads and signal not in _AT_ONCE:
            member.send(control_frame(frames.CANCEL, Cancel(seq, signal)))
            self._ring(member)
        else:
            self._end_process(member, seq, signal)
        return True

    async def drain(self) -> None:
        """Return when every job that has begun has been reported or lost; jobs not begun are returned at once."""
        self._return_all()
        if self._holds_jobs():
            self._idle = self._idle or asyncio.Event()
            await self._idle.wait()

    async def stop(self, timeout: float) -> None:
        """End the processes: those that do not leave in ``timeout`` seconds are killed and their jobs reported lost.

        A thread of the worker's own process cannot be killed: its job is reported lost, and its thread left alone.
        """
        self._staff.end()
        if self._loop is not None and self._staff.members:
            self._return_all()
            self._gone = asyncio.Event()
            self._dismiss_all()
            if not await self._all_gone(timeout):
                self._kill_all()
                await self._gone.wait()
        self._deadlines.clear()
        if self._look is not None:
            self._look.cancel()
            self._look = None
        self._launcher.close()

    def _vacancies(self, wanted: int) -> Iterator[tuple[Member, int]]:
        """Processes and how many of ``wanted`` jobs each begins at once; those with many slots get equally many."""
        if self._loop_slots and len(self._open) > 1:
            level = -(-(sum(len(member.held) for member in self._open) + wanted) // len(self._open))
            for member in self._open:
                if count := min(wanted, member.vacant, max(0, level - len(member.held))):
                    wanted -= count
                    yield member, count
            return
        for member in self._open:
            if not wanted:
                return
            if count := min(wanted, member.vacant):
                wanted -= count
                yield member, count

    # Counting free slots

    def _count(self, member: Member) -> None:
        """After anything has changed for one process."""
        vacant = member.vacancies()
        self._free += vacant - member.vacant
        member.vacant = vacant

    def _on_change(self, opened: list[Member]) -> None:
        """After processes have come or gone, or changed their phase."""
        self._open = opened
        for member in self._staff.members:
            member.vacant = member.vacancies()
        self._free = sum(member.vacant for member in opened)

    # What comes from the processes

    def _on_launch(self, member: Member) -> None:
        assert self._loop is not None
        self._loop.add_reader(member.process.link, self._on_readable, member)

    def _on_readable(self, member: Member) -> None:
        received = member.receive(self._buffer, self._view)
        if received:
            self._handle(member, received)
        elif member.ended:
            self._on_eof(member)

    def _handle(self, member: Member, received: list[Frame]) -> None:
        try:
            self._read(member, received)
        except msgspec.DecodeError as error:
            # Something in the process has written to the link: nothing more it says can be believed.
            name = member.process.settings.name
            logger.error("Process %r sent what is no frame (%s); ending it", name, error)  # noqa: TRY400 - enough said
            assert self._loop is not None
            self._loop.remove_reader(member.process.link)
            member.ended = True
            member.kill()

    def _read(self, member: Member, received: list[Frame]) -> None:
        reports: list[Report] = []
        started: list[tuple[int, int, float]] = []
        decode = self._decode_report
        for kind, body in received:
            if kind == frames.REPORT:
                report = decode(body)
                reports.append(report)
                if report.goes_on:
                    # What is said next under its number is said of the job that follows it.
                    self._on_reports(member, reports)
                    reports = []
            elif kind == frames.STARTED:
                begun = msgspec.msgpack.decode(body, type=Started)
                started.append((begun.seq, member.process.pid, begun.at))
            else:
                self._on_word(member, kind, body)
        if started:
            self._listener.on_started(started)
        if reports:
            self._on_reports(member, reports)

    def _on_word(self, member: Member, kind: int, body: memoryview) -> None:
        """A frame about the process, or about a limit."""
        if kind == frames.DEADLINE:
            deadline = msgspec.msgpack.decode(body, type=Deadline)
            self._deadlines.set(deadline.seq, deadline.seconds)
        elif kind == frames.WAS_RESET:
            member.resetting = False
            self._count(member)
            self._tell_room()
        elif kind == frames.UP:
            # It may say so before the template has told of its birth.
            member.process.pid = msgspec.msgpack.decode(body, type=int)
            self._staff.came_up(member)
            self._tell_room()
        elif kind == frames.HEAVY:
            self._on_heavy(member, msgspec.msgpack.decode(body, type=int))
        elif kind == frames.LOG:
            handle_record(body)
        elif kind == frames.CANCELLED:
            self._on_cancelled(member, msgspec.msgpack.decode(body, type=int))
        elif kind == frames.CANNOT:
            cancel = msgspec.msgpack.decode(body, type=Cancel)
            if cancel.seq in member.held:
                self._end_process(member, cancel.seq, cancel.signal)
        elif kind == frames.FAILED:
            member.failure = msgspec.msgpack.decode(body, type=str)
        else:
            raise msgspec.DecodeError(f"unknown kind of frame {kind}")

    def _on_heavy(self, member: Member, used: int) -> None:
        """A process has grown too big, to so many KiB: it goes on until another is up, unless it grows on and on."""
        if used <= self._most_memory * TOO_HEAVY or not self._launcher.can_kill:
            self._staff.replace(member)
            return
        self._staff.bench(member)
        # What it has not begun may run elsewhere, or wait for its successor.
        self._return_from(member)
        self._staff.balance()

    def _tell_room(self) -> None:
        """Slots have become free though no job has ended."""
        if self._started:
            self._listener.on_reports(())

    def _on_reports(self, member: Member, reports: list[Report]) -> None:
        held, longest = member.held, self._pace.longest
        seconds, brief = 0.0, 0
        for report in reports:
            if report.goes_on:
                self._go_on(member, report.seq)
                continue
            if held.pop(report.seq, False):
                brief += 1
                seconds += min(report.runtime, longest)
        member.finished += len(reports)
        if brief:
            self._pace.note(seconds, brief)
        elif self._pace.is_new and reports:
            self._pace.note_first(reports[0].runtime)
        if self._limited:
            for report in reports:
                self._pace.note_any(report.runtime)
        if self._deadlines:
            for report in reports:
                self._deadlines.drop(report.seq)
        self._after_end(member)
        self._listener.on_reports(reports)
        self._after_last(member)

    def _go_on(self, member: Member, seq: int) -> None:
        """A job has ended, and its number is that of another which has begun in its place."""
        if member.blame.pop(seq, None) is not None:
            # The process is being ended because of the first: nothing speaks against the second.
            member.blame[-seq] = "gone on"

    def _after_end(self, member: Member) -> None:
        """A slot of its has become free."""
        if member.phase is Phase.RETIRING:
            self._staff.balance()
        else:
            self._count(member)

    def _after_last(self, member: Member) -> None:
        if not member.held:
            self._on_empty()

    def _on_empty(self) -> None:
        if self._idle is not None and not self._holds_jobs():
            self._idle.set()
            self._idle = None

    def _on_eof(self, member: Member) -> None:
        assert self._loop is not None
        self._loop.remove_reader(member.process.link)
        # Usually it has ended. If not, it has closed what it needs to work.
        self._loop.call_later(_EOF_GRACE, member.kill)

    def _on_exit(self, member: Member, why: str) -> None:
        """A process has ended: what it said before counts, what it was running is lost, the rest is returned."""
        self._drain_link(member)
        self._close(member)
        returned = member.take_back()
        for seq in member.held:
            self._deadlines.drop(seq)
        lost = member.losses(why)
        self._staff.left(member, why)
        self._on_change(self._staff.opened())
        member.process.close()
        if lost:
            self._listener.on_lost(lost)
        if returned:
            self._listener.on_returned(returned)
        self._on_empty()
        if self._gone is not None and not self._staff.members:
            self._gone.set()

    def _drain_link(self, member: Member) -> None:
        """Everything that is still in the kernel."""
        while not member.ended and (received := member.receive(self._buffer, self._view)) is not None:
            self._handle(member, received)

    def _close(self, member: Member) -> None:
        assert self._loop is not None
        self._loop.remove_reader(member.process.link)
        self._loop.remove_writer(member.process.link)

    # What goes to the processes

    def _share_rest(self, works: list[Work], shares: list[tuple[Member, list[Work]]]) -> None:
        """Spread jobs over busy processes so that all hold the same number."""
        given = {id(member): share for member, share in shares}
        takers = [member for member in self._open if member.takes_more()]
        load = sum(len(member.held) + len(given.get(id(member), ())) for member in takers)
        level = -(-(load + len(works)) // len(takers)) if takers else 0
        for member in takers:
            share = given.get(id(member), [])
            count = member.room_below(level, len(share))
            part, works = works[:count], works[count:]
            if share:
                share.extend(part)
            elif part:
                shares.append((member, part))
        if works:
            assert self._loop is not None
            self._loop.call_soon(self._listener.on_returned, [work.seq for work in works])

    def _give(self, member: Member, works: list[Work]) -> None:
        member.note(works)
        member.send(self._writer.frame(frames.JOBS, works))
        if self._watches_memory:
            self._staff.watch_memory()
        if member.allowance is not None and self._staff.worn(member):
            if member.allowance == 0:
                member.phase = Phase.RETIRING
            self._staff.balance()
        self._count(member)
        if len(member.held) > member.slots and self._look is None:
            self._look_later()

    def _when_blocked(self, member: Member) -> None:
        assert self._loop is not None
        self._loop.add_writer(member.process.link, self._on_writable, member)

    def _on_writable(self, member: Member) -> None:
        if member.flush():
            assert self._loop is not None
            self._loop.remove_writer(member.process.link)

    # Taking back

    def _look_later(self) -> None:
        assert self._loop is not None
        self._look = self._loop.call_later(_LOOK_EVERY, self._look_for_stalls)

    def _look_for_stalls(self) -> None:
        """Take back what waits behind a job that turns out to be long. There is a timer only while something waits."""
        self._look = None
        waiting = False
        for member in list(self._staff.members):
            if len(member.held) <= member.slots or member.resetting:
                continue
            if member.looked_at != member.finished:
                member.looked_at = member.finished
                member.stalled_at = asyncio.get_running_loop().time()
                waiting = True
            elif self._loop_slots and not self._is_stuck(member):
                waiting = True
            else:
                self._return_from(member)
        if waiting and self._look is None:
            self._look_later()

    def _is_stuck(self, member: Member) -> bool:
        """Whether what waits for a slot of its would be better off elsewhere."""
        return self._free > 0 or asyncio.get_running_loop().time() - member.stalled_at >= _LOOK_AGAIN

    def _take_back(self, member: Member) -> list[int]:
        returned = member.take_back()
        if returned:
            member.looked_at = -1
            member.resetting = True
            member.send(RESET_FRAME)
            self._count(member)
        return returned

    def _return_from(self, member: Member) -> None:
        if returned := self._take_back(member):
            self._listener.on_returned(returned)

    def _return_all(self) -> None:
        for member in list(self._staff.members):
            self._return_from(member)

    def _ring(self, member: Member) -> None:
        """Have it read what it was sent though all its slots are busy; a loop always reads, and so do new threads."""
        if self._threads and not self._loop_slots and member.phase is not Phase.STARTING:
            member.process.ring()

    # Ending

    def _end_process(self, member: Member, seq: int, number: int) -> None:
        """End a process by a signal because of one of its jobs."""
        if number not in _HARMLESS:
            self._condemn(member, seq, "terminated")
        member.process.send_signal(number)

    def _on_cancelled(self, member: Member, seq: int) -> None:
        """A job was cancelled, and its process goes on."""
        if seq not in member.held:
            return
        self._deadlines.drop(seq)
        del member.held[seq]
        member.finished += 1
        self._after_end(member)
        self._listener.on_lost([Lost(seq, "cancelled", "terminated", member.process.pid)])
        self._after_last(member)

    def _on_due(self, seq: int) -> None:
        """A job has overrun its hard limit."""
        member = self._holder(seq)
        if member is None or not self._launcher.can_kill:
            return
        self._return_from(member)
        self._drain_link(member)
        if seq in member.held:
            self._condemn(member, seq, "time_limit")
            member.process.send_signal(signal.SIGKILL)

    def _condemn(self, member: Member, seq: int, cause: str) -> None:
        """A signal is about to end it: it gets no more jobs, and its replacement starts now."""
        member.blame[seq] = cause
        member.phase = Phase.LEAVING
        self._staff.balance()

    def _dismiss_all(self) -> None:
        for member in list(self._staff.members):
            if member.phase is Phase.STARTING:
                member.kill()
            elif member.phase is not Phase.LEAVING:
                member.phase = Phase.LEAVING
                self._count(member)
                member.tell_to_leave()

    async def _all_gone(self, timeout: float) -> bool:
        assert self._gone is not None
        try:
            await asyncio.wait_for(self._gone.wait(), timeout)
        except TimeoutError:
            return False
        return True

    def _kill_all(self) -> None:
        for member in list(self._staff.members):
            member.kill()

    def _holder(self, seq: int) -> Member | None:
        for member in self._staff.members:
            if seq in member.held:
                return member
        return None

    def _holds_jobs(self) -> bool:
        return any(member.held for member in self._staff.members)
