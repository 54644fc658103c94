"""What one waiter has seen of the tasks it waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from umbel.core.states import READY_STATES

if TYPE_CHECKING:
    from collections.abc import Iterable


class Watch:
    """The tasks that are not ready yet, each with the last document that was seen of it."""

    def __init__(self, task_ids: Iterable[str]) -> None:
        self.pending: dict[str, bytes] = dict.fromkeys(task_ids, b"")

    def news(self, found: Iterable[tuple[str, str, bytes]]) -> list[tuple[str, bytes]]:
        """Of (task id, state, document) as found in the store, the (task id, document) that are news.

        A task that has reached a ready state is pending no more.
        """
        news = []
        for task_id, state, document in found:
            if self.pending.get(task_id, document) == document:
                continue
            news.append((task_id, document))
            if state in READY_STATES:
                del self.pending[task_id]
            else:
                self.pending[task_id] = document
        return news

    def overdue(self, timeout: float | None) -> str:
        """What to say when nothing came for ``timeout`` seconds."""
        first = next(iter(self.pending))
        others = f" nor of {len(self.pending) - 1} others" if len(self.pending) > 1 else ""
        return f"no result of task {first}{others} within {timeout} s"
