"""A message's properties as bytes, at a third of what py-amqp's writer takes for the headers of Celery.

The library writes a table field by field through a general writer. Here each field that says the same in most messages
(``None``, a number, an empty mapping) is written by the library once and kept, and texts are put together; everything
else is left to the library for every message. What comes out is the same to the byte. It goes into frames by way of the
library, which asks a message for its body and for this.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct, pack
from typing import TYPE_CHECKING, Any, Final

from amqp.serialization import dumps
from amqp.spec import Basic

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Content", "pack_properties", "publish_frames"]

_END_MARK: Final = 0xCE
#: A frame's type, channel and size, then class, weight and size of the body.
_HEADER_FRAME: Final = Struct(">BHIHHQ").pack
#: The mark that ends the header's frame, and what begins the body's.
_BODY_FRAME: Final = Struct(">BBHI").pack

#: AMQP's properties in their order on the wire: flag, name, the library's letter for the type.
_FIELDS: Final = (
    (0x8000, "content_type", "s"),
    (0x4000, "content_encoding", "s"),
    (0x2000, "headers", "F"),
    (0x1000, "delivery_mode", "o"),
    (0x0800, "priority", "o"),
    (0x0400, "correlation_id", "s"),
    (0x0200, "reply_to", "s"),
    (0x0100, "expiration", "s"),
    (0x0080, "message_id", "s"),
    (0x0040, "timestamp", "L"),
    (0x0020, "type", "s"),
    (0x0010, "user_id", "s"),
    (0x0008, "app_id", "s"),
    (0x0004, "cluster_id", "s"),
)
_FIXED: Final = frozenset({"content_type", "content_encoding", "delivery_mode", "priority"})
_SAME: Final = frozenset({int, bool, type(None)})
#: What Celery writes of a task without time limits.
_NO_LIMITS: Final = [None, None]


class Content:
    """A message as py-amqp's frame writer takes it."""

    __slots__ = ("_packed", "body")

    def __init__(self, packed: bytes, body: bytes) -> None:
        self._packed = packed
        self.body = body

    def _serialize_properties(self) -> bytes:
        """Called by py-amqp."""
        return self._packed


def publish_frames(channel: int, arguments: bytes, properties: bytes, body: bytes) -> bytes:
    """A message that fits into three frames: what py-amqp writes, in a third of the time."""
    return b"".join(
        (
            _method_frame(channel, arguments),
            _HEADER_FRAME(2, channel, 12 + len(properties), 60, 0, len(body)),
            properties,
            _BODY_FRAME(_END_MARK, 3, channel, len(body)),
            body,
            b"\xce",
        )
    )


@lru_cache(maxsize=1024)
def _method_frame(channel: int, arguments: bytes) -> bytes:
    method = pack(">HH", *Basic.Publish) + arguments
    return pack(">BHI", 1, channel, len(method)) + method + b"\xce"


def pack_properties(properties: Mapping[str, Any]) -> bytes:
    """Properties by name, those that are None left out; names that AMQP does not have are passed over.

    Raises what the library does for what cannot be written.
    """
    flags = 0
    parts = [b""]
    for flag, name, form, usual in _in_order(tuple(properties)):
        value = properties[name]
        if value is None:
            continue
        flags |= flag
        if usual:
            parts.append(_field(form, value))
        elif form == "F":
            _add_table(parts, value)
        elif form == "s" and type(value) is str:
            text = value.encode("utf-8", "surrogatepass")
            parts += (pack("B", len(text)), text)
        else:
            parts.append(dumps(form, (value,)))
    parts[0] = pack(">H", flags)
    return b"".join(parts)


@lru_cache(maxsize=256)
def _in_order(names: tuple[str, ...]) -> tuple[tuple[int, str, str, bool], ...]:
    """Flags, names and forms of the properties, and whether many messages say the same there."""
    return tuple((flag, name, form, name in _FIXED) for flag, name, form in _FIELDS if name in names)


def _add_table(parts: list[bytes], headers: Mapping[str, Any]) -> None:
    """Add the size of a table, and its fields."""
    place = len(parts)
    parts.append(b"")
    add = parts.append
    for name, value in headers.items():
        kind = type(value)
        if kind is str:
            text = value.encode("utf-8", "surrogatepass")
            parts += (_text_field(name), pack(">I", len(text)), text)
        elif kind in _SAME:
            add(_same(name, value))
        elif (kind is dict and not value) or (kind is list and value == _NO_LIMITS):
            add(_usual(name, kind))
        else:
            add(_pack_field(name, value))
    parts[place] = pack(">I", sum(map(len, parts[place:])))


def _pack_field(name: str, value: Any) -> bytes:
    table: bytes = dumps("F", ({name: value},))
    return table[4:]


@lru_cache(maxsize=1024)
def _text_field(name: str) -> bytes:
    """A text without its length and itself."""
    return _pack_field(name, "")[:-4]


@lru_cache(maxsize=4096, typed=True)
def _same(name: str, value: float | None) -> bytes:
    return _pack_field(name, value)


@lru_cache(maxsize=1024)
def _usual(name: str, kind: type) -> bytes:
    return _pack_field(name, {} if kind is dict else _NO_LIMITS)


@lru_cache(maxsize=256, typed=True)
def _field(form: str, value: Any) -> bytes:
    packed: bytes = dumps(form, (value,))
    return packed
