"""Pools."""

from __future__ import annotations

from typing import Any

from umbel.compat.helpers.imports import symbol_by_name
from umbel.compat.lazily import lazily as _lazily

__all__ = ("get_available_pool_names", "get_implementation")

ALIASES = {
    "prefork": "celery.concurrency.prefork:TaskPool",
    "processes": "celery.concurrency.prefork:TaskPool",
    "solo": "celery.concurrency.solo:TaskPool",
    "threads": "celery.concurrency.thread:TaskPool",
}


def get_implementation(cls: Any) -> Any:
    """The class of a pool by its name."""
    return symbol_by_name(cls, ALIASES)


def get_available_pool_names() -> tuple[str, ...]:
    """The pools that may be asked for."""
    from umbel.pools.registry import POOLS

    return tuple(POOLS)


__getattr__ = _lazily(__name__, {})
