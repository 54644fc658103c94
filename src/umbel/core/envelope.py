"""The two forms in which an envelope travels as a payload, and the reading of both.

kombu's JSON, with a base64 body, is what Celery reads. The native form, a msgpack array, is for brokers that carry
headers apart or are ours alone. Whatever the bytes are, reading them raises nothing but DecodeError.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from typing import TYPE_CHECKING, Any, Final

import msgspec

from umbel.core.ids import new_id
from umbel.core.json_types import (
    dumps_compact,
    dumps_json,
    is_plain,
    loads_json,
    loads_untagged,
    may_be_tagged,
)
from umbel.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from umbel.core.destination import Destination


_encode_fast: Final = msgspec.json.encode


class Envelope(msgspec.Struct):
    """A message ready for the wire: headers and properties, and the serialized and compressed body.

    ``body`` is never base64 here; the kombu form adds and removes that.
    """

    headers: dict[str, Any]
    properties: dict[str, Any]
    content_type: str
    content_encoding: str
    body: bytes


class _Native(msgspec.Struct, array_like=True):
    """The native form. Headers and properties are JSON bytes where they hold more than msgpack has a form for."""

    headers: dict[str, Any] | bytes
    properties: dict[str, Any] | bytes
    content_type: str
    content_encoding: str
    body: bytes


class _Kombu(msgspec.Struct, gc=False, rename=lambda name: name.replace("_", "-")):
    """kombu's form as it nearly always is; msgspec decodes the base64 on the way, in a fraction of the time."""

    headers: dict[str, Any]
    properties: dict[str, Any]
    body: bytes
    content_type: str
    content_encoding: str


def pack_kombu(envelope: Envelope, destination: Destination) -> bytes:
    """The payload as kombu's virtual transports write it, with a delivery tag of its own.

    Raises EncodeError for a header or property that JSON has no form for.
    """
    properties = envelope.properties.copy()
    info = properties.get("delivery_info")
    properties["delivery_info"] = {
        **(info if isinstance(info, dict) else {}),
        "exchange": destination.exchange,
        "routing_key": destination.routing_key,
    }
    properties.setdefault("priority", destination.priority)
    properties["body_encoding"] = "base64"
    properties["delivery_tag"] = new_id()
    document: dict[str, Any] = {
        "body": envelope.body,
        "content-encoding": envelope.content_encoding,
        "content-type": envelope.content_type,
        "headers": envelope.headers,
        "properties": properties,
    }
    if is_plain(envelope.headers) and is_plain(properties):
        try:
            return _encode_fast(document)  # which writes bytes as base64
        except UnicodeEncodeError:  # a lone surrogate in a header: the standard library's JSON escapes it
            pass
    document["body"] = b2a_base64(envelope.body, newline=False).decode()
    return dumps_json(document)


def pack_native(envelope: Envelope) -> bytes:
    """The payload in the native form: a msgpack array, whose first byte is never ``{``.

    Raises EncodeError for a header or property that JSON has no form for.
    """
    headers, properties = envelope.headers, envelope.properties
    fields = (envelope.content_type, envelope.content_encoding, envelope.body)
    if is_plain(headers) and is_plain(properties):
        try:
            return msgspec.msgpack.encode((headers, properties, *fields))
        except (
            OverflowError,
            UnicodeEncodeError,
        ):  # integers beyond 64 bits and lone surrogates are JSON only
            pass
    return msgspec.msgpack.encode((dumps_json(headers), dumps_json(properties), *fields))


_decode_native: Final = msgspec.msgpack.Decoder(_Native).decode


def is_kombu(payload: bytes) -> bool:
    """Whether a payload is in kombu's form rather than the native one."""
    return payload.lstrip()[:1] == b"{"


def read_envelope(payload: bytes) -> Envelope:
    """The envelope in a payload of either form. Raises DecodeError that says what is wrong."""
    if payload[:1] == b"{" or is_kombu(payload):
        return _read_kombu(payload)
    native = _load_native(payload)
    headers, properties = (
        _read_mapping(native.headers, "headers"),
        _read_mapping(native.properties, "properties"),
    )
    return Envelope(headers, properties, native.content_type, native.content_encoding, native.body)


def _load_native(payload: bytes) -> _Native:
    try:
        return _decode_native(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"not a message: neither kombu's JSON nor the native form ({error})") from error


