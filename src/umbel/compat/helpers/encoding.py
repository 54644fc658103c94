"""Text and bytes, as kombu shows it."""

from __future__ import annotations

import sys
import traceback
from typing import Any

__all__ = [
    "bytes_to_str",
    "default_encode",
    "default_encoding",
    "ensure_bytes",
    "from_utf8",
    "safe_repr",
    "safe_str",
    "str_to_bytes",
]


def default_encoding(file: Any = None) -> str:
    """The encoding of file names."""
    return sys.getfilesystemencoding()


def str_to_bytes(s: Any) -> Any:
    """Text as UTF-8; anything else as it is."""
    return s.encode() if isinstance(s, str) else s


def bytes_to_str(s: Any) -> Any:
    """UTF-8 as text; anything else as it is."""
    return s.decode(errors="replace") if isinstance(s, bytes) else s


def from_utf8(s: Any, *args: Any, **kwargs: Any) -> Any:
    """As it is."""
    return s


def ensure_bytes(s: Any) -> bytes:
    """Anything as bytes."""
    return s if isinstance(s, bytes) else str_to_bytes(str(s))


def default_encode(obj: Any) -> Any:
    """As it is."""
    return obj


def safe_str(s: Any, errors: str = "replace") -> str:
    """Anything as text, whatever its own text does."""
    text = bytes_to_str(s)
    if isinstance(text, str):
        return text
    return safe_repr(text, errors)


def safe_repr(o: Any, errors: str = "replace") -> str:
    """The ``repr`` of anything; where that raises, what happened."""
    try:
        return repr(o)
    except Exception as error:
        return f"<Unrepresentable {type(o)!r}: {error!r} {traceback.format_stack()!r}>"
