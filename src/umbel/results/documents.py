"""Result documents: the mapping that says how a task stands, as Celery writes and reads it.

Keys and their order are Celery's, so that either side of a mixed fleet reads what the other stored. Pool processes
write documents, clients read them; backends and the supervisor only move the bytes.
"""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Any, Final

from umbel.core.compression import compress, decompress
from umbel.core.failures import decode_error, encode_error
from umbel.core.json_types import dumps_compact, dumps_plain, is_plain, loads_json
from umbel.core.serializers import accept_set, dumps, loads, registry
from umbel.core.states import EXCEPTION_STATES, PENDING, READY_STATES
from umbel.core.times import utc_iso
from umbel.errors import DecodeError, EncodeError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from umbel.execution.context import Context

#: Stands before a compressed document, followed by its content type and a NUL: documents have no headers to say so.
COMPRESSED_MAGIC: Final = b"\x00celery-compressed\x00"
#: Where a document for a backend that was written for Celery has what is known of the request.
REQUEST_FACTS: Final = "request"
#: What of a context such a backend is not told: arguments and workflows may be of any size, and of any type.
_UNTOLD: Final = frozenset(
    {"args", "kwargs", "callbacks", "chain", "chord", "delivery_info", "errbacks", "headers", "properties"}
)


class ResultBase:
    """What stands for the outcome of one or more tasks; a task that returns one stores it as its tuple."""

    __slots__ = ()

    #: The application of a class that was made for one (``app.GroupResult``).
    bound_app: Any = None
    #: The result that this one follows in a chain.
    parent: ResultBase | None = None

    def as_tuple(self) -> tuple[Any, Any]:
        """The ids of this result and its family, as they are stored."""
        raise NotImplementedError(f"{type(self).__qualname__} must say how it is stored")

    def forget(self) -> None:
        """Delete what is stored of it."""
        raise NotImplementedError(f"{type(self).__qualname__} must say how it is forgotten")


class DocumentWriter:
    """Writes documents with one application's settings.

    Args:
        serializer: ``result_serializer``.
        compression: ``result_compression``; None writes documents as they are.
        extended: ``result_extended``: documents say what was called, and where it ran.
        tells_requests: they say it for a backend that was written for Celery, too, which is given the request.
    """

    __slots__ = ("_compression", "_extended", "_is_json", "_serializer", "_tells_requests")

    def __init__(
        self,
        serializer: str = "json",
        compression: str | None = None,
        extended: bool = False,
        tells_requests: bool = False,
    ) -> None:
        self._serializer = serializer
        self._is_json = serializer == "json"
        self._compression = compression
        self._extended = extended
        self._tells_requests = tells_requests

    def write(
        self,
        task_id: str,
        state: str,
        value: Any,
        traceback: str | None = None,
        context: Context | None = None,
    ) -> bytes:
        """The document of a state; ``value`` is the result, the exception, or what goes with a state of the task's own.

        Raises EncodeError that names the type of a result that the serializer cannot write.
        """
        plain = self._is_json and is_plain(value)
        if not plain:
            value = self._storable(value, state)
        document: dict[str, Any] = {
            "status": state,
            "result": value,
            "traceback": traceback,
            "children": None if context is None else _trail(context),
            "date_done": utc_iso(time()) if state in READY_STATES else None,
        }
        if context is not None:
            if context.group:
                document["group_id"] = context.group
            if context.parent_id:
                document["parent_id"] = context.parent_id
            if self._extended:
                _extend(document, context)
                plain = False
            if self._tells_requests:
                document[REQUEST_FACTS] = _facts(document, context)
                plain = False
        document["task_id"] = task_id
        return self._finish(dumps_plain(document) if plain else self._encode(document))

    def write_entry(self, task_id: str, state: str, value: Any) -> bytes:
        """What the body of a chord gets of one part: ``[1, task id, state, value]``, as Celery writes it.

        Raises EncodeError for a value that the serializer cannot write.
        """
        entry = [1, task_id, state, self._storable(value, state)]
        if self._is_json:
            return self._finish(dumps_compact(entry))
        return self._finish(dumps(entry, self._serializer)[2])

    def write_group(self, group: ResultBase) -> bytes:
        """The document that says which results make up a group."""
        document = {"result": group.as_tuple()}
        return self._finish(
            dumps_compact(document) if self._is_json else dumps(document, self._serializer)[2]
        )

    def _storable(self, value: Any, state: str) -> Any:
        if state in EXCEPTION_STATES and isinstance(value, BaseException):
            return _picklable(value) if self._serializer == "pickle" else encode_error(value)
        if isinstance(value, ResultBase) and self._serializer != "pickle":
            return value.as_tuple()
        return value

    def _encode(self, document: dict[str, Any]) -> bytes:
        if self._is_json and is_plain(document):
            return dumps_plain(document)
        return dumps(document, self._serializer)[2]

    def _finish(self, data: bytes) -> bytes:
        if self._compression is None:
            return data
        content_type, body = compress(data, self._compression)
        return b"".join((COMPRESSED_MAGIC, content_type.encode(), b"\x00", body))