def _read_mapping(value: Any, what: str) -> dict[str, Any]:
    if isinstance(value, bytes):
        value = loads_json(value)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DecodeError(f"a message's {what} must be an object, not {type(value).__name__}")
    return value


def _read_kombu(payload: bytes) -> Envelope:
    return _read_usual(payload) or _read_any(payload)


def _read_usual(payload: bytes) -> Envelope | None:
    """The envelope of a payload in the form that nearly all have; None for any other."""
    try:
        usual = _decode_kombu(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    properties = usual.properties
    if properties.pop("body_encoding", None) != "base64":
        return None
    # The body, which comes first as a rule and may be long, has no tags that matter here.
    after = len(usual.body) * 4 // 3 if payload.startswith(b'{"body"') else 0
    if may_be_tagged(payload, after):
        return None
    return Envelope(usual.headers, properties, usual.content_type, usual.content_encoding, usual.body)


_decode_kombu: Final = msgspec.json.Decoder(_Kombu).decode


def _read_any(payload: bytes) -> Envelope:
    document = _read_mapping(loads_json(payload), "payload")
    headers = _read_mapping(document.get("headers"), "headers")
    properties = _read_mapping(document.get("properties"), "properties")
    body = _read_body(document.get("body"), properties.pop("body_encoding", None))
    content_type = _read_text(document, "content-type")
    return Envelope(headers, properties, content_type, _read_text(document, "content-encoding"), body)


def _read_text(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DecodeError(f"a message's {name} must be text, not {type(value).__name__}")
    return value


def _read_body(body: Any, encoding: Any) -> bytes:
    if not body:
        return b""
    if not isinstance(body, str):
        raise DecodeError(f"a message's body must be text, not {type(body).__name__}")
    try:
        if not encoding or (isinstance(encoding, str) and encoding.lower() == "utf-8"):
            return body.encode()
        if encoding == "base64":
            return a2b_base64(body)
    except ValueError as error:
        raise DecodeError(f"a message's body is not {encoding or 'utf-8'}: {error}") from error
    raise DecodeError(f"a message's body_encoding must be base64 or utf-8, not {encoding!r}")


def repack(
    payload: bytes,
    *,
    redelivered: bool = False,
    headers: Mapping[str, Any] | None = None,
    without: Collection[str] = (),
    fresh: bool = False,
    new_tag: bool = False,
) -> bytes:
    """The same payload, in its own form, with changes; everything else is kept as it came.

    Args:
        payload: either form.
        redelivered: mark it as delivered before, where Celery looks for that.
        headers: set these headers.
        without: drop these headers.
        fresh: take the marks of a redelivery away.
        new_tag: give it a delivery tag of its own, for a copy of a message that stays where it is.

    Raises DecodeError when the payload is not a message, EncodeError for a header that JSON has no form for.
    """
    if is_kombu(payload):
        document = _read_mapping(loads_untagged(payload), "payload")
        document["headers"] = _read_mapping(document.get("headers"), "headers")
        document["properties"] = _read_mapping(document.get("properties"), "properties")
        _drop(document["headers"], document["properties"], without, fresh)
        _change(document["headers"], document["properties"], redelivered, headers, new_tag)
        return dumps_compact(document)
    envelope = read_envelope(payload)
    _drop(envelope.headers, envelope.properties, without, fresh)
    _change(envelope.headers, envelope.properties, redelivered, headers, new_tag)
    return pack_native(envelope)


def _drop(headers: dict[str, Any], properties: dict[str, Any], without: Collection[str], fresh: bool) -> None:
    for name in without:
        headers.pop(name, None)
    if fresh:
        headers.pop("redelivered", None)
        info = properties.get("delivery_info")
        if isinstance(info, dict):
            info.pop("redelivered", None)


def _change(
    headers: dict[str, Any],
    properties: dict[str, Any],
    redelivered: bool,
    changes: Mapping[str, Any] | None,
    new_tag: bool,
) -> None:
    if changes:
        headers.update(changes)
    if redelivered:
        headers["redelivered"] = True
        info = properties.get("delivery_info")
        properties["delivery_info"] = {**(info if isinstance(info, dict) else {}), "redelivered": True}
    if new_tag:
        properties["delivery_tag"] = new_id()
