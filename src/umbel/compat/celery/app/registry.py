"""Tasks by name."""

from umbel.errors import NotRegistered
from umbel.registry import TaskRegistry
from umbel.registry import unpickle_task as _unpickle_task
from umbel.registry import unpickle_task as _unpickle_task_v2

__all__ = ("TaskRegistry",)
