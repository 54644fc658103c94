"""Signals."""

from umbel.compat.lazily import lazily as _lazily

from .signal import Signal

__all__ = ("Signal",)

__getattr__ = _lazily(__name__, {})
