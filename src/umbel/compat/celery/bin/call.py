"""The command ``call``."""

from __future__ import annotations

from .base import command as _command

__getattr__ = _command(__name__, "call")
