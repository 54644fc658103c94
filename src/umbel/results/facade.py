"""``app.backend``: the result backend of an application, as the contract has it and as Celery's users know it.

One thin object over whichever adapter the settings name: the contract's methods go straight through, Celery's are made
of them. ``app.backend`` adds what takes an application to do: storing states and completing chords.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import UUID

from umbel.core import states
from umbel.core.failures import decode_error, encode_error
from umbel.core.serializers import dumps, registry
from umbel.errors import TimeoutError
from umbel.results.documents import (
    DocumentWriter,
    ResultBase,
    accepted_types,
    pending,
    read_document,
    read_serialized,
)
from umbel.results.handles import result_from_tuple
from umbel.results.options import compression_of
from umbel.results.waiting import arrivals, tells_requests

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

    from umbel.core.records import ChordEnd, DueChord, ResultRecord
    from umbel.results.base import ResultBackend

#: What Celery's names of keys begin with.
TASK_PREFIX: Final = "celery-task-meta-"
GROUP_PREFIX: Final = "celery-taskset-meta-"
CHORD_PREFIX: Final = "chord-unlock-"


class ContractFace:
    """The contract of a result backend, passed on to an adapter."""

    def __init__(self, adapter: ResultBackend) -> None:
        self.adapter = adapter
        self.store = adapter.store
        self.serializer = adapter.serializer
        self.stores_results = adapter.stores_results
        self.native_chords = adapter.native_chords
        self.display_url = adapter.display_url
        #: Whether documents say what a backend that was written for Celery is told of requests.
        self.tells_requests = tells_requests(adapter)

    def expect(self, task_ids: Sequence[str]) -> None:
        """As ResultBackend.expect."""
        self.adapter.expect(task_ids)

    def save(self, records: Sequence[ResultRecord]) -> Sequence[DueChord] | None:
        """As ResultBackend.save."""
        return self.adapter.save(records)

    async def asave(self, records: Sequence[ResultRecord]) -> Sequence[DueChord] | None:
        """As ResultBackend.asave."""
        return await self.adapter.asave(records)

    def load(self, task_ids: Sequence[str]) -> list[bytes | None]:
        """As ResultBackend.load."""
        return self.adapter.load(task_ids)

    async def aload(self, task_ids: Sequence[str]) -> list[bytes | None]:
        """As ResultBackend.aload."""
        return await self.adapter.aload(task_ids)

    def wait(self, task_ids: Iterable[str], timeout: float | None) -> Iterator[tuple[str, bytes]]:
        """As ResultBackend.wait."""
        return self.adapter.wait(task_ids, timeout)

    def await_(self, task_ids: Iterable[str], timeout: float | None) -> AsyncIterator[tuple[str, bytes]]:
        """As ResultBackend.await_."""
        return self.adapter.await_(task_ids, timeout)

    def forget(self, task_ids: str | Sequence[str]) -> None:
        """As ResultBackend.forget; one id may be given as it is, as Celery's users do."""
        self.adapter.forget((task_ids,) if isinstance(task_ids, str) else task_ids)

    def load_group(self, group_id: str) -> bytes | None:
        """As ResultBackend.load_group."""
        return self.adapter.load_group(group_id)

    def forget_group(self, group_id: str) -> None:
        """As ResultBackend.forget_group."""
        self.adapter.forget_group(group_id)

    def open_chord(self, group_id: str, size: int) -> None:
        """As ResultBackend.open_chord."""
        self.adapter.open_chord(group_id, size)

    def extend_chord(self, group_id: str, more: int = 1) -> None:
        """As ResultBackend.extend_chord."""
        self.adapter.extend_chord(group_id, more)

    def chord_entries(self, group_id: str) -> list[bytes]:
        """As ResultBackend.chord_entries."""
        return self.adapter.chord_entries(group_id)

    def chord_size(self, group_id: str) -> int:
        """As ResultBackend.chord_size."""
        return self.adapter.chord_size(group_id)

    async def aclaim_chords(self, realms: Sequence[str], patience: float) -> list[DueChord]:
        """As ResultBackend.aclaim_chords."""
        return await self.adapter.aclaim_chords(realms, patience)

    async def aend_chords(self, ends: Sequence[ChordEnd]) -> None:
        """As ResultBackend.aend_chords."""
        await self.adapter.aend_chords(ends)

    def close(self) -> None:
        """As ResultBackend.close."""
        self.adapter.close()


