"""What result backends that were written for Celery derive from.

Umbel's own derive from nothing here. A class of a program or package that does (``result_backend="module:Class"``) has
Celery's methods from ``app.backend`` and the contract from ``umbel.results.foreign``; it brings the ones that store and
read: ``get``, ``set``, ``delete`` and ``mget`` of keys and values, or ``_store_result`` and ``_get_task_meta_for``.
"""

from __future__ import annotations

import sys
from collections import namedtuple
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID

from umbel.app.backend import Backend as AppBackend
from umbel.core import states
from umbel.core.serializers import dumps, registry
from umbel.execution.context import Context
from umbel.execution.einfo import ExceptionInfo
from umbel.results.disabled import DisabledResultBackend as DisabledBackend
from umbel.results.documents import COMPRESSED_MAGIC, accepted_types
from umbel.results.facade import ResultCache
from umbel.results.foreign import ForeignResults, is_known
from umbel.results.handles import result_from_tuple
from umbel.results.keyvalue import KeyValueResults
from umbel.results.options import RetryRules
from umbel.results.redis import RedisResultBackend

from .._state import app_or_default, get_current_app, get_current_task
from ..utils.serialization import create_exception_cls

__all__ = ("BaseBackend", "DisabledBackend", "KeyValueStoreBackend")

EXCEPTION_ABLE_CODECS = frozenset({"pickle"})
COMPRESSED_PAYLOAD_MAGIC = COMPRESSED_MAGIC
E_NO_BACKEND = """
No result backend is configured.
Please see the documentation for more information.
"""
E_CHORD_NO_BACKEND = """
Starting chords requires a result backend to be configured.

Note that a group chained with a task is also upgraded to be a chord,
as this pattern requires synchronization.

Result backends that supports chords: Redis, Database, Memcached, and more.
"""

pending_results_t = namedtuple("pending_results_t", ("concrete", "weak"))  # noqa: PYI024 - Celery's name and form


def unpickle_backend(cls: Any, args: Any, kwargs: Any) -> Any:
    """A backend of the current application."""
    return cls(*args, app=get_current_app(), **kwargs)


