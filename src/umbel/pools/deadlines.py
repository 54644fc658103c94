"""Hard time limits: one heap, one timer."""

from __future__ import annotations

import asyncio
import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Deadlines:
    """Calls ``on_due(seq)`` when a job's time is up, unless it was dropped before. No jobs, no timer."""

    def __init__(self, on_due: Callable[[int], None]) -> None:
        self._on_due = on_due
        self._at: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seq: int, seconds: float) -> None:
        """End the job ``seconds`` from now; a second call replaces the first."""
        at = asyncio.get_running_loop().time() + seconds
        self._at[seq] = at
        heapq.heappush(self._heap, (at, seq))
        if self._heap[0][1] == seq:
            self._arm()

    def drop(self, seq: int) -> None:
        """The job has ended."""
        if self._at.pop(seq, None) is None:
            return
        if len(self._heap) > 64 and len(self._heap) > 2 * len(self._at):
            # Most of the heap is of jobs that ended in time.
            self._heap = [(at, seq) for seq, at in self._at.items()]
            heapq.heapify(self._heap)
        if not self._at:
            self.clear()

    def clear(self) -> None:
        """Forget every job."""
        self._at.clear()
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __bool__(self) -> bool:
        return bool(self._at)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(self._heap[0][0], self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._heap and self._heap[0][0] <= now:
            at, seq = heapq.heappop(self._heap)
            if self._at.get(seq) == at:
                del self._at[seq]
                self._on_due(seq)
        if self._heap:
            self._arm()
