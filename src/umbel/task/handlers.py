"""The handlers of a task: methods that subclasses override, and options of ``@app.task``, to be told how runs go."""

from __future__ import annotations

from typing import Any

__all__ = ["HANDLERS", "Handlers"]

HANDLERS = ("before_start", "on_success", "on_failure", "on_retry", "after_return")


class Handlers:
    """Handlers that do nothing. Those that are overridden are called by whoever runs the task, its request current."""

    def before_start(self, task_id: Any, args: Any, kwargs: Any) -> None:
        """Called before the body; for subclasses."""

    def on_success(self, retval: Any, task_id: Any, args: Any, kwargs: Any) -> None:
        """Called after the body returned; for subclasses."""

    def on_failure(self, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called after the body failed; for subclasses."""

    def on_retry(self, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called when the run will be tried again; for subclasses."""

    def after_return(
        self, status: Any, retval: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        """Called after the body has ended, however it did; for subclasses."""