class Kind(type):
    """Counts Umbel's own backends among those of the class of Celery's that keeps results in the same place."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return super().__instancecheck__(instance) or isinstance(
            getattr(instance, "adapter", None), vars(cls).get("stands_for", ())
        )


class Backend(AppBackend, metaclass=Kind):
    """Base of result backends that were written for Celery.

    Args:
        app: the application; None: the current one.
        serializer: accepted; documents are written as ``result_serializer`` says.
        max_cached_results: how many results are kept that were read; None: ``result_cache_max``.
        accept: content types that may be read; None: as the settings say.
        expires: how long results are kept; None: ``result_expires``.
        expires_type: what makes ``expires`` of seconds.
        url: the backend's URL.
    """

    is_async = False
    supports_native_join = False
    persistent = True
    subpolling_interval: Any = None
    supports_autoexpire: Any = False
    supports_result_compression: ClassVar[bool] = False
    supports_failure_expires: ClassVar[bool] = False
    retry_policy: Any = {"max_retries": 20, "interval_start": 0, "interval_step": 1, "interval_max": 1}

    def __init__(
        self,
        app: Any = None,
        serializer: str | None = None,
        max_cached_results: int | None = None,
        accept: Iterable[str] | None = None,
        expires: Any = None,
        expires_type: Any = None,
        url: str | None = None,
        **kwargs: Any,
    ) -> None:
        app = app_or_default(app)
        cls, conf = type(self), app.conf
        name = f"{cls.__module__}.{cls.__qualname__}"
        adapter = ForeignResults(
            self,
            conf.result_serializer,
            _rules(conf),
            url.partition("://")[0] + "://" if url else name,
            _refresh,
        )
        super().__init__(app, adapter)
        self.supports_autoexpire = cls.supports_autoexpire
        if not cls.supports_result_compression:
            self.compression = None
        self.expires = self.prepare_expires(expires, expires_type)
        self.url = url
        self._cache = ResultCache(max_cached_results or conf.result_cache_max)
        self.encoder = registry.named(self.serializer)
        if accept is not None:
            self.accept = accepted_types(self.serializer, accept)
        self._pending_results = pending_results_t({}, {})

    @property
    def serializer(self) -> str:
        """``result_serializer``, in which pool processes have written documents that come here."""
        return self.adapter.serializer

    @serializer.setter
    def serializer(self, serializer: str) -> None:
        # Backends set it to pickle to keep exceptions as they are; those come here as documents and stay that.
        pass

    def as_uri(self, include_password: bool = False) -> str:
        """The URL, without its password unless that is asked for."""
        return str(self.url or "") if include_password else self.display_url

    # What subclasses bring.

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        """Whether what was raised may pass; subclasses know."""
        return False

    def on_backend_retryable_error(self, exc: Exception) -> Any:
        """Called before the next try, for subclasses."""

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        raise _missing(self, "_store_result")

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        raise _missing(self, "_get_task_meta_for")

    def _get_metas_for(self, task_ids: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        for task_id in task_ids:
            meta = self._get_task_meta_for(task_id)
            if is_known(meta):
                yield task_id, meta

    def _forget(self, task_id: str) -> Any:
        raise NotImplementedError("backend does not implement forget.")

    def _save_group(self, group_id: str, result: Any) -> Any:
        raise _missing(self, "_save_group")

    def _restore_group(self, group_id: str) -> dict[str, Any] | None:
        raise _missing(self, "_restore_group")

    def _delete_group(self, group_id: str) -> Any:
        raise _missing(self, "_delete_group")

    def cleanup(self) -> None:
        """Delete what has expired; subclasses know how."""

    # What subclasses call.

    def _ensure_retryable(
        self,
        func: Any,
        *args: Any,
        fallback_exc: Any = None,
        fallback_msg: str | None = None,
        max_retries: Any = None,
        **kwargs: Any,
    ) -> Any:
        adapter: Any = self.adapter
        try:
            return adapter.call(func, *args, **kwargs)
        except Exception as error:
            if fallback_exc is None or not self.exception_safe_to_retry(error):
                raise
            raise fallback_exc(fallback_msg) from error

    def _ensure_not_eager(self) -> None:
        """Results of eager tasks are read from the tasks themselves."""

    def _get_result_meta(
        self,
        result: Any,
        state: str,
        traceback: Any,
        request: Any,
        format_date: bool = True,
        encode: bool = False,
    ) -> dict[str, Any]:
        done = self.app.now() if state in states.READY_STATES else None
        meta = {
            "status": state,
            "result": result,
            "traceback": traceback,
            "children": self.current_task_children(request),
            "date_done": done.isoformat() if done is not None and format_date else done,
        }
        for name, attribute in (("group_id", "group"), ("parent_id", "parent_id")):
            if value := getattr(request, attribute, None):
                meta[name] = value
        if request and self.app.conf.result_extended:
            meta.update(self._call_of(request, encode))
        return meta

    def _call_of(self, request: Any, encode: bool) -> dict[str, Any]:
        """What ``result_extended`` adds: the call, the worker and the stamps."""
        names = {
            "name": "task",
            "args": "args",
            "kwargs": "kwargs",
            "worker": "hostname",
            "retries": "retries",
        }
        call = {name: getattr(request, attribute, None) for name, attribute in names.items()}
        call["queue"] = (getattr(request, "delivery_info", None) or {}).get("routing_key")
        if stamps := getattr(request, "stamps", None):
            call["stamped_headers"] = request.stamped_headers
            call.update((name, stamps[name]) for name in request.stamped_headers or () if name in stamps)
        if encode:
            for name in ("args", "kwargs"):
                encoded = self.encode(call[name])
                call[name] = encoded.encode() if isinstance(encoded, str) else encoded
        return call

    def _encode(self, data: Any) -> tuple[str, str, Any]:
        content_type, encoding, payload = dumps(data, self.serializer)
        return content_type, encoding, payload if encoding == "binary" else payload.decode(encoding)

    def encode(self, data: Any) -> Any:
        """A value as the serializer writes it: text where the serializer's form is text."""
        payload = self._encode(data)[2]
        if self.compression:
            from umbel.core.compression import compress  # only who compresses

            content_type, body = compress(
                payload.encode() if isinstance(payload, str) else payload, self.compression
            )
            return b"".join((COMPRESSED_MAGIC, content_type.encode(), b"\0", body))
        return payload

    def decode(self, payload: Any) -> Any:
        """The value that ``encode`` wrote; None for nothing."""
        return payload if payload is None else super().decode(payload)

    def decode_result(self, payload: Any) -> dict[str, Any]:
        """A stored document, with its exception made."""
        return self.meta_from_decoded(self.decode(payload))

    def prepare_expires(self, value: Any, type: Any = None) -> Any:
        """Seconds that results are kept; None or 0: for ever."""
        value = self.app.conf.result_expires if value is None else value
        if isinstance(value, timedelta):
            value = value.total_seconds()
        return type(value) if value is not None and type else value

    def prepare_persistent(self, enabled: bool | None = None) -> bool:
        """Whether results are to survive their store's restart."""
        return bool(self.persistent if enabled is None else enabled)

    def __reduce__(self, args: Any = (), kwargs: Any = None) -> tuple[Any, ...]:
        return unpickle_backend, (type(self), args, kwargs or {})


