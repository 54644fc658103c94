"""What a long queue and many delayed tasks do to a worker."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.report import Figure
from scripts.environments import say

if TYPE_CHECKING:
    from benchmarks.options import Options
    from benchmarks.rig import Rig

_WINDOW = 15.0  #: seconds of work that are measured at most
_SETTLE = 1.0  #: seconds from the first task until memory is watched: pools and buffers are filled by then
_LATER = 3600.0  #: seconds until the delayed tasks are due: none during the measurement
_LOOK = 0.1


class Backlog:
    """The same number of tasks is worked off from a short queue, and from the front of a long one beside many
    delayed tasks; the worker's memory is watched while it works.
    """

    def __init__(self, options: Options) -> None:
        self._short = options.tasks or 20_000
        self._queued = options.queued
        self._delayed = options.delayed

    def calibrate(self, rig: Rig) -> None:
        """Nothing to find out."""

    def measure(self, rig: Rig) -> list[Figure]:
        """The short queue, then the long one."""
        short, _ = self._work(rig, queued=self._short, delayed=0)
        long, growth = self._work(rig, queued=self._queued, delayed=self._delayed)
        return [
            Figure("throughput, short queue", "tasks/s", short),
            Figure("throughput, backlog", "tasks/s", long),
            Figure("kept of the short queue's throughput", "%", 100 * long / short),
            Figure("memory growth", "MB", growth / 1e6),
        ]

    def _work(self, rig: Rig, *, queued: int, delayed: int) -> tuple[float, int]:
        """Tasks per second over the window, and the highest less the lowest memory in it."""
        stamps = rig.prepare(queued + delayed)
        if delayed and rig.abilities["send_delayed"]:
            took = rig.drive("preload", first=queued, tasks=delayed, delay=_LATER)["seconds"]
            say(f"{rig.system.name}: {delayed} delayed tasks sent in {took:.0f} s")
        took = rig.drive("preload", first=0, tasks=queued)["seconds"]
        say(f"{rig.system.name}: {queued} tasks sent in {took:.0f} s")
        memory: list[int] = []
        with rig.worker() as worker:
            worker.wait_count(1)
            end = time.monotonic() + _WINDOW
            watch = time.monotonic() + _SETTLE
            while (now := time.monotonic()) < end and stamps.count() < queued:
                if now > watch:
                    memory.append(worker.pss_bytes())
                worker.wait_count(queued, until=now + _LOOK)
            rate = stamps.count() / (stamps.last() - stamps.first())
        return rate, max(memory, default=0) - min(memory, default=0)
