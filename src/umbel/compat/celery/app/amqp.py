"""Queues and messages."""

from __future__ import annotations

from typing import Any

from umbel.app.amqp import AMQP
from umbel.core.message import TaskMessage as task_message
from umbel.core.queues import Exchange, Queue
from umbel.core.queues import QueueTable as Queues

__all__ = ("AMQP", "Queues", "task_message")


def utf8dict(d: Any, encoding: str = "utf-8") -> dict[Any, Any]:
    """A mapping whose names are text."""
    return {key.decode(encoding) if isinstance(key, bytes) else key: value for key, value in d.items()}
