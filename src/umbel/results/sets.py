"""Results of several tasks, awaited together: in one request, or one wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from umbel.core.states import PROPAGATE_STATES
from umbel.errors import ImproperlyConfigured
from umbel.results.documents import ResultBase
from umbel.results.waiting import Deadline, arrivals, arriving, assert_will_not_block, is_own
from umbel.state import get_current_app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from umbel.results.base import ResultBackend
    from umbel.results.handles import AsyncResult


class ResultSet(ResultBase):
    """Results of several tasks, awaited together.

    Args:
        results: the results, kept as they are: ``add`` and ``remove`` change this very list.
        app: the application; None: that of the results, or the current one.
        ready_barrier: accepted as Celery's; not used.
    """

    def __init__(
        self, results: list[Any], app: Any = None, ready_barrier: object = None, **options: Any
    ) -> None:
        self._app = app
        self.results = results

    @property
    def app(self) -> Any:
        """The application."""
        if self._app is None:
            self._app = self.results[0].app if self.results else get_current_app()
        return self._app

    @app.setter
    def app(self, app: Any) -> None:
        self._app = app

    @property
    def backend(self) -> ResultBackend:
        """Where the results are kept."""
        backend: ResultBackend = self.results[0].backend if self.results else self.app.backend
        return backend

    def add(self, result: Any) -> None:
        """Add a result, unless it is a member."""
        if result not in self.results:
            self.results.append(result)

    def remove(self, result: Any) -> None:
        """Remove a result, given itself or by its id. Raises KeyError when it is no member."""
        if result not in self.results:
            raise KeyError(result)
        self.results.remove(result)

    def discard(self, result: Any) -> None:
        """Remove a result if it is a member."""
        if result in self.results:
            self.results.remove(result)

    def update(self, results: Iterable[Any]) -> None:
        """Add those that are not members."""
        self.results.extend(result for result in results if result not in self.results)

    def clear(self) -> None:
        """Remove all results."""
        self.results[:] = []

    def successful(self) -> bool:
        """Whether all have returned."""
        self._look()
        return all(result.successful() for result in self.results)

    def failed(self) -> bool:
        """Whether any has failed."""
        self._look()
        return any(result.failed() for result in self.results)

    def waiting(self) -> bool:
        """Whether any has not ended."""
        return not self.ready()

    def ready(self) -> bool:
        """Whether all have ended."""
        self._look()
        return all(result.ready() for result in self.results)

    def completed_count(self) -> int:
        """How many have returned; as in Celery, those that failed are not counted."""
        self._look()
        return sum(bool(result.successful()) for result in self.results)

    def _leaves(self) -> list[AsyncResult[Any]]:
        """The results of single tasks, those of nested sets included."""
        leaves: list[AsyncResult[Any]] = []
        for result in self.results:
            leaves += result._leaves() if isinstance(result, ResultSet) else [result]
        return leaves

    def _unread(self) -> dict[str, AsyncResult[Any]]:
        return {leaf.id: leaf for leaf in self._leaves() if leaf._cache is None}

    def _look(self) -> None:
        """Read what there is to read, in one request."""
        unread = self._unread()
        if len(unread) < 2:
            return
        for leaf, data in zip(unread.values(), self.backend.load(list(unread)), strict=True):
            if data is not None:
                leaf._take(data)

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> Any:
        """Wait for all and give their values in order; with a ``callback`` those go to it as they come.

        Args:
            timeout: seconds for all together; None waits for ever.
            propagate: raise the first error that arrives; otherwise it stands in its place in the list.
            interval: seconds between calls of ``on_interval``.
            callback: called with the id and the value of each; nothing is returned then.
            no_ack: accepted as Celery's.
            on_message: called with each document that arrives.
            disable_sync_subtasks: refuse to wait inside a task.
            on_interval: called while nothing arrives.

        Raises:
            TimeoutError: not all have ended in time.
            RuntimeError: called inside a task.
            Exception: whatever the task raised whose error arrived first.
        """
        join = self.join_native if self.supports_native_join else self.join
        return join(
            timeout=timeout,
            propagate=propagate,
            interval=interval,
            callback=callback,
            no_ack=no_ack,
            on_message=on_message,
            disable_sync_subtasks=disable_sync_subtasks,
            on_interval=on_interval,
        )

    def join(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> list[Any]:
        """As ``get``, waiting for one after the other: the first error in order is raised.

        Raises ImproperlyConfigured for ``on_message``, which only ``join_native`` can call.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        if on_message is not None:
            raise ImproperlyConfigured("Backend does not support on_message callback")
        deadline = Deadline(timeout)
        values = []
        for result in self.results:
            value = result.get(
                timeout=deadline.left(),
                propagate=propagate,
                interval=interval,
                no_ack=no_ack,
                on_interval=on_interval,
                disable_sync_subtasks=disable_sync_subtasks,
            )
            if callback is not None:
                callback(result.id, value)
            else:
                values.append(value)
        return values

    def join_native(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[Any] | None:
        """As ``get``, waiting for all at once: the first error to arrive is raised."""
        if disable_sync_subtasks:
            assert_will_not_block()
        values: dict[Any, Any] = {}
        missing = {leaf.id for leaf in self._leaves()}
        told: set[Any] = set()
        for task_id, meta in self.iter_native(timeout, interval, no_ack, on_message, on_interval):
            missing.discard(task_id)
            if isinstance(meta, list):
                values[task_id] = [member.get(propagate=propagate) for member in meta]
            elif propagate and meta["status"] in PROPAGATE_STATES:
                value = meta["result"]
                raise value if isinstance(value, BaseException) else Exception(value)
            else:
                values[task_id] = meta["result"]
            if callback is not None:
                self._tell(callback, values, missing, told)
        return None if callback is not None else [_value_of(result, values) for result in self.results]

    def _tell(
        self, callback: Callable[[str, Any], Any], values: dict[Any, Any], missing: set[Any], told: set[Any]
    ) -> None:
        """Call back for every result, nested sets included, of which nothing is missing any more."""
        for result in self.results:
            ids = {leaf.id for leaf in result._leaves()} if isinstance(result, ResultSet) else {result.id}
            if result.id not in told and not ids & missing and ids & values.keys():
                told.add(result.id)
                callback(result.id, _value_of(result, values))

    def _ended(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[AsyncResult[Any]]:
        """Every single result once it has ended, in the order in which they do."""
        unread = self._unread()
        yield from (leaf for leaf in self._leaves() if leaf.id not in unread)
        if not unread:
            return
        for task_id, data in arrivals(self.backend, list(unread), timeout, interval, on_interval):
            leaf = unread[task_id]
            meta = leaf._take(data)
            if on_message is not None:
                on_message(meta)
            if leaf._cache is not None:
                yield leaf

    def iterate(
        self, timeout: float | None = None, propagate: bool = True, interval: float = 0.5
    ) -> Iterator[Any]:
        """Yield the values as they arrive, in whatever order."""
        for leaf in self._ended(timeout, interval):
            yield leaf._value(propagate, None)

    def iter_native(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (id, document) as the tasks end."""
        if not self.results:
            return
        if not is_own(self.backend):
            backend: Any = self.backend
            yield from backend.iter_native(
                self,
                timeout=timeout,
                interval=interval,
                no_ack=no_ack,
                on_message=on_message,
                on_interval=on_interval,
            )
            return
        for leaf in self._ended(timeout, interval, on_message, on_interval):
            yield leaf.id, leaf._meta()

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        disable_sync_subtasks: bool = True,
    ) -> list[Any]:
        """As ``get``, for a coroutine."""
        if disable_sync_subtasks:
            assert_will_not_block()
        unread = self._unread()
        deadline = Deadline(timeout)
        if unread:
            async with arriving(self.backend, list(unread), timeout) as documents:
                async for task_id, data in documents:
                    unread[task_id]._take(data)
                    if propagate:
                        unread[task_id].throw_if_ready()
                    deadline.check()
        self.maybe_throw(propagate=propagate)
        return [_value_of(result, {}) for result in self.results]

    def maybe_throw(self, callback: Callable[[str, Any], Any] | None = None, propagate: bool = True) -> None:
        """Raise the error of the first in order that has one."""
        self._look()
        for result in self.results:
            result.maybe_throw(callback=callback, propagate=propagate)

    maybe_reraise = maybe_throw

    def then(
        self, callback: Callable[..., Any], on_error: Callable[..., Any] | None = None, weak: bool = False
    ) -> ResultSet:
        """Have ``callback(self)`` called once all are known to have ended; ``on_error`` with the first error."""
        missing = {leaf.id for leaf in self._leaves()}

        def ended(leaf: AsyncResult[Any]) -> None:
            missing.discard(leaf.id)
            if not missing:
                callback(self)

        for leaf in self._leaves():
            leaf.then(ended, on_error)
        return self

    def forget(self) -> None:
        """Delete what is stored of all tasks."""
        for result in self.results:
            result.forget()

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | int | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Have all workers discard these tasks; see ``AsyncResult.revoke``."""
        return self.app.control.revoke(
            [result.id for result in self.results],
            connection=connection,
            timeout=timeout,
            terminate=terminate,
            signal=signal,
            reply=wait,
        )

    @property
    def supports_native_join(self) -> bool | None:
        """Whether all are awaited together; None for an empty set."""
        return bool(self.results[0].supports_native_join) if self.results else None

    def _failed_join_report(self) -> Iterator[Any]:
        """Those that are known to have failed."""
        return (
            result
            for result in self.results
            if result.backend.is_cached(result.id) and result.state in PROPAGATE_STATES
        )

    def as_tuple(self) -> tuple[Any, Any]:
        """Refused: a set without an id cannot be stored; a GroupResult can."""
        raise TypeError("a ResultSet has no id to be stored by; return a GroupResult instead")

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __getitem__(self, index: int) -> Any:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ResultSet):
            return other.results == self.results
        return NotImplemented

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(str(result.id) for result in self.results)}]>"


