"""The outbox of a program, or of a task's body: workflows are gathered and sent in few round trips."""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from umbel.canvas.outbox import Carried
from umbel.errors import NotRegistered
from umbel.execution.context import current_worker_task
from umbel.execution.opening import open_chord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from umbel.app import Umbel
    from umbel.canvas.outbox import Opening
    from umbel.canvas.signature import Signature
    from umbel.client.client import Work

__all__ = ["SendingOutbox"]

#: So many tasks wait at most, and for so many seconds; none when it takes longer than that to make one.
_MOST = 500
_LONGEST = 0.02


class SendingOutbox:
    """Sends what is put into it; the rest when its block ends without an error.

    Args:
        app: the application that sends.
    """

    def __init__(self, app: Umbel) -> None:
        self._app = app
        self._waiting: list[Work] = []
        self._since = self._last = monotonic()
        self._carried = Carried()
        self._compression = app.conf.task_compression

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            self.flush()

    def send(
        self, signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Any:
        """As ``Outbox.send``. Raises what ``Task.apply_async`` raises."""
        task = self._task_of(signature)
        if task is not None and task.sends_its_own_way:
            self.flush()
            return task.apply_async(args, kwargs, **options)
        given = self._carried.options(options, self._compression or (task and task.compression))
        add_to_parent = given.pop("add_to_parent", True)
        result_cls = given.pop("result_cls", None)
        if task is None:
            work = self._app._work_of(
                {"task": signature["task"], "args": args, "kwargs": kwargs, "options": given}
            )
        else:
            work = task._work(args, kwargs, given)
        return self._taken(work, add_to_parent, result_cls)

    @staticmethod
    def _task_of(signature: Signature) -> Any:
        try:
            return signature.type
        except NotRegistered:
            return None

    def _taken(self, work: Work, add_to_parent: bool, result_cls: Any) -> Any:
        now = monotonic()
        if not self._waiting:
            self._since = now
        self._waiting.append(work)
        # Whatever took long to be made may be followed by what takes as long.
        if max(now - self._since, now - self._last) > _LONGEST or len(self._waiting) >= _MOST:
            self.flush()
        self._last = now
        call = work.call
        result = result_cls(call.id) if result_cls else self._app._result_handle(call.id, call.task)
        result.ignored = call.ignore_result
        if add_to_parent:
            self.remember(result)
        return result

    def flush(self) -> None:
        """Send what waits."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._app.sender.send_many(waiting, add_to_parent=False)

    def open_chord(self, opening: Opening) -> None:
        """As ``Outbox.open_chord``. Raises NotImplementedError where results cannot be counted."""
        open_chord(self._app, opening)

    def hasten(self) -> None:
        """As ``Outbox.hasten``."""
        self._last = -inf

    def remember(self, result: Any) -> None:
        """Note a result among the children of the task that runs here, if one does."""
        parent: Any = current_worker_task()
        if parent is not None:
            parent.add_trail(result)
