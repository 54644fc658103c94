"""What the worker says of its jobs: Celery's log lines, signals and events, made only when somebody listens."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from umbel import logs
from umbel.core import states
from umbel.errors import TimeLimitExceeded
from umbel.loglines import Line
from umbel.signals import task_received, task_revoked
from umbel.worker.request import Request

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from umbel.core.protocol import Header
    from umbel.pools.base import Report
    from umbel.worker.events import Events
    from umbel.worker.ledger import Job

strategy_logger = logging.getLogger("celery.worker.strategy")
request_logger = logging.getLogger("celery.worker.request")

LOG_RECEIVED: Final = "Task %(name)s[%(id)s] received"
_received: Final = Line(strategy_logger, logging.INFO, LOG_RECEIVED, __file__)


class Narrator:
    """Tells loggers and signal receivers; silent, and nearly free, when there are none.

    Args:
        hostname: the worker's.
        events: sends events; None: to nobody.
        accept: content types of bodies into which receivers of signals may look.
    """

    def __init__(
        self, hostname: str, events: Events | None = None, accept: frozenset[str] = frozenset()
    ) -> None:
        self._hostname = hostname
        self._events = events
        self._accept = accept
        # Asked once: levels are set before the worker starts, and asking per job costs more than the line's absence.
        self._logs_received = _received.wanted()

    @property
    def wants_starts(self) -> bool:
        """Whether somebody wants to know when each job begins and how it ends."""
        return self._events is not None and self._events.tasks

    @property
    def wants_all(self) -> bool:
        """Whether somebody hears of every job when it comes in."""
        return self.wants_starts or self._logs_received or bool(task_received.receivers)

    def batch(self) -> AbstractContextManager[None]:
        """Within it, the lines about received jobs are written out together."""
        return logs.batch(strategy_logger) if self._logs_received else nullcontext()

    def received(self, job: Job, *, will_run: bool) -> None:
        """A job was taken from its queue; the signal is sent only of those that will run, as Celery does."""
        if self._logs_received:
            header = job.header
            context = {
                "id": header.id,
                "name": header.name,
                "args": header.argsrepr,
                "kwargs": header.kwargsrepr,
                "eta": header.eta,
            }
            _received.say(context)
        if will_run and task_received.receivers:
            task_received.send(sender=self, request=self.request(job))
        events = self._events
        if events is not None and events.tasks:
            header = job.header
            events.task(
                "task-received",
                header.id,
                name=header.name,
                args=header.argsrepr,
                kwargs=header.kwargsrepr,
                root_id=header.root_id,
                parent_id=header.parent_id,
                retries=header.retries,
                eta=header.eta,
                expires=header.expires,
            )

    def started(self, job: Job) -> None:
        """A job has begun."""
        self._tell("task-started", job)

    def ended(self, job: Job, report: Report) -> None:
        """A job has ended by itself."""
        match report.state:
            case states.SUCCESS:
                self._tell("task-succeeded", job, result=report.shown, runtime=report.runtime)
            case states.FAILURE:
                self._tell("task-failed", job, exception=report.shown, traceback=report.traceback)
            case states.RETRY:
                self._tell("task-retried", job, exception=report.shown, traceback=report.traceback)
            case states.REJECTED:
                self._tell("task-rejected", job, requeue=report.action == "requeue")
            case states.REVOKED:
                self._tell("task-revoked", job, terminated=False, signum=None, expired=True)

    def _tell(self, type_: str, job: Job, **fields: Any) -> None:
        if self._events is not None and self._events.tasks:
            self._events.task(type_, job.header.id, **fields)

    def unknown(self, header: Header, error: Exception) -> None:
        """A message names a task that nobody here knows."""
        if self._events is not None and self._events.tasks:
            self._events.task("task-failed", header.id, exception=repr(error), traceback=None)

    def revoked(
        self, job: Job, *, expired: bool = False, terminated: bool = False, signum: int | None = None
    ) -> None:
        """A job will not run, or was ended while it ran."""
        if not terminated:
            request_logger.info("Discarding revoked task: %s[%s]", job.header.name, job.header.id)
        self._tell("task-revoked", job, terminated=terminated, signum=signum, expired=expired)
        if task_revoked.receivers:
            task_revoked.send(
                sender=job.task,
                request=self.request(job),
                terminated=terminated,
                signum=signum,
                expired=expired,
            )

    def hard_limit(self, job: Job, limit: float | None) -> None:
        """A job was ended by its hard time limit."""
        request_logger.error(
            "Hard time limit (%ss) exceeded for %s[%s]", limit, job.header.name, job.header.id
        )
        self._tell("task-failed", job, exception=repr(TimeLimitExceeded(limit)), traceback=None)

    def lost(self, job: Job, error: Exception, *, again: bool) -> None:
        """A job's process ended under it."""
        if again:
            request_logger.warning(
                "Task %s[%s] goes back to its queue: %s", job.header.name, job.header.id, error
            )
        else:
            request_logger.error("Task handler raised error: %r", error)
            self._tell("task-failed", job, exception=repr(error), traceback=None)

    def quarantined(self, job: Job, report: Report) -> None:
        """A job was lost with its worker too often to be run again."""
        self._tell("task-failed", job, exception=report.error, traceback=None)

    def request(self, job: Job) -> Request:
        """The job as Celery's signals show it."""
        return Request(job, self._hostname, self._accept)