class SyncBackendMixin:
    """One that is asked again and again."""


class BaseBackend(Backend, SyncBackendMixin):
    """One that is asked again and again."""


BaseDictBackend = BaseBackend


class BaseKeyValueStoreBackend(Backend):
    """One with keys and values: subclasses bring ``get``, ``set`` and ``delete``, and ``mget`` if they can."""

    stands_for: ClassVar[tuple[type, ...]] = (KeyValueResults, RedisResultBackend)
    key_t: Any = staticmethod(lambda key: key if isinstance(key, bytes) else str(key).encode())
    task_keyprefix: Any = "celery-task-meta-"
    group_keyprefix: Any = "celery-taskset-meta-"
    chord_keyprefix: Any = "chord-unlock-"
    implements_incr = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        cls = type(self)
        # A plain function in the class is not meant as a method.
        self.key_t = getattr(self.key_t, "__func__", self.key_t)
        super().__init__(*args, **kwargs)
        prefix = (self.app.conf.result_backend_transport_options or {}).get("global_keyprefix") or ""
        if prefix and prefix[-1] not in ":_-.":
            prefix += "_"
        for name in ("task_keyprefix", "group_keyprefix", "chord_keyprefix"):
            own = getattr(cls, name)
            text = own.decode() if isinstance(own, bytes) else own
            setattr(self, name, self.key_t(f"{prefix}{text}"))

    # What subclasses bring.

    def get(self, key: Any) -> Any:
        """What is stored under a key; None for nothing."""
        raise NotImplementedError("Must implement the get method.")

    def mget(self, keys: Any) -> Any:
        """What is stored under some keys: a list in their order, or a mapping."""
        raise NotImplementedError("Does not support get_many")

    def set(self, key: Any, value: Any) -> Any:
        """Store a value under a key."""
        raise NotImplementedError("Must implement the set method.")

    def _set_with_state(self, key: Any, value: Any, state: str) -> Any:
        return self.set(key, value)

    def delete(self, key: Any) -> Any:
        """Delete what is stored under a key."""
        raise NotImplementedError("Must implement the delete method")

    def incr(self, key: Any) -> Any:
        """Count one up; nothing here counts so."""
        raise NotImplementedError("Does not implement incr")

    def expire(self, key: Any, value: Any) -> Any:
        """Have a key expire."""

    # Keys.

    def get_key_for_task(self, task_id: str | UUID, key: Any = "") -> Any:
        """The key of a task's document."""
        return self._get_key_for(self.task_keyprefix, _present(task_id, "task_id"), key)

    def get_key_for_group(self, group_id: str | UUID, key: Any = "") -> Any:
        """The key of a group's document."""
        return self._get_key_for(self.group_keyprefix, _present(group_id, "group_id"), key)

    def get_key_for_chord(self, group_id: str | UUID, key: Any = "") -> Any:
        """The key of a chord's counter."""
        return self._get_key_for(self.chord_keyprefix, _present(group_id, "group_id"), key)

    def _get_key_for(self, prefix: Any, id: Any, key: Any = "") -> Any:
        key_t = self.key_t
        return key_t("").join([prefix, key_t(str(id)), key_t(key)])

    def _strip_prefix(self, key: Any) -> str:
        key = self.key_t(key)
        for prefix in (self.task_keyprefix, self.group_keyprefix):
            if key.startswith(prefix):
                key = key[len(prefix) :]
                break
        return key.decode() if isinstance(key, bytes) else str(key)

    # What is made of them.

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        meta["task_id"] = str(task_id)
        # What comes late, from a worker that was thought to be lost, leaves a success alone.
        if self._get_task_meta_for(task_id)["status"] != states.SUCCESS:
            self._set_with_state(self.get_key_for_task(task_id), self.encode(meta), state)
        return result

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        meta = self.get(self.get_key_for_task(task_id))
        return self.decode_result(meta) if meta else {"status": states.PENDING, "result": None}

    def _get_metas_for(self, task_ids: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        if type(self).mget is BaseKeyValueStoreBackend.mget:
            yield from super()._get_metas_for(task_ids)
            return
        keys = [self.get_key_for_task(task_id) for task_id in task_ids]
        found = self.mget(keys)
        if isinstance(found, Mapping):
            by_id = {self._strip_prefix(key): value for key, value in found.items()}
            found = [by_id.get(task_id) for task_id in task_ids]
        for task_id, value in zip(task_ids, found, strict=True):
            if value is not None and is_known(meta := self.decode_result(value)):
                yield task_id, meta

    def _forget(self, task_id: str) -> Any:
        self.delete(self.get_key_for_task(task_id))

    def _save_group(self, group_id: str, result: Any) -> Any:
        document = self.encode({"result": result.as_tuple()})
        self._set_with_state(self.get_key_for_group(group_id), document, states.SUCCESS)
        return result

    def _restore_group(self, group_id: str) -> dict[str, Any] | None:
        stored = self.get(self.get_key_for_group(group_id))
        if not stored:
            return None
        meta = dict(self.decode(stored))
        meta["result"] = result_from_tuple(meta["result"], self.app)
        return meta

    def _delete_group(self, group_id: str) -> Any:
        self.delete(self.get_key_for_group(group_id))

    def _apply_chord_incr(self, header_result_args: Any, body: Any, **kwargs: Any) -> Any:
        # Celery's name, which programs replace; a chord is looked after below this class, however parts are counted.
        return self.prepare_chord(header_result_args, body, **kwargs)


class KeyValueStoreBackend(BaseKeyValueStoreBackend, SyncBackendMixin):
    """One with keys and values that is asked again and again."""

    stands_for: ClassVar[tuple[type, ...]] = (KeyValueResults,)


def _rules(conf: Any) -> RetryRules:
    return RetryRules(
        always=conf.result_backend_always_retry,
        limit=conf.result_backend_max_retries,
        base=(conf.result_backend_base_sleep_between_retries_ms or 0) / 1000,
        cap=(conf.result_backend_max_sleep_between_retries_ms or 0) / 1000,
    )


def _refresh() -> None:
    """Have Django let go of connections that are broken or too old, as it does around each of its requests.

    A worker stores results in threads of its own, where nobody else would.
    """
    database = sys.modules.get("django.db")
    if database is not None:
        database.close_old_connections()


def _missing(backend: Backend, name: str) -> NotImplementedError:
    return NotImplementedError(
        f"{type(backend).__qualname__} must define {name}: it says how results are kept"
    )


def _present(id: Any, what: str) -> Any:
    if not id:
        raise ValueError(f"{what} must not be empty. Got {id} instead.")
    return id
