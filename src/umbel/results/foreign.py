"""Result backends that were written for Celery: classes of programs and packages, behind Umbel's contract.

Such a class stores and reads what is known of a task by methods of its own (``_store_result``, ``_get_task_meta_for``).
Pool processes write documents as for any backend; here they become calls of those methods, and what the methods give
becomes documents again. Chords are left to ``celery.chord_unlock``.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Protocol

from umbel.core.failures import encode_error
from umbel.core.serializers import dumps
from umbel.core.states import PENDING
from umbel.errors import BackendError, BackendStoreError
from umbel.results.documents import REQUEST_FACTS, DocumentWriter, ResultBase, read_serialized
from umbel.results.handles import result_from_tuple
from umbel.results.polling import PollingResults
from umbel.results.refused import in_place_of
from umbel.results.retrying import Retries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from umbel.core.records import ResultRecord
    from umbel.results.options import RetryRules

logger: Final = logging.getLogger("celery.backends")


class CeleryBackend(Protocol):
    """What a class of Celery's kind does for itself."""

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        """Whether what was raised may pass."""

    def on_backend_retryable_error(self, exc: Exception) -> Any:
        """Called before the next try."""

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: str | None = ..., *, request: Any = ...
    ) -> Any: ...

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]: ...

    def _get_metas_for(self, task_ids: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """(task id, what is known of it) of those of the tasks of which anything is."""

    def _forget(self, task_id: str) -> Any: ...

    def _save_group(self, group_id: str, result: Any) -> Any: ...

    def _restore_group(self, group_id: str) -> dict[str, Any] | None: ...

    def _delete_group(self, group_id: str) -> Any: ...


class StoredRequest:
    """The request of a task where its result is stored: what the task's document says of it, as attributes."""

    args: Any = None
    kwargs: Any = None
    id: str | None = None
    task: str | None = None
    group: str | None = None
    parent_id: str | None = None
    root_id: str | None = None
    hostname: str | None = None
    delivery_info: dict[str, Any] | None = None
    retries: int = 0
    stamps: dict[str, Any] | None = None
    stamped_headers: list[str] | None = None
    chord: Any = None
    chain: Any = None
    callbacks: Any = None
    errbacks: Any = None
    properties: dict[str, Any] | None = None
    ignore_result: bool = False

    def __init__(self, task_id: str, facts: dict[str, Any], children: Sequence[Any] | None) -> None:
        vars(self).update(facts)
        self.id = task_id
        #: Results of the tasks that it has sent.
        self.children = [result_from_tuple(child) for child in children or ()]

    def get(self, key: str, default: Any = None) -> Any:
        """The attribute ``key``, or ``default``."""
        return getattr(self, key, default)


class ForeignResults(PollingResults):
    """The contract, kept by an object of Celery's kind.

    Args:
        backend: the object.
        serializer: ``result_serializer``; in it documents travel between the pool and the object.
        rules: how often what may pass is tried again.
        display_url: how it is shown.
        refresh: called before the object is used, to let go of connections that have become useless.
    """

    #: Documents for it say what was called, see ``DocumentWriter``.
    tells_requests = True

    def __init__(
        self,
        backend: CeleryBackend,
        serializer: str,
        rules: RetryRules,
        display_url: str,
        refresh: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._refresh = refresh
        self._retries = Retries(rules, passing=(_Passing,))
        self._writer = DocumentWriter(serializer)
        self.serializer = serializer
        self.display_url = display_url
        self.store = ""

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a method of the object, again as long as what it raises may pass (``result_backend_always_retry``)."""

        def attempt() -> Any:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                if not self._backend.exception_safe_to_retry(error):
                    raise
                self._backend.on_backend_retryable_error(error)
                raise _Passing(error) from error

        try:
            return self._retries.run(attempt)
        except _Passing as passing:
            raise passing.error from None

    def save(self, records: Sequence[ResultRecord]) -> None:
        """As ResultBackend.save. Raises BackendStoreError, whatever the object raises."""
        for record in records:
            if record.document:
                self._save(record)

    def _save(self, record: ResultRecord) -> None:
        try:
            self._store(record)
            return
        except Exception as error:  # the object's own, of whatever kind
            logger.warning("Task %s: its %s could not be stored: %r", record.task_id, record.state, error)
            refused = error
        try:
            # What broke a connection has been told now, and the next may hold.
            self._store(record)
            return
        except Exception as error:  # as above
            refused = error
        self._save_substitute(in_place_of(record, self.serializer, repr(refused)))

    def _save_substitute(self, record: ResultRecord) -> None:
        try:
            self._store(record)
        except Exception as error:  # as above; this one would hold anything
            raise BackendStoreError(
                f"the result backend takes nothing: {error!r}", state=record.state, task_id=record.task_id
            ) from error

    def _store(self, record: ResultRecord) -> None:
        meta = read_serialized(record.document, self.serializer)
        facts = meta.get(REQUEST_FACTS) or {}
        request = StoredRequest(record.task_id, facts, meta.get("children")) if facts else None
        self._refresh()
        self.call(
            self._backend._store_result,
            record.task_id,
            meta["result"],
            record.state,
            meta.get("traceback"),
            request=request,
        )

    def _find(self, task_ids: Sequence[str]) -> list[tuple[str, str, bytes]]:
        self._refresh()
        try:
            metas = self.call(lambda: list(self._backend._get_metas_for(task_ids)))
        except Exception as error:
            raise BackendError(f"results cannot be read: {error!r}") from error
        return [(task_id, meta["status"], self._document(task_id, meta)) for task_id, meta in metas]

    def _document(self, task_id: str, meta: dict[str, Any]) -> bytes:
        result = meta.get("result")
        if isinstance(result, BaseException):
            result = encode_error(result)
        elif isinstance(result, ResultBase):
            result = result.as_tuple()
        return dumps({**meta, "result": result, "task_id": task_id}, self.serializer)[2]

    def forget(self, task_ids: Sequence[str]) -> None:
        """As ResultBackend.forget."""
        self._refresh()
        for task_id in task_ids:
            self.call(self._backend._forget, task_id)

    def save_group(self, group_id: str, document: bytes) -> None:
        """As ResultBackend.save_group."""
        self._refresh()
        group = result_from_tuple(read_serialized(document, self.serializer)["result"])
        self.call(self._backend._save_group, group_id, group)

    def load_group(self, group_id: str) -> bytes | None:
        """As ResultBackend.load_group."""
        self._refresh()
        meta = self.call(self._backend._restore_group, group_id)
        group = meta["result"] if meta else None
        return None if group is None else self._writer.write_group(group)

    def forget_group(self, group_id: str) -> None:
        """As ResultBackend.forget_group."""
        self._refresh()
        self.call(self._backend._delete_group, group_id)

    def close(self) -> None:
        """The object has its connections to itself."""


def is_known(meta: dict[str, Any]) -> bool:
    """Whether what such an object gives for a task says anything: one that is unknown is PENDING, with nothing."""
    return bool(meta["status"] != PENDING or meta.get("result") is not None)


class _Passing(Exception):
    """Around what may pass, so that it is told from what will not."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error
