"""What the pool says of jobs becomes settlement: started, reported, lost, returned."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from umbel.brokers.base import Delivery, Disposition
from umbel.core.ids import new_id
from umbel.core.protocol import peek
from umbel.core.states import SUCCESS
from umbel.pools.base import NOT_BEGUN
from umbel.state import successes
from umbel.worker.intake import requeue_all
from umbel.worker.settlement import disposition_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from umbel.execution.job import RunnableTask
    from umbel.pools.base import Lost, Report
    from umbel.worker.chords import Chords
    from umbel.worker.intake import Intake
    from umbel.worker.ledger import Job, Ledger
    from umbel.worker.losses import Losses
    from umbel.worker.narrator import Narrator
    from umbel.worker.pace import Pace
    from umbel.worker.settlement import Settlement

logger = logging.getLogger("celery.worker.consumer")


class Completion:
    """The worker's PoolListener."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        settlement: Settlement,
        intake: Intake,
        losses: Losses,
        pace: Pace,
        chords: Chords,
        narrator: Narrator,
        tasks: Mapping[str, RunnableTask],
    ) -> None:
        self._tasks = tasks
        self._narrator = narrator
        self._chords = chords
        self._ledger = ledger
        self._settlement = settlement
        self._intake = intake
        self._losses = losses
        self._pace = pace
        #: Jobs that ended here, by state, and those lost with their process, by cause.
        self.counts: Counter[str] = Counter()
        #: Jobs that ended here, by task.
        self.totals: Counter[str] = Counter()
        #: Set while the worker is leaving in a hurry: what was running goes back to its queue.
        self.abandoning = False

    def on_started(self, started: Sequence[tuple[int, int, float]]) -> None:
        """Acknowledge, of the jobs that have begun, those that are acknowledged early."""
        told = self._narrator.wants_starts
        acknowledged = False
        for seq, pid, at in started:
            job = self._ledger.get(seq)
            if job is None:
                continue
            job.pid, job.started_at = pid, at
            if job.early and not job.acked:
                self._ledger.acknowledge(job)
                self._settlement.add(Disposition(job.delivery.tag))
                acknowledged = True
            if told:
                self._narrator.started(job)
        if acknowledged:
            self._intake.made_room()

    def on_reports(self, reports: Sequence[Report]) -> None:
        """Settle what ended, and let the next jobs in."""
        dispositions: list[Disposition] = []
        late: list[Job] = []
        pop, observe, counts, totals = self._ledger.pop, self._pace.observe, self.counts, self.totals
        narrator = self._narrator
        told, succeeded = narrator.wants_starts, successes()
        for report in reports:
            job = pop(report.seq)
            if job is None:
                self._chords.ended(report)
                continue
            if report.state == NOT_BEGUN:
                late.append(job)
                continue
            task = job.header.task
            observe(task, report.runtime)
            counts[report.state] += 1
            totals[task] += 1
            if told:
                narrator.ended(job, report)
            if succeeded is not None and report.state == SUCCESS:
                succeeded.add(job.header.id)
            kept = self._go_on(job, report) if report.goes_on else None
            dispositions.append(disposition_of(job, report, kept))
        # Unless a peer has them by now, for then this settles to nothing.
        self._settlement.add_all(dispositions + requeue_all(late))
        self._intake.made_room()

    def _go_on(self, job: Job, report: Report) -> Delivery | None:
        """Take what has begun in a job's place for a job of this worker, which it is from the settlement on.

        None, so that it goes to its queue like anything else, where nobody here knows the task.
        """
        [publication] = report.publish
        header = peek(publication.payload)
        task = self._tasks.get(header.task)
        if task is None:
            return None
        tag = (header.delivery_tag or new_id()).encode()
        delivery = Delivery(tag, job.delivery.queue, publication.payload)
        self._intake.has_begun(self._ledger.follow(job.seq, delivery, header, task))
        return delivery

    def on_lost(self, lost: Sequence[Lost]) -> None:
        """Settle, by policy, the jobs whose process ended under them."""
        for loss in lost:
            job = self._ledger.pop(loss.seq)
            if job is None:
                self._chords.lost(loss.seq, loss.why)
                continue
            if self.abandoning and not job.early:
                # It was ended by this worker's leaving, which is nothing that could be held against it.
                self._settlement.add_all(requeue_all([job]))
                continue
            self.counts[loss.cause] += 1
            self._losses.settle(job, loss)
        self._intake.made_room()

    def on_returned(self, seqs: Sequence[int]) -> None:
        """Jobs that a process was given and did not begin go to another, or back to the queue when leaving."""
        self._chords.returned(seqs)
        jobs = [job for seq in seqs if (job := self._ledger.get(seq)) is not None]
        if self._intake.stopping:
            self.give_back(jobs)
        else:
            self._intake.put_back(jobs)
            self._intake.made_room()

    def on_lapse(self) -> None:
        """This worker was out of touch: what had not begun may have been taken over, and must not begin here.

        What was not goes back to its queue; for the rest that settles to nothing.
        """
        waiting = self._intake.take_waiting()
        self._intake.put_back(
            [job for job in waiting if job.acked]
        )  # copies, which no other worker would run
        jobs = [job for job in waiting if not job.acked]
        logger.warning(
            "Out of touch for longer than worker_lease_duration: %d message(s) that had not begun go back to "
            "their queues, unless another worker has taken them over",
            len(jobs),
        )
        self.give_back(jobs)
        self._intake.made_room()

    def on_void(self) -> None:
        """The connection to a broker is anew that gave everything back which the old one held.

        What had not begun is on its queue again, and would run twice.
        """
        jobs = self._intake.take_waiting()
        for job in jobs:
            self._ledger.pop(job.seq)
        if jobs:
            logger.info("%d message(s) that had not begun are on their queues again", len(jobs))
        self._intake.made_room()

    def give_back(self, jobs: Sequence[Job]) -> None:
        """Return jobs that have not begun to the front of their queues."""
        for job in jobs:
            self._ledger.pop(job.seq)
        self._settlement.add_all(requeue_all(jobs))
