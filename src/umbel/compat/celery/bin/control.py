"""The command ``control``."""

from __future__ import annotations

from .base import command as _command

EX_UNAVAILABLE = 69


__getattr__ = _command(__name__, "control")
