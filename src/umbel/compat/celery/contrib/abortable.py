"""Tasks that can be asked to stop, and look whether they were."""

from umbel.results.abortable import ABORTED, AbortableAsyncResult
from umbel.task.abortable import AbortableTask

__all__ = ("AbortableAsyncResult", "AbortableTask")
