"""Tasks that retry themselves."""

from __future__ import annotations

from typing import Any

from umbel.execution.autoretry import with_autoretry

__all__ = ("add_autoretry_behaviour",)


def add_autoretry_behaviour(task: Any, **options: Any) -> None:
    """Make a task retry itself as its options, or these, say."""
    for name, value in options.items():
        setattr(task, name, value)
    with_autoretry(task)
