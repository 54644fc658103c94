"""Tasks: functions that can be sent."""

from umbel.task.options import ApplyOptions, TaskOptions
from umbel.task.task import AsyncTask, Task

__all__ = ["ApplyOptions", "AsyncTask", "Task", "TaskOptions"]
