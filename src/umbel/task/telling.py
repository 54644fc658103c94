"""What a running task tells of itself: states of its own, and events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from umbel.app import Umbel
    from umbel.execution.context import Context
    from umbel.results.base import ResultBackend

__all__ = ["Telling"]


class Telling:
    """The part of a task that tells what it is at."""

    if TYPE_CHECKING:

        @property
        def app(self) -> Umbel:
            """Its application."""

        @property
        def backend(self) -> ResultBackend:
            """Where its results are kept."""

        @property
        def request(self) -> Context:
            """The run that this is."""

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **kwargs: Any
    ) -> None:
        """Store a state of the user's own, such as ``PROGRESS``, with ``meta`` as its information.

        Args:
            task_id: of which task; None: the current run.
        """
        request = self.request
        target = task_id or request.id
        if target is None:
            raise ValueError("update_state needs a task_id outside of a running task")
        self.app.store_state(target, state or "", meta, request, self.backend)

    def send_event(
        self, type_: str, retry: bool = True, retry_policy: Mapping[str, Any] | None = None, **fields: Any
    ) -> None:
        """Tell monitors of something: an event of this type, such as ``task-progress``, about the current run.

        Args:
            type_: its name; what stands before the first dash is its group.
            retry, retry_policy: accepted as Celery's; an event is sent once.
            fields: what the event tells.

        Raises:
            OperationalError: the broker cannot be reached.
        """
        request = self.request
        with self.app.events.default_dispatcher(hostname=request.hostname) as dispatcher:
            dispatcher.send(type_, uuid=request.id, **fields)
