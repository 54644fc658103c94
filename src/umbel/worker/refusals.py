"""Messages that are not run: unreadable, unknown here, revoked, expired. Each ends once, is logged once and counted."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from umbel.brokers.base import Disposition
from umbel.core.causes import kind_of_refusal
from umbel.core.destination import Destination
from umbel.core.failures import format_traceback
from umbel.core.protocol import peek, read_envelope, upgrade
from umbel.errors import NotRegistered
from umbel.signals import task_rejected, task_unknown
from umbel.worker.settlement import disposition_of

if TYPE_CHECKING:
    from umbel.app import Umbel
    from umbel.brokers.base import Delivery
    from umbel.core.causes import Losses
    from umbel.core.protocol import Header
    from umbel.execution.report import Reporter
    from umbel.worker.ledger import Job
    from umbel.worker.narrator import Narrator
    from umbel.worker.settlement import Settlement

logger = logging.getLogger("celery.worker.consumer")


class Refusals:
    """Ends deliveries that no pool process is to see."""

    def __init__(self, app: Umbel, reporter: Reporter, settlement: Settlement, narrator: Narrator) -> None:
        self._app = app
        self._reporter = reporter
        self._settlement = settlement
        self._narrator = narrator
        #: Messages refused here, by kind: unreadable, broken, unknown, revoked, expired, invalid, quarantined.
        self.counts: Counter[str] = Counter()

    def upgrade(self, delivery: Delivery) -> Header:
        """The header of a message that names its task in the body (protocol 1), made protocol 2 in place.

        Raises ContentDisallowed, DecodeError or InvalidTaskError.
        """
        envelope = upgrade(read_envelope(delivery.payload), self._app.accept)
        queue = delivery.queue
        delivery.payload = self._app.broker.pack(envelope, Destination("", queue, queue))
        return peek(delivery.payload)

    def unreadable(self, delivery: Delivery, error: Exception) -> None:
        """A message that is not acceptable, not decodable or asks for no task: to the dead letters."""
        self.counts["unreadable"] += 1
        logger.critical(
            "Can't decode message: %s [queue:%s, %d bytes]", error, delivery.queue, len(delivery.payload)
        )
        reason = f"{type(error).__name__}: {error}"
        cause = self._reporter.cause(kind_of_refusal(error), error)
        self._settlement.add(Disposition(delivery.tag, "dead_letter", reason=reason, cause=cause))
        if task_rejected.receivers:
            task_rejected.send(sender=self, message=delivery, exc=error)

    def broken(self, delivery: Delivery, error: Exception) -> None:
        """A message that made this worker's own code fail: to the dead letters, where it can be looked at."""
        self.counts["broken"] += 1
        logger.critical("Cannot take message from queue %s: %r", delivery.queue, error, exc_info=error)
        cause = self._reporter.cause("internal", error, format_traceback(error))
        reason = f"internal error: {error!r}"
        self._settlement.add(Disposition(delivery.tag, "dead_letter", reason=reason, cause=cause))

    def unknown(self, delivery: Delivery, header: Header) -> None:
        """A message for a task that is not registered here: its result is a failure, itself a dead letter."""
        self.counts["unknown"] += 1
        logger.error(
            "Received unregistered task of type %r [id:%s, queue:%s].\nThe message is kept with the dead letters. "
            "Did you remember to import the module containing this task?",
            header.task,
            header.id,
            delivery.queue,
        )
        report = self._reporter.unknown_report(0, delivery.payload)
        self._settlement.add(
            Disposition(
                delivery.tag,
                report.action,
                reason=report.reason,
                publish=report.publish,
                result=report.result,
                followers=report.followers,
                cause=report.cause,
            )
        )
        error = NotRegistered(header.task)
        self._narrator.unknown(header, error)
        if task_unknown.receivers:
            task_unknown.send(sender=self, message=delivery, exc=error, name=header.task, id=header.id)

    def dropped(self, job: Job, reason: str, detail: str) -> None:
        """A job that admission turned away."""
        self.counts[reason] += 1
        if reason == "invalid":
            logger.error("Received invalid task message: %s [%s]", detail, job.header.id)
            cause = self._reporter.cause("invalid")
            self._settlement.add(
                Disposition(job.delivery.tag, "dead_letter", reason=f"invalid: {detail}", cause=cause)
            )
            return
        self._narrator.revoked(job, expired=reason == "expired")
        report = self._reporter.revoked_payload_report(job.seq, job.delivery.payload, reason, job.task)
        self._settlement.add(disposition_of(job, report))

    def quarantined(self, job: Job, losses: Losses) -> None:
        """A job that was lost with its worker too often to be tried again: a failure, itself a dead letter."""
        self.counts["quarantined"] += 1
        logger.critical(
            "Task %s[%s] was lost with its worker %d times: it is not run again, but kept with the dead letters of "
            "queue %s [quarantine_after: %d].",
            job.header.name,
            job.header.id,
            losses.count,
            job.delivery.queue,
            job.task.quarantine_after,
        )
        delivery = job.delivery
        report = self._reporter.quarantined_report(
            job.seq, delivery.payload, losses, job.task, delivery.queue
        )
        self._narrator.quarantined(job, report)
        self._settlement.add(disposition_of(job, report))
