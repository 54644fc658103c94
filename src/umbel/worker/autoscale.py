"""Growing and shrinking the pool with the work: ``--autoscale=MAX,MIN``.

Problem: what there is to do says little for an instant. A burst of short jobs is over before a process is up; a pause
between two waves is no reason to send everybody home; and where memory or CPU are used up, more processes make it
worse.

Solution: the pool grows when jobs have waited for half a second, at once to what they need, as far as the control
group leaves room. It shrinks to the most that was needed in the last ``keepalive`` seconds, so only slots go that have
been idle that long. ``Autoscaler`` decides, and may be replaced (``worker_autoscaler``): its methods are those of
Celery's, for classes that were written for that. ``Scaling`` asks it twice a second and does what it says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from umbel.config.sources import import_path
from umbel.errors import ImproperlyConfigured
from umbel.pools.memory import private
from umbel.worker import cgroups

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from umbel.pools.base import Pool

logger = logging.getLogger("celery.worker.autoscale")

#: Seconds for which slots have to be unneeded before they go.
AUTOSCALE_KEEPALIVE: Final = float(os.environ.get("AUTOSCALE_KEEPALIVE", "30"))
#: Seconds that jobs wait before there are more slots for them; and between two looks.
PATIENCE: Final = 0.5
#: Seconds that the broker has to say how much waits there.
_DEPTH_PATIENCE: Final = 5.0
#: Part of its CPU quota from which on the control group counts as used up.
_FULL: Final = 0.95
#: Part of the memory limit that stays free; bytes that a process needs at least.
_RESERVE: Final = 0.1
_LEAST_PROCESS: Final = 16 * 1024 * 1024
#: Processes whose memory is looked at to know what one more will need.
_SAMPLE: Final = 4


@dataclass(frozen=True)
class Load:
    """What there is to do: jobs that run, that wait in the worker and in the broker; for how long the first waits.

    ``at`` is the time of the look, by a clock that only goes on.
    """

    running: int = 0
    waiting: int = 0
    backlog: int = 0
    waited: float = 0.0
    at: float = 0.0

    @property
    def quantity(self) -> int:
        """All of it."""
        return self.running + self.waiting + self.backlog


def desired_size(size: int, load: Load, peak: int, bounds: tuple[int, int]) -> int:
    """The slots that a pool of ``size`` should have; ``peak`` is the most that was needed in the keepalive time.

    ``bounds`` are the fewest and the most.
    """
    fewest, most = bounds
    needed = size
    if load.quantity > size:
        if load.waited >= PATIENCE or load.backlog:
            needed = load.quantity
    elif peak < size:
        needed = peak
    return max(fewest, min(most, needed))


class ScalablePool(Protocol):
    """What an autoscaler sees of the pool."""

    load: Load

    @property
    def num_processes(self) -> int:
        """Slots it has, or is about to have."""

    def grow(self, n: int) -> None:
        """Have n more, or as many as there is room for."""

    def shrink(self, n: int) -> None:
        """Have n fewer, idle ones first; what runs goes on to its end."""

    def maintain_pool(self) -> None:
        """Bring the pool to its size; nothing to do here, the pool sees to that."""


class Autoscaler:
    """Decides how many slots a pool has.

    Args:
        pool: to grow and shrink.
        max_concurrency: slots at the most.
        min_concurrency: slots at the least; one is the least of all.
        worker: nothing; for classes that were written for Celery.
        keepalive: seconds for which slots have to be unneeded before they go.
        mutex: held while the bounds change.
    """

    def __init__(
        self,
        pool: ScalablePool,
        max_concurrency: int,
        min_concurrency: int = 0,
        worker: Any = None,
        keepalive: float = AUTOSCALE_KEEPALIVE,
        mutex: Any = None,
    ) -> None:
        if not keepalive > 0:
            raise ValueError(f"keepalive: expected more than 0 seconds, got {keepalive!r}")
        self.pool = pool
        self.mutex = mutex or threading.Lock()
        self.max_concurrency = max_concurrency
        self.min_concurrency = min_concurrency
        self.keepalive = keepalive
        self.worker = worker
        self._needs: deque[tuple[float, int]] = deque()
        self._watched_long_enough = False

    @property
    def qty(self) -> int:
        """Jobs that run or wait, in the broker too while every slot is taken."""
        return self.pool.load.quantity

    @property
    def processes(self) -> int:
        """Slots of the pool."""
        return self.pool.num_processes

    def info(self) -> dict[str, int]:
        """What ``inspect stats`` tells."""
        return {
            "max": self.max_concurrency,
            "min": self.min_concurrency,
            "current": self.processes,
            "qty": self.qty,
        }

    def maybe_scale(self, req: object = None) -> None:
        """Look once; called twice a second."""
        with self.mutex:
            self._note_need()
            if self._maybe_scale(req):
                self.pool.maintain_pool()

    def _maybe_scale(self, req: object = None) -> bool:
        """Scale if that is called for, and say whether. What subclasses replace."""
        bounds = (max(1, self.min_concurrency), self.max_concurrency)
        size = self.processes
        wanted = desired_size(size, self.pool.load, self._peak(), bounds)
        if wanted > size:
            self.scale_up(wanted - size)
        elif wanted < size:
            self.scale_down(size - wanted)
        return wanted != size

    def scale_up(self, n: int) -> None:
        """Have n more slots."""
        self.pool.grow(n)

    def scale_down(self, n: int) -> None:
        """Have n fewer slots, as far as they have been unneeded for the keepalive time."""
        if (spare := min(n, self.processes - self._peak())) > 0:
            self.pool.shrink(spare)

    def update(self, max: int | None = None, min: int | None = None) -> tuple[int, int]:
        """Change the bounds, and the pool at once where it is outside of them; gives both.

        Raises ValueError for bounds that cannot be, and changes nothing then.
        """
        most = self.max_concurrency if max is None else int(max)
        fewest = self.min_concurrency if min is None else int(min)
        if most < 1 or not 0 <= fewest <= most:
            raise ValueError(f"autoscale: expected 1 <= max and 0 <= min <= max, got max={most} min={fewest}")
        with self.mutex:
            self.max_concurrency, self.min_concurrency = most, fewest
            if self.processes > most:
                self.pool.shrink(self.processes - most)
            elif self.processes < fewest:
                self.pool.grow(fewest - self.processes)
        return most, fewest

    def _note_need(self) -> None:
        now = self.pool.load.at
        self._needs.append((now, self.qty))
        while self._needs[0][0] < now - self.keepalive:
            self._needs.popleft()
            self._watched_long_enough = True

    def _peak(self) -> int:
        """The most that was needed in the keepalive time; all there is as long as that has not passed."""
        if not self._watched_long_enough:
            return self.processes
        return max(needed for _, needed in self._needs)


class Room:
    """How many more slots the control group has room for.

    Args:
        pids: the processes, where each slot is one; None: slots need no memory to speak of.
        memory, meter: of the group.
    """

    def __init__(
        self,
        pids: Callable[[], Sequence[int]] | None,
        memory: Callable[[], cgroups.Memory | None] = cgroups.memory,
        meter: cgroups.CpuMeter | None = None,
    ) -> None:
        self._pids = pids
        self._memory = memory
        self._meter = meter or cgroups.CpuMeter()
        self._cpu = 0.0
        self._told = False

    def look(self) -> None:
        """Measure the CPU's use since the last look."""
        self._cpu = self._meter.usage()

    def for_more(self, wanted: int) -> int:
        """How many of ``wanted`` more processes there is room for; says so in the log when that is not all."""
        allowed, why = wanted, ""
        if self._cpu >= _FULL:
            allowed, why = 0, f"its CPU quota is used up ({self._cpu:.0%})"
        elif self._pids is not None and (memory := self._memory()) is not None:
            spare = memory.room - memory.limit * _RESERVE
            if (fitting := max(0, int(spare / self._cost(self._pids())))) < wanted:
                allowed, why = fitting, f"{memory.room >> 20} MiB of {memory.limit >> 20} are left"
        if why and not self._told:
            logger.warning("Not scaling up to all that is needed: the control group has no room, %s", why)
        self._told = bool(why)
        return allowed

    @staticmethod
    def _cost(pids: Sequence[int]) -> float:
        """Bytes that one more will use: what those that are there use, each for itself."""
        used = [private(pid) * 1024 for pid in pids[:_SAMPLE]]
        return max(_LEAST_PROCESS, sum(used) / len(used) if used else 0)


