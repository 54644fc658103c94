"""The worker as a program."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("Worker",)

__getattr__ = _lazily(__name__, dict.fromkeys(__all__, "umbel.worker.controller:WorkController"))
