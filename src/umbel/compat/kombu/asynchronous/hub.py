"""The event loop of kombu; Umbel's worker runs on asyncio."""

from __future__ import annotations

from typing import Any

__all__ = ("Hub", "get_event_loop", "set_event_loop")


class Hub:
    """Not there: Umbel's worker runs on asyncio."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("Umbel's worker runs on asyncio and has no hub")


def get_event_loop() -> Any:
    """None: there is no hub."""
    return None


def set_event_loop(loop: Any) -> Any:
    """Accepted; nothing runs on it."""
    return loop
