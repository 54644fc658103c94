"""The pool processes as a crew of the right size: started, replaced before they are missed, sent away.

At no time do more of them than the pool's size hold jobs, and a process that is worn out (it has run as many jobs as
it may, grown too big, or too old) is relieved by one that is up already.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING

from umbel.errors import WorkerLostError
from umbel.pools.frames import ProcessSettings
from umbel.pools.member import Member, Phase
from umbel.pools.memory import private, resident
from umbel.pools.process import PoolProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.pools.options import PoolOptions
    from umbel.pools.pace import Pace
    from umbel.pools.process import Launcher

logger = logging.getLogger(__name__)

#: Seconds before a process that could not start is tried again; doubled each time, up to the second figure.
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 10.0
#: How often each of the first processes may hang before the pool gives up.
_LATE_ROUNDS = 3
#: Seconds that a process which was told to leave has at least.
_LEAVE_TIMEOUT = 10.0
#: Seconds between two looks at the memory of processes that are busy; and the part of the time that may go into it.
_MEMORY_EVERY, _MEMORY_PART = 1.0, 0.02


class Staff:
    """Who is there, and who is to come and go."""

    def __init__(
        self,
        options: PoolOptions,
        launcher: Launcher,
        pace: Pace,
        on_exit: Callable[[Member, str], None],
        on_launch: Callable[[Member], None],
        on_blocked: Callable[[Member], None],
        on_heavy: Callable[[Member, int], None],
        on_change: Callable[[list[Member]], None],
    ) -> None:
        self.members: list[Member] = []
        self.processes = options.processes
        self.slots = options.slots
        self.ending = False
        self._options = options
        self._launcher = launcher
        self._pace = pace
        self._on_exit = on_exit
        self._on_launch = on_launch
        self._on_blocked = on_blocked
        self._on_heavy = on_heavy
        self._on_change = on_change
        self._numbers = 0
        self._failures = 0
        self._late = 0
        self._pause: asyncio.TimerHandle | None = None
        self._all_up: asyncio.Future[None] | None = None
        self._memory_look: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Start every process; raises WorkerLostError with the reason when one of the first cannot come up."""
        self._all_up = asyncio.get_running_loop().create_future()
        try:
            self.balance()
            await self._all_up
        finally:
            self._all_up = None

    def opened(self) -> list[Member]:
        """The processes that take jobs."""
        return [member for member in self.members if member.phase is Phase.OPEN]

    def came_up(self, member: Member) -> None:
        """A process has said that it is up."""
        if member.phase is not Phase.STARTING:
            return
        member.phase = Phase.SPARE
        self._failures = 0
        _stop_timer(member)
        self._pace.born(time.monotonic() - member.launched_at)
        self._watch_age(member)
        self.balance()
        if self._all_up is not None and len(self.opened()) >= self.processes and not self._all_up.done():
            self._all_up.set_result(None)

    def left(self, member: Member, why: str) -> None:
        """A process has ended."""
        before, member.phase = member.phase, Phase.DEAD
        self.members.remove(member)
        _stop_timer(member)
        settings = member.process.settings
        unused = before in (Phase.STARTING, Phase.SPARE) or (before is Phase.OPEN and not member.finished)
        if member.late:
            self._say_late(member, before)
        elif before is Phase.STARTING:
            self._failed(f"{settings.name} could not start ({why}){_indented(member.failure)}")
        elif before is not Phase.LEAVING:
            logger.error("Process %r pid:%r exited with %r", settings.name, member.process.pid, why)
        if unused and not member.held and not self.ending:
            self._wait_before_next()
        self.balance()

    def worn(self, member: Member) -> bool:
        """Whether its replacement has to be on its way."""
        most = self._options.max_tasks_per_child
        if member.to_replace or member.allowance is None or most is None:
            return member.to_replace
        # Not so early that there are always two for one place, however brief the jobs are.
        return member.allowance <= max(1, min(self._pace.lead(self.slots), most // 2))

    def balance(self) -> None:
        """Bring the crew to its size, as far as that can be done now. Called whenever something has changed."""
        if self.ending:
            return
        self._retire_surplus()
        self._relieve()
        for member in self._in(Phase.RETIRING):
            if not member.held:
                self._leave(member)
        self._promote()
        self._hire()
        self._on_change(self.opened())

    def end(self) -> None:
        """Start nothing more."""
        self.ending = True
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        for member in self._in(Phase.OPEN, Phase.SPARE):
            _stop_timer(member)  # nobody is too old any more
        if self._memory_look is not None:
            self._memory_look.cancel()
            self._memory_look = None

    def replace(self, member: Member) -> None:
        """Have a process relieved by another."""
        member.to_replace = True
        self.balance()

    def bench(self, member: Member) -> None:
        """Have a process take no more jobs, though nobody can take its place yet."""
        member.to_replace = True
        if member.phase is Phase.OPEN:
            member.phase = Phase.RETIRING
        self.balance()

    def watch_memory(self) -> None:
        """Jobs have been given out: look after their processes' memory, which these can do only between two jobs."""
        if self._memory_look is None and self._options.max_memory_per_child is not None and not self.ending:
            loop = asyncio.get_running_loop()
            self._memory_look = loop.call_later(_MEMORY_EVERY, self._look_at_memory)

    def _look_at_memory(self) -> None:
        self._memory_look = None
        limit = self._options.max_memory_per_child
        assert limit is not None
        began = time.monotonic()
        busy = [member for member in self.opened() if member.held]
        for member in busy:
            pid = member.process.pid
            # What it shares with others is left out only where it matters: that costs a hundred times as much.
            if resident(pid) > limit and (used := private(pid)) > limit:
                self._on_heavy(member, used)
        if busy:
            pause = max(_MEMORY_EVERY, (time.monotonic() - began) / _MEMORY_PART)
            self._memory_look = asyncio.get_running_loop().call_later(pause, self._look_at_memory)

    def _watch_age(self, member: Member) -> None:
        """Have it replaced when its time is over: not all that were started together at the same instant."""
        if age := self._options.max_age_per_child:
            seconds = age * (1.0 - self._options.age_jitter * random.random())
            member.timer = asyncio.get_running_loop().call_later(seconds, self.replace, member)

    def _in(self, *phases: Phase) -> list[Member]:
        return [member for member in self.members if member.phase in phases]

    def _places_taken(self) -> int:
        """Processes that have a place: those that take jobs and, each having one slot, those that finish their last.

        A process with many slots may take long to finish its last job: its relief has its other slots meanwhile.
        """
        finishing = (
            0 if self._options.threads else sum(bool(member.held) for member in self._in(Phase.RETIRING))
        )
        return len(self.opened()) + finishing

    def _retire_surplus(self) -> None:
        surplus = self._places_taken() - self.processes
        for member in sorted(self.opened(), key=lambda member: len(member.held))[: max(0, surplus)]:
            member.phase = Phase.RETIRING

    def _relieve(self) -> None:
        """For each spare, one that is too big stops taking jobs. One that has run enough has stopped by itself."""
        heavy = [member for member in self.opened() if member.to_replace]
        for member, _ in zip(heavy, self._in(Phase.SPARE), strict=False):
            member.phase = Phase.RETIRING

    def _promote(self) -> None:
        for member in self._in(Phase.SPARE)[: max(0, self.processes - self._places_taken())]:
            member.phase = Phase.OPEN
        if self._options.threads:
            lent = sum(len(member.held) for member in self._in(Phase.RETIRING))
            # The last ones stand in for those that retire.
            for member in reversed(self.opened()):
                member.lent = min(lent, member.slots)
                lent -= member.lent

    def _hire(self) -> None:
        staying = self._in(Phase.STARTING, Phase.SPARE, Phase.OPEN)
        wanted = self.processes + sum(self.worn(member) for member in self.opened())
        if self._pause is None:
            for _ in range(wanted - len(staying)):
                self._launch()
        for member in self._in(Phase.SPARE)[: max(0, len(staying) - wanted)]:
            self._leave(member)

    def _leave(self, member: Member) -> None:
        member.phase = Phase.LEAVING
        _stop_timer(member)
        member.tell_to_leave()
        loop = asyncio.get_running_loop()
        member.timer = loop.call_later(
            max(self._options.start_timeout, _LEAVE_TIMEOUT), self._too_late, member
        )

    def _say_late(self, member: Member, before: Phase) -> None:
        """It was killed because it hung; another may do better, unless all of the first have hung again and again."""
        verb = "come up" if before is Phase.STARTING else "leave"
        name, pid = member.process.settings.name, member.process.pid
        logger.error("Process %r pid:%r did not %s in time and was killed", name, pid, verb)
        if before is Phase.STARTING and self._all_up is not None:
            self._late += 1
            if self._late >= _LATE_ROUNDS * self.processes and not self.opened():
                self._failed(
                    f"no process came up within {self._options.start_timeout:g} seconds, again and again"
                )

    def _launch(self) -> None:
        self._numbers += 1
        options = self._options
        settings = ProcessSettings(
            number=self._numbers,
            name=f"{options.name}-{self._numbers}",
            slots=self.slots,
            threads=options.threads,
            loop=options.loop,
            patch=options.patch,
            block_timeout=options.block_timeout,
            max_memory=options.max_memory_per_child,
            log_level=options.log_level,
            factory=options.factory,
            argument=options.argument() if options.factory and options.argument else b"",
            path=options.path,
        )
        member = Member(self.slots, options.max_tasks_per_child, self._on_blocked)
        member.process = PoolProcess(settings, lambda why: self._on_exit(member, why))
        self.members.append(member)
        self._on_launch(member)
        member.launched_at = time.monotonic()
        loop = asyncio.get_running_loop()
        member.timer = loop.call_later(options.start_timeout, self._too_late, member)
        self._launcher.launch(member.process)

    def _too_late(self, member: Member) -> None:
        if member.phase in (Phase.STARTING, Phase.LEAVING):
            member.late = True
            member.kill()

    def _failed(self, reason: str) -> None:
        if self._all_up is not None:
            if not self._all_up.done():
                self._all_up.set_exception(WorkerLostError(reason))
        elif not self.ending:
            logger.error("%s", reason)

    def _wait_before_next(self) -> None:
        if self._pause is not None or self._all_up is not None:
            return
        delay = min(_FIRST_DELAY * 2**self._failures, _LONGEST_DELAY)
        self._failures += 1
        self._pause = asyncio.get_running_loop().call_later(delay, self._pause_over)

    def _pause_over(self) -> None:
        self._pause = None
        self.balance()


def _stop_timer(member: Member) -> None:
    if member.timer is not None:
        member.timer.cancel()
        member.timer = None


def _indented(text: str) -> str:
    return f":\n{text.rstrip()}" if text else ""