def _trail(context: Context) -> list[Any]:
    children = context._children
    return [child.as_tuple() for child in children] if children else []


def _extend(document: dict[str, Any], context: Context) -> None:
    """Add what ``result_extended`` adds: the call, the worker and the stamps."""
    document["name"] = context.task
    document["args"] = context.args
    document["kwargs"] = context.kwargs
    document["worker"] = context.hostname
    document["retries"] = context.retries
    document["queue"] = (context.delivery_info or {}).get("routing_key")
    stamps = context.stamps
    if stamps and isinstance(stamps, dict):
        names = context.stamped_headers
        document["stamped_headers"] = names
        document.update((name, value) for name, value in stamps.items() if name in (names or ()))


def _facts(document: dict[str, Any], context: Context) -> dict[str, Any]:
    """What is known of a request, its custom headers included; its arguments where the document has them."""
    known = {
        name: value
        for name, value in vars(context).items()
        # A task may have put anything there.
        if name not in _UNTOLD and not name.startswith("_") and is_plain(value)
    }
    return {
        **known,
        **{name: document[name] for name in ("args", "kwargs") if name in document},
        "delivery_info": context.delivery_info,
    }


def _picklable(error: BaseException) -> BaseException:
    """The exception, or the nearest thing to it that survives pickling: many classes lose their arguments."""
    for cls in type(error).__mro__:
        if cls in {Exception, BaseException}:
            break
        candidate = error if cls is type(error) else _construct(cls, error)
        if candidate is not None and _survives(candidate):
            return candidate
    return Exception(f"{type(error).__qualname__}{encode_error(error)['exc_message']!r}")


def _construct(cls: type, error: BaseException) -> BaseException | None:
    try:
        candidate = cls(*error.args)
    except Exception:
        # Whatever a constructor refuses with: the next base class is tried.
        return None
    return candidate if isinstance(candidate, BaseException) else None


def _survives(error: BaseException) -> bool:
    try:
        _, _, data = dumps(error, "pickle")
        return isinstance(loads(data, _PICKLE, "binary", frozenset({_PICKLE})), type(error))
    except (EncodeError, DecodeError):
        return False


_PICKLE: Final = "application/x-python-serialize"


def accepted_types(serializer: str, accept: Iterable[str] | None = None) -> frozenset[str]:
    """Content types that documents of an application may have: ``result_accept_content`` or ``accept_content``.

    Without a list the application's own serializer is trusted to be what it reads.
    """
    return accept_set(accept if accept is not None else (serializer,))


def read_document(
    data: bytes | bytearray | memoryview, serializer: str = "json", accept: frozenset[str] | None = None
) -> dict[str, Any]:
    """The mapping that a document holds, with its exception made for FAILURE, RETRY and REVOKED.

    Documents of any writer are taken: a missing part reads as None, a missing status as PENDING. A failure without a
    reason reads as an exception that says so.

    Args:
        data: the document, compressed or not.
        serializer: the name, or content type, of the serializer that wrote it.
        accept: content types that may be decoded; None trusts ``serializer``.

    Raises:
        ContentDisallowed: the serializer is not in ``accept``.
        DecodeError: it is not such a document.
        SecurityError: it names something other than an exception as the exception's class.
    """
    document = read_serialized(data, serializer, accept)
    if not isinstance(document, dict):
        raise DecodeError(f"a result document must be a mapping, not {type(document).__qualname__}")
    for name in ("result", "traceback", "children"):
        document.setdefault(name, None)
    state = document.setdefault("status", PENDING)
    if state in EXCEPTION_STATES and not (state == "RETRY" and not document["result"]):
        document["result"] = decode_error(document["result"])
    return document


def read_serialized(
    data: bytes | bytearray | memoryview, serializer: str = "json", accept: frozenset[str] | None = None
) -> Any:
    """What a backend's serializer wrote, compressed or not; for the arguments and errors see ``read_document``."""
    data = decompress_document(bytes(data))
    return loads_json(data) if serializer == "json" and accept is None else _load(data, serializer, accept)


def decompress_document(data: bytes) -> bytes:
    """The document that may be compressed, as its serializer wrote it."""
    if not data.startswith(COMPRESSED_MAGIC):
        return data
    content_type, _, body = data[len(COMPRESSED_MAGIC) :].partition(b"\x00")
    return decompress(body, content_type.decode(errors="replace"))


def _load(data: bytes, serializer: str, accept: frozenset[str] | None) -> Any:
    found = registry.for_type(serializer) if "/" in serializer else registry.named(serializer)
    if found is None:
        raise DecodeError(f"no serializer is known for result documents of type {serializer!r}")
    allowed = frozenset({found.content_type}) if accept is None else accept
    return loads(data, found.content_type, found.content_encoding, allowed)


def pending(task_id: str) -> dict[str, Any]:
    """What stands for a task of which nothing is stored."""
    return {"status": PENDING, "result": None, "traceback": None, "children": None, "task_id": task_id}
