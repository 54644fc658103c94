"""A pool process as the dispatcher sees it: what it has been given, what it has begun, whether it takes more."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from umbel.pools import frames
from umbel.pools.base import Lost, Work
from umbel.pools.frames import Frame, FrameReader, FrameWriter

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from umbel.pools.process import PoolProcess


class Phase(Enum):
    """The life of a pool process."""

    STARTING = auto()  #: it has not said that it is up
    SPARE = auto()  #: up, waiting to take the place of one that is worn out
    OPEN = auto()  #: takes jobs
    RETIRING = auto()  #: finishes what it has begun and takes no more
    LEAVING = auto()  #: has been told to leave
    DEAD = auto()


class Member:
    """The jobs of one pool process, exactly.

    ``held`` has the jobs it was given and has not reported, in the order they were sent, and whether each is brief.
    Of these it has begun all but the last ``n``, where ``n`` is the number of permits that are left.
    """

    def __init__(self, slots: int, allowance: int | None, on_blocked: Callable[[Member], None]) -> None:
        self.process: PoolProcess
        self.slots = slots
        #: How many more jobs it may be given before it is worn out; None for any number.
        self.allowance = allowance
        self.phase = Phase.STARTING
        self.held: dict[int, bool] = {}
        self.finished = 0  #: jobs it has reported
        self.to_replace = False  #: as soon as another is up
        self.ended = False  #: the other end of the link is closed
        self.resetting = False  #: jobs were taken back and it has not said yet that it dropped them
        self.vacant = 0  #: its share of the pool's free slots, as last counted
        self.lent = 0  #: slots that stay empty while a process that retires still uses as many
        self.timer: asyncio.TimerHandle | None = None  #: until it is up, is too old, or has left
        self.launched_at = 0.0
        self.late = False  #: it has not done so in time
        self.failure = ""  #: why it could not come up, in its own words
        self.blame: dict[int, str] = {}  #: jobs that its process is being ended for, and the cause
        self.looked_at = -1  #: ``finished`` when it was last looked whether it moves
        self.stalled_at = 0.0  #: when it was last seen to move, by the loop's clock
        self._reader = FrameReader()
        self._on_blocked = on_blocked
        self._outgoing: list[memoryview] = []

    def vacancies(self) -> int:
        """How many jobs it would begin at once."""
        if self.phase is not Phase.OPEN or self.resetting:
            return 0
        free = max(0, self.slots - self.lent - len(self.held))
        return free if self.allowance is None else min(free, self.allowance)

    def room(self, depth: int) -> int:
        """How many jobs it may be given when each slot may have ``depth`` more waiting."""
        if self.phase is not Phase.OPEN or self.resetting:
            return 0
        room = max(0, self.slots * (1 + depth) - len(self.held))
        return room if self.allowance is None else min(room, self.allowance)

    def takes_more(self) -> bool:
        """Whether it may be given jobs at all, however many it holds."""
        return not self.resetting and self.allowance != 0

    def room_below(self, level: int, given: int) -> int:
        """How many jobs it may be given on top of ``given`` so that it holds no more than ``level``."""
        room = max(0, level - len(self.held) - given)
        return room if self.allowance is None else min(room, self.allowance - given)

    def note(self, works: Sequence[Work]) -> None:
        """Enter jobs that are about to be sent."""
        held = self.held
        for work in works:
            held[work.seq] = work.brief
        if self.allowance is not None:
            self.allowance -= len(works)
        # Before the frame: a job that arrives without its permit counts as taken back.
        self.process.permits.give(len(works))

    def begun(self) -> list[int]:
        """The jobs it has begun and not reported."""
        return list(self.held)[: len(self.held) - self.process.permits.left()]

    def take_back(self) -> list[int]:
        """The jobs it has not begun, which it will not begin any more."""
        left = self.process.permits.take_all()
        if not left:
            return []
        seqs = list(self.held)[-left:]
        for seq in seqs:
            del self.held[seq]
        if self.allowance is not None:
            self.allowance += left
        return seqs

    def losses(self, why: str) -> list[Lost]:
        """Empties ``held`` after its death and ``take_back``: what was running, and what it died of."""
        ended_for_others = bool(self.blame)
        pid = self.process.pid
        lost = []
        for seq in self.held:
            cause = self.blame.get(seq) or ("bystander" if ended_for_others else "worker_lost")
            lost.append(Lost(seq, why, cause, pid))
        self.held.clear()
        return lost

    def receive(self, buffer: bytearray, view: memoryview) -> list[Frame] | None:
        """The frames that have come in, valid until the next call; None when there is nothing to read, or the end."""
        try:
            count = self.process.link.recv_into(buffer)
        except BlockingIOError:
            return None
        except ConnectionError:
            count = 0
        if not count:
            self.ended = True
            return None
        return self._reader.feed(view[:count])

    def tell_to_leave(self) -> None:
        """Have it leave when it has done what it was given."""
        self.send(LEAVE_FRAME)

    def kill(self) -> None:
        """End it now, unless it has ended."""
        if self.phase is not Phase.DEAD:
            self.process.kill()

    def send(self, data: bytearray | bytes) -> None:
        """Send a frame now, or as far as the socket takes it, the rest when ``flush`` is called."""
        sent = 0
        if not self._outgoing:
            sent = self._write(memoryview(data))
            if sent == len(data):
                return
            self._on_blocked(self)
        self._outgoing.append(memoryview(bytes(memoryview(data)[sent:])))

    def flush(self) -> bool:
        """Send what waits; true when nothing waits any more."""
        while self._outgoing:
            first = self._outgoing[0]
            sent = self._write(first)
            if sent < len(first):
                self._outgoing[0] = first[sent:]
                return False
            self._outgoing.pop(0)
        return True

    def _write(self, data: memoryview) -> int:
        try:
            return self.process.link.send(data)
        except BlockingIOError:
            return 0
        except ConnectionError:
            # It is dead; its end is on the way and says what becomes of the jobs.
            return len(data)


def control_frame(kind: int, body: object = None) -> bytearray:
    """A frame that carries no jobs."""
    return FrameWriter().frame(kind, body)


RESET_FRAME = bytes(control_frame(frames.RESET))
LEAVE_FRAME = bytes(control_frame(frames.LEAVE))
