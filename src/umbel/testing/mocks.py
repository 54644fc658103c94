"""Messages and mocks for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from numbers import Real
from typing import Any
from unittest.mock import Mock

from umbel.core.ids import new_id
from umbel.core.serializers import dumps

__all__ = ["ContextMock", "TaskMessage", "TaskMessage1", "task_message_from_sig"]


def TaskMessage(  # noqa: N802 -- Celery's name
    name: str,
    id: str | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    callbacks: Sequence[Any] | None = None,
    errbacks: Sequence[Any] | None = None,
    chain: Sequence[Any] | None = None,
    shadow: str | None = None,
    utc: bool | None = None,
    **options: Any,
) -> Any:
    """A message of protocol 2 that asks for a task; ``options`` are more headers."""
    task_id = id or new_id()
    message = Mock(name=f"TaskMessage-{task_id}")
    message.headers = {"id": task_id, "task": name, "shadow": shadow, **options}
    embed = {"callbacks": callbacks, "errbacks": errbacks, "chain": chain}
    message.payload = (args, dict(kwargs or {}), embed)
    message.content_type, message.content_encoding, message.body = _written(message.payload)
    return message


def TaskMessage1(  # noqa: N802 -- Celery's name
    name: str,
    id: str | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    callbacks: Sequence[Any] | None = None,
    errbacks: Sequence[Any] | None = None,
    chain: Sequence[Any] | None = None,
    **options: Any,
) -> Any:
    """A message of protocol 1 that asks for a task."""
    task_id = id or new_id()
    message = Mock(name=f"TaskMessage-{task_id}")
    message.headers = {}
    message.payload = {
        "task": name,
        "id": task_id,
        "args": args,
        "kwargs": dict(kwargs or {}),
        "callbacks": callbacks,
        "errbacks": errbacks,
        **options,
    }
    message.content_type, message.content_encoding, message.body = _written(message.payload)
    return message


def _written(payload: Any) -> tuple[str, str, str]:
    content_type, encoding, body = dumps(payload, "json")
    return content_type, encoding, body.decode()


def task_message_from_sig(app: Any, sig: Any, utc: bool = True, TaskMessage: Any = TaskMessage) -> Any:  # noqa: N803
    """A message that asks for what a signature says."""
    sig.freeze()
    options = sig.options
    callbacks, errbacks = options.pop("link", None), options.pop("link_error", None)
    countdown, eta = options.pop("countdown", None), options.pop("eta", None)
    expires = options.pop("expires", None)
    if countdown:
        eta = app.now() + timedelta(seconds=countdown)
    if expires and isinstance(expires, Real):
        expires = app.now() + timedelta(seconds=float(expires))
    return TaskMessage(
        sig.task,
        id=sig.id,
        args=sig.args,
        kwargs=sig.kwargs,
        callbacks=[dict(each) for each in callbacks] if callbacks else None,
        errbacks=[dict(each) for each in errbacks] if errbacks else None,
        eta=eta.isoformat() if isinstance(eta, datetime) else eta,
        expires=expires.isoformat() if isinstance(expires, datetime) else expires,
        utc=utc,
        **options,
    )


class _ContextMock(Mock):
    """A mock that is a context manager: Python looks for these methods in the class."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


def ContextMock(*args: Any, **kwargs: Any) -> Any:  # noqa: N802 -- Celery's name
    """A mock that is a context manager, whose entering and leaving are recorded."""
    mock: Any = _ContextMock(*args, **kwargs)
    mock.attach_mock(_ContextMock(), "__enter__")
    mock.attach_mock(_ContextMock(), "__exit__")
    mock.__enter__.return_value = mock
    mock.__exit__.return_value = None
    return mock
