"""Celery's native delayed delivery: messages that wait in RabbitMQ until their time, as kombu 5.7 lays it out.

28 topic exchanges, each with a queue whose messages expire after a power of two seconds. A delay is written in binary
before the routing key, one word for each bit: a one sends the message through that level's queue, a zero past it to the
next level. What has passed the last level comes to one exchange, from which the rest of the key leads to its queues.
A million waiting messages cost no worker anything, and survive every one of them.

The layout counts whole seconds. What we send carries the exact instant in a header too: it comes up to a second early,
and our consumer keeps it until then. What Celery sends comes as Celery means it.

Celery leads from the last exchange back into topic and fanout exchanges, whose own queues are bound for any words
before the key. Messages for one queue take a binding of ours, of exactly 28 words and the queue's name, so that they
reach that queue alone and direct exchanges need none.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

from umbel.brokers.amqp.messages import DUE, EXCHANGE, REST, ROUTING_KEY, set_aside_expiration
from umbel.core.times import parse_timestamp
from umbel.stores.amqp import requests
from umbel.stores.amqp.faults import NOT_FOUND, PRECONDITION_FAILED, ChannelClosedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from umbel.brokers.amqp.topology import Steps
    from umbel.core.destination import Destination
    from umbel.core.topology import QueueDefinition
    from umbel.stores.amqp.confirms import Outgoing
    from umbel.stores.amqp.requests import Request

LEVELS: Final = 28
#: The longest delay there is, in seconds: eight and a half years.
LONGEST: Final = 2**LEVELS - 1
#: Where every delay ends.
DELIVERY: Final = "celery_delayed_delivery"
#: An exchange of ours that is made when everything else is there, so that one question tells.
_COMPLETE: Final = "umbel.delayed"
#: Seconds that a message may wait with whoever fetched it; it is not worth its way through the levels.
SHORTEST: Final = 2.0
#: What is due within so many seconds is sent to a classic queue at once, as Celery does with whatever its eta: a worker
#: keeps it for that long anyway, where it is seen among the scheduled tasks.
WITH_WORKER: Final = 5.0

_PREFIX = re.compile(rf"(?:[01]\.){{{LEVELS}}}")
_LONGEST_KEY: Final = 255


def level_name(level: int) -> str:
    """The exchange of a level, and the queue of the same name behind it."""
    return f"celery_delayed_{level}"


#: Where every delay begins.
ENTRY: Final = level_name(LEVELS - 1)


def topology(queue_type: str) -> Iterator[Request]:
    """The declarations of all levels, in the order in which they need each other.

    ``queue_type`` is ``classic`` or ``quorum``: the setting ``broker_native_delayed_delivery_queue_type``.
    """
    for level in range(LEVELS - 1, -1, -1):
        name = level_name(level)
        yield requests.declare_exchange(name, "topic")
        yield requests.declare_queue(name, arguments=_level_arguments(level, queue_type))
        yield requests.bind_queue(name, name, _bit_pattern(level, "1"))
    yield requests.declare_exchange(DELIVERY, "topic")
    for level in range(LEVELS - 1, -1, -1):
        below = level_name(level - 1) if level else DELIVERY
        yield requests.bind_exchange(below, level_name(level), _bit_pattern(level, "0"))


def placing(queue_type: str) -> Steps:
    """What makes the levels unless they are there; those that Celery has made serve as they are."""
    try:
        yield requests.declare_exchange(_COMPLETE, passive=True)
    except ChannelClosedError as error:
        if error.code != NOT_FOUND:
            raise
    else:
        return
    for request in topology(queue_type):
        try:
            yield request
        except ChannelClosedError as error:
            if error.code != PRECONDITION_FAILED:
                raise
    yield requests.declare_exchange(_COMPLETE)


def receiving(queues: Iterable[QueueDefinition], queue_type: str) -> Steps:
    """What a worker puts in place so that Celery's clients may delay messages: they rely on it with quorum queues."""
    known = [queue for queue in queues if not queue.of_consumer]
    if not any(queue.arguments.get("x-queue-type") == "quorum" for queue in known):
        return
    yield from placing(queue_type)
    for queue in known:
        for binding in queue.bindings:
            if binding.exchange.type != "direct" and not queue.no_declare:
                yield from exchange_bindings(queue.name, binding.exchange.name, binding.routing_key)


def _bit_pattern(level: int, bit: str) -> str:
    """Keys whose word for this level is ``bit``."""
    return "*." * (LEVELS - 1 - level) + f"{bit}.#"


def _level_arguments(level: int, queue_type: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "x-queue-type": queue_type,
        "x-overflow": "reject-publish",
        "x-message-ttl": 2**level * 1000,
        "x-dead-letter-exchange": level_name(level - 1) if level else DELIVERY,
    }
    if queue_type == "quorum":
        arguments["x-dead-letter-strategy"] = "at-least-once"
    return arguments


