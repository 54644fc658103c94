"""The rows of Celery's result tables, for programs that query them."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import registry

from umbel.results.options import DatabaseOptions
from umbel.results.tables import ResultTables

__all__ = ("Task", "TaskExtended", "TaskSet")

TABLES = ResultTables(DatabaseOptions())
_EXTENDED = ("name", "args", "kwargs", "worker", "retries", "queue", "stamps")


class _Row:
    """One row; columns are attributes."""

    shown: tuple[str, ...] = ()

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """The row as a mapping; results are in it as they are stored."""
        return {name: getattr(self, name) for name in self.shown}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.to_dict()}>"


class Task(_Row):
    """A task's result."""

    shown = ("task_id", "status", "result", "traceback", "date_done", "children")

    def __init__(self, task_id: str | None = None, **values: Any) -> None:
        super().__init__(task_id=task_id, **values)


class TaskExtended(_Row):
    """A task's result with what ``result_extended`` adds."""

    shown = (*Task.shown, *_EXTENDED)

    def __init__(self, task_id: str | None = None, **values: Any) -> None:
        super().__init__(task_id=task_id, **values)


class TaskSet(_Row):
    """A group that was saved."""

    shown = ("taskset_id", "result", "date_done")

    def __init__(self, taskset_id: str | None = None, result: Any = None, **values: Any) -> None:
        super().__init__(taskset_id=taskset_id, result=result, **values)


_mapped = registry(metadata=TABLES.metadata)
_mapped.map_imperatively(Task, TABLES.tasks, exclude_properties=list(_EXTENDED))
_mapped.map_imperatively(TaskExtended, TABLES.tasks)
_mapped.map_imperatively(TaskSet, TABLES.groups)
