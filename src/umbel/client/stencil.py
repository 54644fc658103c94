"""``Stencil``: the payload of a plain call with holes for what differs from call to call.

Most calls of a task differ in their id and arguments only, and most of the work of sending one is to write the same
headers again. A stencil is cut from a real payload, that of a specimen call with marks in the places that differ, so
that it knows nothing of the form but whether it is JSON or msgpack: what it fills in is where the long way would have
put it. Calls that are not plain go the long way.
"""

from __future__ import annotations

import re
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgspec

from umbel.core.ids import new_id
from umbel.core.json_types import is_plain
from umbel.core.protocol import build_message, encode
from umbel.core.textrepr import safe_repr

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from umbel.brokers.base import Broker
    from umbel.client.client import PublishOptions
    from umbel.core.message import Call

__all__ = ["Stencil"]

#: The last part of the body; written once, for all calls.
_NOTHING_FOLLOWS = msgspec.Raw(
    msgspec.json.encode({"callbacks": None, "errbacks": None, "chain": None, "chord": None})
)
_write_json = msgspec.json.Encoder().encode
#: How often each mark must be in the specimen: the id is in two headers and a property, and kombu's form has a tag.
_HOLES = {"id": 3, "args": 1, "kwargs": 1, "reply_to": 1, "body": 1}
_ORDER = (*_HOLES, "tag")
_LONGEST_ID = 1024


class Stencil:
    """Writes payloads of one task's plain calls, for one destination.

    Args:
        template: the payload as a ``%`` template.
        write: makes the text of a value in the payload's form.
        pick: takes what goes into its holes, in their order, from (id, args, kwargs, reply_to, body, tag).
    """

    __slots__ = ("_no_kwargs", "_pick", "_template", "_write")

    def __init__(
        self,
        template: bytes,
        write: Callable[[str | bytes], bytes],
        pick: Callable[[tuple[bytes, ...]], tuple[bytes, ...]],
    ) -> None:
        self._template = template
        self._write = write
        self._pick = pick
        self._no_kwargs = write("{}")

    def fill(
        self, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], reply_to: str, tag: str = ""
    ) -> bytes | None:
        """The payload of one call; None when its arguments are not plain, so that it has to go the long way.

        ``tag`` tells messages apart; empty: a new one.
        """
        if not is_plain(args) or len(task_id) > _LONGEST_ID or (kwargs and not is_plain(kwargs)):
            return None
        write = self._write
        try:
            values = (
                write(task_id),
                write(safe_repr(args)),
                write(safe_repr(kwargs)) if kwargs else self._no_kwargs,
                write(reply_to),
                write(_write_json((args, kwargs, _NOTHING_FOLLOWS))),
                write(tag or new_id()),
            )
        except UnicodeEncodeError:  # a lone surrogate, which only the standard library's JSON has a form for
            return None
        return self._template % self._pick(values)


def cut_stencil(broker: Broker, options: PublishOptions, specimen: Call) -> Stencil | None:
    """The stencil of calls like ``specimen``; None where there is none for this broker or these options."""
    if options.serializer != "json" or options.compression:
        return None
    marks: dict[str, Any] = {name: new_id() for name in _HOLES}
    specimen = msgspec.structs.replace(
        specimen,
        id=marks["id"],
        root_id=None,
        argsrepr=marks["args"],
        kwargsrepr=marks["kwargs"],
        reply_to=marks["reply_to"],
    )
    envelope = encode(build_message(specimen), options.serializer, None)
    envelope.body = marks["body"] = marks["body"].encode()
    payload = broker.pack(envelope, options.destination)
    if payload[:1] != b"{":
        return _cut(payload, msgspec.msgpack.Encoder().encode, marks)
    marks["tag"] = msgspec.json.decode(payload)["properties"]["delivery_tag"]
    return _cut(payload, _write_json, marks)


def _cut(payload: bytes, write: Callable[[Any], bytes], marks: Mapping[str, Any]) -> Stencil | None:
    names = {write(mark): name for name, mark in marks.items()}
    pattern = re.compile(b"|".join(map(re.escape, names)))
    found = [names[mark] for mark in pattern.findall(payload)]
    if any(found.count(name) != _HOLES.get(name, 1) for name in marks):
        return None
    template = pattern.sub(b"%b", payload.replace(b"%", b"%%"))
    return Stencil(template, write, itemgetter(*map(_ORDER.index, found)))
