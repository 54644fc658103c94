"""A message that has arrived as a whole: its three frames at once.

By way of py-amqp's frames, which must be ready for a message in any number of pieces, it costs three times as much; and
messages are most of what comes. What is there in part, or is too big for one frame, goes that way.
"""

from __future__ import annotations

from enum import Enum, auto
from functools import lru_cache
from struct import unpack_from
from typing import TYPE_CHECKING, Final

from amqp.serialization import loads

from umbel.stores.amqp.consumers import Delivered

if TYPE_CHECKING:
    from umbel.stores.amqp.shapes import PropertyReader

__all__ = ["DELIVER", "Part", "read_delivery"]

#: What the payload of ``basic.deliver`` begins with.
DELIVER: Final = b"\x00\x3c\x00\x3c"
_BASIC: Final = 0x3C
_HEADER, _BODY = 2, 3  #: kinds of frames
#: Bytes in front of a frame's payload, and of a content header's properties.
_FRAME, _CONTENT = 7, 12
_END_MARK: Final = 0xCE


class Part(Enum):
    """Why a message cannot be taken at once."""

    REST_TO_COME = auto()  #: it ends with what is read next
    MANY_FRAMES = auto()  #: it is the library's to put together, or to refuse


def read_delivery(
    data: bytes, at: int, end: int, room: int, reader: PropertyReader
) -> tuple[Delivered, str, int] | Part:
    """The message that a ``basic.deliver`` between ``at`` and ``end`` announces, its consumer, and where it ends.

    ``at`` is where the method's frame begins, ``end`` where its mark should be; one frame has ``room`` for a body of
    so many bytes.
    """
    header = end + 1
    properties = header + _FRAME + _CONTENT
    size = len(data)
    if properties >= size:
        return Part.REST_TO_COME
    kind, channel, length, about, _, body_size = unpack_from(">BHIHHQ", data, header)
    header_end = header + _FRAME + length
    if kind != _HEADER or about != _BASIC or length > room + _CONTENT or body_size > room:
        return Part.MANY_FRAMES
    if header_end >= size:
        return Part.REST_TO_COME
    body = b""
    last = header_end
    if body_size:
        begin = header_end + 1 + _FRAME
        last = begin + body_size
        if last >= size:
            return Part.REST_TO_COME
        if unpack_from(">BHI", data, header_end + 1) != (_BODY, channel, body_size):
            return Part.MANY_FRAMES
        body = data[begin:last]
    if not (
        data[end] == data[header_end] == data[last] == _END_MARK
        and data[at + 1 : at + 3] == data[header + 1 : header + 3]
    ):
        return Part.MANY_FRAMES
    mark = at + _FRAME + 5 + data[at + _FRAME + 4]
    number, bits = unpack_from(">QB", data, mark)
    consumer, exchange, routing_key = _names(data[at + _FRAME + 4 : mark], data[mark + 9 : end])
    raw = data[properties:header_end]
    return Delivered(number, bits == 1, exchange, routing_key, body, raw, reader), consumer, last + 1


@lru_cache(maxsize=1024)
def _names(consumer: bytes, way: bytes) -> tuple[str, str, str]:
    """The consumer's tag, the exchange and the routing key."""
    (tag,), _ = loads("s", consumer, 0)
    (exchange, routing_key), _ = loads("ss", way, 0)
    return tag, exchange, routing_key
