"""Revocations in brokers that search what they keep: which task a payload asks for, and how long to remember."""

from __future__ import annotations

from typing import Final

from umbel.core.header import peek
from umbel.errors import DecodeError

__all__ = ["BEYOND_DELAYS", "task_id_of"]

#: Seconds for which a revocation that nobody searches for outlasts the longest delay: workers may be behind.
BEYOND_DELAYS: Final = 3600.0


def task_id_of(payload: bytes) -> str:
    """The id of the task; empty where the payload is no message, or says it in its body (protocol 1)."""
    try:
        return peek(payload).id
    except DecodeError:
        return ""
