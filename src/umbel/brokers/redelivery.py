"""Marking what is handed out again."""

from __future__ import annotations

from umbel.core.protocol import repack
from umbel.errors import DecodeError


def mark_redelivered(payload: bytes) -> bytes:
    """The payload with kombu's marks of a redelivery; one that is not a message stays as it is."""
    try:
        return repack(payload, redelivered=True)
    except DecodeError:
        return payload  # garbage is handed on as it came: whoever reads it gives it up with the reason
