"""What goes wrong on the way to RabbitMQ, in our own words: the client library's errors end here."""

from __future__ import annotations

import struct
from typing import Final

import amqp
from amqp.exceptions import AMQPError, FrameSyntaxError

from umbel.errors import BrokerConnectionError, BrokerError

__all__ = [
    "LIBRARY_ERRORS",
    "UNWRITABLE",
    "ChannelClosedError",
    "UnwritableMessageError",
    "as_channel_error",
    "as_connection_error",
]

#: What py-amqp raises while it reads what the server sent.
LIBRARY_ERRORS: Final = (AMQPError, NotImplementedError, struct.error, ValueError, LookupError)
#: What py-amqp raises for a message that AMQP has no form for: text too long for a name, a type no table holds.
UNWRITABLE: Final = (
    FrameSyntaxError,
    struct.error,
    UnicodeEncodeError,
    OverflowError,
    AttributeError,
    TypeError,
)

NOT_FOUND: Final = 404
ACCESS_REFUSED: Final = 403
RESOURCE_LOCKED: Final = 405
PRECONDITION_FAILED: Final = 406


class ChannelClosedError(BrokerError):
    """The server refused what was asked and closed the channel; the connection and its other channels go on.

    ``code`` is AMQP's: 403 refused, 404 not found, 405 in use by another connection, 406 in conflict with what exists.
    ``text`` is the server's, ``method`` names what it was about. Code 0: this side closed it.
    """

    def __init__(self, code: int, text: str, method: str = "") -> None:
        about = f" ({method})" if method else ""
        super().__init__(f"RabbitMQ closed the channel: {text or code}{about}")
        self.code = code
        self.text = text
        self.method = method


class UnwritableMessageError(BrokerError):
    """AMQP has no form for a message: a name longer than 255 bytes, a header of a type no table holds."""


def as_connection_error(error: BaseException) -> BrokerConnectionError:
    """Why a connection is gone, from whatever the library or the socket raised."""
    if isinstance(error, BrokerConnectionError):
        return error
    if isinstance(error, AMQPError):
        text = error.reply_text or type(error).__name__
        return BrokerConnectionError(f"RabbitMQ closed the connection: {text}")
    if isinstance(error, OSError):
        return BrokerConnectionError(f"the connection to RabbitMQ is lost: {error}")
    return BrokerConnectionError(f"RabbitMQ sent what AMQP does not allow: {type(error).__name__}: {error}")


def as_channel_error(code: int, text: str, class_id: int, method_id: int) -> ChannelClosedError:
    """Why a channel was closed, as the server says."""
    return ChannelClosedError(code, text, amqp.exceptions.METHOD_NAME_MAP.get((class_id, method_id), ""))
