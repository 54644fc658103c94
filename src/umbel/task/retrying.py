"""``Task.retry``: the signature of the next attempt, and when there is none."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from umbel.canvas.signature import Signature
from umbel.errors import Retry

if TYPE_CHECKING:
    import inspect
    from datetime import datetime

    from umbel.execution.context import Context
    from umbel.task.task import Task

__all__ = ["next_arguments", "plan_retry", "signature_from_request"]


def plan_retry(
    task: Task[..., Any],
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    *,
    exc: BaseException | None,
    eta: datetime | None,
    countdown: float | None,
    max_retries: int | None,
) -> Retry:
    """The ``Retry`` that holds the next attempt; the arguments are those of ``Task.retry``.

    Raises what ``Task.retry`` raises where there is nothing to retry.
    """
    request = task.request
    if request.called_directly:
        _raise_with_context(exc or Retry("Task can be retried", None))
    if max_retries is not None:
        # Automatic retries of the same attempt go by it too.
        vars(task)["override_max_retries"] = max_retries
    limit = task.max_retries if max_retries is None else max_retries
    if not eta and countdown is None:
        countdown = task.default_retry_delay
    args, kwargs = next_arguments(task, request, args, kwargs)
    timing = {"countdown": countdown, "eta": eta, "retries": request.retries + 1}
    again = signature_from_request(task, request, args, kwargs, **{**timing, **options})
    if limit is not None and request.retries >= limit:
        if exc:
            _raise_with_context(exc)
        raise task.MaxRetriesExceededError(
            f"Can't retry {task.name}[{request.id}] args:{again.args} kwargs:{again.kwargs}",
            task_args=again.args,
            task_kwargs=again.kwargs,
        )
    return Retry(exc=exc, when=eta or countdown, is_eager=request.is_eager, sig=again)


def _raise_with_context(error: BaseException) -> NoReturn:
    """Raise ``error`` from the one being handled; the same one is raised again as it was."""
    handled = sys.exc_info()[1]
    if handled is None or handled is error:
        raise error
    raise error from handled


def signature_from_request(
    task: Task[..., Any],
    request: Context,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    queue: str | None = None,
    **extra_options: Any,
) -> Signature:
    """The signature that would send this request again, with these changes.

    Id, links, chain, limits, headers and place in a workflow stay; it goes to the queue it came from.
    """
    if not request.called_directly or request.is_eager:
        args = request.args if args is None else args
        kwargs = request.kwargs if kwargs is None else kwargs
    options: dict[str, Any] = {**request.as_execution_options(), "ignore_result": request.ignore_result}
    delivery = dict(request.delivery_info or {})
    if delivery.get("priority") is not None:
        options["priority"] = delivery["priority"]
    if queue:
        options["queue"] = queue
    elif not delivery.get("exchange") and delivery.get("routing_key"):
        options["queue"] = delivery["routing_key"]
    else:
        options.update({key: delivery[key] for key in ("exchange", "routing_key") if delivery.get(key)})
    return Signature(task, args, kwargs, options={**options, **extra_options}, app=task.app)


def next_arguments(
    task: Task[..., Any],
    request: Context,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
) -> tuple[Any, Any]:
    """The arguments of the next attempt where only one of the two was given to ``retry``.

    What is inherited gives way to what is given: a parameter that is passed both ways is passed the new way only.
    """
    given_both_or_none = (args is None) == (kwargs is None)
    if given_both_or_none or not (request.kwargs if kwargs is None else request.args):
        return args, kwargs
    # Rare, and inspect is slow to import.
    import inspect

    try:
        signature = inspect.signature(task.run)
    except (TypeError, ValueError):
        return args, kwargs
    if args is not None:
        return args, _kwargs_beside(signature, args, request.kwargs)
    try:
        bound = signature.bind_partial(*request.args)
    except TypeError:
        # The inherited arguments fit no longer; the check before sending says so in the user's terms.
        return args, kwargs
    rest = dict(kwargs or {})
    for name in list(rest):
        if name in bound.arguments and _is_either(signature.parameters[name]):
            bound.arguments[name] = rest.pop(name)
    return bound.args, {**bound.kwargs, **rest}


def _kwargs_beside(
    signature: inspect.Signature, args: Sequence[Any], inherited: Mapping[str, Any]
) -> dict[str, Any]:
    positional = [p for p in signature.parameters.values() if _is_either(p) or p.kind is p.POSITIONAL_ONLY]
    taken = {p.name for p in positional[: len(args)] if _is_either(p)}
    return {name: value for name, value in inherited.items() if name not in taken}


def _is_either(parameter: inspect.Parameter) -> bool:
    return parameter.kind is parameter.POSITIONAL_OR_KEYWORD
