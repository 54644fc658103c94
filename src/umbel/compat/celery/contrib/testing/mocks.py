"""Messages and mocks for tests."""

from umbel.testing.mocks import ContextMock, TaskMessage, TaskMessage1, _ContextMock, task_message_from_sig

__all__ = ("ContextMock", "TaskMessage", "TaskMessage1", "task_message_from_sig")
