"""Result handles: what a caller holds of a task that was sent.

A handle is made for every publish, so making one touches nothing: the application and its backend are looked up when
something is asked. Once its document says that the task is done, a handle asks no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeVar, cast

from umbel.core import states
from umbel.errors import TaskRevokedError, TimeoutError
from umbel.results.documents import ResultBase, accepted_types, pending, read_document
from umbel.results.family import TaskFamily
from umbel.results.sets import GroupResult, ResultSet
from umbel.results.waiting import (
    Deadline,
    allow_join_result,
    arrivals,
    arriving,
    assert_will_not_block,
    denied_join_result,
    is_own,
    task_join_will_block,
)
from umbel.state import get_current_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.results.base import ResultBackend

__all__ = [
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "ResultBase",
    "ResultSet",
    "allow_join_result",
    "assert_will_not_block",
    "denied_join_result",
    "result_from_tuple",
    "task_join_will_block",
]

#: Seconds that a chord's body is waited for before the parts of its header are looked at.
_GLANCE: Final = 0.5

R = TypeVar("R")


class AsyncResult(TaskFamily, Generic[R]):
    """The result of one task, there or still to come.

    Args:
        id: the task's id.
        backend: where its result is kept; None: the application's.
        task_name: accepted as Celery's; not used.
        app: the application; None: the current one when something is asked.
        parent: the result that this one follows in a chain.

    Raises:
        ValueError: the id is None.
    """

    # Few handles are given attributes of other names, and only those have a dictionary.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_app",
        "_backend",
        "_cache",
        "_callbacks",
        "_ignored",
        "id",
        "parent",
    )

    TimeoutError = TimeoutError

    def __init__(
        self,
        id: str,
        backend: ResultBackend | None = None,
        task_name: str | None = None,
        app: Any = None,
        parent: ResultBase | None = None,
    ) -> None:
        if id is None:
            raise ValueError("AsyncResult requires valid id, not <class 'NoneType'>")
        self.id = id
        self._ignored = False
        self.parent = parent
        self._app = app
        self._backend = backend
        self._cache: dict[str, Any] | None = None
        self._callbacks: list[tuple[Callable[..., Any], Callable[..., Any] | None]] | None = None

    @property
    def app(self) -> Any:
        """The application."""
        if self._app is None:
            self._app = get_current_app()
        return self._app

    @app.setter
    def app(self, app: Any) -> None:
        self._app = app

    @property
    def backend(self) -> ResultBackend:
        """Where the result is kept."""
        if self._backend is None:
            self._backend = self.app.backend
        return self._backend

    @backend.setter
    def backend(self, backend: ResultBackend | None) -> None:
        self._backend = backend

    @property
    def ignored(self) -> bool:
        """Whether nothing will be stored; ``get`` then returns None at once."""
        return getattr(self, "_ignored", False)

    @ignored.setter
    def ignored(self, ignored: bool) -> None:
        self._ignored = ignored

    @property
    def task_id(self) -> str:
        """The task's id, by its old name."""
        return self.id

    @task_id.setter
    def task_id(self, task_id: str) -> None:
        self.id = task_id

    # Asking.

    def _meta(self) -> dict[str, Any]:
        if self._cache is not None:
            return self._cache
        backend = self.backend
        ask = getattr(backend, "get_task_meta", None)
        if ask is not None:
            meta: dict[str, Any] = self._maybe_set_cache(ask(self.id))
            return meta
        data = backend.load((self.id,))[0]
        return self._take(data) if data is not None else pending(self.id)

    def _get_task_meta(self) -> dict[str, Any]:
        return self._meta()

    def _maybe_set_cache(self, meta: Any) -> Any:
        """Keep a document if it is the last that there will be."""
        if meta and meta["status"] in states.READY_STATES:
            self._set_cache(meta)
            self._settle_callbacks()
        return meta

    def _set_cache(self, meta: dict[str, Any]) -> dict[str, Any]:
        children = meta.get("children")
        if children:
            meta["children"] = [result_from_tuple(child, self._app) for child in children]
        self._cache = meta
        return meta

    def _take(self, data: bytes) -> dict[str, Any]:
        """Read a document; keep it if it is the last that there will be."""
        meta = read_document(data, self.backend.serializer, self._accept())
        self._maybe_set_cache(meta)
        return meta

    def _accept(self) -> frozenset[str] | None:
        serializer = self.backend.serializer
        if serializer == "json":
            return None
        conf = self.app.conf
        names = conf.result_accept_content
        return accepted_types(serializer, conf.accept_content if names is None else names)

    # Waiting.

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], Any] | None = None,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        disable_sync_subtasks: bool = True,
        EXCEPTION_STATES: frozenset[str] = states.EXCEPTION_STATES,  # noqa: N803 Celery's name
        PROPAGATE_STATES: frozenset[str] = states.PROPAGATE_STATES,  # noqa: N803 Celery's name
    ) -> R:
        """Wait until the task has ended, and give what it returned; None at once for an ignored result.

        Args:
            timeout: seconds to wait; None waits for ever.
            propagate: raise what the task raised; otherwise it is returned.
            interval: seconds between calls of ``on_interval``. The wait itself is woken by the backend.
            no_ack: accepted as Celery's.
            follow_parents: raise the error of a task that comes before this one in its chain.
            callback: called with the id and the value when it is there.
            on_message: called with each document that arrives, progress included.
            on_interval: called while nothing arrives.
            disable_sync_subtasks: refuse to wait inside a task.
            EXCEPTION_STATES: accepted as Celery's.
            PROPAGATE_STATES: the states whose value is raised.

        Raises:
            TimeoutError: it has not ended in time.
            RuntimeError: called inside a task.
            Exception: whatever the task raised.
        """
        if self.ignored:
            return cast("R", None)
        if disable_sync_subtasks:
            assert_will_not_block()
        if self._cache is None:
            parents = self._parents() if follow_parents and propagate else []
            if not is_own(self.backend):
                return cast(
                    "R", self._wait_there(parents, timeout, interval, propagate, callback, on_interval)
                )
            headers = self._headers() if follow_parents and propagate else []
            self._wait(parents, headers, timeout, interval, on_message, on_interval)
        if follow_parents and propagate and self.parent is not None:
            self._throw_of_header()
        return cast("R", self._value(propagate, callback, PROPAGATE_STATES))

    wait = get

    def _wait(
        self,
        parents: list[AsyncResult[Any]],
        headers: list[GroupResult],
        timeout: float | None,
        interval: float,
        on_message: Callable[[dict[str, Any]], Any] | None,
        on_interval: Callable[[], Any] | None,
    ) -> None:
        is_cached = getattr(self.backend, "is_cached", None)
        if is_cached is not None and is_cached(self.id):
            self._meta()
            if self._cache is not None:
                return
        family = {parent.id: parent for parent in parents if parent._cache is None}
        for parent in parents:
            if parent._cache is not None:
                parent.maybe_throw()
        deadline = Deadline(timeout)
        if headers:
            try:
                self._take_arrivals(family, _glance(timeout), interval, on_message, on_interval)
            except TimeoutError:
                deadline.check()
                # Slow. A part may have failed, or been revoked, while others keep the body waiting.
                for header in headers:
                    header.maybe_throw()
            else:
                return
        self._take_arrivals(family, deadline.left(), interval, on_message, on_interval)

    def _take_arrivals(
        self,
        family: dict[str, AsyncResult[Any]],
        timeout: float | None,
        interval: float,
        on_message: Callable[[dict[str, Any]], Any] | None,
        on_interval: Callable[[], Any] | None,
    ) -> None:
        waited = [self.id, *(task_id for task_id, parent in family.items() if parent._cache is None)]
        for task_id, data in arrivals(self.backend, waited, timeout, interval, on_interval):
            if task_id != self.id:
                parent = family[task_id]
                parent._take(data)
                if parent._cache is not None:
                    parent._throw_of_header()
                parent.throw_if_ready()
                continue
            meta = self._take(data)
            if on_message is not None:
                on_message(meta)
            if self._cache is not None:
                return

    def _wait_there(
        self,
        parents: list[AsyncResult[Any]],
        timeout: float | None,
        interval: float,
        propagate: bool,
        callback: Callable[[str, Any], Any] | None,
        on_interval: Callable[[], Any] | None,
    ) -> Any:
        """Wait by a backend that was written for Celery; it gives the value."""
        for parent in parents:
            parent.throw_if_ready()
        backend: Any = self.backend
        backend.add_pending_result(self)
        return backend.wait_for_pending(
            self,
            timeout=timeout,
            interval=interval,
            on_interval=on_interval,
            propagate=propagate,
            callback=callback,
        )

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """As ``get``, for a coroutine: the event loop goes on meanwhile."""
        if self.ignored:
            return cast("R", None)
        if disable_sync_subtasks:
            assert_will_not_block()
        deadline = Deadline(timeout)
        if self._cache is None:
            async with arriving(self.backend, (self.id,), timeout) as documents:
                async for _, data in documents:
                    meta = self._take(data)
                    if on_message is not None:
                        on_message(meta)
                    if self._cache is None:
                        deadline.check()
        return cast("R", self._value(propagate, None))

    def _value(
        self,
        propagate: bool,
        callback: Callable[[str, Any], Any] | None,
        raised: frozenset[str] = states.PROPAGATE_STATES,
    ) -> Any:
        meta = self._meta()
        value = meta["result"]
        if propagate and meta["status"] in raised:
            error = value if isinstance(value, BaseException) else Exception(value)
            raise error.with_traceback(self._remote_traceback(meta.get("traceback")) or error.__traceback__)
        if callback is not None:
            callback(self.id, value)
        return value

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], Any] | None = None) -> Any:
        """Raise what the task raised, if it has; otherwise give its present value."""
        return self._value(propagate, callback)

    maybe_reraise = maybe_throw

    def _remote_traceback(self, text: Any) -> Any:
        """The worker's traceback, to be shown with the error; with ``task_remote_tracebacks``, if tblib is there."""
        if not text or not self.app.conf.task_remote_tracebacks:
            return None
        try:
            from tblib import Traceback  # type: ignore[import-not-found]  # an optional package
        except ImportError:
            return None
        return Traceback.from_string(text).as_traceback()

    def throw(self, error: BaseException, *args: Any) -> NoReturn:
        """Raise ``error``."""
        raise error

    def throw_if_ready(self) -> None:
        """Raise what the task raised, if that is known here already."""
        if self._cache is not None:
            self._value(propagate=True, callback=None)

    def _parents(self) -> list[AsyncResult[Any]]:
        """What comes before it in its chain, the first step first."""
        found: list[AsyncResult[Any]] = []
        node = self.parent
        while node is not None:
            if isinstance(node, AsyncResult):
                found.insert(0, node)
            node = node.parent
        return found

    def then(
        self, callback: Callable[..., Any], on_error: Callable[..., Any] | None = None, weak: bool = False
    ) -> AsyncResult[R]:
        """Have ``callback(result)`` called once this handle learns that the task has ended, by waiting or asking.

        ``on_error(exception)`` is called instead when it failed, if given.
        """
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append((callback, on_error))
        if self._cache is not None:
            self._settle_callbacks()
        return self

    def _settle_callbacks(self) -> None:
        callbacks, self._callbacks = self._callbacks, None
        for callback, on_error in callbacks or ():
            if on_error is not None and self.state in states.PROPAGATE_STATES:
                on_error(self.result)
            else:
                callback(self)

    # Acting.

    def forget(self) -> None:
        """Delete what is stored of this task, and of those before it in its chain."""
        self._cache = None
        if self.parent is not None:
            self.parent.forget()
        if is_own(self.backend):
            self.backend.forget((self.id,))
            return
        backend: Any = self.backend
        backend.forget(self.id)
        backend.remove_pending_result(self)

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | int | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Have all workers discard the task, and end it if it runs and ``terminate`` is set.

        ``wait`` waits up to ``timeout`` seconds for the workers' replies.
        """
        return self.app.control.revoke(
            self.id, connection=connection, terminate=terminate, signal=signal, reply=wait, timeout=timeout
        )

    def revoke_by_stamped_headers(
        self,
        headers: dict[str, Any],
        connection: Any = None,
        terminate: bool = False,
        signal: str | int | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """As ``revoke``, for every task with these stamps."""
        return self.app.control.revoke_by_stamped_headers(
            headers, connection=connection, terminate=terminate, signal=signal, reply=wait, timeout=timeout
        )

    # What Python and Celery want of a handle.

    @property
    def supports_native_join(self) -> bool:
        """Whether results of many tasks are awaited together."""
        return bool(getattr(self.backend, "supports_native_join", True))

    def as_tuple(self) -> tuple[Any, Any]:
        """((id, its parent's tuple), None)."""
        return (self.id, self.parent.as_tuple() if self.parent is not None else None), None

    def as_list(self) -> list[str]:
        """This id, followed by those that come before it in its chain."""
        ids = [self.id]
        if isinstance(self.parent, AsyncResult):
            ids += self.parent.as_list()
        elif isinstance(self.parent, GroupResult):
            ids.append(str(self.parent.id))
        return ids

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return bool(other.id == self.id)
        if isinstance(other, str):
            return other == self.id
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __copy__(self) -> AsyncResult[R]:
        return type(self)(self.id, self._backend, None, self._app, self.parent)

    def __reduce__(self) -> tuple[Any, ...]:
        # Connections do not travel: the reader's own application and backend take their place.
        return type(self), self.__reduce_args__()

    def __reduce_args__(self) -> tuple[Any, ...]:
        return self.id, None, None, None, self.parent


class EagerResult(AsyncResult[R]):
    """The result of a task that was run in place.

    Args:
        id: the task's id.
        ret_value: what it returned or raised.
        state: how it ended.
        traceback: of its error, as text.
        name: the task's name.
    """

    __slots__ = ()

    def __init__(
        self, id: str, ret_value: Any, state: str, traceback: str | None = None, name: str | None = None
    ) -> None:
        super().__init__(id)
        self._cache = {
            "task_id": id,
            "result": ret_value,
            "status": state,
            "traceback": traceback,
            "name": name,
        }

    def ready(self) -> bool:
        """True: it has run."""
        return True

    def _remote_traceback(self, text: Any) -> Any:
        """None: the error has its own."""
        return None

    def get(self, timeout: float | None = None, propagate: bool = True, *args: Any, **options: Any) -> R:
        """What the task returned; raises what it raised, or returns that unless ``propagate``.

        Raises RuntimeError inside a task, unless ``disable_sync_subtasks`` is false. Other options are as Celery's and
        have nothing to do here.
        """
        if options.get("disable_sync_subtasks", True):
            assert_will_not_block()
        state = self.state
        if state != states.SUCCESS and state not in states.PROPAGATE_STATES:
            return cast("R", None)
        return cast("R", self._value(propagate, None))

    wait = get

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """As ``get``."""
        return self.get(timeout, propagate, disable_sync_subtasks=disable_sync_subtasks)

    def forget(self) -> None:
        """Nothing is stored, so there is nothing to delete."""

    def revoke(self, *args: Any, **options: Any) -> None:
        """Mark it revoked: its value becomes the TaskRevokedError that a worker would have stored."""
        self._cache = {
            **self._meta(),
            "status": states.REVOKED,
            "result": TaskRevokedError("revoked"),
            "traceback": None,
        }

    @property
    def supports_native_join(self) -> bool:
        """False: there is nothing to wait for."""
        return False

    def __copy__(self) -> EagerResult[R]:
        return EagerResult(*self.__reduce_args__())

    def __reduce_args__(self) -> tuple[Any, ...]:
        meta = self._meta()
        return self.id, meta["result"], meta["status"], meta["traceback"], meta["name"]


def result_from_tuple(stored: Any, app: Any = None) -> Any:
    """The AsyncResult or GroupResult that ``as_tuple`` was taken of; a result is given back as it is."""
    if isinstance(stored, ResultBase):
        return stored
    own, members = stored
    task_id, parent = own if isinstance(own, (list, tuple)) else (own, None)
    before = result_from_tuple(parent, app) if parent else None
    if members is not None:
        return GroupResult(
            task_id, [result_from_tuple(member, app) for member in members], parent=before, app=app
        )
    return AsyncResult(task_id, app=app, parent=before)


def _glance(timeout: float | None) -> float:
    return _GLANCE if timeout is None else min(timeout, _GLANCE)
