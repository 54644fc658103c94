"""A job as worker signals show it."""

from __future__ import annotations

from typing import Any

from umbel.worker.request import Request

__all__ = ("Request",)


def create_request_cls(
    base: Any, task: Any, pool: Any = None, hostname: str | None = None, eventer: Any = None, **options: Any
) -> Any:
    """The class itself: Umbel makes requests for those who listen, and runs tasks without them."""
    return base
