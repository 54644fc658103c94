"""Tasks that can be asked to stop: ``app.task(bind=True, base=AbortableTask)``."""

from __future__ import annotations

from typing import Any

from umbel.results.abortable import AbortableAsyncResult
from umbel.task.task import Task

__all__ = ["AbortableTask"]


class AbortableTask(Task[..., Any]):
    """A task that looks, from time to time, whether its result was aborted, and then ends."""

    abstract = True

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AbortableAsyncResult:  # noqa: N802 -- Celery's name
        """The handle of one of its results."""
        return AbortableAsyncResult(
            task_id, backend=self.backend, task_name=self.name, app=self.app, **kwargs
        )

    def is_aborted(self, **kwargs: Any) -> bool:
        """Whether this run was asked to stop. Each call asks the result backend: not in every turn of a tight loop."""
        result = self.AsyncResult(kwargs.get("task_id") or str(self.request.id))
        return result.is_aborted()
