"""What kombu's transports are made of; Umbel's brokers have a contract of their own, ``umbel.brokers.base``."""

from umbel.client.connection import Message
from umbel.compat.lazily import lazily as _lazily

__all__ = ("Management", "Message", "StdChannel", "Transport")

__getattr__ = _lazily(
    __name__,
    {name: f"umbel.compat.kombu_transports:{name}" for name in ("Management", "StdChannel", "Transport")},
)
