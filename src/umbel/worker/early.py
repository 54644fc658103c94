"""Early acknowledgement of jobs that were taken for short ones and are not.

A short job is acknowledged together with its result, in one round trip. Should it turn out long, it has to be
acknowledged while it runs, as Celery does: then a worker that is killed does not have it run a second time elsewhere.
The pool is asked what it runs, by a timer that exists only while it runs something that matters here.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from umbel.pools.base import Pool
    from umbel.worker.ledger import Ledger

#: Seconds between two looks: a job that is seen running twice is not short.
_LOOK_EVERY = 0.01


class EarlyAcks:
    """Notices jobs that have been running for longer than short ones do, and have not been acknowledged."""

    def __init__(
        self,
        pool: Pool,
        ledger: Ledger,
        on_started: Callable[[Sequence[tuple[int, int, float]]], None],
    ) -> None:
        self._pool = pool
        self._ledger = ledger
        self._on_started = on_started
        self._seen: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """There are jobs to look for. Free when that is known already."""
        if self._timer is None:
            self._timer = loop.call_later(_LOOK_EVERY, self._look, loop)

    def stop(self) -> None:
        """Look no more. Safe twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        running = [(seq, pid) for seq, pid in self._pool.begun() if self._waits_for_ack(seq)]
        since = time.time() - _LOOK_EVERY
        if long := [(seq, pid, since) for seq, pid in running if seq in self._seen]:
            self._on_started(long)
        self._seen = {seq for seq, _ in running}
        if running:
            self.watch(loop)

    def _waits_for_ack(self, seq: int) -> bool:
        job = self._ledger.get(seq)
        return job is not None and job.early and not job.acked
