"""What Celery's pools derive from; Umbel's have a contract of their own, ``umbel.pools.base``."""

from __future__ import annotations

from typing import Any

__all__ = ("BasePool", "apply_target")


class BasePool:
    """Marks a pool class that was written for Celery. Umbel's worker cannot run one."""

    task_join_will_block = True
    is_green = False
    uses_semaphore = False


def apply_target(
    target: Any,
    args: Any = (),
    kwargs: Any = None,
    callback: Any = None,
    accept_callback: Any = None,
    **_: Any,
) -> Any:
    """Call a function in place, and hand on what it gives."""
    if accept_callback:
        accept_callback(None, None)
    answer = target(*args, **(kwargs or {}))
    return callback(answer) if callback else answer
