"""The log lines of an attempt, in Celery's words: tools and alerts parse them.

Each is a format string with a mapping, which also travels as ``record.data``. Nothing is built that no handler wants.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from umbel.core.outcome import Failed, RetryAt, Succeeded
from umbel.core.textrepr import safe_repr
from umbel.errors import Ignore, Reject
from umbel.execution.context import display_name
from umbel.loglines import Line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from umbel.core.outcome import Outcome
    from umbel.execution.context import Context
    from umbel.execution.einfo import ExceptionInfo
    from umbel.execution.job import RunnableTask

logger = logging.getLogger("celery.app.trace")
request_logger = logging.getLogger("celery.worker.request")

_SUCCESS: Final = "Task %(name)s[%(id)s] succeeded in %(runtime)ss: %(return_value)s"
_FAILURE: Final = "Task %(name)s[%(id)s] %(description)s: %(exc)s"
_IGNORED: Final = "Task %(name)s[%(id)s] %(description)s"
_REJECTED: Final = "Task %(name)s[%(id)s] %(exc)s"
_RETRY: Final = "Task %(name)s[%(id)s] retry: %(exc)s"

_INFO: Final = logging.INFO


def _emit(level: int, line: str, data: Mapping[str, Any], exc_info: Any = None) -> None:
    # The record is made here, not by ``logger.log``: finding out who called costs more than all the rest of a line.
    logger.handle(_make_record(level, line, data, exc_info))


def _make_record(level: int, line: str, data: Mapping[str, Any], exc_info: Any = None) -> logging.LogRecord:
    return logger.makeRecord(logger.name, level, __file__, 0, line, (data,), exc_info, "emit", {"data": data})


_success = Line(logger, logging.INFO, _SUCCESS, __file__)


def succeeded(task: RunnableTask, context: Context, value: Any, runtime: float) -> None:
    """Say that a task has returned, when anyone listens at INFO."""
    if _success.wanted():
        data = {
            "id": context.id,
            "name": context.shadow or task.name,
            "return_value": repr(value) if _is_brief(value) else safe_repr(value, task.resultrepr_maxsize),
            "runtime": runtime,
            "args": _args_text(context),
            "kwargs": _kwargs_text(context),
        }
        _success.say(data)


def _is_brief(value: object) -> bool:
    """Whether the ``repr`` of a value is short, and Celery's text of it."""
    return value is None or (type(value) is int and -_BILLION < value < _BILLION)


_BILLION: Final = 10**9


def retried(task: RunnableTask, context: Context, reason: object) -> None:
    """Say that a task will be tried again."""
    if logger.isEnabledFor(_INFO):
        data = {"id": context.id, "name": display_name(task.name, context), "exc": str(reason)}
        _emit(_INFO, _RETRY, data)


def already_succeeded(task: RunnableTask, context: Context) -> None:
    """Say that a redelivered message asks for what has been done."""
    if logger.isEnabledFor(_INFO):
        description = "Task already completed successfully."
        data = {"id": context.id, "name": display_name(task.name, context), "description": description}
        _emit(_INFO, _IGNORED, data)


def failed(task: RunnableTask, context: Context, einfo: ExceptionInfo, expected: bool) -> None:
    """Say how a task ended that did not return: a failure, expected or not, a refusal, or an error of ours."""
    level, line, description = _policy(einfo, expected)
    if not logger.isEnabledFor(level):
        return
    data = {
        "hostname": context.hostname,
        "id": context.id,
        "name": display_name(task.name, context),
        "exc": _repr(einfo.exception),
        "traceback": einfo.traceback,
        "args": _args_text(context),
        "kwargs": _kwargs_text(context),
        "description": description,
        "internal": einfo.internal,
    }
    _emit(level, line, data, einfo.exc_info if level >= logging.WARNING else None)


def _policy(einfo: ExceptionInfo, expected: bool) -> tuple[int, str, str]:
    if isinstance(einfo.exception, Reject):
        return logging.WARNING, _REJECTED, "rejected"
    if isinstance(einfo.exception, Ignore):
        return _INFO, _IGNORED, "ignored"
    if einfo.internal:
        return logging.CRITICAL, _FAILURE, "INTERNAL ERROR"
    if expected:
        return _INFO, _FAILURE, "raised expected"
    return logging.ERROR, _FAILURE, "raised unexpected"


def handler_raised(task: RunnableTask, context: Context, handler: str, error: BaseException) -> None:
    """Say that a handler of the task's own failed; the outcome stands."""
    name = display_name(task.name, context)
    logger.error("Task %s[%s] %s handler raised: %r", name, context.id, handler, error, exc_info=error)


def errback_raised(name: str, error: BaseException) -> None:
    """Say that an error callback, called in place, failed."""
    logger.error("Errback %r raised an exception", name, exc_info=error)


def soft_limit_exceeded(task: RunnableTask, context: Context, seconds: float | None) -> None:
    """Say that a task failed because its time was up."""
    name = display_name(task.name, context)
    request_logger.warning("Soft time limit (%ss) exceeded for %s[%s]", seconds, name, context.id)


def _args_text(context: Context) -> str:
    text: str = vars(context).get("argsrepr") or safe_repr(context.args)
    return text


def _kwargs_text(context: Context) -> str:
    text: str = vars(context).get("kwargsrepr") or safe_repr(context.kwargs)
    return text


def _repr(error: BaseException) -> str:
    try:
        return repr(error)
    except Exception as failure:
        return f"<unrepresentable {type(error).__qualname__}: {type(failure).__name__}>"


def shown(task: RunnableTask, outcome: Outcome) -> tuple[str, str]:
    """The result or exception of an attempt as monitors are shown it, and the exception's traceback."""
    match outcome:
        case Succeeded(value):
            return safe_repr(value, task.resultrepr_maxsize), ""
        case Failed(error, traceback):
            return safe_repr(error), traceback
        case RetryAt(retry, _, traceback):
            return safe_repr(retry.exc if retry.exc is not None else retry), traceback
        case _:
            return "", ""
