"""Dead letters: a durable exchange, and behind it for each queue a queue of what was given up.

Beside our own headers a letter has those that other consumers look for: what RabbitMQ itself writes (``x-death`` and
its kin), and what Spring's consumers write of exceptions (``x-exception-message``, ``x-exception-stacktrace``,
``x-original-exchange``, ``x-original-routingKey``). None of them is part of the message when it is replayed.

A queue that names a dead-letter exchange of its own keeps it: its messages are rejected, and RabbitMQ does the rest.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from umbel.brokers.amqp.messages import (
    CAUSE,
    DIED_AT,
    EXCHANGE,
    REASON,
    ROUTING_KEY,
    from_wire,
    set_aside_expiration,
    to_wire,
)
from umbel.brokers.base import DeadLetter
from umbel.core.causes import Cause, read_cause, write_cause
from umbel.core.envelope import read_envelope
from umbel.core.textrepr import utf8_text
from umbel.errors import DecodeError
from umbel.stores.amqp import requests
from umbel.stores.amqp.confirms import Outgoing
from umbel.stores.amqp.faults import PRECONDITION_FAILED, ChannelClosedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from umbel.brokers.amqp.topology import Steps
    from umbel.core.causes import Kind

#: The exchange of everything that was given up; its routing keys are the names of the queues it came from.
DEAD_EXCHANGE: Final = "umbel.dead"
_LONGEST_REASON: Final = 4000  #: characters; headers have to fit into a frame
#: RabbitMQ's names for what it would write, had it given the message up.
_FIRST: Final = ("x-first-death-exchange", "x-first-death-queue", "x-first-death-reason")
#: All that is written for others.
_WRITTEN: Final = (
    *_FIRST,
    "x-death",
    "x-exception-message",
    "x-exception-stacktrace",
    "x-original-exchange",
    "x-original-routingKey",
)
#: RabbitMQ's reasons for giving a message up.
_KINDS: Final[Mapping[str, Kind]] = {
    "rejected": "rejected",
    "expired": "expired",
    "delivery_limit": "quarantined",
    "maxlen": "broker",
}
_LONGEST_EXPIRATION: Final = 2**32 - 1


def dead_queue(queue: str) -> str:
    """The queue in which a queue's dead letters are."""
    return f"{queue}.dead"


def placing(queue: str, limit: int | None = None) -> Steps:
    """What has to be there before a message of a queue can be given up; ``limit``: letters kept at the most."""
    yield requests.declare_exchange(DEAD_EXCHANGE, "direct")
    try:
        yield requests.declare_queue(
            dead_queue(queue), arguments={} if limit is None else {"x-max-length": limit}
        )
    except ChannelClosedError as error:
        # Somebody made it before us, of another type or with limits of their own: it serves as well.
        if error.code != PRECONDITION_FAILED:
            raise
    yield requests.bind_queue(dead_queue(queue), DEAD_EXCHANGE, queue)


def bury(
    queue: str, payload: bytes, reason: str, cause: Cause | None, now: float, expires: float | None
) -> Outgoing:
    """A payload as a dead letter.

    Args:
        queue: where it came from.
        payload: of whatever kind.
        reason: why it is given up.
        cause: what led to that.
        now: epoch seconds.
        expires: seconds that it is kept; None: for ever.
    """
    wire, body = to_wire(payload)
    properties = set_aside_expiration(wire)
    exchange, routing_key = _first_way(payload, queue)
    properties["headers"] = {
        **properties["headers"],
        REASON: utf8_text(reason)[:_LONGEST_REASON],
        DIED_AT: int(now * 1000),
        EXCHANGE: exchange,
        ROUTING_KEY: routing_key,
        CAUSE: write_cause("", cause),
        **_told_to_others(queue, exchange, routing_key, cause, now),
    }
    # It is of no use to anybody to lose the record of a message because the message was for the moment only.
    properties["delivery_mode"] = 2
    if expires is not None and expires * 1000 <= _LONGEST_EXPIRATION:
        properties["expiration"] = str(int(expires * 1000))
    return Outgoing(DEAD_EXCHANGE, queue, properties, body)


def _told_to_others(
    queue: str, exchange: str, routing_key: str, cause: Cause | None, now: float
) -> dict[str, Any]:
    reason = "expired" if cause is not None and cause.kind == "expired" else "rejected"
    death = {
        "count": 1,
        "reason": reason,
        "queue": queue,
        "time": datetime.fromtimestamp(int(now), UTC),
        "exchange": exchange,
        "routing-keys": [routing_key],
    }
    told: dict[str, Any] = dict(zip(_FIRST, (exchange, queue, reason), strict=True))
    told["x-death"] = [death]
    told["x-original-exchange"], told["x-original-routingKey"] = exchange, routing_key
    if cause is not None and cause.exception:
        told["x-exception-message"] = f"{cause.exception}: {cause.message}"
        told["x-exception-stacktrace"] = cause.traceback
    return told


def _first_way(payload: bytes, queue: str) -> tuple[str, str]:
    """The exchange and routing key that a message was sent with."""
    try:
        info = read_envelope(payload).properties.get("delivery_info")
    except DecodeError:
        info = None
    if isinstance(info, dict):
        exchange, routing_key = info.get("exchange"), info.get("routing_key")
        if isinstance(exchange, str) and isinstance(routing_key, str):
            return exchange, routing_key
    return "", queue


def exhume(queue: str, properties: Mapping[str, Any], body: bytes) -> DeadLetter:
    """A message of a dead-letter queue as a dead letter; one that somebody else put there says what it can."""
    headers = dict(properties.get("headers") or {})
    if REASON in headers:
        for name in _WRITTEN:
            headers.pop(name, None)
    reason, cause, at = _own_word(headers) if REASON in headers else _broker_word(headers)
    payload = from_wire({**properties, "headers": headers, "expiration": None}, body, "", queue)
    return DeadLetter(queue, payload, reason, at, cause)


def _own_word(headers: Mapping[str, Any]) -> tuple[str, Cause, float]:
    """Reason, cause and time as we wrote them."""
    reason, at, cause = headers.get(REASON), headers.get(DIED_AT), headers.get(CAUSE)
    return (
        reason if isinstance(reason, str) else "",
        read_cause(cause)[1] if isinstance(cause, str) else Cause("rejected"),
        at / 1000 if isinstance(at, int) else 0.0,
    )


def _broker_word(headers: Mapping[str, Any]) -> tuple[str, Cause, float]:
    """The same as RabbitMQ wrote them."""
    reason = str(headers.get("x-first-death-reason") or "")
    deaths = headers.get("x-death")
    last = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
    at = last.get("time")
    return reason, Cause(_KINDS.get(reason, "broker")), at.timestamp() if isinstance(at, datetime) else 0.0
