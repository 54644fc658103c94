"""Results of tasks that can be asked to stop: the state ABORTED, which the task looks for."""

from __future__ import annotations

from typing import Any

from umbel.core.states import ALL_STATES
from umbel.results.handles import AsyncResult

__all__ = ["ABORTED", "AbortableAsyncResult"]

ABORTED = "ABORTED"
assert ABORTED not in ALL_STATES


class AbortableAsyncResult(AsyncResult[Any]):
    """The result of an ``AbortableTask``."""

    def is_aborted(self) -> bool:
        """Whether the task was asked to stop."""
        return self.state == ABORTED

    def abort(self) -> None:
        """Ask the task to stop: it has to look, by ``is_aborted``. A task that does not look goes on."""
        self.app.store_state(self.id, ABORTED, None, None, self.backend)
