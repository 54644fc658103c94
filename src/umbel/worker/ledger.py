"""The jobs a worker has in hand, from their fetch to their settlement."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from umbel.brokers.base import Delivery
    from umbel.core.causes import Losses
    from umbel.core.protocol import Header
    from umbel.execution.job import RunnableTask


class Job:
    """One attempt: a delivery, its header and the task it names."""

    __slots__ = (
        "acked",
        "delivery",
        "early",
        "header",
        "losses",
        "paced",
        "pid",
        "seq",
        "signum",
        "started_at",
        "task",
    )

    def __init__(self, seq: int, delivery: Delivery, header: Header, task: RunnableTask) -> None:
        self.seq = seq
        self.delivery = delivery
        self.header = header
        self.task = task
        #: Acknowledged as soon as it has begun (Celery's default), rather than when its outcome settles.
        self.early = not task.acks_late
        self.acked = False
        self.paced = False  #: has waited for the instant that its task's rate limit gave it
        #: How often it was lost before; None until that was asked, of a redelivered one, when it was to begin.
        self.losses: Losses | None = None
        self.started_at = 0.0  #: epoch seconds; 0 until the pool says that it has begun
        self.pid = 0
        self.signum: int | None = None  #: of the signal that somebody has ended it with


class Ledger:
    """Every job in hand by its number."""

    def __init__(self) -> None:
        self._jobs: dict[int, Job] = {}
        self._last = 0
        self.acknowledged = 0  #: how many of them were acknowledged when they began

    def add(self, delivery: Delivery, header: Header, task: RunnableTask) -> Job:
        """Enter a new job and number it."""
        self._last += 1
        job = Job(self._last, delivery, header, task)
        self._jobs[job.seq] = job
        return job

    def follow(self, seq: int, delivery: Delivery, header: Header, task: RunnableTask) -> Job:
        """Enter a job under the number of one that is out of hand."""
        job = self._jobs[seq] = Job(seq, delivery, header, task)
        return job

    def number(self) -> int:
        """A number that no job has, for what else a pool process is to do."""
        self._last += 1
        return self._last

    @property
    def last(self) -> int:
        """The highest number so far."""
        return self._last

    def get(self, seq: int) -> Job | None:
        """The job of this number, if it is still in hand."""
        return self._jobs.get(seq)

    def acknowledge(self, job: Job) -> None:
        """Note that a job in hand is acknowledged, once."""
        job.acked = True
        self.acknowledged += 1

    def pop(self, seq: int) -> Job | None:
        """Strike out a job; None if it is out of hand already."""
        job = self._jobs.pop(seq, None)
        if job is not None and job.acked:
            self.acknowledged -= 1
        return job

    def drop(self, delivery: Delivery) -> None:
        """Strike out the job of a delivery, if there is one."""
        for job in self:
            if job.delivery is delivery:
                self.pop(job.seq)

    def held_tags(self) -> set[bytes]:
        """Tags of the deliveries that are not acknowledged yet."""
        return {job.delivery.tag for job in self._jobs.values() if not job.acked}

    def find(self, task_ids: Iterable[str]) -> list[Job]:
        """The jobs in hand with these task ids."""
        wanted = set(task_ids)
        return [job for job in self._jobs.values() if job.header.id in wanted]

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    def __len__(self) -> int:
        return len(self._jobs)
