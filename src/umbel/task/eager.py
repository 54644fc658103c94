"""Running a task in place: ``Task.apply``, and every send while ``task_always_eager`` is on."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, cast

from umbel.canvas.signature import Signature, as_list, maybe_signature
from umbel.client.calls import worker_context
from umbel.core import states
from umbel.core.ids import new_id
from umbel.core.outcome import Failed, Ignored, Outcome, Rejected, RetryAt, Succeeded
from umbel.core.serializers import accept_set, dumps, loads
from umbel.errors import Ignore, Reject, Retry
from umbel.execution.context import Context
from umbel.execution.links import errbacks_for
from umbel.execution.run import run_task
from umbel.results.handles import EagerResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from umbel.app import Umbel
    from umbel.execution.job import ExecutionApp, RunnableTask
    from umbel.task.task import Task

__all__ = ["run_eagerly", "through_the_wire"]


def run_eagerly(
    task: Task[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: dict[str, Any],
    throw: bool,
) -> EagerResult[Any]:
    """Run a task here, retries and what it is linked to included, and give its result.

    ``options`` are those of ``apply``. With ``throw`` what the task raises is raised.
    """
    context = _eager_context(task, args, kwargs, options)
    recorder = _Recorder(task.app)
    runnable = cast("RunnableTask", task)
    try:
        outcome = run_task(runnable, context, args, kwargs, recorder, propagate=throw)
    except Retry as retry:
        outcome = RetryAt(retry, 0.0, "")
    except Reject as refusal:
        outcome = Rejected(str(refusal.reason or ""), refusal.requeue)
    except Ignore:
        outcome = Ignored()
    asked = _asked_again(outcome)
    if asked is not None and asked.sig is not None:
        again: Signature = asked.sig
        return again.apply(retries=context.retries + 1, throw=throw)
    state, value, traceback = _ending(outcome)
    return EagerResult(str(context.id), value, state, traceback, task.name)


def _asked_again(outcome: Outcome) -> Retry | None:
    """The retry that a task raised, or returned: ``return self.retry(throw=False)`` is one too."""
    if isinstance(outcome, RetryAt):
        return outcome.retry
    return outcome.value if isinstance(outcome, Succeeded) and isinstance(outcome.value, Retry) else None


def _eager_context(
    task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], options: dict[str, Any]
) -> Context:
    take = options.get
    task_id = take("task_id") or new_id()
    parent = worker_context()
    context = Context(
        id=task_id,
        task=task.name,
        args=args,
        kwargs=kwargs,
        parent_id=parent.id if parent is not None else None,
        root_id=take("root_id") or ((parent.root_id or task_id) if parent is not None else task_id),
        retries=take("retries") or 0,
        is_eager=True,
        called_directly=False,
        logfile=take("logfile"),
        loglevel=take("loglevel") or 0,
        hostname=socket.gethostname(),
        callbacks=as_list(take("link")),
        errbacks=as_list(take("link_error")),
        chain=take("chain"),
        shadow=take("shadow"),
        timelimit=_limits(task),
        ignore_result=bool(take("ignore_result", task.ignore_result)),
        delivery_info={
            "is_eager": True,
            "exchange": take("exchange"),
            "routing_key": take("routing_key"),
            "priority": take("priority"),
        },
    )
    headers = take("headers")
    if headers:
        context.update(headers, headers=dict(headers))
    stamped = as_list(take("stamped_headers"))
    if stamped:
        context.update(stamped_headers=stamped, stamps={name: as_list(take(name) or []) for name in stamped})
    return context


def _limits(task: Task[..., Any]) -> list[float | None] | None:
    limits = [task.time_limit, task.soft_time_limit]
    return None if limits == [None, None] else limits


def _ending(outcome: Outcome) -> tuple[str, Any, str | None]:
    match outcome:
        case Succeeded(value):
            return states.SUCCESS, value, None
        case Failed(error, traceback):
            return states.FAILURE, error, traceback
        case RetryAt(retry, _, traceback):
            return states.RETRY, retry, traceback
        case Rejected(reason, requeue):
            return states.REJECTED, Reject(reason, requeue), None
        case _:
            return states.IGNORED, Ignore(), None


class _Recorder:
    """Stores eager results where ``store_eager_result`` asks for it, and runs or sends what follows."""

    def __init__(self, app: Umbel) -> None:
        self._app = app

    def started(self, task: RunnableTask, context: Context) -> None:
        """Nothing waits for an eager task, so nobody is told that it has begun."""

    def ended(self, task: RunnableTask, context: Context, outcome: Outcome, runtime: float) -> None:
        """Store the outcome, then start what follows it."""
        app = cast("ExecutionApp", _InPlace(self._app))
        mine = cast("Task[..., Any]", task)
        if mine.store_eager_result and not context.ignore_result and isinstance(outcome, (Succeeded, Failed)):
            state, value, traceback = _ending(outcome)
            self._app.store_state(str(context.id), state, value, context, mine.backend, traceback)
        if isinstance(outcome, Succeeded):
            self._follow(context, outcome.value)
        elif isinstance(outcome, Failed):
            errbacks_for(app, context, outcome.error, outcome.traceback)

    def _follow(self, context: Context, value: Any) -> None:
        """Send what follows the task, or run it while ``task_always_eager`` is on."""
        for callback in context.callbacks or ():
            maybe_signature(callback, app=self._app, clone=True).apply_async((value,))
        if context.chain:
            step = maybe_signature(context.chain[-1], app=self._app, clone=True)
            step.apply_async((value,), chain=list(context.chain[:-1]))


class _InPlace:
    """An application whose publications are made by sending at once: error callbacks then run in their place."""

    def __init__(self, app: Umbel) -> None:
        self._app = app
        self.tasks = app.tasks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._app, name)

    def prepare(self, signature: Mapping[str, Any]) -> None:
        """Send the signature, or run it while ``task_always_eager`` is on."""
        Signature.from_dict(signature, app=self._app).apply_async()


def through_the_wire(
    args: Sequence[Any], kwargs: Mapping[str, Any], serializer: str
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Arguments as a worker would get them. Raises EncodeError for what cannot be sent."""
    content_type, encoding, data = dumps((tuple(args), dict(kwargs)), serializer)
    received_args, received_kwargs = loads(data, content_type, encoding, accept_set((content_type,)))
    return received_args, received_kwargs
