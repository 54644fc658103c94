"""Jobs whose process ended under them, and what becomes of each.

The policy is Celery's: an early-acknowledged job has failed; a late-acknowledged one goes back to its queue if
``task_reject_on_worker_lost`` says so, else it has failed; with ``task_retry_on_worker_lost`` it is tried again as a
retry. How often a message goes back is counted (``task_quarantine_after``). A hard time limit is a failure,
acknowledged or not as ``task_acks_on_timeout`` says.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING

from umbel.core.causes import Loss, add_losses, losses_of
from umbel.errors import Reject, WorkerLostError
from umbel.pools.base import Report
from umbel.worker.intake import time_limits
from umbel.worker.settlement import disposition_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.core.records import Action
    from umbel.execution.report import Reporter
    from umbel.pools.base import Lost
    from umbel.worker.ledger import Job
    from umbel.worker.narrator import Narrator
    from umbel.worker.options import WorkerOptions
    from umbel.worker.settlement import Settlement

logger = logging.getLogger("celery.worker.request")


class Losses:
    """Reports lost jobs. The user's error handlers run in a thread, never in the worker's loop."""

    def __init__(
        self, reporter: Reporter, settlement: Settlement, narrator: Narrator, options: WorkerOptions
    ) -> None:
        self._reporter = reporter
        self._settlement = settlement
        self._narrator = narrator
        self._options = options
        self._pending: dict[asyncio.Task[None], Job] = {}

    def settle(self, job: Job, loss: Lost) -> None:
        """Have a lost job reported and settled."""
        task = asyncio.create_task(self._settle(job, loss))
        self._pending[task] = job
        task.add_done_callback(self._on_settled)

    def _on_settled(self, task: asyncio.Task[None]) -> None:
        del self._pending[task]
        if not task.cancelled():
            task.result()  # raises in the loop, which ends the worker, rather than nowhere

    def held_tags(self) -> set[bytes]:
        """Deliveries of lost jobs that are not on their way to settlement yet."""
        return {job.delivery.tag for job in self._pending.values() if not job.acked}

    async def wait(self) -> None:
        """Return when every lost job is on its way to settlement."""
        while self._pending:
            await asyncio.wait(set(self._pending))

    async def _settle(self, job: Job, loss: Lost) -> None:
        limit = time_limits(job.header, job.task, (self._options.time_limit, None))[0]
        report = await in_thread(lambda: self._report(job, loss, limit), f"loss of {job.header.id}")
        self._tell(job, loss, report, limit)
        if job.acked and report.action == "requeue":
            # Its delivery is gone: what goes back to the queue is the same message again.
            report.payload = job.delivery.payload
        self._settlement.add(disposition_of(job, report))

    def _report(self, job: Job, loss: Lost, limit: float | None) -> Report:
        """What is said of a lost job; never raises, for then nobody would settle it."""
        payload = job.delivery.payload
        try:
            report = self._reporter.lost_report(
                job.seq, job.task, payload, loss.cause, loss.why, limit, queue=job.delivery.queue
            )
            counts = loss.cause == "worker_lost" and report.action == "requeue" and not job.acked
            return self._counted(job, report) if counts else report
        except Reject as refusal:
            # Raised by the task's on_failure; where the message was acknowledged it stays so.
            action: Action = "requeue" if refusal.requeue else "dead_letter"
            cause = None if refusal.requeue else self._reporter.cause("rejected")
            reason = str(refusal.reason or "rejected")
            return Report(job.seq, "REJECTED", action, 0.0, reason=reason, cause=cause)
        except BaseException as error:
            # User code runs here, and may raise what it likes, SystemExit too, which would end the loop.
            name, task_id = job.header.name, job.header.id
            logger.critical("Cannot report the loss of %s[%s]: %r", name, task_id, error, exc_info=error)
            context = self._reporter.context_of_payload(payload)
            lost = WorkerLostError(f"Worker exited prematurely: {loss.why}.")
            report = self._reporter.refused_report(job.seq, context, lost, "failed", f"lost: {loss.why}")
            report.publish = []  # error callbacks are what may have failed
            return report

    def _counted(self, job: Job, report: Report) -> Report:
        """Write into a message that goes back to its queue that it was lost; too often, and it is given up instead."""
        payload, loss = job.delivery.payload, Loss(self._reporter.hostname, time.time())
        losses = (job.losses or losses_of(payload)).plus(loss)
        if 0 < job.task.quarantine_after <= losses.count:
            logger.critical(
                "Task %s[%s] was lost with its process for the %d. time: it is kept with the dead letters of queue %s",
                job.header.name,
                job.header.id,
                losses.count,
                job.delivery.queue,
            )
            return self._reporter.quarantined_report(job.seq, payload, losses, job.task, job.delivery.queue)
        report.payload = add_losses(payload, [loss])
        return report

    def _tell(self, job: Job, loss: Lost, report: Report, limit: float | None) -> None:
        match loss.cause:
            case "time_limit":
                self._narrator.hard_limit(job, limit)
            case "terminated":
                self._narrator.revoked(job, terminated=True, signum=job.signum)
            case _:
                error = WorkerLostError(f"Worker exited prematurely: {loss.why}.")
                self._narrator.lost(job, error, again=report.action == "requeue")


async def in_thread(work: Callable[[], Report], name: str) -> Report:
    """The result of a call made in a thread of its own, which does not keep the program should it never return."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Report] = loop.create_future()

    def give(report: Report) -> None:
        if not future.done():
            future.set_result(report)

    def run() -> None:
        report = work()
        if not loop.is_closed():
            loop.call_soon_threadsafe(give, report)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future
