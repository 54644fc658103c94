"""The tasks of an application by name."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from umbel.errors import InvalidTaskError, NotRegistered
from umbel.execution.autoretry import with_autoretry
from umbel.state import get_current_app

if TYPE_CHECKING:
    from collections.abc import Iterable

    from umbel.task import Task

__all__ = ["TaskRegistry", "unpickle_task"]


class TaskRegistry(dict[str, "Task[..., Any]"]):
    """Name to task. A name that is not there is ``NotRegistered``, which names the nearest one that is."""

    NotRegistered = NotRegistered

    def __missing__(self, key: str) -> Task[..., Any]:
        raise NotRegistered(self._not_found(key))

    def _not_found(self, name: object) -> str:
        # Only errors come here.
        import difflib

        near = difflib.get_close_matches(str(name), self, n=1)
        return f"{name}: did you mean {near[0]}?" if near else str(name)

    def register(self, task: Task[..., Any] | type[Task[..., Any]]) -> None:
        """Add a task under its name; a class is instantiated first.

        Raises:
            InvalidTaskError: the task has no name.
        """
        instance = task() if isinstance(task, type) else task
        # Who registers here by hand may never bind the task to an application.
        with_autoretry(instance)
        if not instance.name:
            raise InvalidTaskError(f"Task class {type(instance).__qualname__!r} must specify .name attribute")
        self[instance.name] = instance

    def unregister(self, name: str | Task[..., Any]) -> None:
        """Take a task out, by name or by itself.

        Raises:
            NotRegistered: there is no such task.
        """
        key = name if isinstance(name, str) else str(name.name)
        if key not in self:
            raise NotRegistered(self._not_found(key))
        del self[key]

    def regular(self) -> dict[str, Task[..., Any]]:
        """The tasks that are not periodic."""
        return self.filter_types("regular")

    def periodic(self) -> dict[str, Task[..., Any]]:
        """The tasks whose ``type`` is periodic (Celery 3's class of that name)."""
        return self.filter_types("periodic")

    def filter_types(self, type: str) -> dict[str, Task[..., Any]]:
        """The tasks of one kind; a task that does not say is regular."""
        return {
            name: task for name, task in self.items() if vars(task.__class__).get("type", "regular") == type
        }

    def public_names(self) -> Iterable[str]:
        """The names that are the user's own, sorted: Celery's built-in tasks left out."""
        return sorted(name for name in self if not name.startswith("celery."))


def unpickle_task(name: str, module: str | None = None) -> Any:
    """The task of this name in the current application; its module is imported when it is not registered yet.

    Tasks pickle as a call of this.
    """
    if module and module not in sys.modules:
        importlib.import_module(module)
    return get_current_app().tasks[name]
