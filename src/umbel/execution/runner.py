"""What a pool process does with a job: from the payload to the report."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from umbel.core.causes import kind_of_refusal
from umbel.core.failures import format_traceback
from umbel.core.outcome import Failed, Rejected, Succeeded
from umbel.core.protocol import open_body, read_envelope, upgrade
from umbel.core.repeats import REPEATED, mark_repeated, repeated
from umbel.core.states import FAILURE, REJECTED, SUCCESS
from umbel.core.textrepr import utf8_text
from umbel.errors import (
    ContentDisallowed,
    DecodeError,
    InvalidTaskError,
    NotRegistered,
    SoftTimeLimitExceeded,
)
from umbel.execution import lines
from umbel.execution.context import Context, ignores_result, message_context
from umbel.execution.einfo import ExceptionInfo
from umbel.execution.joining import ChordJoiner
from umbel.execution.report import Reporter
from umbel.execution.run import run_task, send_internal_error
from umbel.pools.base import Report, Work
from umbel.results.documents import read_document
from umbel.results.waiting import deny_join, restore_join
from umbel.signals import worker_process_init, worker_process_shutdown
from umbel.state import adopt_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from umbel.core.causes import Kind
    from umbel.core.outcome import Outcome
    from umbel.core.protocol import Envelope
    from umbel.execution.job import ExecutionApp, RunnableTask
    from umbel.pools.base import AsyncSlot, HardLimit, SoftLimit

logger = logging.getLogger("celery.worker.consumer")

_UNLIMITED = nullcontext()


def _no_limit(seconds: float | None) -> AbstractContextManager[None]:
    return _UNLIMITED


def _unwatched(seconds: float) -> None:
    """Nobody ends jobs here."""


def _has_limits(task: RunnableTask, limits: Sequence[float | None]) -> bool:
    return any((*limits, task.time_limit, task.soft_time_limit))


def _seconds(limits: Any, index: int) -> float | None:
    """One of a message's limits; other writers' mistakes are no limits, as for the supervisor."""
    limit = limits[index] if isinstance(limits, (list, tuple)) and len(limits) > index else None
    return limit if isinstance(limit, (int, float)) else None


class Runner:
    """Runs jobs for one application: the ``JobRunner`` of every pool.

    Args:
        app: the application.
        hostname: the node's name, which tasks see as ``request.hostname``.
    """

    def __init__(self, app: ExecutionApp, hostname: str) -> None:
        self.app = app
        self.hostname = hostname
        self.soft_limit: SoftLimit = _no_limit
        self.hard_limit: HardLimit = _unwatched
        self.reporter = Reporter(app, hostname)
        self._accept = app.accept
        self._tasks = app.tasks
        self._deduplicates = app.conf.worker_deduplicate_successful_tasks
        self._pid = os.getpid()
        self._joiner: ChordJoiner | None = None
        self._told: float | None = None
        self._async_tasks: dict[str, bool] = {}
        self._arun_task: Callable[..., Coroutine[Any, Any, Outcome]] | None = None
        self._ahead: tuple[bytes, Envelope] | None = None
        self._lifespan = AsyncExitStack()

    def process_init(self) -> None:
        """Learn the id of the process that a fork has made, and let the application prepare it."""
        self._pid = os.getpid()
        worker_process_init.send(sender=None)

    def process_exit(self, exitcode: int) -> None:
        """Let the application clean up."""
        worker_process_shutdown.send(sender=None, pid=self._pid, exitcode=exitcode)

    async def aopen(self) -> None:
        """Enter the application's lifespans."""
        await self._lifespan.enter_async_context(self._lifespans())

    async def aclose(self) -> None:
        """Leave them, the last first."""
        await self._lifespan.aclose()

    @asynccontextmanager
    async def _lifespans(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for lifespan in self.app.lifespans:
                await stack.enter_async_context(lifespan(self.app))
            yield

    def slot_init(self) -> None:
        """Make the application the current one of this thread."""
        adopt_app(self.app)
        if self.app.lifespans:
            from umbel.execution.coroutines import set_lifespan  # as below

            set_lifespan(self._lifespans)

    def slot_exit(self) -> None:
        """Close the event loop of this thread, if an async task has opened one."""
        # Only what an async task has imported can be open.
        import sys

        coroutines = sys.modules.get("umbel.execution.coroutines")
        if coroutines is not None:
            coroutines.close_loop()

    def run(self, work: Work) -> Report:
        """Run one attempt and say how it ended. Lets only SystemExit and KeyboardInterrupt through."""
        self._hear(work)
        return _encodable(self._run(work))

    async def arun(self, work: Work, slot: AsyncSlot) -> Report:
        """As ``run``, on a loop that many jobs share: a plain task runs in a thread."""
        self._hear(work)
        opened = None if work.chord else self._open(work)
        if opened is None:
            return await slot.in_thread(lambda: self.run(work))
        if isinstance(opened, Report):
            return _encodable(opened)
        task, context = opened
        slot.title = f"{task.name}[{context.id}]"
        if not self._is_async(task):
            return _encodable(await slot.in_thread(lambda: self._attempt(work, task, context)))
        return _encodable(await self._aattempt(work, task, context, slot))

    def _hear(self, work: Work) -> None:
        """Take over the broker's clock, by which a next attempt is due."""
        if work.ahead != self._told:
            self._told = self.app.broker.clock.ahead = work.ahead

    def _is_async(self, task: RunnableTask) -> bool:
        known = self._async_tasks.get(task.name)
        if known is None:
            from inspect import iscoroutinefunction  # slow to import, and asked once for each task

            known = self._async_tasks[task.name] = iscoroutinefunction(task.run)
        return known

    def follow(self, work: Work, report: Report) -> Work | None:
        """The chain's next step, or the only callback: where it would go to this job's own queue, to be run at once."""
        if report.state != SUCCESS or report.action != "ack" or len(report.publish) != 1:
            return None
        [publication] = report.publish
        if publication.destination.queue != work.queue:
            return None
        envelope = read_envelope(publication.payload)
        headers = envelope.headers
        task = self._tasks.get(headers["task"])
        if task is None or headers["eta"] or headers["expires"] or _has_limits(task, headers["timelimit"]):
            return None
        self._ahead = publication.payload, envelope
        return Work(work.seq, publication.payload, work.queue, brief=True, runs_on=True)

    def _run(self, work: Work) -> Report:
        if work.chord:
            return self._complete(work)
        opened = self._open(work)
        return opened if isinstance(opened, Report) else self._attempt(work, *opened)

    def _open(self, work: Work) -> Report | tuple[RunnableTask, Context]:
        """The task that a message names and its request; the report of one that cannot be run."""
        try:
            envelope = self._read_ahead(work) or read_envelope(work.payload)
            headers = envelope.headers
            name = headers.get("task")
            task = self._tasks.get(name) if isinstance(name, str) else None
            if task is None or not headers.get("id"):
                envelope = upgrade(envelope, self._accept)
                headers = envelope.headers
                task = self._known(headers["task"])
            args, kwargs, embed, tail = open_body(envelope, self._accept)
            context = message_context(
                headers,
                envelope.properties,
                args,
                kwargs,
                embed,
                self.hostname,
                work.queue,
                work.redelivered or REPEATED in headers,
                tail,
            )
        except Exception as error:
            return self._refuse(work, error)
        return task, context

    def _read_ahead(self, work: Work) -> Envelope | None:
        """The envelope of what ``follow`` gave last."""
        if self._ahead is None:
            return None
        (payload, envelope), self._ahead = self._ahead, None
        return envelope if payload is work.payload else None

    def _complete(self, work: Work) -> Report:
        """Complete a chord; the few who do are not worth what every process would pay for being prepared."""
        if self._joiner is None:
            self._joiner = ChordJoiner(self.app, self.reporter)
        return self._joiner.complete(work)

    def _attempt(self, work: Work, task: RunnableTask, context: Context) -> Report:
        return self._marked(self._attempted(work, task, context), context)

    def _marked(self, report: Report, context: Context) -> Report:
        """What follows from a job that may have run before may have been sent before."""
        if self._deduplicates and context._redelivered:
            report.publish = repeated(report.publish)
            if report.payload is not None:
                report.payload = mark_repeated(report.payload)
        return report

    def _attempted(self, work: Work, task: RunnableTask, context: Context) -> Report:
        before = deny_join()
        recording = _Recording(self, work)
        try:
            if self._deduplicates and context._redelivered and task.acks_late:
                done = self._done_before(work, task, context)
                if done is not None:
                    return done
            recording.soft_seconds = seconds = self._limits(work, task, context)
            soft = self.soft_limit(seconds)
            # Not kept in a variable: a traceback would keep this frame, and the frame the error and its traceback.
            return recording.final(run_task(task, context, context.args, context.kwargs, recording, soft))
        except Exception as error:
            return self._internal_error(work, task, context, error)
        finally:
            restore_join(before)

    async def _aattempt(self, work: Work, task: RunnableTask, context: Context, slot: AsyncSlot) -> Report:
        return self._marked(await self._aattempted(work, task, context, slot), context)

    async def _aattempted(self, work: Work, task: RunnableTask, context: Context, slot: AsyncSlot) -> Report:
        # Awaiting another task's result is allowed here: it holds up nobody.
        arun_task = self._arun_task
        if arun_task is None:
            from umbel.execution import (
                async_run,
            )  # only loops need it, and the statement itself takes microseconds

            arun_task = self._arun_task = async_run.arun_task
        recording = _Recording(self, work)
        try:
            if self._deduplicates and context._redelivered and task.acks_late:
                done = await slot.in_thread(lambda: self._done_before(work, task, context))
                if done is not None:
                    return done
            recording.soft_seconds = seconds = self._limits(work, task, context)
            return recording.final(
                await arun_task(task, context, context.args, context.kwargs, recording, slot, seconds)
            )
        except Exception as error:
            return self._internal_error(work, task, context, error)

    def _limits(self, work: Work, task: RunnableTask, context: Context) -> float | None:
        """The soft limit in seconds; a hard limit that the supervisor did not set is told to it."""
        hard, soft = work.time_limit, work.soft_time_limit
        limits = context.timelimit
        if hard is None:
            hard = (_seconds(limits, 0) if limits else None) or task.time_limit
            if hard is not None:
                self.hard_limit(hard)
        if soft is None:
            soft = (_seconds(limits, 1) if limits else None) or task.soft_time_limit
        return soft

    def _known(self, name: str) -> RunnableTask:
        task = self._tasks.get(name)
        if task is None:
            raise NotRegistered(name)
        return task

    def _done_before(self, work: Work, task: RunnableTask, context: Context) -> Report | None:
        """The report of a redelivered job whose result is stored already; what follows is sent again, under its ids."""
        data = self.app.backend.load((str(context.id),))[0] if self.app.backend.stores_results else None
        if data is None:
            return None
        document = read_document(data, self.app.backend.serializer)
        if document["status"] != SUCCESS:
            return None
        lines.already_succeeded(task, context)
        report = self.reporter.report_for(
            work.seq, task, context, Succeeded(document["result"]), 0.0, work.queue
        )
        # The part of a chord was counted with the result, or is counted now.
        if report.result is not None and report.result.chord is None:
            report.result = None
        elif report.result is not None:
            report.result.document = b""
        return report

    def _refuse(self, work: Work, error: Exception) -> Report:
        """The report of a message that cannot be run, with its one line in the log."""
        if isinstance(error, NotRegistered):
            logger.error("Received unregistered task of type %s.", error)
            return self._dead_letter(work, error, "unknown", f"unregistered task {error}")
        if isinstance(error, (ContentDisallowed, DecodeError)):
            logger.critical("Can't decode message body: %r", error)
            return self._dead_letter(work, error, kind_of_refusal(error), f"undecodable: {error}")
        if isinstance(error, InvalidTaskError):
            logger.error("Received invalid task message: %s", error)
            return self._dead_letter(work, error, "invalid", f"invalid: {error}")
        send_internal_error(None, Context(), ExceptionInfo(error, format_traceback(error), internal=True))
        logger.critical("Cannot run message: %r", error, exc_info=error)
        return self._dead_letter(work, error, "internal", f"internal error: {error!r}")

    def _internal_error(self, work: Work, task: RunnableTask, context: Context, error: Exception) -> Report:
        """The report of a job that failed through no fault of its body: ours, or a broken signature's or setting's."""
        einfo = ExceptionInfo(error, format_traceback(error), internal=True)
        send_internal_error(task, context, einfo)
        lines.failed(task, context, einfo, expected=False)
        try:
            outcome = Failed(error, einfo.traceback)
            return self.reporter.report_for(work.seq, task, context, outcome, 0.0, work.queue)
        except Exception as second:
            # Not even the failure can be told, as where a strange header cannot be written into its document.
            logger.critical(
                "Cannot report the failure of %s[%s]: %r", task.name, context.id, second, exc_info=second
            )
            return self._dead_letter(work, error, "internal", f"internal error: {error!r}")

    def _dead_letter(self, work: Work, error: Exception, kind: Kind, reason: str) -> Report:
        try:
            context = self.reporter.context_of_payload(work.payload, work.queue)
            return self.reporter.refused_report(work.seq, context, error, kind, reason)
        except Exception as second:
            # Strange headers once more: the message is kept, and nobody can be told.
            logger.critical("Cannot tell of a message that is not run: %r", second, exc_info=second)
            cause = self.reporter.cause(kind, error)
            return Report(
                work.seq, FAILURE, "dead_letter", 0.0, reason=reason, error=repr(error), cause=cause
            )


def _encodable(report: Report) -> Report:
    if report.error or report.reason:
        # They go to the supervisor, and reasons into the broker, as UTF-8; errors quote what messages say.
        report.error, report.reason = utf8_text(report.error), utf8_text(report.reason)
    return report


class _Recording:
    """Takes down one attempt as a report."""

    __slots__ = ("_report", "_runner", "_work", "soft_seconds")

    def __init__(self, runner: Runner, work: Work) -> None:
        self._runner = runner
        self._work = work
        self._report: Report | None = None
        self.soft_seconds: float | None = None

    def started(self, task: RunnableTask, context: Context) -> None:
        """Store STARTED at once, for those who watch."""
        runner = self._runner
        if ignores_result(task, context):
            return
        record = runner.reporter.started_record(context, runner._pid)
        if record is not None:
            runner.app.backend.save([record])

    def ended(self, task: RunnableTask, context: Context, outcome: Outcome, runtime: float) -> None:
        """Make the report; called again when that could not be done, with why."""
        work = self._work
        if type(outcome) is Failed and isinstance(outcome.error, SoftTimeLimitExceeded):
            lines.soft_limit_exceeded(task, context, self.soft_seconds)
        report = self._runner.reporter.report_for(work.seq, task, context, outcome, runtime, work.queue)
        if work.told:
            report.shown, report.traceback = lines.shown(task, outcome)
        self._report = report

    def final(self, outcome: Outcome) -> Report:
        """The report, with the refusal of a handler that came after it."""
        report = self._report
        assert report is not None
        if type(outcome) is Failed:
            # Frames hold what the body held; nobody reads them any more.
            outcome.error.__traceback__ = None
        elif type(outcome) is Rejected and report.state != REJECTED:
            report.action = "requeue" if outcome.requeue else "dead_letter"
            report.reason = outcome.reason or "rejected"
            report.cause = None if outcome.requeue else self._runner.reporter.cause("rejected")
        return report
