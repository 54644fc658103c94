"""From an outcome to a report: the document to store, what to publish, and how the delivery ends.

The same reporter serves the supervisor for jobs that did not end by themselves: lost with their process, expired,
revoked, or never begun because nobody here knows the task.
"""

from __future__ import annotations

import logging
from time import time
from typing import TYPE_CHECKING, Any, Final

from umbel.core import states
from umbel.core.causes import cause_of, with_losses
from umbel.core.failures import format_traceback
from umbel.core.outcome import Failed, Ignored, Outcome, Rejected, RetryAt, Revoked, Succeeded
from umbel.core.protocol import decode_body, peek, read_envelope, upgrade
from umbel.core.records import ResultRecord
from umbel.core.times import parse_timestamp
from umbel.errors import (
    ContentDisallowed,
    DecodeError,
    InvalidTaskError,
    NotRegistered,
    Reject,
    Retry,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from umbel.execution.chords import PartWriter, unreached
from umbel.execution.context import Context, ignores_result, message_context, pop, push
from umbel.execution.einfo import ExceptionInfo
from umbel.execution.links import errbacks_for, links_for
from umbel.execution.run import is_expected, tell_failure, tell_retry
from umbel.pools.base import Report
from umbel.results.documents import DocumentWriter
from umbel.results.options import compression_of
from umbel.results.waiting import tells_requests

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from umbel.core.causes import Cause, Kind, Losses
    from umbel.core.records import Action, Publication
    from umbel.execution.job import ExecutionApp, RunnableTask

logger = logging.getLogger("celery.app.trace")


class Reporter:
    """Makes the reports of one application's jobs. Safe for use by several threads.

    Args:
        app: the application; its result settings are read now.
        hostname: the node's name.
    """

    def __init__(self, app: ExecutionApp, hostname: str) -> None:
        conf = app.conf
        self._app = app
        self.hostname = hostname
        self.writer = DocumentWriter(
            conf.result_serializer, compression_of(conf), conf.result_extended, tells_requests(app.backend)
        )
        self._inherit_priority = conf.task_inherit_parent_priority
        self._stores = app.backend.stores_results
        self._parts = PartWriter(app, self.writer)

    def report_for(
        self, seq: int, task: RunnableTask, context: Context, outcome: Outcome, runtime: float, queue: str
    ) -> Report:
        """The report of an attempt that has ended by itself.

        Raises EncodeError for a result that cannot be written, and whatever making a publication raises.
        """
        match outcome:
            case Succeeded(value):
                return self._succeeded(seq, task, context, value, runtime)
            case Failed(error, traceback):
                action = _failure_action(task, error)
                return self._failed(seq, task, context, error, traceback, action, runtime)
            case RetryAt():
                return self._retry(seq, task, context, outcome, runtime, queue)
            case Rejected(reason, requeue):
                return self._rejected(seq, task, context, reason, requeue, runtime)
            case Ignored():
                return Report(seq, states.IGNORED, "ack", runtime)
            case Revoked(reason):
                return self.revoked_report(seq, context, reason, task)

    def _succeeded(
        self, seq: int, task: RunnableTask, context: Context, value: Any, runtime: float
    ) -> Report:
        publish: list[Publication] = []
        if context.callbacks or context.unread_chain or context.chain:
            publish = links_for(self._app, task, context, value, self._inherit_priority)
        stores = self._stores and not ignores_result(task, context)
        return Report(
            seq,
            states.SUCCESS,
            "ack",
            runtime,
            self._ending(context, states.SUCCESS, value, stores=stores),
            publish,
        )

    def _failed(
        self,
        seq: int,
        task: RunnableTask,
        context: Context,
        error: BaseException,
        traceback: str | None,
        action: Action,
        runtime: float,
    ) -> Report:
        stores = self._stores_errors(task, context)
        # What goes back to its queue runs again, and only then is it known how its part of a chord ends.
        final = action != "requeue"
        ending = self._ending(context, states.FAILURE, error, traceback, stores=stores, counts=final)
        buried = action == "dead_letter"
        publish: list[Publication] = []
        if context.errbacks:
            # What is called here may look for the failure's record, which is settled, and counted, only afterwards.
            publish = errbacks_for(self._app, context, error, traceback, lambda: self._save_ahead(ending))
        return Report(
            seq,
            states.FAILURE,
            action,
            runtime,
            ending,
            publish,
            reason=f"failed: {_text(error)}" if buried else "",
            error=_text(error),
            cause=self.cause("failed", error, traceback) if buried else None,
            followers=self.unreached_records(
                context, context.chain, states.FAILURE, error, traceback, stores=stores, counts=final
            ),
        )

    def _save_ahead(self, record: ResultRecord | None) -> None:
        if record is not None and record.document:
            early = ResultRecord(record.task_id, record.state, record.document, record.reply_to)
            self._app.backend.save([early])

    def unreached_records(
        self,
        context: Context,
        steps: Iterable[Mapping[str, Any]] | None,
        state: str,
        error: BaseException,
        traceback: str | None = None,
        *,
        stores: bool,
        counts: bool = True,
        children: Mapping[str, list[Any]] | None = None,
    ) -> list[ResultRecord]:
        """The end of every task in signatures that will not run, for those who wait for them, and their chords.

        ``context`` is of the task that they were to follow; ``children`` are results that some of them have, by id.
        """
        records = []
        for task_id, options in unreached(steps):
            step = Context(
                id=task_id,
                group=options.get("group_id"),
                group_index=options.get("group_index"),
                chord=options.get("chord"),
                parent_id=options.get("parent_id"),
                root_id=options.get("root_id") or context.root_id,
                properties={},
                _queue=context._queue,
                _children=children.get(task_id) if children else None,
            )
            record = self._ending(step, state, error, traceback, stores=stores, counts=counts)
            if record is not None:
                records.append(record)
        return records

    def _retry(
        self,
        seq: int,
        task: RunnableTask,
        context: Context,
        outcome: RetryAt,
        runtime: float,
        queue: str,
    ) -> Report:
        retry = outcome.retry
        result = None
        if self._stores_errors(task, context):
            result = self._record(context, states.RETRY, retry.exc, outcome.traceback)
        report = Report(seq, states.RETRY, "ack", runtime, result, error=_text(retry))
        if retry.sig is None:
            # A bare Retry asks for nothing to be sent: its task has seen to that.
            return report
        publication = self._app.prepare(retry.sig)
        # The message's own word, so that the broker releases it when the worker that takes it will want to run it.
        eta = peek(publication.payload).eta
        due = self._app.broker.clock.now() if eta is None else parse_timestamp(eta)
        if publication.destination.queue == queue:
            report.action, report.payload, report.due = "retry_later", publication.payload, due
        else:
            # The delayed store is the delivery's own queue's; elsewhere the message waits by its eta.
            report.publish = [publication]
        return report

    def _rejected(
        self, seq: int, task: RunnableTask, context: Context, reason: str, requeue: bool, runtime: float
    ) -> Report:
        # An early acknowledgement stands, whether it was sent yet or not: such a message cannot be refused.
        if requeue:
            return Report(
                seq,
                states.REJECTED,
                "requeue" if task.acks_late else "ack",
                runtime,
                reason=reason,
                error=reason,
            )
        error = Reject(reason)
        action: Action = "dead_letter" if task.acks_late else "ack"
        report = self._failed(seq, task, context, error, format_traceback(error), action, runtime)
        report.state = states.REJECTED
        report.reason = reason or "rejected"
        if action == "dead_letter":
            report.cause = self.cause("rejected")
        return report

    def started_record(self, context: Context, pid: int) -> ResultRecord | None:
        """STARTED, where results are stored."""
        if not self._stores:
            return None
        return self._record(context, states.STARTED, {"pid": pid, "hostname": self.hostname})

    def refused_report(
        self,
        seq: int,
        context: Context | None,
        error: BaseException,
        kind: Kind,
        reason: str,
        task: RunnableTask | None = None,
    ) -> Report:
        """The report of a message that cannot be run at all: to the dead letters, and FAILURE where an id is known.

        The task, if there is one, decides whether its errors are stored.
        """
        result, followers = None, []
        stores = self._stores if task is None or context is None else self._stores_errors(task, context)
        if context is not None and context.id:
            result = self._ending(context, states.FAILURE, error, stores=stores)
            followers = self.unreached_records(context, context.chain, states.FAILURE, error, stores=stores)
        publish = errbacks_for(self._app, context, error, None) if context and context.errbacks else []
        return Report(
            seq,
            states.FAILURE,
            "dead_letter",
            0.0,
            result,
            publish,
            reason=reason,
            error=_text(error),
            followers=followers,
            cause=self.cause(kind, error, format_traceback(error) if error.__traceback__ else None),
        )

    def cause(self, kind: Kind, error: BaseException | None = None, traceback: str | None = None) -> Cause:
        """What a message that this node gives up is kept with."""
        cause = cause_of(kind, error, traceback)
        cause.worker = self.hostname
        return cause

    def quarantined_report(
        self, seq: int, payload: bytes, losses: Losses, task: RunnableTask, queue: str = ""
    ) -> Report:
        """The report of a message that was lost with its worker too often: a failure, and a dead letter."""
        last = f", last with {losses.last[-1].worker}" if losses.last else ""
        error = WorkerLostError(f"Lost with its worker {losses.count} times{last}: kept as a dead letter.")
        context = self.context_of_payload(payload, queue)
        reason = f"lost with its worker {losses.count} times{last}"
        report = self.refused_report(seq, context, error, "quarantined", reason, task)
        report.payload = with_losses(payload, losses)
        return report

    def unknown_report(self, seq: int, payload: bytes) -> Report:
        """The report of a message that names a task which is not registered here."""
        context = self.context_of_payload(payload)
        name = context.task if context is not None else None
        return self.refused_report(
            seq, context, NotRegistered(name), "unknown", f"Received unregistered task of type {name!r}"
        )

    def expired_report(self, seq: int, payload: bytes, task: RunnableTask) -> Report:
        """The report of a message that was not begun before it expired."""
        return self._revoked_payload(seq, payload, "expired", task)

    def revoked_payload_report(self, seq: int, payload: bytes, reason: str, task: RunnableTask) -> Report:
        """The report of a message that was revoked, or whose job was ``terminated``."""
        return self._revoked_payload(seq, payload, reason, task)

    def _revoked_payload(self, seq: int, payload: bytes, reason: str, task: RunnableTask) -> Report:
        return self.revoked_report(seq, self.context_of_payload(payload) or Context(), reason, task)

    def revoked_report(self, seq: int, context: Context, reason: str, task: RunnableTask) -> Report:
        """The report of a job that was revoked; ``reason`` is revoked, expired or terminated."""
        result, followers = None, []
        if context.id:
            error, stores = TaskRevokedError(reason), self._stores_errors(task, context)
            result = self._ending(context, states.REVOKED, error, stores=stores)
            if any(options.get("chord") for _, options in unreached(context.chain)):
                # Celery leaves the rest of a chain alone, and a chord that waits for it waits for ever.
                followers = self.unreached_records(
                    context, context.chain, states.REVOKED, error, stores=stores
                )
        text = f"TaskRevokedError({reason!r})"
        report = Report(seq, states.REVOKED, "ack", 0.0, result, error=text, followers=followers)
        if reason == "expired" and task.dead_letter_expired:
            report.action, report.reason, report.cause = "dead_letter", reason, self.cause("expired")
        return report

    def revoked_record(self, task_id: str) -> ResultRecord:
        """REVOKED for a task of which nothing but the id is known."""
        return self._record(Context(id=task_id, properties={}), states.REVOKED, TaskRevokedError("revoked"))

    def lost_report(
        self,
        seq: int,
        task: RunnableTask,
        payload: bytes,
        cause: str,
        why: str,
        limit: float | None = None,
        runtime: float = 0.0,
        queue: str = "",
    ) -> Report:
        """The report of a job whose process ended under it.

        Calls the task's ``on_failure``, its new-style error callbacks and the receivers of ``task_failure`` as Celery's
        main process does: user code, which has no place in an event loop's thread.

        Args:
            seq: the job's number.
            task: its task.
            payload: its message.
            cause: ``worker_lost``, ``time_limit``, ``terminated`` or ``bystander``.
            why: how the process ended, such as ``signal 9 (SIGKILL)``.
            limit: the hard limit, in seconds, that was passed.
            runtime: seconds since it began, if that is known.
            queue: where its delivery came from.
        """
        context = self.context_of_payload(payload, queue) or Context()
        if cause == "bystander":
            return Report(seq, states.RETRY, "requeue", runtime, reason=why)
        if cause == "terminated":
            return self.revoked_report(seq, context, "terminated", task)
        push(task, context)
        try:
            if cause == "time_limit":
                return self._timed_out(seq, task, context, TimeLimitExceeded(limit), runtime)
            return self._worker_lost(seq, task, context, why, runtime)
        finally:
            pop()

    def _timed_out(
        self, seq: int, task: RunnableTask, context: Context, error: BaseException, runtime: float
    ) -> Report:
        # As in Celery, where a timeout is not acknowledged the task is tried again, though its failure is stored.
        action: Action = _failure_action(task, error) if _acks_failure(task, error) else "requeue"
        return self._told_failure(seq, task, context, error, action, runtime)

    def _worker_lost(
        self, seq: int, task: RunnableTask, context: Context, why: str, runtime: float
    ) -> Report:
        error = WorkerLostError(f"Worker exited prematurely: {why}.")
        exhausted = False
        if task.retry_on_worker_lost:
            exhausted = task.max_retries is not None and context.retries >= task.max_retries
            if not exhausted:
                return self._retry_lost(seq, task, context, error, runtime)
        if task.acks_late and task.reject_on_worker_lost and not exhausted:
            return Report(seq, states.RETRY, "requeue", runtime, reason=why, error=_text(error))
        return self._told_failure(seq, task, context, error, _failure_action(task, error), runtime)

    def _told_failure(
        self,
        seq: int,
        task: RunnableTask,
        context: Context,
        error: BaseException,
        action: Action,
        runtime: float,
    ) -> Report:
        traceback = format_traceback(error)
        report = self._failed(seq, task, context, error, traceback, action, runtime)
        tell_failure(task, context, ExceptionInfo(error, traceback), is_expected(error, task))
        return report

    def _retry_lost(
        self, seq: int, task: RunnableTask, context: Context, error: BaseException, runtime: float
    ) -> Report:
        """The next attempt at a job that was lost, with ``task_retry_on_worker_lost``."""
        delay = task.default_retry_delay
        signature = task.signature_from_request(context, countdown=delay, retries=context.retries + 1)
        outcome = RetryAt(
            Retry(exc=error, when=delay, sig=signature), time() + delay, format_traceback(error)
        )
        queue = (context.delivery_info or _EMPTY).get("routing_key")
        report = self._retry(seq, task, context, outcome, runtime, queue or "")
        tell_retry(task, context, outcome.retry, ExceptionInfo(error, outcome.traceback))
        return report

    def context_of_payload(self, payload: bytes, queue: str = "") -> Context | None:
        """The context of a message, with as much of it as can be read; None when it is no message."""
        try:
            envelope = read_envelope(payload)
        except DecodeError:
            return None
        args: Any = ()
        kwargs: Any = {}
        embed = _NOTHING
        try:
            envelope = upgrade(envelope, self._app.accept)
            args, kwargs, embed = decode_body(envelope, self._app.accept)
        except (ContentDisallowed, DecodeError, InvalidTaskError):
            # The body is unreadable, but the headers may say whose result this is.
            pass
        return message_context(
            envelope.headers,
            envelope.properties,
            args,
            kwargs,
            embed,
            self.hostname,
            queue,
            redelivered=False,
        )

    def _stores_errors(self, task: RunnableTask, context: Context) -> bool:
        return self._stores and (not ignores_result(task, context) or task.store_errors_even_if_ignored)

    def _ending(
        self,
        context: Context,
        state: str,
        value: Any,
        traceback: str | None = None,
        *,
        stores: bool,
        counts: bool = True,
    ) -> ResultRecord | None:
        """The record of a task that has ended: its document, if that ``stores``, and its part of a chord."""
        part = self._parts.part_of(context, state, value) if context.chord and counts else None
        if not stores:
            return None if part is None else ResultRecord(str(context.id), state, b"", chord=part)
        record = self._record(context, state, value, traceback)
        record.chord = part
        return record

    def _record(self, context: Context, state: str, value: Any, traceback: str | None = None) -> ResultRecord:
        task_id = str(context.id)
        document = self.writer.write(task_id, state, value, traceback, context)
        reply_to = (context.properties or _EMPTY).get("reply_to")
        return ResultRecord(task_id, state, document, reply_to if isinstance(reply_to, str) else "")


_EMPTY: Final[dict[str, Any]] = {}
_NOTHING: Final[Any] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def _failure_action(task: RunnableTask, error: BaseException) -> Action:
    """How the message of a task ends that has failed for good."""
    return "ack" if _acks_failure(task, error) and not task.dead_letter_failed else "dead_letter"


def _acks_failure(task: RunnableTask, error: BaseException) -> bool:
    """Whether a failed message is acknowledged, rather than refused."""
    if not task.acks_late:
        return True
    own = task.acks_on_timeout if isinstance(error, TimeLimitExceeded) else task.acks_on_failure
    both = task.acks_on_failure_or_timeout
    flag = both if own is None else own
    return True if flag is None else flag


def _text(error: BaseException) -> str:
    try:
        return repr(error)
    except Exception as failure:
        return f"<unrepresentable {type(error).__qualname__}: {type(failure).__name__}>"
