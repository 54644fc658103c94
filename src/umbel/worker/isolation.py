"""A message that one more loss would put into quarantine runs alone, so that nobody is given up for what another did.

When a process with several slots ends, all that ran in it is lost, and nobody can tell whose fault that was. So what
was lost nearly too often gets its last chance by itself: the worker lets what runs end, begins it, and begins nothing
else until it has ended. What else waits here goes back to its queue for others. A process with one slot needs none of
this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from umbel.worker.ledger import Job, Ledger


class Isolation:
    """Which job runs alone.

    Args:
        ledger: the jobs in hand.
        shared: whether the pool's processes run several jobs at a time.
    """

    def __init__(self, ledger: Ledger, *, shared: bool) -> None:
        self._ledger = ledger
        self._shared = shared
        self._alone: Job | None = None

    def wants(self, job: Job) -> bool:
        """Whether a job is to run alone. With ``quarantine_after`` of 1 the first loss decides, whoever it was."""
        if job.losses is None or not self._shared:
            return False
        limit = job.task.quarantine_after
        return limit > 1 and job.losses.count >= limit - 1

    def begin(self, job: Job) -> None:
        """It begins."""
        self._alone = job

    def give_up(self, job: Job) -> None:
        """It has not begun after all."""
        if self._alone is job:
            self._alone = None

    @property
    def is_on(self) -> bool:
        """Whether a job runs alone, so that nothing may begin."""
        job = self._alone
        if job is not None and self._ledger.get(job.seq) is not job:
            self._alone = job = None
        return job is not None
