"""Celery's exceptions, and those of its libraries that it shows as its own."""

from __future__ import annotations

from types import TracebackType
from typing import Any, NoReturn

from click import ClickException

from umbel.errors import (
    AlreadyRegistered,
    AlwaysEagerIgnored,
    BackendError,
    BackendGetMetaError,
    BackendStoreError,
    CeleryError,
    CeleryWarning,
    ChordError,
    DuplicateTaskNameWarning,
    Ignore,
    ImproperlyConfigured,
    IncompleteStream,
    InvalidTaskError,
    MaxRetriesExceededError,
    NotRegistered,
    OperationalError,
    QueueNotFound,
    Reject,
    Retry,
    SecurityError,
    SoftTimeLimitExceeded,
    TaskError,
    TaskPredicate,
    TaskRevokedError,
    Terminated,
    TimeLimitExceeded,
    TimeoutError,
    WorkerLostError,
)

__all__ = (
    "AlreadyRegistered",
    "AlwaysEagerIgnored",
    "BackendError",
    "BackendGetMetaError",
    "BackendStoreError",
    "CDeprecationWarning",
    "CPendingDeprecationWarning",
    "CeleryCommandException",
    "CeleryError",
    "CeleryWarning",
    "ChordError",
    "DuplicateNodenameWarning",
    "DuplicateTaskNameWarning",
    "FixupWarning",
    "Ignore",
    "ImproperlyConfigured",
    "IncompleteStream",
    "InvalidTaskError",
    "MaxRetriesExceededError",
    "NotConfigured",
    "NotRegistered",
    "OperationalError",
    "QueueNotFound",
    "Reject",
    "Retry",
    "SecurityError",
    "SecurityWarning",
    "SoftTimeLimitExceeded",
    "TaskError",
    "TaskPredicate",
    "TaskRevokedError",
    "Terminated",
    "TimeLimitExceeded",
    "TimeoutError",
    "WorkerLostError",
    "WorkerShutdown",
    "WorkerTerminate",
    "reraise",
)


class DuplicateNodenameWarning(CeleryWarning):
    """Two workers of one fleet have one name."""


class FixupWarning(CeleryWarning):
    """A fixup could not be applied."""


class NotConfigured(CeleryWarning):
    """There is no configuration module."""


class SecurityWarning(CeleryWarning):
    """Something insecure is about to be done."""


class CPendingDeprecationWarning(PendingDeprecationWarning):
    """Will be deprecated."""


class CDeprecationWarning(DeprecationWarning):
    """Is deprecated."""


class WorkerTerminate(SystemExit):
    """The worker is to stop at once."""


class WorkerShutdown(SystemExit):
    """The worker is to stop warmly."""


class CeleryCommandException(ClickException):
    """A command ends with a message and this exit status."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message=message)
        vars(self)["exit_code"] = exit_code


def reraise(tp: Any, value: BaseException, tb: TracebackType | None = None) -> NoReturn:
    """Raise an exception with a traceback of its own."""
    if value.__traceback__ is not tb:
        raise value.with_traceback(tb)
    raise value
