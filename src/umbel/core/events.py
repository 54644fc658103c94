"""Events: what Celery's monitors read, as mappings and as messages.

Events about tasks travel many to a message with the routing key ``task.multi``, the others alone under their type.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from umbel.core.compression import decompress
from umbel.core.envelope import Envelope, read_envelope
from umbel.core.serializers import check_accepted, dumps, loads
from umbel.core.textrepr import safe_repr
from umbel.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["MULTI", "group_of", "make_event", "read_events", "routing_key", "write_events"]

#: The routing key of a list of events about tasks.
MULTI: Final = "task.multi"


def routing_key(type_: str) -> str:
    """The routing key of an event that travels alone."""
    return type_.replace("-", ".")


def group_of(type_: str) -> str:
    """``task`` or ``worker``, or whatever a custom event's type begins with."""
    return type_.partition("-")[0]


def make_event(type_: str, hostname: str, pid: int, clock: int, fields: Mapping[str, Any]) -> dict[str, Any]:
    """One event as monitors read it; ``timestamp`` is now unless the fields have it."""
    return {
        "hostname": hostname,
        "utcoffset": _utcoffset(),
        "pid": pid,
        "clock": clock,
        "timestamp": time.time(),
        **fields,
        "type": type_,
    }


def _utcoffset() -> float:
    """Hours west of Greenwich, which is what Celery calls so; in some places not a whole number."""
    local = time.localtime()
    return (time.altzone if local.tm_isdst > 0 else time.timezone) / 3600


def write_events(
    events: Sequence[Mapping[str, Any]] | Mapping[str, Any], hostname: str, serializer: str
) -> Envelope:
    """A message of one event, or of a list of them, ready to be packed."""
    content_type, encoding, data = dumps(events, serializer)
    properties = {"delivery_mode": 1, "priority": 0}
    return Envelope({"hostname": hostname}, properties, content_type, encoding, data)


def read_events(payload: bytes, accept: frozenset[str]) -> list[dict[str, Any]]:
    """The events in a payload. Raises ContentDisallowed or DecodeError."""
    envelope = read_envelope(payload)
    check_accepted(envelope.content_type, accept)
    data = envelope.body
    if method := envelope.headers.get("compression"):
        data = decompress(data, method)
    body = loads(data, envelope.content_type, envelope.content_encoding, accept)
    events = body if isinstance(body, list) else [body]
    for event in events:
        if not isinstance(event, dict) or not isinstance(event.get("type"), str):
            raise DecodeError(f"an event must be a mapping with a type, not {safe_repr(event, 100)}")
    return events
