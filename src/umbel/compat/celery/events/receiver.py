"""Receiving events."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("EventReceiver",)

__getattr__ = _lazily(
    __name__,
    {
        "EventReceiver": "umbel.events.receiver:Receiver",
    },
)
