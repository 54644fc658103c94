"""Running one attempt of a task."""

from __future__ import annotations

import logging
from typing import Any

from umbel.core import states
from umbel.execution import lines
from umbel.execution.run import run_task
from umbel.signals import worker_process_init
from umbel.worker.narrator import LOG_RECEIVED

__all__ = (
    "TraceInfo",
    "build_tracer",
    "reset_worker_optimizations",
    "setup_worker_optimizations",
    "trace_task",
)

logger = logging.getLogger("celery.app.trace")

LOG_SUCCESS = lines._SUCCESS
LOG_FAILURE = "Task %(name)s[%(id)s] %(description)s: %(exc)s"
LOG_INTERNAL_ERROR = "Task %(name)s[%(id)s] %(description)s: %(exc)s"
LOG_IGNORED = "Task %(name)s[%(id)s] %(description)s"
LOG_REJECTED = "Task %(name)s[%(id)s] %(exc)s"
LOG_RETRY = "Task %(name)s[%(id)s] retry: %(exc)s"

IGNORE_STATES = frozenset({states.IGNORED, states.RETRY, states.REJECTED})


class TraceInfo:
    """How an attempt ended: its state, and the result or error."""

    __slots__ = ("retval", "state")

    def __init__(self, state: str, retval: Any = None) -> None:
        self.state = state
        self.retval = retval


def task_has_custom(task: Any, attr: str) -> bool:
    """Whether a task's class, or one between it and ``Task``, defines this attribute."""
    from umbel.task import Task

    for base in type(task).__mro__:
        if base is Task:
            return False
        if attr in vars(base) and not base.__module__.startswith("umbel."):
            return True
    return False


class _Watch:
    """The recorder of a trace that nobody records."""

    def started(self, task: Any, context: Any) -> None:
        """Nothing is stored."""

    def ended(self, task: Any, context: Any, outcome: Any, runtime: float) -> None:
        """Nothing is stored."""


def build_tracer(name: str, task: Any, *args: Any, **kwargs: Any) -> Any:
    """A function ``(uuid, args, kwargs, request)`` that runs one attempt of a task in place, with its handlers."""
    from umbel.core.outcome import Succeeded
    from umbel.execution.context import Context

    def trace(uuid: str, arguments: Any, keywords: Any, request: Any = None) -> Any:
        given = {**(request or {}), "args": arguments, "kwargs": keywords, "called_directly": False}
        given["id"] = uuid
        outcome = run_task(task, Context(given), tuple(arguments), dict(keywords), _Watch())
        if isinstance(outcome, Succeeded):
            return outcome.value, TraceInfo(states.SUCCESS, outcome.value), 0.0, None
        error = vars(type(outcome)).get("error") and outcome.error  # type: ignore[union-attr]
        state = {"Failed": states.FAILURE, "RetryAt": states.RETRY, "Rejected": states.REJECTED}.get(
            type(outcome).__name__, states.IGNORED
        )
        return error, TraceInfo(state, error), 0.0, None

    return trace


def trace_task(task: Any, uuid: str, args: Any, kwargs: Any, request: Any = None, **opts: Any) -> Any:
    """Run one attempt of a task in place."""
    return build_tracer(task.name, task)(uuid, args, kwargs, request)


def setup_worker_optimizations(app: Any, hostname: str | None = None) -> None:
    """Accepted; Umbel's workers need no preparation."""


def reset_worker_optimizations(app: Any = None) -> None:
    """Accepted; Umbel's workers need no preparation."""


def get_log_policy(task: Any, einfo: Any, exc: BaseException) -> Any:
    """The level, the line and the description of an attempt's end."""
    return lines._policy(einfo, bool(task.throws) and isinstance(exc, tuple(task.throws)))


_own_build_tracer = build_tracer


def _let_agents_in(**_: Any) -> None:
    """Monitoring agents put a function of theirs in the place of ``build_tracer``, which wraps each task it is given.

    Umbel's pool processes run tasks without tracers, so the tasks are shown to that function when a process starts.
    """
    from umbel.state import get_current_app

    if build_tracer is not _own_build_tracer:
        for name, task in get_current_app().tasks.items():
            build_tracer(name, task)


worker_process_init.connect(_let_agents_in, weak=False)
