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
    waiting behind one costs less than a round trip. Where ``abreast`` jobs run at the same time in a process, one of
    them ends that much sooner, and tasks are brief that take so many times longer. A task not seen yet is not brief. A
    brief task that for once takes long does no harm: the pool takes back what waits behind it.
    """

    def __init__(self, brief_seconds: float, reserve_seconds: float, abreast: int = 1) -> None:
        self._brief_seconds = brief_seconds * abreast
        self._reserve_seconds = reserve_seconds
        self._by_task: dict[str, float] = {}
        #: More than any brief task takes.
        self._long = max(1.0, 100 * self._brief_seconds)
        self._overall = self._long

    def observe(self, task: str, runtime: float) -> None:
        """Take note of one run."""
        known = self._by_task.get(task)
        self._by_task[task] = runtime if known is None else known + (runtime - known) * _WEIGHT
        self._overall += (runtime - self._overall) * _WEIGHT

    def forget(self) -> None:
        """What is running takes longer than expected: nothing is expected to be brief until that is seen again."""
        self._overall = self._long

    def is_brief(self, task: str) -> bool:
        """Whether jobs of this task may share a frame."""
        return self._by_task.get(task, self._long) <= self._brief_seconds

    def reserve(self, slots: int) -> int:
        """Jobs that the pool is expected to finish in the time it takes to fetch more: zero unless jobs are brief."""
        if self._overall > self._brief_seconds:
            return 0
        return int(slots * self._reserve_seconds / (self._overall + _OVERHEAD))
