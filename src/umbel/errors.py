"""Every exception Umbel raises, in one tree.

::

    Exception
     ├ CeleryError                     base of what applications and workers raise
     │   ├ TaskPredicate               raised inside a task to say how the attempt ends
     │   │   ├ Retry · Ignore · Reject
     │   ├ ImproperlyConfigured        a setting is unknown, misspelt or has a bad value
     │   ├ SecurityError
     │   └ TaskError
     │       ├ QueueNotFound (KeyError) · IncompleteStream · NotRegistered (KeyError) · AlreadyRegistered
     │       ├ TimeoutError · MaxRetriesExceededError · TaskRevokedError · InvalidTaskError · ChordError
     ├ BackendError                    a result backend could not do what was asked
     │   ├ BackendGetMetaError · BackendStoreError
     ├ OperationalError                the broker or backend cannot be reached, or refused
     │   └ BrokerError                 raised by broker adapters; client-library errors stop there
     │       ├ BrokerConnectionError   the connection is lost or cannot be made; trying again may help
     │       └ PublishTimeout          the deadline of a publish passed before the broker confirmed it
     ├ EncodeError · DecodeError · ContentDisallowed     bodies and documents
     └ SoftTimeLimitExceeded · TimeLimitExceeded · WorkerLostError · Terminated

Celery writes the module of an exception's class into result documents and pickles. The classes here go on the
wire under the modules Celery uses (see ``wire_module``), so that either side finds its own class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "AlreadyRegistered",
    "AlwaysEagerIgnored",
    "BackendError",
    "BackendGetMetaError",
    "BackendStoreError",
    "BrokerConnectionError",
    "BrokerError",
    "CeleryError",
    "CeleryWarning",
    "ChordError",
    "ContentDisallowed",
    "DecodeError",
    "DuplicateNodenameWarning",
    "DuplicateTaskNameWarning",
    "EncodeError",
    "Ignore",
    "ImproperlyConfigured",
    "IncompleteStream",
    "InvalidTaskError",
    "MaxRetriesExceededError",
    "NotRegistered",
    "OperationalError",
    "PublishTimeout",
    "QueueNotFound",
    "Reject",
    "Retry",
    "SecurityError",
    "SoftTimeLimitExceeded",
    "TaskError",
    "TaskPredicate",
    "TaskRevokedError",
    "Terminated",
    "TimeLimitExceeded",
    "TimeoutError",
    "WorkerLostError",
    "wire_module",
]


class CeleryError(Exception):
    """Base of the errors of applications, tasks and workers; keeps Celery's name so that handlers still match."""


class TaskPredicate(CeleryError):
    """Raised inside a task to say how the attempt ends, rather than that it failed."""


class Retry(TaskPredicate):
    """The task is to be tried again later.

    Args:
        message: why, for the log.
        exc: the error that caused the retry, or its text.
        when: seconds from now, or the instant, of the next attempt.
        is_eager: true when the task runs in the caller's process; ``sig`` is then run in place.
        sig: the signature of the next attempt.
    """

    message: str | None
    exc: BaseException | None
    excs: str | None

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | str | None = None,
        when: float | datetime | None = None,
        is_eager: bool = False,
        sig: Any = None,
    ) -> None:
        self.message = message
        if isinstance(exc, str):
            self.exc, self.excs = None, exc
        else:
            self.exc, self.excs = exc, repr(exc) if exc is not None else None
        self.when = when
        self.is_eager = is_eager
        self.sig = sig
        super().__init__(message, exc, when)

    def humanize(self) -> str:
        """Say when the next attempt is due: ``in 3s`` or ``at <instant>``."""
        if isinstance(self.when, (int, float)):
            return f"in {self.when}s"
        return f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return self.message
        if self.excs:
            return f"Retry {self.humanize()}: {self.excs}"
        return f"Retry {self.humanize()}"

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__class__, (self.message, self.exc or self.excs, self.when)


class Ignore(TaskPredicate):
    """The worker stores no state for this attempt; the message is acknowledged."""


class Reject(TaskPredicate):
    """The message is refused: dead-lettered, or put back on its queue when ``requeue`` is true."""

    def __init__(self, reason: object = None, requeue: bool = False) -> None:
        self.reason = reason
        self.requeue = requeue
        super().__init__(reason, requeue)

    def __repr__(self) -> str:
        return f"reject requeue={self.requeue}: {self.reason}"


class ImproperlyConfigured(CeleryError):
    """A setting is unknown, misspelt or has a value it cannot take."""


class SecurityError(CeleryError):
    """Something from outside would have been trusted without cause."""


