"""kombu's exceptions."""

from __future__ import annotations

from types import TracebackType
from typing import Any, NoReturn

from umbel.errors import ContentDisallowed, DecodeError, EncodeError, OperationalError


def reraise(tp: Any, value: BaseException, tb: TracebackType | None = None) -> NoReturn:
    """Raise an exception with a traceback of its own."""
    if value.__traceback__ is not tb:
        raise value.with_traceback(tb)
    raise value


class KombuError(Exception):
    """Base of kombu's errors."""


SerializationError = EncodeError


class NotBoundError(KombuError):
    """Something has no connection."""


class MessageStateError(KombuError):
    """A message was settled already."""


TimeoutError = __import__("socket").timeout


class LimitExceeded(KombuError):
    """A limit is reached."""


class ConnectionLimitExceeded(LimitExceeded):
    """Too many connections are in use."""


class ChannelLimitExceeded(LimitExceeded):
    """Too many channels are in use."""


class ConnectionError(KombuError):
    """The connection is lost."""


class ChannelError(KombuError):
    """A channel is lost."""


class VersionMismatch(KombuError):
    """A library is of the wrong version."""


class SerializerNotInstalled(KombuError):
    """There is no such serializer."""


class ResourceError(OperationalError):
    """Something is missing at the broker."""


class InconsistencyError(ConnectionError):
    """The broker's data is not what it should be."""


class HttpError(Exception):
    """An answer with an error."""

    def __init__(self, code: int, message: str | None = None, response: Any = None) -> None:
        self.code = code
        self.message = message
        self.response = response
        super().__init__(code, message, response)


class BatchPublishError(OperationalError):
    """Some messages of a batch were not sent."""
