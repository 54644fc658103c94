"""Bounded room for jobs that may run soon but not yet: a near ETA, or a rate limit without tokens.

One timer for all of them, set for the earliest.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from umbel.worker.ledger import Job


class Holding:
    """Keeps jobs until their time and then hands them back."""

    def __init__(self, room: int, release: Callable[[list[Job]], None], now: Callable[[], float]) -> None:
        self.room = room
        self._release = release
        self._now = now
        self._heap: list[tuple[float, int, Job]] = []
        self._timer: asyncio.TimerHandle | None = None

    def full(self) -> bool:
        """Whether no more jobs should be held here but parked in the broker instead."""
        return len(self._heap) >= self.room

    def __len__(self) -> int:
        return len(self._heap)

    def keep(self, job: Job, until: float, loop: asyncio.AbstractEventLoop) -> None:
        """Hold a job until the instant ``until`` (epoch seconds)."""
        heapq.heappush(self._heap, (until, job.seq, job))
        if self._heap[0][2] is job:
            self._set_timer(loop)

    def jobs(self) -> list[Job]:
        """What is held, in no particular order."""
        return [job for _, _, job in self._heap]

    def clear(self) -> list[Job]:
        """Give everything up at once, for shutdown."""
        jobs = self.jobs()
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return jobs

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            # A clock that jumps back must not make the wait longer than a second past the intended one.
            delay = max(0.0, min(self._heap[0][0] - self._now(), 1.0))
            self._timer = loop.call_later(delay, self._due, loop)

    def _due(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = self._now()
        due: list[Job] = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[2])
        self._set_timer(loop)
        if due:
            self._release(due)
