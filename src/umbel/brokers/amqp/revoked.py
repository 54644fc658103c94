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

from umbel.brokers.amqp.delayed import LEVELS, level_name
from umbel.brokers.base import RevokedTasks
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
#: What a message names: ids or stamps.
_KIND: Final = "kind"
_IDS: Final = "ids"
_STAMPS: Final = "stamps"
#: Milliseconds for which RabbitMQ keeps a message at the most, 49 days: who reads one after that finds nothing.
_LONGEST_TTL: Final = 2**32 - 1
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

    def add(self, task_ids: Sequence[str], expires: float, stamps: Sequence[str] = ()) -> float:
        """A message more, or one for either kind; for how long they are kept."""
        self._topology.declare((), (_DEFINITION,))
        expires = max(expires, self._longest_way(expires))
        kinds = ((_IDS, task_ids), (_STAMPS, stamps))
        messages = [_message(kind, names, expires) for kind, names in kinds if names]
        self._sending.send(messages, timeout=_TIMEOUT)
        return expires

    def _longest_way(self, enough: float) -> float:
        """Seconds that a delayed message may be under way yet, if more than ``enough``: it cannot be found there.

        One that waits in a level's queue will come through lower ones at the most.
        """
        for level in range(LEVELS - 1, -1, -1):
            longest = 2.0 ** (level + 1)
            if longest <= enough:
                return 0.0
            try:
                _, waiting, _ = self._sending.ask(
                    requests.declare_queue(level_name(level), passive=True), _TIMEOUT
                )
            except ChannelClosedError as error:
                if error.code != NOT_FOUND:
                    raise
                return 0.0  # the levels are made together
            if waiting:
                return longest
        return 0.0

    def read(self) -> RevokedTasks:
        """What the messages say, without taking any; over a connection of its own, which nobody needs afterwards."""
        asking = self._connect()
        try:
            messages = self._look(asking) if _is_there(asking) else []
        finally:
            asking.close()
        now = time.time()
        found = RevokedTasks({}, {})
        for message in messages:
            headers = message.properties["headers"]
            left = float(headers["gone_at"]) - now
            table = found.stamps if headers.get(_KIND) == _STAMPS else found.ids
            for name in msgspec.json.decode(message.body, type=list[str]) if left > 0 else ():
                table[name] = max(left, table.get(name, 0.0))
        return found

    def _look(self, asking: AmqpPublisher) -> list[Delivered]:
        _take_turn(asking, time.monotonic() + _TIMEOUT)
        try:
            return asking.peek(QUEUE, _MOST, _TIMEOUT)
        finally:
            asking.ask(requests.delete_queue(_TURN), _TIMEOUT)


def _message(kind: str, names: Sequence[str], expires: float) -> Publication:
    headers: dict[str, Any] = {"gone_at": time.time() + expires, _KIND: kind}
    properties = {"delivery_mode": 2, "expiration": str(min(int(expires * 1000), _LONGEST_TTL))}
    body = msgspec.json.encode(list(names))
    return Publication(_TO, pack_native(Envelope(headers, properties, "application/json", "utf-8", body)))


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
