"""Text and bytes."""

from __future__ import annotations

from typing import Any

from umbel.compat.helpers.encoding import (
    bytes_to_str,
    default_encode,
    default_encoding,
    ensure_bytes,
    from_utf8,
    safe_repr,
    safe_str,
    str_to_bytes,
)

default_encoding_file: Any = None


def set_default_encoding_file(file: Any) -> None:
    """Accepted: everything is UTF-8."""


def get_default_encoding_file() -> Any:
    """None: everything is UTF-8."""
    return default_encoding_file
