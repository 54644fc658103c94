"""One attempt at a task, from its first signal to its last: the one place where a task's body is called.

``run_task`` is used by pool processes and by eager calls alike. What the two do with an outcome (store it, send what
follows) is the recorder's business.
"""

from __future__ import annotations

from contextlib import nullcontext
from datetime import datetime
from time import perf_counter, time
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, Protocol

from umbel.core import states
from umbel.core.failures import format_traceback
from umbel.core.outcome import Failed, Ignored, Outcome, Rejected, RetryAt, Succeeded
from umbel.errors import EncodeError, Ignore, Reject, Retry
from umbel.execution import lines
from umbel.execution.context import pop, push
from umbel.execution.einfo import ExceptionInfo
from umbel.signals import (
    task_failure,
    task_internal_error,
    task_postrun,
    task_prerun,
    task_retry,
    task_success,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from umbel.execution.context import Context
    from umbel.execution.job import RunnableTask

_NO_LIMIT: Final = nullcontext()


class Recorder(Protocol):
    """What is done with the endings of an attempt, before its handlers and signals hear of them."""

    def started(self, task: RunnableTask, context: Context) -> None:
        """The body is about to run, and its task asks that this be stored."""

    def ended(self, task: RunnableTask, context: Context, outcome: Outcome, runtime: float) -> None:
        """Record the outcome, with what follows from it.

        May raise: the attempt has then failed with that error, and ``ended`` is called again to say so.
        """


def run_task(
    task: RunnableTask,
    context: Context,
    args: Any,
    kwargs: Any,
    recorder: Recorder,
    limit: AbstractContextManager[None] = _NO_LIMIT,
    propagate: bool = False,
) -> Outcome:
    """Run one attempt and say how it ended. Never raises for the task's own errors, unless told to ``propagate`` them.

    SystemExit and KeyboardInterrupt always come through: they end the process, and the attempt with it.

    Args:
        task: what to run.
        context: its request; current until the last handler has returned.
        args: positional arguments.
        kwargs: keyword arguments.
        recorder: hears of the start and of the outcome.
        limit: entered around the body.
        propagate: raise what the body raises; no handlers are called and nothing is recorded then.
    """
    push(task, context)
    outcome: Outcome | None = None
    try:
        if task_prerun.receivers:
            task_prerun.send(sender=task, task_id=context.id, task=task, args=args, kwargs=kwargs)
        if task.track_started:
            recorder.started(task, context)
        begun = perf_counter()
        outcome = perform(task, context, args, kwargs, limit, propagate)
        outcome = conclude(task, context, outcome, recorder, perf_counter() - begun)
        return outcome
    finally:
        try:
            if task_postrun.receivers:
                send_postrun(task, context, outcome)
        finally:
            pop()
            # A traceback keeps this frame: what it holds would keep the error, and the error its traceback.
            del outcome


def perform(
    task: RunnableTask,
    context: Context,
    args: Any,
    kwargs: Any,
    limit: AbstractContextManager[None],
    propagate: bool,
) -> Outcome:
    """Call the body and turn its ending into a value."""
    try:
        if "before_start" in task._hooks:
            task.before_start(context.id, args, kwargs)
        with limit:
            value = task(*args, **kwargs) if task.custom_call else task.run(*args, **kwargs)
            if type(value) is CoroutineType:
                value = _finish_coroutine(value)
        return Succeeded(value)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        # Whatever user code raises ends the attempt, not the worker; asyncio's CancelledError is one of those.
        if propagate:
            raise
        drop_own_frame(error)
        return classify(error, task, context)


def _finish_coroutine(coroutine: CoroutineType[Any, Any, Any]) -> Any:
    # Imported on the first async task of a process: asyncio costs 30 ms, and most processes need none.
    from umbel.execution.coroutines import finish

    return finish(coroutine)


def drop_own_frame(error: BaseException) -> None:
    """Begin an error's traceback where user code does."""
    trace = error.__traceback__
    if trace is not None and trace.tb_next is not None:
        error.__traceback__ = trace.tb_next


def classify(error: BaseException, task: RunnableTask, context: Context) -> Outcome:
    """What an exception that left a task's body means, logged where it is a refusal rather than a failure."""
    if isinstance(error, Retry):
        return RetryAt(error, due_time(error), format_traceback(error))
    if isinstance(error, (Reject, Ignore)):
        lines.failed(task, context, ExceptionInfo(error, format_traceback(error)), expected=False)
        return Rejected(_text(error.reason), error.requeue) if isinstance(error, Reject) else Ignored()
    return Failed(error, format_traceback(error), is_expected(error, task))


def is_expected(error: BaseException, task: RunnableTask) -> bool:
    """Whether an error is one that the task says it ``throws``."""
    throws = task.throws
    if not throws:
        return False
    return isinstance(error, throws if isinstance(throws, type) else tuple(throws))


def due_time(retry: Retry) -> float:
    """When the next attempt is due, in epoch seconds."""
    when = retry.when
    return when.timestamp() if isinstance(when, datetime) else time() + (when or 0.0)


def _text(reason: object) -> str:
    if reason is None:
        return ""
    return reason if isinstance(reason, str) else repr(reason)


def conclude(
    task: RunnableTask, context: Context, outcome: Outcome, recorder: Recorder, runtime: float
) -> Outcome:
    """Record an outcome, then tell the task's handlers, the signals and the log."""
    try:
        recorder.ended(task, context, outcome, runtime)
    except Exception as error:
        # A result that cannot be stored, or a link that cannot be sent, fails the attempt.
        outcome = _unrecordable(task, context, error)
        recorder.ended(task, context, outcome, runtime)
    try:
        if type(outcome) is Succeeded:
            _tell_success(task, context, outcome.value, runtime)
        else:
            _tell_other(task, context, outcome)
        if "after_return" in task._hooks and type(outcome) in _RETURNED:
            _after_return(task, context, outcome)
    except Reject as refusal:
        # Raised by a handler: the outcome stands, but the message is refused.
        return Rejected(_text(refusal.reason), refusal.requeue)
    return outcome


_RETURNED: Final = frozenset({Succeeded, Failed})


def _unrecordable(task: RunnableTask, context: Context, error: Exception) -> Failed:
    failure = Failed(error, format_traceback(error), is_expected(error, task))
    if not isinstance(error, EncodeError):
        send_internal_error(task, context, ExceptionInfo(error, failure.traceback, internal=True))
    return failure


def send_internal_error(task: RunnableTask | None, context: Context, einfo: ExceptionInfo) -> None:
    """Tell whoever listens that an error was raised outside of a task's body."""
    if task_internal_error.receivers:
        task_internal_error.send(
            sender=task,
            task_id=context.id,
            args=context.args,
            kwargs=context.kwargs,
            request=context,
            exception=einfo.exception,
            traceback=einfo.tb,
            einfo=einfo,
        )


def _tell_success(task: RunnableTask, context: Context, value: Any, runtime: float) -> None:
    if "on_success" in task._hooks:
        _call(task, context, "on_success", task.on_success, value, context.id, context.args, context.kwargs)
    if task_success.receivers:
        task_success.send(sender=task, result=value, runtime=runtime)
    lines.succeeded(task, context, value, runtime)


def _tell_other(task: RunnableTask, context: Context, outcome: Outcome) -> None:
    match outcome:
        case Failed(error, traceback, expected):
            tell_failure(task, context, ExceptionInfo(error, traceback), expected)
        case RetryAt(retry, _, traceback):
            tell_retry(task, context, retry, ExceptionInfo(retry, traceback))
        case Rejected(reason, requeue=False):
            error = Reject(reason)
            _send_failure(task, context, ExceptionInfo(error, format_traceback(error)))


def tell_failure(task: RunnableTask, context: Context, einfo: ExceptionInfo, expected: bool) -> None:
    """Tell of a failure: the task's handler, the signal, the log."""
    _with_in_hand(einfo.exception, _tell_failure, task, context, einfo, expected)


def _with_in_hand(error: BaseException, tell: Callable[..., None], *arguments: Any) -> None:
    """Call ``tell`` as an ``except`` block would: trackers of errors ask ``sys.exc_info()`` for what happened."""
    trace, cause = error.__traceback__, error.__context__
    try:
        raise error
    except BaseException:
        # Raising it again was our doing, and nothing for its readers.
        error.__traceback__, error.__context__ = trace, cause
        tell(*arguments)


def _tell_failure(task: RunnableTask, context: Context, einfo: ExceptionInfo, expected: bool) -> None:
    error = einfo.exception
    if "on_failure" in task._hooks:
        _call(
            task,
            context,
            "on_failure",
            task.on_failure,
            error,
            context.id,
            context.args,
            context.kwargs,
            einfo,
        )
    _send_failure(task, context, einfo)
    lines.failed(task, context, einfo, expected)


def _send_failure(task: RunnableTask, context: Context, einfo: ExceptionInfo) -> None:
    if task_failure.receivers:
        task_failure.send(
            sender=task,
            task_id=context.id,
            exception=einfo.exception,
            args=context.args,
            kwargs=context.kwargs,
            traceback=einfo.tb,
            einfo=einfo,
        )


def tell_retry(task: RunnableTask, context: Context, retry: Retry, einfo: ExceptionInfo) -> None:
    """Tell of a retry: the task's handler, the signal, the log."""
    _with_in_hand(retry, _tell_retry, task, context, retry, einfo)


def _tell_retry(task: RunnableTask, context: Context, retry: Retry, einfo: ExceptionInfo) -> None:
    if "on_retry" in task._hooks:
        _call(
            task,
            context,
            "on_retry",
            task.on_retry,
            retry.exc,
            context.id,
            context.args,
            context.kwargs,
            einfo,
        )
    if task_retry.receivers:
        task_retry.send(sender=task, request=context, reason=retry, einfo=einfo)
    lines.retried(task, context, retry)


def _after_return(task: RunnableTask, context: Context, outcome: Outcome) -> None:
    state, value = _ending(outcome)
    _call(
        task,
        context,
        "after_return",
        task.after_return,
        state,
        value,
        context.id,
        context.args,
        context.kwargs,
        None,
    )


def _call(task: RunnableTask, context: Context, name: str, handler: Any, *arguments: Any) -> None:
    """Call a handler. The outcome is recorded by now, so what it raises is logged, but for Reject."""
    try:
        handler(*arguments)
    except Reject:
        raise
    except Exception as error:
        if context.is_eager:
            raise
        lines.handler_raised(task, context, name, error)


def send_postrun(task: RunnableTask, context: Context, outcome: Outcome | None) -> None:
    """Tell that an attempt is over; without an outcome its process is about to end."""
    state, value = _ending(outcome)
    task_postrun.send(
        sender=task,
        task_id=context.id,
        task=task,
        args=context.args,
        kwargs=context.kwargs,
        retval=value,
        state=state,
    )


def _ending(outcome: Outcome | None) -> tuple[str | None, Any]:
    """The state and return value that handlers are told; None when the process is about to end."""
    match outcome:
        case Succeeded(value):
            return states.SUCCESS, value
        case Failed(error):
            return states.FAILURE, error
        case RetryAt(retry):
            return states.RETRY, retry
        case Rejected(reason, requeue):
            return states.REJECTED, Reject(reason, requeue)
        case Ignored():
            return states.IGNORED, Ignore()
        case _:
            return None, None
