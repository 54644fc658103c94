"""One event."""

from __future__ import annotations

import time
from copy import copy
from typing import Any

from umbel.core.queues import Exchange

__all__ = ("Event", "event_exchange", "get_exchange", "group_from")

EVENT_EXCHANGE_NAME = "celeryev"

event_exchange = Exchange(EVENT_EXCHANGE_NAME, type="topic")


def Event(
    type: str, _fields: Any = None, __dict__: Any = dict, __now__: Any = time.time, **fields: Any
) -> Any:
    """An event: a mapping with its type and the instant."""
    event = __dict__(_fields, **fields, type=type) if _fields else __dict__(fields, type=type)
    event.setdefault("timestamp", __now__())
    return event


def group_from(type: str) -> str:
    """The first part of a type: ``task`` of ``task-received``."""
    return type.partition("-")[0]


def get_exchange(conn: Any, name: str = EVENT_EXCHANGE_NAME) -> Exchange:
    """The exchange of events."""
    exchange = copy(event_exchange)
    exchange.name = name
    return exchange
