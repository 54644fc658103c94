"""Sending events."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("EventDispatcher",)

__getattr__ = _lazily(
    __name__,
    {
        "EventDispatcher": "umbel.events.dispatcher:Dispatcher",
    },
)