class TaskError(CeleryError):
    """Base of the errors about tasks and their results."""


class QueueNotFound(KeyError, TaskError):
    """A task was routed to a queue that is not declared, and ``task_create_missing_queues`` is off."""


class IncompleteStream(TaskError):
    """The end of a stream of results was not found yet."""


class NotRegistered(KeyError, TaskError):
    """The worker knows no task of this name."""

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.args[0]!r})" if self.args else f"{self.__class__.__name__}()"


class AlreadyRegistered(TaskError):
    """A task of this name is registered already."""


class TimeoutError(TaskError):
    """The result was not there in time."""


class MaxRetriesExceededError(TaskError):
    """The task was retried ``max_retries`` times and must not be tried again."""

    def __init__(self, *args: object, **kwargs: Any) -> None:
        self.task_args: Any = kwargs.pop("task_args", [])
        self.task_kwargs: Any = kwargs.pop("task_kwargs", {})
        super().__init__(*args)


class TaskRevokedError(TaskError):
    """The task was revoked, expired or terminated, so there is no result."""


class InvalidTaskError(TaskError):
    """A message that should ask for a task is malformed."""


class ChordError(TaskError):
    """A task of a chord's header failed, so its body does not run."""


class BackendError(Exception):
    """A result backend could not do what was asked."""


class BackendGetMetaError(BackendError):
    """The state of a task could not be read."""

    def __init__(self, *args: object, task_id: str | None = None) -> None:
        self.task_id = task_id
        super().__init__(*args)


class BackendStoreError(BackendError):
    """The state of a task could not be written."""

    def __init__(self, *args: object, state: str | None = None, task_id: str | None = None) -> None:
        self.state = state
        self.task_id = task_id
        super().__init__(*args)


class OperationalError(Exception):
    """The broker or result backend cannot be reached, or refused what was asked."""


class BrokerError(OperationalError):
    """Base of what broker adapters raise; a client library's own errors never pass an adapter's edge."""


class BrokerConnectionError(BrokerError):
    """The connection to the broker is lost or cannot be made; the operation may be tried again."""


class PublishTimeout(BrokerError):
    """A publish was not confirmed before its deadline: the message may or may not be on the broker."""


class EncodeError(Exception):
    """A value cannot be written with the chosen serializer."""


class DecodeError(Exception):
    """Bytes are not what their content type says."""


class ContentDisallowed(Exception):
    """The content type is not in ``accept_content``, so the bytes were not decoded."""


class SoftTimeLimitExceeded(Exception):
    """Raised inside a task when its soft time limit has passed; the task may clean up and end."""

    def __str__(self) -> str:
        return f"SoftTimeLimitExceeded{self.args!r}"


class TimeLimitExceeded(Exception):
    """The task ran past its hard time limit and its process was ended."""

    def __str__(self) -> str:
        return f"TimeLimitExceeded{self.args!r}"


class WorkerLostError(Exception):
    """The process that ran the task is gone: killed, crashed or out of memory."""


class Terminated(Exception):
    """The task was ended on request while it ran."""


class CeleryWarning(UserWarning):
    """Base of the warnings; keeps Celery's name so that filters still match."""


class CPendingDeprecationWarning(PendingDeprecationWarning):
    """Something that Celery says it will deprecate."""


class AlwaysEagerIgnored(CeleryWarning):
    """``send_task`` sends although ``task_always_eager`` is on: it may not know the task's code."""


class DuplicateNodenameWarning(CeleryWarning):
    """Two workers answered under one name."""


class DuplicateTaskNameWarning(CeleryWarning):
    """Two functions were made tasks under one name."""


#: The module each class goes on the wire under, where it is not Celery's ``celery.exceptions``.
_WIRE_MODULES = {
    "OperationalError": "kombu.exceptions",
    "EncodeError": "kombu.exceptions",
    "DecodeError": "kombu.exceptions",
    "ContentDisallowed": "kombu.exceptions",
    "SoftTimeLimitExceeded": "billiard.exceptions",
    "TimeLimitExceeded": "billiard.exceptions",
    "WorkerLostError": "billiard.exceptions",
    "Terminated": "billiard.exceptions",
    "BrokerError": "umbel.errors",
    "BrokerConnectionError": "umbel.errors",
    "PublishTimeout": "umbel.errors",
}


def wire_module(cls: type[BaseException]) -> str:
    """The module name that documents and pickles carry for an exception class."""
    if cls.__module__ == __name__:
        return _WIRE_MODULES.get(cls.__qualname__, "celery.exceptions")
    return cls.__module__
