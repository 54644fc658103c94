"""Dead letters: a durable exchange, and behind it for each queue a queue of what was given up.

A queue that names a dead-letter exchange of its own keeps it: its messages are rejected, and RabbitMQ does the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from umbel.brokers.amqp.messages import (
    DIED_AT,
    EXCHANGE,
    REASON,
    ROUTING_KEY,
    from_wire,
    set_aside_expiration,
    to_wire,
)
from umbel.brokers.base import DeadLetter
from umbel.core.envelope import read_envelope
from umbel.core.textrepr import utf8_text
from umbel.errors import DecodeError
from umbel.stores.amqp import requests
from umbel.stores.amqp.confirms import Outgoing
from umbel.stores.amqp.faults import PRECONDITION_FAILED, ChannelClosedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from umbel.brokers.amqp.topology import Steps

#: The exchange of everything that was given up; its routing keys are the names of the queues it came from.
DEAD_EXCHANGE: Final = "umbel.dead"
_LONGEST_REASON: Final = 4000  #: characters; headers have to fit into a frame
#: RabbitMQ's names for what it would write, had it given the message up.
_WRITTEN: Final = ("x-first-death-exchange", "x-first-death-queue", "x-first-death-reason")
_LONGEST_EXPIRATION: Final = 2**32 - 1


def dead_queue(queue: str) -> str:
    """The queue in which a queue's dead letters are."""
    return f"{queue}.dead"


def placing(queue: str) -> Steps:
    """What has to be there before a message of a queue can be given up."""
    yield requests.declare_exchange(DEAD_EXCHANGE, "direct")
    try:
        yield requests.declare_queue(dead_queue(queue))
    except ChannelClosedError as error:
        # Somebody made it before us, of another type or with limits of their own: it serves as well.
        if error.code != PRECONDITION_FAILED:
            raise
    yield requests.bind_queue(dead_queue(queue), DEAD_EXCHANGE, queue)


def bury(queue: str, payload: bytes, reason: str, now: float, expires: float | None) -> Outgoing:
    """A payload as a dead letter.

    Args:
        queue: where it came from.
        payload: of whatever kind.
        reason: why it is given up.
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
        **dict(zip(_WRITTEN, (exchange, queue, "rejected"), strict=True)),
    }
    # It is of no use to anybody to lose the record of a message because the message was for the moment only.
    properties["delivery_mode"] = 2
    if expires is not None and expires * 1000 <= _LONGEST_EXPIRATION:
        properties["expiration"] = str(int(expires * 1000))
    return Outgoing(DEAD_EXCHANGE, queue, properties, body)


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
    reason = headers.get(REASON)
    at = headers.get(DIED_AT)
    return DeadLetter(
        queue,
        from_wire({**properties, "headers": headers, "expiration": None}, body, "", queue),
        reason if isinstance(reason, str) else str(headers.get("x-first-death-reason") or ""),
        at / 1000 if isinstance(at, int) else 0.0,
    )
