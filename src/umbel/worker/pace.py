"""How long tasks take, as far as this worker has seen; what batching decisions rest on."""

from __future__ import annotations

from typing import Final

#: Weight of the newest run in a moving average.
_WEIGHT: Final = 0.1

#: Seconds that passing one job through a pool process costs besides its body.
_OVERHEAD: Final = 0.0001


class Pace:
    """Moving averages of run times, by task and over all.

    A task is *brief* when it usually ends within ``brief_seconds``: its jobs may share a frame with others, because
    waiting behind one costs less than a round trip. A task not seen yet is not brief. A brief task that for once takes
    long does no harm: the pool takes back what waits behind it.
    """

    def __init__(self, brief_seconds: float, reserve_seconds: float) -> None:
        self._brief_seconds = brief_seconds
        self._reserve_seconds = reserve_seconds
        self._by_task: dict[str, float] = {}
        self._overall = 1.0

    def observe(self, task: str, runtime: float) -> None:
        """Take note of one run."""
        known = self._by_task.get(task)
        self._by_task[task] = runtime if known is None else known + (runtime - known) * _WEIGHT
        self._overall += (runtime - self._overall) * _WEIGHT

    def forget(self) -> None:
        """What is running takes longer than expected: nothing is expected to be brief until that is seen again."""
        self._overall = 1.0

    def is_brief(self, task: str) -> bool:
        """Whether jobs of this task may share a frame."""
        return self._by_task.get(task, 1.0) <= self._brief_seconds

    def reserve(self, slots: int) -> int:
        """Jobs that the pool is expected to finish in the time it takes to fetch more: zero unless jobs are brief."""
        if self._overall > self._brief_seconds:
            return 0
        return int(slots * self._reserve_seconds / (self._overall + _OVERHEAD))
