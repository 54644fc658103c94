"""Calls at a time."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("Entry", "Timer", "to_timestamp")

__getattr__ = _lazily(
    __name__,
    {
        "Entry": "celery.utils.timer2:Entry",
        "Timer": "celery.utils.timer2:Schedule",
        "to_timestamp": "celery.utils.timer2:to_timestamp",
    },
)
