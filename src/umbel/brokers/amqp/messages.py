"""A payload as an AMQP message and back: Celery's properties, headers and body, and a few headers of ours.

Between our own layers an envelope travels in the native form. On the wire its headers are the message's header table,
its properties are AMQP's, its body the body, as Celery's producers write them and its workers read them. Headers whose
names begin with ``umbel-`` are ours: they carry what AMQP has no field for, Celery ignores them, and no payload ever
shows them. The values are plain: a mapping of AMQP's property names, whatever library moves it.

Whatever a payload or a message holds, translating it raises nothing: what cannot be read travels as it is.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from umbel.brokers.redelivery import mark_redelivered
from umbel.core.envelope import Envelope, is_kombu, pack_native, read_envelope
from umbel.core.json_types import dumps_json, is_plain, loads_json
from umbel.errors import DecodeError, EncodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from umbel.core.destination import Destination

#: The body is a whole payload, of whatever kind.
RAW: Final = "umbel-payload"
#: JSON of all headers, where the table could not hold some of them.
HEADERS: Final = "umbel-headers"
#: JSON of the properties that AMQP has no field for.
PROPERTIES: Final = "umbel-properties"
#: Where the message was sent to first: it comes from elsewhere when it was delayed, or was given up.
EXCHANGE: Final = "umbel-exchange"
ROUTING_KEY: Final = "umbel-routing-key"
#: When a delayed message is due, in epoch milliseconds; the topology of delayed messages knows whole seconds.
DUE: Final = "umbel-due"
#: Milliseconds of the delay that were left when it was sent, and are not waited for in that topology: for those whose
#: clock is another than the sender's. The name begins as that of ``DUE``, so that one look tells of both.
REST: Final = "umbel-due-rest"
#: Why and when a message was given up.
REASON: Final = "umbel-reason"
DIED_AT: Final = "umbel-died-at"
#: What led to that: JSON, as ``core.causes.write_cause`` has it.
CAUSE: Final = "umbel-cause"
OURS: Final = frozenset({RAW, HEADERS, PROPERTIES, EXCHANGE, ROUTING_KEY, DUE, REST, REASON, DIED_AT, CAUSE})

#: What RabbitMQ writes into the headers of a message. Sent along with a new one it would look like a cycle, and a
#: message that goes round in a cycle is dropped.
BROKERS_OWN: Final = frozenset(
    {
        "x-death",
        "x-first-death-exchange",
        "x-first-death-queue",
        "x-first-death-reason",
        "x-last-death-exchange",
        "x-last-death-queue",
        "x-last-death-reason",
        "x-delivery-count",
        "x-acquired-count",
        "x-delivery-time",
    }
)
_RARE: Final = OURS | {"x-death", "x-delivery-count"}
#: Headers by whose values it is decided how a message is translated; all others are put over as they are.
TRANSLATED_APART: Final = OURS | {"x-death", "redelivered"}
#: Exchanges and queues in which delayed messages wait begin so; what RabbitMQ writes of them concerns nobody.
DELAYED_PREFIX: Final = "celery_delayed_"

#: Writes the native form of what is known to be plain, see ``pack_native``.
_encode_fast: Final = msgspec.msgpack.Encoder().encode
_LONGEST_TEXT: Final = 255  #: bytes of a name or a property
_BIGGEST_TABLE: Final = 96 * 1024  #: headers and properties go in one frame, of 128 KiB with RabbitMQ
_LONGEST_EXPIRATION: Final = 2**32 - 1  #: milliseconds
_SMALLEST, _BIGGEST = -(2**63), 2**63 - 1
_DEPTH: Final = 8
_SCALARS: Final = frozenset({str, int, bool, float, type(None)})
#: Properties of kombu's virtual transports, which have no meaning here.
_VIRTUAL: Final = frozenset({"delivery_tag", "body_encoding"})


def _is_short(value: Any) -> bool:
    return type(value) is str and len(value) <= _LONGEST_TEXT and _is_short_text(value)


def _is_short_text(value: str) -> bool:
    try:
        return len(value.encode()) <= _LONGEST_TEXT
    except UnicodeEncodeError:
        return False


def _is_octet(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 255


def _is_expiration(value: Any) -> bool:
    return type(value) is str and value.isascii() and value.isdigit() and int(value) <= _LONGEST_EXPIRATION


def _is_timestamp(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _BIGGEST


#: AMQP's properties that a payload's properties are written to, in the order in which they are read back, and what
#: they can hold. ``user_id`` is not one of them: RabbitMQ closes the channel when it is not the connection's user.
_FIELDS: Final[dict[str, Callable[[Any], bool]]] = {
    "delivery_mode": lambda value: type(value) is int and value in (1, 2),
    "priority": _is_octet,
    "correlation_id": _is_short,
    "reply_to": _is_short,
    "expiration": _is_expiration,
    "message_id": _is_short,
    "timestamp": _is_timestamp,
    "type": _is_short,
    "app_id": _is_short,
    "cluster_id": _is_short,
}
#: Those that have no default.
_OPTIONAL: Final = tuple(name for name in _FIELDS if name not in ("delivery_mode", "priority"))


def pack_amqp(envelope: Envelope, destination: Destination) -> bytes:
    """The payload of an envelope: the native form, just as a consumer will have it.

    A property that is not one of AMQP's and has no form in JSON is left out, as AMQP's clients leave out all that are
    not: whoever publishes again what a signal told has the signal itself among them.

    Raises EncodeError for a header, or a property of AMQP's, that JSON has no form for.
    """
    properties = envelope.properties
    fields, more = _split(properties)
    if "priority" not in properties:
        fields["priority"] = _octet(destination.priority)
    info = {"exchange": destination.exchange, "routing_key": destination.routing_key}
    packed = Envelope(
        _without_brokers_own(envelope.headers),
        _join(fields, more, info),
        envelope.content_type,
        envelope.content_encoding,
        envelope.body,
    )
    try:
        return pack_native(packed)
    except EncodeError:
        written = {name: value for name, value in more.items() if is_plain(value)}
        if len(written) == len(more):
            raise
        packed.properties = _join(fields, written, info)
        return pack_native(packed)


def to_wire(payload: bytes, priority: int = 0) -> tuple[dict[str, Any], bytes]:
    """AMQP's properties (``headers`` among them) and body of a payload in whatever form.

    ``priority`` is that of a payload which does not say. A message whose sender did not say otherwise is persistent.
    """
    try:
        envelope = read_envelope(payload)
    except DecodeError:
        return _raw(payload, priority)
    if _is_too_big(payload, envelope):
        return _raw(payload, priority)
    headers, exact = _table(_without_brokers_own(envelope.headers))
    fields, more = _split(envelope.properties)
    try:
        if not exact:
            headers[HEADERS] = dumps_json(envelope.headers).decode()
        if more:
            headers[PROPERTIES] = dumps_json(more).decode()
    except EncodeError:  # only a payload that we did not pack holds such
        return _raw(payload, priority)
    wire: dict[str, Any] = {}
    if envelope.content_type:
        wire["content_type"] = envelope.content_type
    if envelope.content_encoding:
        wire["content_encoding"] = envelope.content_encoding
    wire["headers"] = headers
    wire["delivery_mode"] = 2
    wire["priority"] = _octet(priority)
    wire.update(fields)
    return wire, envelope.body


def _is_too_big(payload: bytes, envelope: Envelope) -> bool:
    """Whether AMQP has no room for what is beside the body."""
    body = len(envelope.body)
    if len(payload) - (body * 4 // 3 if is_kombu(payload) else body) > _BIGGEST_TABLE:
        return True
    return not (_is_short(envelope.content_type) and _is_short(envelope.content_encoding))


def _raw(payload: bytes, priority: int) -> tuple[dict[str, Any], bytes]:
    """What is no message of ours goes as it is, and so does one whose headers would not fit into a frame."""
    return {"headers": {RAW: True}, "delivery_mode": 2, "priority": _octet(priority)}, payload


def _octet(priority: int) -> int:
    return min(max(priority, 0), 255)


def set_aside_expiration(wire: Mapping[str, Any]) -> dict[str, Any]:
    """AMQP's properties of a message without its expiration, which comes back with its payload.

    What is delayed or dead would be thrown away, or go on too early, when its time is over.
    """
    properties = dict(wire)
    expiration = properties.pop("expiration", None)
    if expiration is not None:
        headers = properties["headers"]
        more = _load(headers.get(PROPERTIES)) or {}
        properties["headers"] = {
            **headers,
            PROPERTIES: dumps_json({**more, "expiration": expiration}).decode(),
        }
    return properties


def from_wire(
    properties: Mapping[str, Any],
    body: bytes,
    exchange: str = "",
    routing_key: str = "",
    *,
    redelivered: bool = False,
) -> bytes:
    """The payload of a message as it was delivered.

    Args:
        properties: AMQP's, by name; those that are absent or None were not set. ``headers`` may be changed.
        body: the body.
        exchange, routing_key: what the delivery says of its way.
        redelivered: mark it so where Celery looks for that.
    """
    headers = properties.get("headers") or {}
    if RAW in headers:
        return mark_redelivered(body) if redelivered else body
    info: dict[str, Any] = {"exchange": exchange, "routing_key": routing_key}
    more: dict[str, Any] = {}
    # One look for what few messages have: headers of ours, and RabbitMQ's.
    if not _RARE.isdisjoint(headers):
        headers, more = _take_ours(headers, info)
    if redelivered:
        headers["redelivered"] = True
        info["redelivered"] = True
    joined = _join(properties, more, info)
    content_type, encoding = properties.get("content_type") or "", properties.get("content_encoding") or ""
    if not more and is_plain(headers):
        try:
            return _encode_fast((headers, joined, content_type, encoding, body))
        except (OverflowError, UnicodeEncodeError):
            pass  # there is a slower way
    return _pack_safely(Envelope(headers, joined, content_type, encoding, body))


def _pack_safely(envelope: Envelope) -> bytes:
    try:
        return pack_native(envelope)
    except EncodeError:
        # Another writer's table holds something that JSON has no form for: the rest is what counts.
        envelope.headers = {name: value for name, value in envelope.headers.items() if is_plain(value)}
        return pack_native(envelope)


def _take_ours(headers: dict[str, Any], info: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The headers without ours, and the properties among ours; ``info`` says where it was sent first."""
    ours = {name: headers[name] for name in OURS.intersection(headers)}
    info["exchange"] = ours.get(EXCHANGE, info["exchange"])
    info["routing_key"] = ours.get(ROUTING_KEY, info["routing_key"])
    rest = {name: value for name, value in headers.items() if name not in ours}
    if rest.get("x-delivery-count") == 0:  # quorum queues say so of every message
        del rest["x-delivery-count"]
    exact = _load(ours.get(HEADERS))
    if exact is not None:
        brokers_own = {name: value for name, value in rest.items() if name in BROKERS_OWN}
        rest = {**exact, **brokers_own}
    return _without_delays(rest), _load(ours.get(PROPERTIES)) or {}


