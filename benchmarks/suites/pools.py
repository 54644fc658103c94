"""What Umbel's own pools are for: many waits on one loop, and processes that share what the app has imported."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from benchmarks.catalogue import CannotMeasureError
from benchmarks.report import Figure
from umbel.pools.memory import private, resident

if TYPE_CHECKING:
    from benchmarks.options import Options
    from benchmarks.rig import Rig

_WAITS, _SLOTS, _SECONDS = 10_000, 1_000, 0.1
_BALLAST = "180000"  #: entries; about 50 MB
_SETTLE = 3.0
_MORE = 4


class Pools:
    """Tasks that wait 0.1 s, 1,000 at a time on one event loop; and prefork processes of an application of 50 MB.

    "waits" is the part of the ideal: with n tasks the last begins (n / 1,000 - 1) tenths of a second after the first.
    "process memory" is the unique memory (USS) that each process beyond the first adds to an idle worker.
    """

    def __init__(self, options: Options) -> None:
        self._tasks = max(2 * _SLOTS, options.tasks or _WAITS) // _SLOTS * _SLOTS

    def calibrate(self, rig: Rig) -> None:
        """Refuse the systems that have no such pools."""
        if rig.system.name != "umbel":
            raise CannotMeasureError("it has no pool of event loops like Umbel's")

    def measure(self, rig: Rig) -> list[Figure]:
        """One worker for the waits, two for the memory."""
        one, several = self._memory(rig, 1), self._memory(rig, 1 + _MORE)
        return [*self._waits(rig), Figure("process memory", "MB", (several - one) / _MORE / 1e6)]

    def _waits(self, rig: Rig) -> list[Figure]:
        stamps = rig.prepare(self._tasks)
        rig.drive("waits", tasks=self._tasks)
        options = ("--pool", "asyncio", "--concurrency", "1", "--slots", str(_SLOTS))
        with rig.worker("WARNING", *options) as worker:
            worker.wait_count(1)
            cpu = worker.cpu_seconds()
            worker.wait_count(self._tasks)
            cpu = worker.cpu_seconds() - cpu
        ideal = (self._tasks / _SLOTS - 1) * _SECONDS
        return [
            Figure("waits", "% of the ideal", ideal / (stamps.last() - stamps.first()) * 100),
            Figure("CPU of a wait", "us/task", cpu / self._tasks * 1e6),
        ]

    @staticmethod
    def _memory(rig: Rig, processes: int) -> float:
        """Bytes that the processes of an idle worker have for themselves."""
        before = os.environ.get("BENCH_BALLAST")
        os.environ["BENCH_BALLAST"] = _BALLAST
        try:
            stamps = rig.prepare(20)
            rig.drive("preload", first=0, tasks=20)
            with rig.worker("WARNING", "--pool", "prefork", "--concurrency", str(processes)) as worker:
                worker.wait_count(20)
                time.sleep(_SETTLE)
                rig.verify(stamps, 20)
                assert all(resident(pid) for pid in worker.pids())
                return 1024.0 * sum(private(pid) for pid in worker.pids())
        finally:
            if before is None:
                del os.environ["BENCH_BALLAST"]
            else:
                os.environ["BENCH_BALLAST"] = before
