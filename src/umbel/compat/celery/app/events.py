"""Events of an application."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("Events",)

__getattr__ = _lazily(
    __name__,
    {
        "Events": "umbel.events:Events",
    },
)