def queue_binding(queue: str) -> Request:
    """What leads a delayed message to the queue that it names, and to no other."""
    return requests.bind_queue(queue, DELIVERY, "*." * LEVELS + queue)


def queue_placing(queue: str) -> Steps:
    """The same, for whoever takes steps; the queue has to be there."""
    yield queue_binding(queue)


def exchange_bindings(queue: str, exchange: str, routing_key: str) -> Iterator[Request]:
    """What leads a delayed message through a topic or fanout exchange to a queue: Celery's own bindings."""
    pattern = routing_key if routing_key.startswith("#") else f"#.{routing_key}"
    yield requests.bind_exchange(exchange, DELIVERY, pattern)
    yield requests.bind_queue(queue, exchange, pattern)


def delayed_key(seconds: int, routing_key: str) -> str:
    """The routing key of a message that waits for whole seconds, from 1 to LONGEST."""
    return ".".join(f"{seconds:0{LEVELS}b}") + f".{without_delay(routing_key)}"


def without_delay(routing_key: str) -> str:
    """The routing key that a delayed message was sent with."""
    delay = _PREFIX.match(routing_key)
    return routing_key[delay.end() :] if delay else routing_key


def is_delay_key(routing_key: str) -> bool:
    """Whether a routing key is that of a delayed message."""
    return _PREFIX.match(routing_key) is not None


def delay_of(due: float, now: float) -> int:
    """Whole seconds that a message is to wait in the levels; 0: it is due too soon for that."""
    left = due - now
    return 0 if left < SHORTEST else min(int(left), LONGEST)


def due_of_headers(headers: Mapping[str, Any]) -> float | None:
    """The instant before which a message must not run, by its ``eta``; None: it has none that can be read."""
    eta = headers.get("eta")
    if not isinstance(eta, str):
        return None
    try:
        return parse_timestamp(eta)
    except ValueError:
        return None


def due_here(headers: Mapping[str, Any], now: float) -> float | None:
    """The instant, by the clock that says it is ``now``, that a message has still to wait for; None: nobody wrote it.

    Never longer than what was left when it was sent and has not been waited for: the sender's clock may be wrong, or
    this one, and what RabbitMQ has measured is not waited for again.
    """
    due, rest = headers.get(DUE), headers.get(REST)
    at = due / 1000 if isinstance(due, int) else None
    if not isinstance(rest, int):
        return at
    if at is None:
        at = due_of_headers(headers)
    longest = now + rest / 1000
    return longest if at is None else min(at, longest)


def can_wait(destination: Destination) -> bool:
    """Whether a message may go to its destination by way of the levels.

    It may to a queue by name and through a topic exchange. A direct exchange compares whole keys and would not know it;
    such a message goes at once, and the worker that takes it sends it to wait for the queue that it came to.
    """
    key = destination.queue or destination.routing_key
    if not key or len(key.encode()) + 2 * LEVELS > _LONGEST_KEY:
        return False
    return destination.queue is not None or destination.exchange_type == "topic"


def delay_by_eta(message: Outgoing, to: Destination, now: float, patience: float) -> Outgoing | None:
    """A message with an ``eta`` as one that waits; None: it goes as it is, as when it is due in ``patience`` seconds.

    Its destination must have its bindings.
    """
    headers = message.properties["headers"]
    due = due_of_headers(headers)
    if due is None:
        return None
    if due - now <= patience or not delay_of(due, now) or not can_wait(to):
        headers[REST] = _milliseconds(due - now)
        return None
    if to.queue is not None:
        return delay_message(message, to.queue, due, now)
    return _through_levels(message, to.exchange, to.routing_key, due, now)


def delay_message(message: Outgoing, queue: str, due: float, now: float) -> Outgoing:
    """A message for a queue as one that waits until ``due``: by way of the levels, or with whoever fetches it.

    The queue must have its ``queue_binding``.
    """
    seconds = delay_of(due, now)
    if seconds and len(queue.encode()) + 2 * LEVELS <= _LONGEST_KEY:
        return _through_levels(message, "", queue, due, now)
    way = {DUE: math.ceil(due * 1000), REST: _milliseconds(due - now)}
    headers = {**message.properties["headers"], **way}
    return message._replace(properties={**message.properties, "headers": headers})


def _through_levels(message: Outgoing, exchange: str, key: str, due: float, now: float) -> Outgoing:
    properties = set_aside_expiration(message.properties)
    seconds = delay_of(due, now)
    rest = _milliseconds(due - now - seconds)
    way = {DUE: math.ceil(due * 1000), REST: rest, EXCHANGE: exchange, ROUTING_KEY: key}
    return message._replace(
        exchange=ENTRY,
        routing_key=delayed_key(seconds, key),
        properties={**properties, "headers": {**properties["headers"], **way}},
    )


def _milliseconds(seconds: float) -> int:
    return max(math.ceil(seconds * 1000), 0)
