"""Tasks of Django projects: sent when the database transaction has been committed."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.db import transaction

from umbel.task import Task

__all__ = ["DjangoTask"]


class DjangoTask(Task[..., Any]):
    """A task that can wait for the transaction that it is called in."""

    abstract = True

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """As ``delay``, when the transaction is committed; not at all if it is rolled back."""
        transaction.on_commit(partial(self.delay, *args, **kwargs))

    def apply_async_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """As ``apply_async``, when the transaction is committed; not at all if it is rolled back."""
        transaction.on_commit(partial(self.apply_async, *args, **kwargs))