def _value_of(result: Any, known: dict[Any, Any]) -> Any:
    if isinstance(result, ResultSet):
        own = getattr(result, "id", None)
        return known[own] if own in known else [_value_of(member, known) for member in result.results]
    # Not ``get`` with a default: that would ask the backend for each.
    return known[result.id] if result.id in known else result.result  # noqa: SIM401


class GroupResult(ResultSet):
    """The results of a group, by the group's id.

    Args:
        id: the group's id.
        results: the results of its tasks, in order.
        parent: the result that the group follows in a chain.
        app: the application.
    """

    def __init__(
        self,
        id: str | None = None,
        results: list[Any] | None = None,
        parent: ResultBase | None = None,
        app: Any = None,
        **options: Any,
    ) -> None:
        self.id = id
        self.parent = parent
        super().__init__([] if results is None else results, app=app)

    @property
    def children(self) -> list[Any]:
        """The results of its tasks."""
        return self.results

    def as_tuple(self) -> tuple[Any, Any]:
        """((id, its parent's tuple), the tuples of its tasks)."""
        parent = self.parent.as_tuple() if self.parent is not None else None
        return (self.id, parent), [result.as_tuple() for result in self.results]

    def save(self, backend: Any = None) -> GroupResult:
        """Have the backend keep which results make this group up, for ``restore`` in whatever process.

        ``backend`` is that of another application (``app.backend``).
        """
        (backend or self.app.backend).save_group(self.id, self)
        return self

    def delete(self, backend: Any = None) -> None:
        """Have the backend forget what ``save`` has kept."""
        (backend or self.app.backend).delete_group(self.id)

    @classmethod
    def restore(cls, id: str, backend: Any = None, app: Any = None) -> GroupResult | None:
        """The group of this id, if it was saved; None otherwise."""
        if backend is None:
            app = app if app is not None else cls.bound_app
            backend = (app if app is not None else get_current_app()).backend
        restored: GroupResult | None = backend.restore_group(id)
        return restored

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.__reduce_args__()

    def __reduce_args__(self) -> tuple[Any, ...]:
        return self.id, self.results

    def __bool__(self) -> bool:
        return bool(self.id or self.results)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return (other.id, other.results, other.parent) == (self.id, self.results, self.parent)
        if isinstance(other, str):
            return other == self.id
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id} [{', '.join(str(result.id) for result in self.results)}]>"