class BackendFacade(ContractFace):
    """What Celery's users ask ``app.backend``: states, results, groups and keys.

    Args:
        app: the application; its result settings are read now.
        adapter: the backend that ``result_backend`` names.
    """

    READY_STATES = states.READY_STATES
    UNREADY_STATES = states.UNREADY_STATES
    EXCEPTION_STATES = states.EXCEPTION_STATES
    TimeoutError = TimeoutError
    #: Waits are woken, and results are kept when nobody waits: Celery's names for that.
    is_async = True
    persistent = True
    supports_native_join = True
    subpolling_interval = None

    def __init__(self, app: Any, adapter: ResultBackend) -> None:
        super().__init__(adapter)
        conf = app.conf
        self.app = app
        #: Whether results expire without beat's daily ``celery.backend_cleanup``.
        self.supports_autoexpire = not hasattr(adapter, "cleanup")
        self.expires = conf.result_expires
        self.url = conf.result_backend
        known = registry.named(self.serializer)
        self.content_type, self.content_encoding = known.content_type, known.content_encoding
        names = conf.accept_content if conf.result_accept_content is None else conf.result_accept_content
        self.accept = accepted_types(self.serializer, names)
        #: Safe for several threads whatever ``result_backend_thread_safe`` says.
        self.thread_safe = True
        self._accept = None if self.serializer == "json" else self.accept
        self.compression = compression_of(conf)
        self._writer = DocumentWriter(
            self.serializer, self.compression, conf.result_extended, self.tells_requests
        )
        self._cache = ResultCache(conf.result_cache_max)
        prefix = (conf.result_backend_transport_options or {}).get("global_keyprefix") or ""
        if prefix and prefix[-1] not in ":_-.":
            prefix += "_"
        self.task_keyprefix = f"{prefix}{TASK_PREFIX}".encode()
        self.group_keyprefix = f"{prefix}{GROUP_PREFIX}".encode()
        self.chord_keyprefix = f"{prefix}{CHORD_PREFIX}".encode()

    def as_uri(self, include_password: bool = False) -> str:
        """The backend's URL, without its password unless that is asked for."""
        return str(self.url) if include_password else self.display_url

    @property
    def client(self) -> Any:
        """The client by which Celery's backend would reach its store, where there is one: on Redis, redis-py's."""
        return cast("Any", self.adapter).client

    # States and results.

    def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:
        """The document of a task, with its exception made; the state of one that is unknown is PENDING.

        ``cache`` takes a success that was read before (``result_cache_max``).
        """
        if cache and (known := self._cache.get(task_id)) is not None:
            return dict(known)
        meta = self._get_task_meta_for(task_id)
        if cache and meta["status"] == states.SUCCESS:
            self._cache[task_id] = meta
        return meta

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        data = self.load((task_id,))[0]
        return pending(task_id) if data is None else self.decode_result(data)

    def get_state(self, task_id: str) -> str:
        """The state of a task."""
        return str(self.get_task_meta(task_id)["status"])

    get_status = get_state

    def get_result(self, task_id: str) -> Any:
        """What a task returned or raised, or what goes with its present state."""
        return self.get_task_meta(task_id)["result"]

    def get_traceback(self, task_id: str) -> str | None:
        """The traceback of a task that failed, as text."""
        traceback: str | None = self.get_task_meta(task_id).get("traceback")
        return traceback

    def get_children(self, task_id: str) -> list[Any] | None:
        """The tuples of the results of the tasks that a task has sent."""
        children: list[Any] | None = self.get_task_meta(task_id).get("children")
        return children

    def task_result_exists(self, task_id: str) -> bool:
        """Whether anything is stored for a task."""
        return self.load((task_id,))[0] is not None

    def is_cached(self, task_id: str) -> bool:
        """Whether a result was read before and is kept."""
        return task_id in self._cache

    def reload_task_result(self, task_id: str) -> None:
        """Read a result again, though it is kept."""
        self._cache[task_id] = self.get_task_meta(task_id, cache=False)

    def forget(self, task_ids: str | Sequence[str]) -> None:
        """Delete documents, of one task or several."""
        for task_id in (task_ids,) if isinstance(task_ids, str) else task_ids:
            self._cache.pop(task_id, None)
        super().forget(task_ids)

    # Waiting.

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> dict[str, Any]:
        """Wait until a task has ended, and give its document. Raises TimeoutError after ``timeout`` seconds."""
        meta = self._get_task_meta_for(task_id)
        if meta["status"] in states.READY_STATES:
            return meta
        for _, data in arrivals(self.adapter, (task_id,), timeout, interval, on_interval):
            meta = self.decode_result(data)
        return meta

    def get_many(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        **options: Any,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (task id, document) of tasks as they end."""
        for task_id, data in arrivals(self.adapter, list(task_ids), timeout, interval, on_interval):
            meta = self.decode_result(data)
            if meta["status"] in states.READY_STATES:
                if on_message is not None:
                    on_message(meta)
                yield task_id, meta

    def iter_native(self, result: Any, **options: Any) -> Iterator[tuple[str, Any]]:
        """Yield (task id, document) of a set's tasks as they end."""
        return iter(result.iter_native(**options))

    def wait_for_pending(self, result: Any, **options: Any) -> Any:
        """As ``result.get``."""
        return result.get(**options)

    def add_pending_result(self, result: Any, weak: bool = False) -> Any:
        """Nothing is to be prepared for a result that may be waited for."""
        return result

    def remove_pending_result(self, result: Any) -> Any:
        """Nothing was prepared."""
        return result

    def on_task_call(self, producer: Any, task_id: str) -> dict[str, Any]:
        """Tell the adapter that a result may be waited for."""
        self.adapter.expect((task_id,))
        return {}

    # Groups.

    def save_group(self, group_id: str, result: Any) -> Any:
        """Keep a GroupResult, or its document as the contract has it."""
        document = self._writer.write_group(result) if isinstance(result, ResultBase) else result
        self.adapter.save_group(group_id, document)
        return result

    def get_group_meta(self, group_id: str, cache: bool = True) -> dict[str, Any] | None:
        """The document of a saved group, with its GroupResult; None when there is none."""
        if cache and (known := self._cache.get(group_id)) is not None:
            return dict(known)
        data = self.adapter.load_group(group_id)
        if data is None:
            return None
        meta = dict(self.decode(data))
        group = result_from_tuple(meta["result"], self.app)
        meta["result"] = self.app.GroupResult(group.id, group.results, parent=group.parent)
        if cache:
            self._cache[group_id] = meta
        return meta

    def restore_group(self, group_id: str, cache: bool = True) -> Any:
        """The GroupResult that was saved; None when there is none."""
        meta = self.get_group_meta(group_id, cache=cache)
        return None if meta is None else meta["result"]

    def reload_group_result(self, group_id: str) -> None:
        """Read a saved group again, though it is kept."""
        meta = self.get_group_meta(group_id, cache=False)
        if meta is not None:
            self._cache[group_id] = meta

    def delete_group(self, group_id: str) -> None:
        """Delete a saved group."""
        self._cache.pop(group_id, None)
        self.adapter.forget_group(group_id)

    # Forms.

    def encode(self, data: Any) -> bytes:
        """A value as this backend's serializer writes it."""
        return dumps(data, self.serializer)[2]

    def decode(self, payload: bytes | str) -> Any:
        """The value that ``encode`` wrote, or a document as it is stored."""
        data = payload.encode() if isinstance(payload, str) else payload
        return read_serialized(data, self.serializer, self._accept)

    def decode_result(self, payload: bytes | str) -> dict[str, Any]:
        """A stored document, with its exception made."""
        data = payload.encode() if isinstance(payload, str) else payload
        return read_document(data, self.serializer, self._accept)

    def meta_from_decoded(self, meta: dict[str, Any]) -> dict[str, Any]:
        """A decoded document, with its exception made."""
        if meta["status"] in states.EXCEPTION_STATES:
            meta["result"] = self.exception_to_python(meta["result"])
        return meta

    def encode_result(self, result: Any, state: str) -> Any:
        """A result in the form that documents have."""
        if state in states.EXCEPTION_STATES and isinstance(result, BaseException):
            return self.prepare_exception(result)
        return self.prepare_value(result)

    def prepare_exception(self, exc: BaseException, serializer: str | None = None) -> Any:
        """An exception in the form that documents have."""
        pickles = (serializer or self.serializer) in ("pickle", "yaml")
        return exc if pickles else encode_error(exc)

    def exception_to_python(self, exc: Any) -> BaseException | None:
        """The exception of a document; None for nothing."""
        return decode_error(exc) if exc else None

    def prepare_value(self, result: Any) -> Any:
        """A value in the form that documents have."""
        if self.serializer != "pickle" and isinstance(result, ResultBase):
            return result.as_tuple()
        return result

    # Keys.

    def get_key_for_task(self, task_id: str | UUID, key: str = "") -> bytes:
        """Celery's key of a task's document."""
        return _key(self.task_keyprefix, task_id, key, "task_id")

    def get_key_for_group(self, group_id: str | UUID, key: str = "") -> bytes:
        """Celery's key of a group's document, or with ``key`` one beside it."""
        return _key(self.group_keyprefix, group_id, key, "group_id")

    def get_key_for_chord(self, group_id: str | UUID, key: str = "") -> bytes:
        """Celery's key of a chord's counter, where counters are all that a store has."""
        return _key(self.chord_keyprefix, group_id, key, "group_id")

    def get(self, key: bytes | str) -> bytes | None:
        """What is stored under one of Celery's keys."""
        return self.mget([key])[0]

    def mget(self, keys: Iterable[bytes | str]) -> list[bytes | None]:
        """What is stored under some of Celery's keys, in order."""
        return [self._read_key(_bytes(key)) for key in keys]

    def _read_key(self, key: bytes) -> bytes | None:
        task_id = _stripped(key, self.task_keyprefix)
        if task_id is not None:
            return self.load((task_id,))[0]
        group_id = _stripped(key, self.group_keyprefix)
        if group_id is not None:
            return self.adapter.load_group(group_id)
        raise NotImplementedError(
            f"this backend has no keys such as {key!r}: results and groups are what it keeps"
        )

    def delete(self, key: bytes | str) -> None:
        """Delete what is stored under one of Celery's keys."""
        key = _bytes(key)
        if (task_id := _stripped(key, self.task_keyprefix)) is not None:
            self.forget(task_id)
        elif (group_id := _stripped(key, self.group_keyprefix)) is not None:
            self.delete_group(group_id)
        else:
            raise NotImplementedError(
                f"this backend has no keys such as {key!r}: results and groups are what it keeps"
            )


class ResultCache(OrderedDict[str, dict[str, Any]]):
    """Documents that were read; the oldest go. ``limit`` is ``result_cache_max``: -1 none, 0 or None any number."""

    def __init__(self, limit: int | None) -> None:
        super().__init__()
        self._limit = limit

    def __setitem__(self, key: str, value: dict[str, Any]) -> None:
        if self._limit == -1:
            return
        super().__setitem__(key, value)
        while self._limit and len(self) > self._limit:
            self.popitem(last=False)


def _key(prefix: bytes, id: str | UUID, key: str, what: str) -> bytes:
    if not id:
        raise ValueError(f"{what} must not be empty. Got {id} instead.")
    return b"".join((prefix, str(id).encode(), key.encode()))


def _bytes(key: bytes | str) -> bytes:
    return key.encode() if isinstance(key, str) else key


def _stripped(key: bytes, prefix: bytes) -> str | None:
    return key[len(prefix) :].decode() if key.startswith(prefix) else None
