"""Exchanges and queues."""

from __future__ import annotations

from typing import Any

from umbel.core.queues import Exchange, Queue, binding

__all__ = ("Exchange", "Queue", "binding", "maybe_delivery_mode")

TRANSIENT_DELIVERY_MODE = 1
PERSISTENT_DELIVERY_MODE = 2
DELIVERY_MODES = {"transient": TRANSIENT_DELIVERY_MODE, "persistent": PERSISTENT_DELIVERY_MODE}


def maybe_delivery_mode(v: Any, modes: Any = None, default: int = PERSISTENT_DELIVERY_MODE) -> int:
    """A delivery mode by its name or number."""
    if v:
        return v if isinstance(v, int) else int((modes or DELIVERY_MODES)[v])
    return default
