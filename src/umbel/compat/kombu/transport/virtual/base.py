"""What kombu's virtual transports are made of; Umbel's brokers have a contract of their own, ``umbel.brokers.base``."""

from __future__ import annotations

from base64 import b64decode, b64encode
from queue import Empty
from typing import Any, NamedTuple

from umbel.client.connection import Message

from ..._unserved import unserved as _unserved

__all__ = (
    "AbstractChannel",
    "Base64",
    "BrokerState",
    "Channel",
    "Empty",
    "Management",
    "Message",
    "NotEquivalentError",
    "QoS",
    "Transport",
    "UndeliverableWarning",
    "binding_key_t",
    "queue_binding_t",
)

_INSTEAD = "brokers are made by their URLs, and one of your own by the contract in umbel.brokers.base"

AbstractChannel = _unserved(__name__, "AbstractChannel", _INSTEAD)
BrokerState = _unserved(__name__, "BrokerState", _INSTEAD)
Channel = _unserved(__name__, "Channel", _INSTEAD)
Management = _unserved(__name__, "Management", _INSTEAD)
QoS = _unserved(__name__, "QoS", _INSTEAD)
Transport = _unserved(__name__, "Transport", _INSTEAD)


class NotEquivalentError(Exception):
    """A queue or exchange is there already, and is another."""


class UndeliverableWarning(UserWarning):
    """A message could be delivered to no queue."""


class binding_key_t(NamedTuple):
    """What tells one binding from another."""

    queue: str
    exchange: str
    routing_key: str


class queue_binding_t(NamedTuple):
    """What a queue is bound by."""

    exchange: str
    routing_key: str
    arguments: Any


class Base64:
    """How kombu writes bodies that are no text."""

    def encode(self, s: str | bytes) -> str:
        """Bytes as text."""
        return b64encode(s.encode() if isinstance(s, str) else s).decode()

    def decode(self, s: str | bytes) -> bytes:
        """The bytes again."""
        return b64decode(s)
