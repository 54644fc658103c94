"""The ids of revoked tasks on RabbitMQ, for workers that start later.

Problem: RabbitMQ has nothing but queues, and what is taken from a queue is gone for the others.

Solution: a queue that is only ever looked at. Each revocation is a message there, which RabbitMQ throws away when its
time is over. Who looks takes everything and gives it back, one after another, so that nobody meets an empty queue while
another one looks: an exclusive queue, which belongs to one connection and goes with it, says whose turn it is.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from umbel.core.destination import Destination
from umbel.core.envelope import Envelope, pack_native
from umbel.core.records import Publication
from umbel.core.topology import QueueDefinition
from umbel.errors import BrokerConnectionError
from umbel.stores.amqp import requests
from umbel.stores.amqp.faults import NOT_FOUND, RESOURCE_LOCKED, ChannelClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from umbel.brokers.amqp.publisher import AmqpPublisher
    from umbel.brokers.amqp.topology import Topology
    from umbel.stores.amqp.consumers import Delivered

__all__ = ["QUEUE", "KeptIds"]

QUEUE: Final = "umbel.revoked"
_TURN: Final = "umbel.revoked.turn"
#: Revocations that are kept: as many ids as a worker remembers, where each has one of its own.
_MOST: Final = 50_000
_DEFINITION: Final = QueueDefinition(QUEUE, arguments={"x-queue-type": "classic", "x-max-length": _MOST})
_TO: Final = Destination("", QUEUE, QUEUE)
#: Seconds for all that one call takes, the turns of others included.
_TIMEOUT: Final = 30.0
#: Seconds between attempts to have one's turn: from, to.
_PAUSE: Final = (0.005, 0.05)


class KeptIds:
    """As Broker.revoke and Broker.revoked; safe for use by several threads."""

    def __init__(
        self, topology: Topology, sending: AmqpPublisher, connect: Callable[[], AmqpPublisher]
    ) -> None:
        self._topology = topology
        self._sending = sending
        self._connect = connect

    def add(self, task_ids: Sequence[str], expires: float) -> None:
        """One more message."""
        self._topology.declare((), (_DEFINITION,))
        headers: dict[str, Any] = {"gone_at": time.time() + expires}
        properties = {"delivery_mode": 2, "expiration": str(int(expires * 1000))}
        body = msgspec.json.encode(list(task_ids))
        envelope = Envelope(headers, properties, "application/json", "utf-8", body)
        self._sending.send([Publication(_TO, pack_native(envelope))], timeout=_TIMEOUT)

    def read(self) -> dict[str, float]:
        """What the messages say, without taking any; over a connection of its own, which nobody needs afterwards."""
        asking = self._connect()
        try:
            messages = self._look(asking) if _is_there(asking) else []
        finally:
            asking.close()
        now = time.time()
        found: dict[str, float] = {}
        for message in messages:
            left = float(message.properties["headers"]["gone_at"]) - now
            for task_id in msgspec.json.decode(message.body, type=list[str]) if left > 0 else ():
                found[task_id] = max(left, found.get(task_id, 0.0))
        return found

    def _look(self, asking: AmqpPublisher) -> list[Delivered]:
        _take_turn(asking, time.monotonic() + _TIMEOUT)
        try:
            return asking.peek(QUEUE, _MOST, _TIMEOUT)
        finally:
            asking.ask(requests.delete_queue(_TURN), _TIMEOUT)


def _is_there(asking: AmqpPublisher) -> bool:
    try:
        asking.ask(requests.declare_queue(QUEUE, passive=True), _TIMEOUT)
    except ChannelClosedError as error:
        if error.code == NOT_FOUND:
            return False
        raise
    return True


def _take_turn(asking: AmqpPublisher, deadline: float) -> None:
    while True:
        try:
            asking.ask(requests.declare_queue(_TURN, durable=False, exclusive=True), _TIMEOUT)
        except ChannelClosedError as error:
            if error.code != RESOURCE_LOCKED:
                raise
        else:
            return
        if time.monotonic() > deadline:
            raise BrokerConnectionError(f"RabbitMQ: the queue {QUEUE} was in use for {_TIMEOUT:g} seconds")
        time.sleep(random.uniform(*_PAUSE))
