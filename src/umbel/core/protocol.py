"""Celery's wire: a task message as headers, properties and bytes, and back.

Protocol 2 is written; protocol 1 and the hybrid of both are read too. Whatever the bytes are, reading them raises
nothing but DecodeError, InvalidTaskError or ContentDisallowed. ``core.envelope`` has the forms that payloads take,
``core.header`` what the supervisor reads of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from umbel.core.compression import compress, decompress
from umbel.core.envelope import Envelope, is_kombu, pack_kombu, pack_native, read_envelope, repack
from umbel.core.header import Header, peek
from umbel.core.json_types import dumps_compact, is_plain, may_be_tagged
from umbel.core.message import Embed, Tail, TaskMessage
from umbel.core.serializers import check_accepted, dumps, loads, registry
from umbel.core.textrepr import safe_repr
from umbel.errors import DecodeError, EncodeError, ImproperlyConfigured, InvalidTaskError

if TYPE_CHECKING:
    from umbel.core.message import Call

__all__ = [
    "Envelope",
    "Header",
    "build_message",
    "decode_body",
    "encode",
    "is_kombu",
    "open_body",
    "pack_kombu",
    "pack_native",
    "peek",
    "read_envelope",
    "repack",
    "upgrade",
]


def build_message(call: Call) -> TaskMessage:
    """Protocol 2's headers, properties and body of a call, with Celery's names in Celery's order.

    Raises TypeError when the arguments are not a list or tuple and a mapping.
    """
    args, kwargs = call.args or (), call.kwargs or {}
    if not isinstance(args, (list, tuple)):
        raise TypeError(f"a task's args must be a list or tuple, not {type(args).__qualname__}")
    if type(kwargs) is not dict and not isinstance(kwargs, Mapping):
        raise TypeError(f"a task's kwargs must be a mapping, not {type(kwargs).__qualname__}")
    headers: dict[str, Any] = {
        "lang": "py",
        "task": call.task,
        "id": call.id,
        "shadow": call.shadow,
        "eta": call.eta,
        "expires": call.expires,
        "group": call.group_id,
        "group_index": call.group_index,
        "retries": call.retries,
        "timelimit": [call.time_limit, call.soft_time_limit],
        "root_id": call.root_id or call.id,
        "parent_id": call.parent_id,
        "argsrepr": safe_repr(args) if call.argsrepr is None else call.argsrepr,
        "kwargsrepr": safe_repr(kwargs) if call.kwargsrepr is None else call.kwargsrepr,
        "origin": call.origin,
        "ignore_result": call.ignore_result,
        "replaced_task_nesting": call.replaced_task_nesting,
        "stamped_headers": call.stamped_headers,
        "stamps": dict(call.stamps) if call.stamps else {},
    }
    if call.custom_headers:
        headers.update(call.custom_headers)
    chain, tail = (None, call.chain) if isinstance(call.chain, Tail) else (call.chain, None)
    embed: Embed = {
        "callbacks": call.callbacks,
        "errbacks": call.errbacks,
        "chain": chain,
        "chord": call.chord,
    }
    return TaskMessage(headers, _build_properties(call), args, kwargs, embed, tail)


def _build_properties(call: Call) -> dict[str, Any]:
    properties: dict[str, Any] = {"correlation_id": call.id, "reply_to": call.reply_to}
    if call.extra_properties:
        properties.update(call.extra_properties)
    properties["delivery_mode"] = call.delivery_mode
    if call.expiration is not None:
        properties["expiration"] = str(int(call.expiration * 1000))
    properties["priority"] = call.priority
    return properties


def encode(message: TaskMessage, serializer: str, compression: str | None) -> Envelope:
    """Serialize and compress a message's body; the message's own headers are left as they are.

    Raises EncodeError for arguments that the serializer cannot write, and ImproperlyConfigured for an unknown
    serializer or compression.
    """
    if serializer == "json":
        content_type, content_encoding, body = "application/json", "utf-8", _write_json(message)
    else:
        content_type, content_encoding, body = dumps(_content(message), serializer)
    headers = message.headers
    if compression:
        method, body = compress(body, compression)
        headers = {**headers, "compression": method}
    elif "compression" in headers:  # a retried message kept the header of the one it came from
        headers = {name: value for name, value in headers.items() if name != "compression"}
    return Envelope(headers, message.properties, content_type, content_encoding, body)


def _write_json(message: TaskMessage) -> bytes:
    content = message.args, message.kwargs, message.embed
    if message.tail is None:
        return dumps_compact(content)
    if is_plain(content):
        try:
            embed = {**message.embed, "chain": message.tail.texts}
            return msgspec.json.encode((message.args, message.kwargs, embed))
        except UnicodeEncodeError:  # a lone surrogate: the standard library escapes it
            pass
    return dumps_compact(_content(message))


def _content(message: TaskMessage) -> tuple[Any, Any, Embed]:
    """What a message's body says."""
    embed = message.embed
    if message.tail is not None:
        embed = {**embed, "chain": message.tail.steps()}
    return message.args, message.kwargs, embed


