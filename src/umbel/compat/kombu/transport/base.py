"""What kombu's transports are made of; Umbel's brokers have a contract of their own, ``umbel.brokers.base``."""

from __future__ import annotations

from umbel.client.connection import Message

from .._unserved import unserved as _unserved

__all__ = ("Management", "Message", "StdChannel", "Transport")

_INSTEAD = "brokers are made by their URLs, and one of your own by the contract in umbel.brokers.base"

Management = _unserved(__name__, "Management", _INSTEAD)
StdChannel = _unserved(__name__, "StdChannel", _INSTEAD)
Transport = _unserved(__name__, "Transport", _INSTEAD)
