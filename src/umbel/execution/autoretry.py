"""Automatic retries: ``autoretry_for`` and the options that go with it, as a wrapper around a task's body."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol

from umbel.core.retry import backoff
from umbel.errors import Ignore, ImproperlyConfigured, Retry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random


class RetryableTask(Protocol):
    """What a wrapped body needs of its task."""

    name: str
    run: Any
    request: Any

    def retry(self, *, exc: BaseException, **options: Any) -> BaseException:
        """Raises Retry, or ``exc`` when there have been too many."""


class RetryOptions:
    """Which errors are retried, and when.

    Args:
        retry_for: ``autoretry_for``.
        never_for: ``dont_autoretry_for``.
        kwargs: ``retry_kwargs``, passed on to ``retry``.
        factor: ``retry_backoff``: 0 is off, True is 1 second; doubled for each retry.
        maximum: ``retry_backoff_max``, in seconds.
        jitter: ``retry_jitter``: draw the delay evenly from 0 up to that.
    """

    def __init__(
        self,
        retry_for: tuple[type[BaseException], ...],
        never_for: tuple[type[BaseException], ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        factor: float = 0.0,
        maximum: float = 600,
        jitter: bool = True,
    ) -> None:
        self.retry_for = retry_for
        #: What ends an attempt as it is.
        self.pass_on: tuple[type[BaseException], ...] = (Ignore, Retry, *never_for)
        self.kwargs = dict(kwargs or {})
        self.factor = float(factor)
        self.maximum = maximum
        self.jitter = jitter

    def arguments(self, task: RetryableTask) -> dict[str, Any]:
        """What to call ``retry`` with for the present attempt."""
        arguments = dict(self.kwargs)
        if self.factor:
            whole = int(max(1.0, self.factor))
            random = _system_random() if self.jitter else None
            arguments["countdown"] = backoff(task.request.retries, whole, self.maximum, random)
        # Left by a ``retry(max_retries=…)`` of the body's own, which gave up with the error that got here.
        override = vars(task).pop("override_max_retries", None)
        if override is not None:
            arguments["max_retries"] = override
        return arguments


def with_autoretry(task: Any) -> None:
    """Have a task retry itself when its body raises one of ``autoretry_for``; called once, when the task is bound.

    Raises ImproperlyConfigured when an option is not made of exception classes.
    """
    retry_for = _classes(task, "autoretry_for")
    if not retry_for or "_orig_run" in vars(task):
        return
    options = RetryOptions(
        retry_for,
        _classes(task, "dont_autoretry_for"),
        getattr(task, "retry_kwargs", None),
        getattr(task, "retry_backoff", 0),
        getattr(task, "retry_backoff_max", 600),
        getattr(task, "retry_jitter", True),
    )
    # Only tasks that retry themselves come here, and inspect is slow to import.
    from inspect import iscoroutinefunction

    body = task.run
    task._orig_run = body
    task.run = _wrap_async(task, body, options) if iscoroutinefunction(body) else _wrap(task, body, options)


def _system_random() -> Random:
    """Asks the kernel each time: processes forked from one another must not draw the same numbers."""
    from random import SystemRandom  # needed only when something failed

    return SystemRandom()


def _classes(task: Any, option: str) -> tuple[type[BaseException], ...]:
    value = getattr(task, option, ())
    classes = (value,) if isinstance(value, type) else tuple(value or ())
    for cls in classes:
        if not isinstance(cls, type) or not issubclass(cls, BaseException):
            raise ImproperlyConfigured(
                f"{option} of task {task.name} must hold exception classes, not {cls!r}"
            )
    return classes


def _wrap(task: RetryableTask, body: Callable[..., Any], options: RetryOptions) -> Callable[..., Any]:
    @wraps(body)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return body(*args, **kwargs)
        except options.pass_on:
            raise
        except options.retry_for as error:
            raise task.retry(exc=error, **options.arguments(task)) from error

    return run


def _wrap_async(task: RetryableTask, body: Callable[..., Any], options: RetryOptions) -> Callable[..., Any]:
    @wraps(body)
    async def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return await body(*args, **kwargs)
        except options.pass_on:
            raise
        except options.retry_for as error:
            raise task.retry(exc=error, **options.arguments(task)) from error

    return run
