"""Redelivered jobs that are about to begin: the broker is told so first, and says how often each was lost before.

Only those that are acknowledged late: the others are gone from the broker as soon as they have begun.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from umbel.core.causes import Losses
from umbel.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from umbel.worker.ledger import Job, Ledger
    from umbel.worker.link import BrokerLink
    from umbel.worker.refusals import Refusals

logger = logging.getLogger("celery.worker.consumer")


class Vetting:
    """Lets jobs go on, or gives up those that were lost too often (``quarantine_after``).

    Args:
        on_vetted: is given the jobs that may begin, in the order in which they were taken.
    """

    def __init__(
        self,
        link: BrokerLink,
        refusals: Refusals,
        ledger: Ledger,
        on_vetted: Callable[[Sequence[Job]], None],
    ) -> None:
        self._link = link
        self._refusals = refusals
        self._ledger = ledger
        self._on_vetted = on_vetted
        self._taken: dict[int, Job] = {}
        self._asking: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._taken)

    @staticmethod
    def wants(job: Job) -> bool:
        """Whether a job must not begin before it was asked about."""
        return job.delivery.redelivered and job.losses is None and not (job.early or job.acked)

    def take(self, job: Job) -> None:
        """Ask about a job, which is about to begin."""
        self._taken[job.seq] = job
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())

    def clear(self) -> list[Job]:
        """Give up the jobs that are being asked about."""
        jobs, self._taken = list(self._taken.values()), {}
        return jobs

    async def _ask(self) -> None:
        while jobs := list(self._taken.values()):
            try:
                losses = await self._link.begin([job.delivery for job in jobs])
            except BrokerError as error:
                # Better run once more than not at all; where the broker is gone, whoever fetches finds out.
                logger.warning("Cannot ask how often messages were lost with their workers: %s", error)
                losses = [Losses()] * len(jobs)
            if losses is not None:
                answers = dict(zip(jobs, losses, strict=True))
                self._answered([job for job in jobs if job.seq in self._taken], answers)

    def _answered(self, jobs: Sequence[Job], losses: dict[Job, Losses]) -> None:
        ready = []
        for job in jobs:
            del self._taken[job.seq]
            job.losses = losses[job]
            if 0 < job.task.quarantine_after <= job.losses.count:
                self._ledger.pop(job.seq)
                self._refusals.quarantined(job, job.losses)
            else:
                ready.append(job)
        self._on_vetted(ready)