class _ScaledPool:
    """The pool as its autoscaler sees it: what it asks for is done when it has finished."""

    def __init__(self, pool: Pool, room: Room) -> None:
        self._pool = pool
        self._room = room
        self.load = Load()
        self.wanted = pool.size

    @property
    def num_processes(self) -> int:
        return self.wanted

    def grow(self, n: int) -> None:
        if (more := self._room.for_more(n)) > 0:
            logger.info("Scaling up %s processes.", more)
            self.wanted += more

    def shrink(self, n: int) -> None:
        if (fewer := min(n, self.wanted - 1)) > 0:
            logger.info("Scaling down %s processes.", fewer)
            self.wanted -= fewer

    def maintain_pool(self) -> None:
        return

    async def settle(self) -> bool:
        """Bring the pool to the size that is wanted; whether it was another."""
        if self.wanted == self._pool.size:
            return False
        await self._pool.resize(self.wanted)
        return True


class Scaling:
    """Asks an autoscaler how big the pool should be, for as long as the worker runs.

    Args:
        make: the autoscaler's class.
        bounds: the most and the fewest slots.
        pool: to be scaled.
        waiting: how many jobs wait in the worker for a slot, and the number of the first.
        last_number: of the jobs that have come in.
        depth: how many messages wait in the broker; it may block.
        on_resized: called when the pool has another size.
        process_per_slot: whether a slot is a process, with memory of its own.
    """

    def __init__(
        self,
        make: Callable[..., Autoscaler],
        bounds: tuple[int, int],
        *,
        pool: Pool,
        waiting: Callable[[], tuple[int, int]],
        last_number: Callable[[], int],
        depth: Callable[[], int],
        on_resized: Callable[[], None],
        process_per_slot: bool,
    ) -> None:
        self._pool = pool
        self._waiting = waiting
        self._last_number = last_number
        self._depth = depth
        self._on_resized = on_resized
        self._room = Room(pool.pids if process_per_slot else None)
        self._scaled = _ScaledPool(pool, self._room)
        self.autoscaler = make(self._scaled, *bounds, mutex=contextlib.nullcontext())
        self._arrivals: deque[tuple[float, int]] = deque()
        self._saturated = False

    async def run(self) -> None:
        """Look, and look again."""
        while True:
            await asyncio.sleep(PATIENCE)
            self._room.look()
            self._scaled.load = await self._measure()
            try:
                self.autoscaler.maybe_scale()
            except Exception:  # the application's own class: the worker goes on
                logger.exception("The autoscaler %r failed", self.autoscaler)
            await self._settle()

    async def update(self, most: int | None, fewest: int | None) -> tuple[int, int]:
        """Change the bounds, which are given back."""
        bounds = self.autoscaler.update(most, fewest)
        await self._settle()
        return bounds

    async def _settle(self) -> None:
        if await self._scaled.settle():
            self._on_resized()

    async def _measure(self) -> Load:
        waiting, first = self._waiting()
        busy_before, self._saturated = self._saturated, self._pool.free() <= 0
        # Whether anything waits in the broker matters only while nobody here could take it.
        asked = self._saturated and busy_before and self._pool.size < self.autoscaler.max_concurrency
        backlog = await self._ask_depth() if asked else 0
        now = time.monotonic()
        return Load(len(self._pool.begun()), waiting, backlog, self._waited(first, now), now)

    def _waited(self, first: int, now: float) -> float:
        """For how long the job of this number has been here, to the precision of a look; 0: there is none."""
        last = self._last_number()
        if not self._arrivals or self._arrivals[-1][1] != last:
            self._arrivals.append((now, last))
        while first and len(self._arrivals) > 1 and self._arrivals[0][1] < first:
            self._arrivals.popleft()
        if not first:
            self._arrivals.clear()
            return 0.0
        return now - self._arrivals[0][0]

    async def _ask_depth(self) -> int:
        try:
            async with asyncio.timeout(_DEPTH_PATIENCE):
                return await asyncio.to_thread(self._depth)
        except Exception as error:  # of whatever kind: how to live without it is plain
            logger.debug("The broker does not say how much waits: %r", error)
            return 0


def autoscaler_class(named: Any) -> Callable[..., Autoscaler]:
    """The class that ``worker_autoscaler`` names; a class as it is.

    Raises ImproperlyConfigured when there is none.
    """
    if not isinstance(named, str):
        return named if named is not None else Autoscaler
    if named in {"celery.worker.autoscale:Autoscaler", "celery.worker.autoscale.Autoscaler"}:
        return Autoscaler
    try:
        found = cast("Callable[..., Autoscaler]", import_path(named))
    except (ImportError, AttributeError) as error:
        raise ImproperlyConfigured(
            f"worker_autoscaler: the class {named!r} cannot be imported: {error}; give it as module:Class"
        ) from error
    return found