def _load(text: Any) -> dict[str, Any] | None:
    """A mapping that we wrote as JSON; None for what somebody else wrote."""
    if not isinstance(text, (str, bytes)):
        return None
    try:
        value = loads_json(text)
    except DecodeError:
        return None
    return value if isinstance(value, dict) else None


def _without_delays(headers: dict[str, Any]) -> dict[str, Any]:
    """The headers without what RabbitMQ wrote while the message waited for its time."""
    deaths = headers.get("x-death")
    if not isinstance(deaths, list):
        return headers
    told = [death for death in deaths if not _is_delay(death)]
    if told:
        return {**headers, "x-death": told}
    return {name: value for name, value in headers.items() if name not in BROKERS_OWN or "death" not in name}


def _is_delay(death: Any) -> bool:
    return isinstance(death, dict) and DELAYED_PREFIX in str(death.get("queue"))


def _without_brokers_own(headers: dict[str, Any]) -> dict[str, Any]:
    if BROKERS_OWN.isdisjoint(headers):
        return headers
    return {name: value for name, value in headers.items() if name not in BROKERS_OWN}


def _split(properties: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Properties as AMQP has them, and the rest."""
    fields: dict[str, Any] = {}
    more: dict[str, Any] = {}
    for name, value in properties.items():
        fits = _FIELDS.get(name)
        if value is None:
            continue
        if fits is not None and fits(value):
            fields[name] = value
        elif name == "priority" and type(value) is int:
            fields[name] = _octet(value)
        elif name != "delivery_info" and name not in _VIRTUAL:
            more[name] = value
    return fields, more


def _join(fields: Mapping[str, Any], more: Mapping[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """Properties of a payload, always in one order."""
    get = fields.get
    joined = {"delivery_mode": get("delivery_mode") or 2, "priority": get("priority") or 0}
    for name in _OPTIONAL:
        if (value := get(name)) is not None:
            joined[name] = value
    if more:
        joined.update(more)
    joined["delivery_info"] = info
    return joined


def _table(headers: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Headers as a table can hold them, and whether it gives all of them back as they are."""
    if _is_table(headers, _DEPTH):
        return dict(headers), True
    held = {name: value for name, value in headers.items() if _holds(name, value)}
    return held, False


def _fits(value: Any, depth: int) -> bool:
    """Whether a table gives a value back as it is."""
    kind = type(value)
    if kind in _SCALARS:
        return _is_text(value) if kind is str else kind is not int or _SMALLEST <= value <= _BIGGEST
    if kind is dict:
        return depth > 0 and _is_table(value, depth - 1)
    if kind is list or kind is tuple:
        return depth > 0 and all(_fits(item, depth - 1) for item in value)
    return False


def _is_table(mapping: dict[Any, Any], depth: int) -> bool:
    for name, value in mapping.items():
        # What most headers are is said here again: a few calls less for each message.
        if not (type(name) is str and name.isascii() and len(name) <= _LONGEST_TEXT) and not _is_short(name):
            return False
        if value is None or (type(value) is str and value.isascii()):
            continue
        if not _fits(value, depth):
            return False
    return True


def _holds(name: Any, value: Any) -> bool:
    """Whether a table can hold a header at all, so that Celery sees it."""
    if not _is_short(name):
        return False
    if isinstance(value, datetime):
        return value.year >= 1970
    if isinstance(value, bytes):
        return True
    return is_plain(value) and _fits(value, _DEPTH)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
