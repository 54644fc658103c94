"""What is known of one task, read from its document."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from umbel.core import states
from umbel.core.times import parse_iso
from umbel.results.documents import ResultBase


class TaskAttributes(ResultBase):
    """The parts of a task's document, as attributes."""

    __slots__ = ()

    if TYPE_CHECKING:

        def _meta(self) -> dict[str, Any]:
            """The document."""

    @property
    def state(self) -> str:
        """PENDING (also: unknown), STARTED, RETRY, FAILURE, SUCCESS, REVOKED, or a state of the task's own."""
        state: str = self._meta()["status"]
        return state

    status = state

    @property
    def result(self) -> Any:
        """What the task returned or raised, or what goes with its present state."""
        return self._meta()["result"]

    info = result

    @property
    def traceback(self) -> str | None:
        """The traceback of a task that failed, as text."""
        return cast("str | None", self._field("traceback"))

    @property
    def date_done(self) -> datetime | None:
        """When it became ready; aware."""
        done = self._field("date_done")
        return parse_iso(done) if isinstance(done, str) else done

    @property
    def children(self) -> list[Any] | None:
        """Results of the tasks that it has sent, where it keeps a trail."""
        return cast("list[Any] | None", self._field("children"))

    @property
    def name(self) -> str | None:
        """The task's name; with ``result_extended``."""
        return cast("str | None", self._field("name"))

    @property
    def args(self) -> Any:
        """The positional arguments; with ``result_extended``."""
        return self._field("args")

    @property
    def kwargs(self) -> Any:
        """The keyword arguments; with ``result_extended``."""
        return self._field("kwargs")

    @property
    def worker(self) -> str | None:
        """The node that ran it; with ``result_extended``."""
        return cast("str | None", self._field("worker"))

    @property
    def retries(self) -> int | None:
        """How many attempts came before; with ``result_extended``."""
        return cast("int | None", self._field("retries"))

    @property
    def queue(self) -> str | None:
        """The queue it came from; with ``result_extended``."""
        return cast("str | None", self._field("queue"))

    def ready(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.state in states.READY_STATES

    def successful(self) -> bool:
        """Whether it has returned."""
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        """Whether it has failed."""
        return self.state == states.FAILURE

    def exists(self) -> bool:
        """Whether anything is stored: tells a task that waits from one that nobody knows."""
        return self.state != states.PENDING

    def _field(self, name: str) -> Any:
        return self._meta().get(name)
