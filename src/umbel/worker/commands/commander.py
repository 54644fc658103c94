"""``Commander``: what the commands act upon, one worker's parts and the moves that several commands share."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from umbel.core import states
from umbel.errors import BackendError, CeleryError, ContentDisallowed, DecodeError, OperationalError
from umbel.results.documents import read_document
from umbel.worker.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from umbel.app import Umbel
    from umbel.execution.report import Reporter
    from umbel.lamport import LogicalClock
    from umbel.pools.base import Pool
    from umbel.worker.autoscale import Scaling
    from umbel.worker.completion import Completion
    from umbel.worker.elections import Elections
    from umbel.worker.events import Events
    from umbel.worker.holding import Holding
    from umbel.worker.intake import Intake
    from umbel.worker.ledger import Job, Ledger
    from umbel.worker.link import BrokerLink
    from umbel.worker.options import WorkerOptions
    from umbel.worker.rates import RateLimits
    from umbel.worker.revocations import Revocations
    from umbel.worker.revoked import RevokedIds, RevokedStamps
    from umbel.worker.settlement import Settlement

logger = logging.getLogger("celery.worker.control")

#: States of tasks that nobody has begun, as far as their results tell.
_WAITING: Final = frozenset({states.PENDING, states.RECEIVED, states.RETRY, states.REJECTED})
#: Results that are looked up at a time, and the seconds that this may take.
_CHUNK: Final = 200
_PATIENCE: Final = 10.0


@dataclass(kw_only=True)
class Commander:
    """What the commands act upon: one worker's parts.

    ``clock`` is the process's logical clock. ``events`` is None where events cannot be sent, ``scaling`` where
    the pool has one size, ``elections`` where it takes part in none. ``shut_down`` asks the worker to stop as on TERM.
    """

    app: Umbel
    hostname: str
    options: WorkerOptions
    revoked: RevokedIds
    revoked_stamps: RevokedStamps
    revocations: Revocations
    link: BrokerLink
    ledger: Ledger
    holding: Holding
    intake: Intake
    completion: Completion
    rates: RateLimits
    pool: Pool
    scaling: Scaling | None
    reporter: Reporter
    settlement: Settlement
    shut_down: Callable[[], None]
    clock: LogicalClock
    events: Events | None
    elections: Elections | None = None
    started_at: float = field(default_factory=time.monotonic)
    loop: asyncio.AbstractEventLoop | None = None
    #: Of the order in hand: whether it is for every worker and its sender has left the keeping of ids to the workers.
    unkept: bool = False
    #: Otherwise for how many seconds its sender has had the broker keep them.
    kept_for: float = 0.0

    def carry_out(self, command: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Have the worker's loop run one of its own commands, for an application's command, which runs in a thread."""
        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(command(self, **arguments), self.loop).result()

    def running(self) -> list[Job]:
        """The jobs that have begun here, each with the id of the process that runs it."""
        jobs = []
        for seq, pid in self.pool.begun():
            job = self.ledger.get(seq)
            if job is not None:
                job.pid = job.pid or pid
                jobs.append(job)
        return jobs

    def info(self, job: Job, *, safe: bool = False) -> dict[str, Any]:
        """What is told of a job; ``safe`` shows its arguments as text."""
        return Request(job, self.hostname, self.app.accept).info(safe)

    def terminate(self, jobs: Iterable[Job], number: int, name: str) -> list[Job]:
        """End those of some jobs that run, by a signal; says which of them run on because the pool cannot end them."""
        running = {job.seq for job in self.running()}
        undying = []
        for job in jobs:
            logger.info("Terminating %s (%s)", job.header.id, name)
            job.signum = number
            if not self.pool.terminate_job(job.seq, number) and job.seq in running:
                undying.append(job)
        for job in undying:
            logger.warning(
                "Task %s[%s] cannot be terminated: the pool %s runs it in the worker's own process. "
                "It goes on to its end",
                job.header.name,
                job.header.id,
                self.options.pool,
            )
        return undying

    async def mark_revoked(self, task_ids: Collection[str]) -> None:
        """Store REVOKED for tasks that have not begun and have no outcome, as far as their results tell."""
        if not self.app.backend.stores_results:
            return
        wanted = list(task_ids)
        try:
            async with asyncio.timeout(_PATIENCE):
                for start in range(0, len(wanted), _CHUNK):
                    await self._mark(wanted[start : start + _CHUNK])
        except (BackendError, OperationalError, TimeoutError) as error:
            # They are revoked all the same: whoever reaches their messages stores the state then.
            logger.warning("Failed to mark tasks as revoked in backend: %r", error)

    async def _mark(self, task_ids: list[str]) -> None:
        for task_id, document in zip(task_ids, await self.app.backend.aload(task_ids), strict=True):
            if document is None or self._state_in(document) in _WAITING:
                self.settlement.record(self.reporter.revoked_record(task_id))

    def _state_in(self, document: bytes) -> str:
        try:
            return str(read_document(document, self.app.backend.serializer)["status"])
        except (CeleryError, ContentDisallowed, DecodeError) as error:
            logger.warning("Cannot read what is stored of a revoked task, and leave it: %r", error)
            return ""
