"""Remote control's messages, as kombu's pidbox writes them: an order, whom it is for, and answers to it."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from umbel.core.compression import decompress
from umbel.core.envelope import Envelope, read_envelope
from umbel.core.serializers import check_accepted, dumps, loads
from umbel.core.textrepr import safe_repr
from umbel.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Header of an order to revoke: for how many seconds who sent it has had the broker keep the ids, or stamps.
KEPT: Final = "kept"


class ControlMessage(NamedTuple):
    """An order or an answer as it was read."""

    headers: dict[str, Any]
    body: dict[str, Any]


def command_exchange(prefix: str) -> str:
    """The fanout exchange of orders; ``prefix`` is the setting ``control_exchange``."""
    return f"{prefix}.pidbox"


def reply_exchange(prefix: str) -> str:
    """The direct exchange of answers."""
    return f"reply.{prefix}.pidbox"


def write_control(
    body: Mapping[str, Any], headers: dict[str, Any], serializer: str, *, delivery_mode: int
) -> Envelope:
    """An order or an answer, ready to be packed. Raises EncodeError for what the serializer cannot write."""
    content_type, encoding, data = dumps(dict(body), serializer)
    properties = {"delivery_mode": delivery_mode, "priority": 0}
    return Envelope(headers, properties, content_type, encoding, data)


def read_control(payload: bytes, accept: frozenset[str]) -> ControlMessage:
    """The headers and body of a payload. Raises ContentDisallowed or DecodeError."""
    envelope = read_envelope(payload)
    check_accepted(envelope.content_type, accept)
    data = envelope.body
    if method := envelope.headers.get("compression"):
        data = decompress(data, method)
    body = loads(data, envelope.content_type, envelope.content_encoding, accept)
    if not isinstance(body, dict):
        raise DecodeError(f"a control message's body must be a mapping, not {safe_repr(body, 100)}")
    return ControlMessage(envelope.headers, body)


def is_for_all(body: Mapping[str, Any]) -> bool:
    """Whether an order is for every node."""
    return not body.get("destination") and not (body.get("pattern") and body.get("matcher"))


def is_for(node: str, body: Mapping[str, Any]) -> bool:
    """Whether an order is for the node of this name: it names it, or its pattern matches, or it is for all.

    Patterns are ``glob`` or ``pcre``, the latter matched from the beginning of the name, as kombu's. Raises ValueError
    for another matcher or a broken pattern.
    """
    destination, pattern, matcher = body.get("destination"), body.get("pattern"), body.get("matcher")
    if destination:
        return node == destination if isinstance(destination, str) else node in destination
    if not (pattern and matcher):
        return True
    if matcher == "glob":
        return fnmatch(node, pattern)
    if matcher != "pcre":
        raise ValueError(f"expected the matcher glob or pcre, not {matcher!r}")
    try:
        return re.match(pattern, node) is not None
    except re.error as error:
        raise ValueError(f"the pattern {pattern!r} cannot be read: {error}") from error
