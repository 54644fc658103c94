"""How long one task takes there and back when nothing else is going on."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from benchmarks.catalogue import CannotMeasureError
from benchmarks.report import Figure

if TYPE_CHECKING:
    from benchmarks.options import Options
    from benchmarks.rig import Rig

_WARM_UP = 50
_ROUND_TRIPS = 500


class Latency:
    """One process sends a task, waits for its result and goes on, with an idle worker of two processes."""

    def __init__(self, options: Options) -> None:
        self._tasks = options.tasks or _ROUND_TRIPS

    def calibrate(self, rig: Rig) -> None:
        """Refuse a system whose results cannot be waited for."""
        if not rig.abilities["round_trips"]:
            raise CannotMeasureError("its results cannot be waited for in less than its own poll")

    def measure(self, rig: Rig) -> list[Figure]:
        """One worker, one sender."""
        total = _WARM_UP + self._tasks
        stamps = rig.prepare(total)
        with rig.worker() as worker:
            seconds = rig.drive("round-trips", warm_up=_WARM_UP, tasks=self._tasks)["seconds"]
            worker.wait_count(total)
            rig.verify(stamps, total)
        percentiles = statistics.quantiles(seconds, n=100, method="inclusive")
        return [
            Figure("round trip p50", "ms", percentiles[49] * 1000),
            Figure("round trip p99", "ms", percentiles[98] * 1000),
        ]
