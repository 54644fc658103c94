"""Which task a payload asks for, for brokers that search what they keep."""

from __future__ import annotations

from umbel.core.header import peek
from umbel.errors import DecodeError

__all__ = ["task_id_of"]


def task_id_of(payload: bytes) -> str:
    """The id of the task; empty where the payload is no message, or says it in its body (protocol 1)."""
    try:
        return peek(payload).id
    except DecodeError:
        return ""
