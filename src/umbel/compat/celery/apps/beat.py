"""Beat as a program."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("Beat",)

__getattr__ = _lazily(
    __name__,
    {
        "Beat": "umbel.scheduler.program:Beat",
    },
)