class _PlainEmbed(msgspec.Struct, gc=False):
    """The third part of a body, of which the chain is not read."""

    callbacks: list[Mapping[str, Any]] | None = None
    errbacks: list[Mapping[str, Any]] | None = None
    chain: list[msgspec.Raw] | None = None
    chord: dict[str, Any] | None = None


_open_plain: Final = msgspec.json.Decoder(tuple[list[Any], dict[str, Any], _PlainEmbed]).decode

#: What the text of a signature begins with.
_BRACE: Final = ord("{")


def open_body(
    envelope: Envelope, accept: frozenset[str]
) -> tuple[list[Any] | tuple[Any, ...], dict[str, Any], Embed, Tail | None]:
    """As ``decode_body``, but leaves a chain unread where it can: then ``embed["chain"]`` is None.

    Raises what ``decode_body`` raises.
    """
    opened = _open_chained(envelope, accept)
    return (*decode_body(envelope, accept), None) if opened is None else opened


def _open_chained(
    envelope: Envelope, accept: frozenset[str]
) -> tuple[list[Any], dict[str, Any], Embed, Tail] | None:
    """The parts of an ordinary JSON body with a chain; None for any other."""
    body = envelope.body
    if (
        len(body) < _WORTH_IT
        or envelope.content_type != "application/json"
        or envelope.content_type not in accept
        or envelope.headers.get("compression")
        or may_be_tagged(body)
    ):
        return None
    try:
        body.decode()  # so that what is not read now is sure to be readable later
        args, kwargs, rest = _open_plain(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    texts = rest.chain
    if not texts or memoryview(texts[-1])[0] != _BRACE:
        return None
    embed: Embed = {
        "callbacks": rest.callbacks,
        "errbacks": rest.errbacks,
        "chain": None,
        "chord": rest.chord,
    }
    return args, kwargs, embed, Tail(texts)


#: Bytes of a body from which on it may carry so long a chain that it is left unread.
_WORTH_IT: Final = 1024


def decode_body(
    envelope: Envelope, accept: frozenset[str]
) -> tuple[list[Any] | tuple[Any, ...], dict[str, Any], Embed]:
    """The arguments, keyword arguments and embedded workflow of a message.

    Missing parts of a short body are empty, and the mapping of a hybrid message is read too. Raises
    ContentDisallowed before anything is decompressed or decoded, DecodeError when the body is not what its type says,
    InvalidTaskError when it is not a task's.
    """
    content = _decode(envelope, accept)
    if isinstance(content, dict):
        return _split_mapping(content)
    if not isinstance(content, (list, tuple)) or len(content) > 3:
        raise InvalidTaskError(f"a task's body must be [args, kwargs, embed], not {safe_repr(content, 100)}")
    args, kwargs, embed = (*content, None, None, None)[:3]
    return _check_args(args), _check_kwargs(kwargs), _check_embed(embed)


def _decode(envelope: Envelope, accept: frozenset[str]) -> Any:
    check_accepted(envelope.content_type, accept)
    body = envelope.body
    method = envelope.headers.get("compression")
    if method:
        body = decompress(body, method)
    return loads(body, envelope.content_type, envelope.content_encoding, accept)


def _split_mapping(
    content: Mapping[str, Any],
) -> tuple[list[Any] | tuple[Any, ...], dict[str, Any], Embed]:
    """The three parts of a body in protocol 1's form."""
    embed = {name: content.get(name) for name in ("callbacks", "errbacks", "chord")}
    return _check_args(content.get("args")), _check_kwargs(content.get("kwargs")), _check_embed(embed)


def _check_args(args: Any) -> list[Any] | tuple[Any, ...]:
    if isinstance(args, (list, tuple)):
        return args
    if args is None:
        return ()
    raise InvalidTaskError(f"a task's args must be a list, not {type(args).__name__}")


def _check_kwargs(kwargs: Any) -> dict[str, Any]:
    if isinstance(kwargs, dict):
        return kwargs
    if kwargs is None:
        return {}
    raise InvalidTaskError(f"a task's kwargs must be a mapping, not {type(kwargs).__name__}")


def _check_embed(embed: Any) -> Embed:
    if not embed:
        return {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    if not isinstance(embed, dict):
        raise InvalidTaskError(f"a body's third part must be a mapping, not {type(embed).__name__}")
    if not any(embed.values()):
        return {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return {
        "callbacks": _check_signatures(embed, "callbacks"),
        "errbacks": _check_signatures(embed, "errbacks"),
        "chain": _check_signatures(embed, "chain"),
        "chord": _check_signature(embed.get("chord"), "chord"),
    }


def _check_signatures(embed: dict[str, Any], name: str) -> list[Mapping[str, Any]] | None:
    signatures = embed.get(name)
    if signatures is None:
        return None
    if isinstance(signatures, dict):
        return [signatures]
    if not isinstance(signatures, (list, tuple)):
        raise InvalidTaskError(
            f"a body's {name} must be a list of signatures, not {type(signatures).__name__}"
        )
    return [signature for item in signatures if (signature := _check_signature(item, name)) is not None]


def _check_signature(signature: Any, name: str) -> Mapping[str, Any] | None:
    if signature is None or isinstance(signature, dict):
        return signature
    raise InvalidTaskError(f"a body's {name} must be made of signatures, not {type(signature).__name__}")


def upgrade(envelope: Envelope, accept: frozenset[str]) -> Envelope:
    """A protocol 1 or hybrid message as protocol 2; a protocol 2 message as it is.

    Only the older forms are decoded. Raises ContentDisallowed or DecodeError when they cannot be, InvalidTaskError
    when the message names no task.
    """
    headers = envelope.headers
    if headers.get("task") and not _has_mapping_body(envelope):
        return _check_named(envelope)
    content = _decode(envelope, accept)
    if not isinstance(content, dict):
        if "task" in headers:
            return _check_named(envelope)
        raise InvalidTaskError("a message without a task header must have a mapping as its body")
    args, kwargs, embed = _split_mapping(content)
    content_type, content_encoding, body = _dump_again((args, kwargs, embed), envelope.content_type)
    upgraded = {
        **_headers_from_mapping(content),
        "argsrepr": safe_repr(args),
        "kwargsrepr": safe_repr(kwargs),
        **{name: value for name, value in headers.items() if name != "compression" and value is not None},
    }
    return _check_named(Envelope(upgraded, envelope.properties, content_type, content_encoding, body))


def _check_named(envelope: Envelope) -> Envelope:
    for name in ("task", "id"):
        value = envelope.headers.get(name)
        if not isinstance(value, str) or not value:
            raise InvalidTaskError(f"a message's {name} must be text, not {safe_repr(value, 100)}")
    return envelope


def _dump_again(content: Any, content_type: str) -> tuple[str, str, bytes]:
    """Write a body with the serializer that it was read with."""
    serializer = registry.for_type(content_type)
    if serializer is None:
        raise DecodeError(f"no serializer is known for content type {content_type!r}")
    try:
        return dumps(content, serializer.name)
    except (EncodeError, ImproperlyConfigured) as error:
        raise DecodeError(f"an older message cannot be written as protocol 2: {error}") from error


def _headers_from_mapping(content: Mapping[str, Any]) -> dict[str, Any]:
    """Protocol 2's headers of a protocol 1 body, whose ``taskset`` is the older name of the group."""
    headers = {
        "lang": content.get("lang") or "py",
        "task": content.get("task"),
        "id": content.get("id"),
        "shadow": content.get("shadow"),
        "eta": content.get("eta"),
        "expires": content.get("expires"),
        "group": content.get("taskset") or content.get("group"),
        "group_index": content.get("group_index"),
        "retries": content.get("retries") or 0,
        "timelimit": content.get("timelimit") or [None, None],
        "root_id": content.get("root_id") or content.get("id"),
        "parent_id": content.get("parent_id"),
        "argsrepr": "",
        "kwargsrepr": "",
        "origin": content.get("origin"),
        "ignore_result": content.get("ignore_result", False),
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    if content.get("utc") is False:
        headers["utc"] = False
    return headers


def _has_mapping_body(envelope: Envelope) -> bool:
    """Whether the body, whose first byte tells, may be protocol 1's mapping rather than protocol 2's array."""
    if envelope.headers.get("compression"):
        return True
    body = envelope.body
    if envelope.content_type == "application/json":
        return body.lstrip()[:1] == b"{"
    if envelope.content_type == "application/x-msgpack":
        return body[:1] in _MSGPACK_MAPS
    return True


#: The first bytes of a msgpack map: the short ones, map 16 and map 32.
_MSGPACK_MAPS: Final = frozenset(bytes([byte]) for byte in (*range(0x80, 0x90), 0xDE, 0xDF))
