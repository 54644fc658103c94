"""Tasks and their requests."""

from umbel.errors import MaxRetriesExceededError, OperationalError, Reject, Retry
from umbel.execution.context import Context
from umbel.task import Task

__all__ = ("Context", "Task")

TaskType = type
BaseTask = Task
extract_exec_options = Task._get_exec_options


def _reprtask(task: object, fmt: str | None = None, flags: list[str] | None = None) -> str:
    """The text of a task."""
    return repr(task)
