"""Helpers."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from umbel.compat.helpers.functional import maybe_list, retry_over_time
from umbel.compat.helpers.imports import symbol_by_name
from umbel.compat.lazily import lazily as _lazily
from umbel.core.ids import new_id as uuid

from .collections import EqualityDict
from .compat import fileno, maybe_fileno, nested, register_after_fork
from .div import emergency_dump_state
from .functional import fxrange, fxrangemax, reprcall, reprkwargs

__all__ = (
    "EqualityDict",
    "cached_property",
    "emergency_dump_state",
    "fileno",
    "fxrange",
    "fxrangemax",
    "maybe_fileno",
    "maybe_list",
    "nested",
    "register_after_fork",
    "reprcall",
    "reprkwargs",
    "retry_over_time",
    "symbol_by_name",
    "uuid",
)

__getattr__ = _lazily(__name__, {})
