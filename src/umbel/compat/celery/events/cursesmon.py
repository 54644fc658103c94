"""Watching events in the terminal."""

from umbel.compat.lazily import lazily as _lazily

__all__ = (
    "CursesMonitor",
    "evtop",
)

__getattr__ = _lazily(
    __name__,
    {
        "CursesMonitor": "umbel.events.screen:Screen",
        "evtop": "umbel.events.screen:evtop",
    },
)
