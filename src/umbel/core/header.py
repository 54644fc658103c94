"""What the supervisor reads of a message: a few header fields, and nothing of the body."""

from __future__ import annotations

from datetime import date
from typing import Any, Final, TypeAlias

import msgspec

from umbel.core.envelope import read_envelope
from umbel.core.json_types import may_be_tagged
from umbel.errors import DecodeError

#: Hard limit, soft limit, in seconds; None where the message sets none.
TimeLimit: TypeAlias = tuple[int | float | None, int | float | None]


class Header(msgspec.Struct, gc=False):
    """The fields that decide whether, when and how a message runs; each has a default.

    ``task`` is empty when the headers name none: protocol 1, where the body does, or junk. ``ignore_result`` is None
    when the message leaves it to the task. ``eta`` and ``expires`` are text as it came, not checked to be instants.
    """

    id: str = ""
    task: str = ""
    shadow: str | None = None
    eta: str | None = None
    expires: str | None = None
    retries: int = 0
    timelimit: TimeLimit = (None, None)
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    ignore_result: bool | None = None
    origin: str | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    priority: int = 0
    redelivered: bool = False
    delivery_tag: str = ""
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] = {}
    argsrepr: str | None = None
    kwargsrepr: str | None = None

    @property
    def name(self) -> str:
        """The name to show in logs and events."""
        return self.shadow or self.task


class _Info(msgspec.Struct, gc=False, frozen=True):
    redelivered: bool = False


class _Properties(msgspec.Struct, gc=False, frozen=True):
    correlation_id: str | None = None
    reply_to: str | None = None
    priority: int = 0
    delivery_tag: str = ""
    delivery_info: _Info = _Info()


class _Kombu(msgspec.Struct, gc=False):
    headers: Header
    properties: _Properties = _Properties()


class _Native(msgspec.Struct, array_like=True, gc=False):
    headers: Header
    properties: _Properties


#: Headers that name something.
_NAMES: Final = ("id", "task", "root_id", "parent_id", "group")

_decode_kombu: Final = msgspec.json.Decoder(_Kombu).decode
_decode_native: Final = msgspec.msgpack.Decoder(_Native).decode


def peek(payload: bytes) -> Header:
    """The header of a payload of either form, without touching its body.

    Fields of a wrong type are read as Celery would take them, or as if they were absent. Raises DecodeError when the
    payload is not a message at all.
    """
    try:
        if payload[:1] == b"{":
            # A tagged value is a mapping, so it is of a wrong type for most fields.
            peeked: _Kombu | _Native = _decode_kombu(payload)
            if peeked.headers.stamps and may_be_tagged(payload):
                return _peek_leniently(payload)
        else:
            peeked = _decode_native(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _peek_leniently(payload)
    header, properties = peeked.headers, peeked.properties
    header.correlation_id = properties.correlation_id
    header.reply_to = properties.reply_to
    header.priority = properties.priority
    header.delivery_tag = properties.delivery_tag
    header.redelivered = header.redelivered or properties.delivery_info.redelivered
    return header


def _peek_leniently(payload: bytes) -> Header:
    envelope = read_envelope(payload)
    headers, properties = envelope.headers, envelope.properties
    _check_names(headers, properties)
    info = properties.get("delivery_info")
    redelivered = info.get("redelivered") if isinstance(info, dict) else False
    task = headers.get("task")
    ignore_result = headers.get("ignore_result")
    return Header(
        id=_text(headers.get("id")) or "",
        task=task if isinstance(task, str) else "",
        shadow=_text(headers.get("shadow")),
        eta=_text(headers.get("eta")),
        expires=_text(headers.get("expires")),
        retries=_number(headers.get("retries")),
        timelimit=_time_limit(headers.get("timelimit")),
        root_id=_text(headers.get("root_id")),
        parent_id=_text(headers.get("parent_id")),
        group=_text(headers.get("group")),
        ignore_result=None if ignore_result is None else bool(ignore_result),
        origin=_text(headers.get("origin")),
        reply_to=_text(properties.get("reply_to")),
        correlation_id=_text(properties.get("correlation_id")),
        priority=_number(properties.get("priority")),
        redelivered=bool(redelivered or headers.get("redelivered")),
        delivery_tag=_text(properties.get("delivery_tag")) or "",
        stamped_headers=_texts(headers.get("stamped_headers")),
        stamps=_mapping(headers.get("stamps")),
        argsrepr=_text(headers.get("argsrepr")),
        kwargsrepr=_text(headers.get("kwargsrepr")),
    )


def _check_names(headers: dict[str, Any], properties: dict[str, Any]) -> None:
    """Names are written into keys, frames and documents, which are UTF-8; JSON's escapes can say more than that."""
    named = {name: headers.get(name) for name in _NAMES}
    named["reply_to"] = properties.get("reply_to")
    for name, value in named.items():
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise DecodeError(f"a message's {name} is no valid text: {error}") from error


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, date):
        return value.isoformat()
    return str(value) if isinstance(value, (int, float)) else None


def _number(value: Any) -> int:
    if not isinstance(
        value, (int, float, str)
    ):  # a decimal of a billion digits is one of the things it may be
        return 0
    try:
        return int(value)
    except (ValueError, OverflowError):
        return 0


def _time_limit(value: Any) -> TimeLimit:
    if not isinstance(value, (list, tuple)):
        return (None, None)
    hard, soft = (*value, None, None)[:2]
    return _seconds(hard), _seconds(soft)


def _seconds(value: Any) -> int | float | None:
    return value if isinstance(value, (int, float)) else None


def _texts(value: Any) -> list[str] | None:
    if not isinstance(value, (list, tuple)):
        return None
    return [item for item in value if isinstance(item, str)]


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
