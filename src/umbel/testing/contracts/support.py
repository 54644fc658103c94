"""What the shared broker suite needs to know about an adapter, and small helpers for writing its tests."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from umbel.core.destination import Destination
from umbel.core.ids import new_id
from umbel.core.protocol import Envelope, peek, read_envelope
from umbel.core.records import Publication

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from umbel.brokers.base import Broker, Consumer, Delivery
    from umbel.results.base import ResultBackend

#: How long the suite's consumers hold what they fetched, unless they renew.
LEASE = 30.0
#: Deadline of everything that should take no time at all; only a broken adapter waits for it.
PATIENCE = 20.0


class ShiftedClock:
    """The real clock plus a shift, so that tests pass time without waiting and real waits still end."""

    def __init__(self) -> None:
        self.shift = 0.0

    def now(self) -> float:
        return time.time() + self.shift

    def monotonic(self) -> float:
        return time.monotonic() + self.shift


class BrokerWorld(ABC):
    """One fresh, empty store, how to reach it, and how time passes in it.

    An adapter whose clock is the process's own passes a ``ShiftedClock``; one whose clock is a server's rewrites what
    the server knows (scores, expiries) in ``pass_time`` and ``lapse``.
    """

    #: Whether messages of one queue are ordered by priority, and the numbers that are first and last.
    priorities = True
    first_priority = 0
    last_priority = 9
    url: str | None = None  #: how another process reaches the same store; None where none can
    #: Median time from the return of a send to the return of a waiting fetch, in seconds.
    wake_within = 0.02
    #: Whether several messages that return to a queue come out again in the order in which they lay there.
    returns_in_order = True
    #: Whether the headers of a message come in the order in which they were sent.
    keeps_header_order = True
    #: Whether a delivery's end and all that is published with it are one step, whichever queues that goes to.
    settles_in_one_step = True
    #: The biggest payload the suite sends.
    biggest_payload = 64 * 1024 * 1024

    @abstractmethod
    def connect(self) -> Broker:
        """One more Broker object on the store; ``close`` closes it."""

    def connect_backend(self) -> ResultBackend | None:
        """A result backend in the same store; None where no backend lives in it. ``close`` closes it."""
        return None

    def now(self) -> float:
        """The broker's time, epoch seconds."""
        return time.time()

    @abstractmethod
    def pass_time(self, seconds: float) -> None:
        """Let ``seconds`` pass for what the broker times: leases and due times."""

    async def lapse(self, consumer: Consumer, *alive: Consumer) -> None:
        """Let the lease of ``consumer`` lapse while those ``alive`` keep theirs."""
        self.pass_time(LEASE + 1)
        for peer in alive:
            await peer.renew()

    async def lose(self, consumer: Consumer, *alive: Consumer) -> None:
        """Have ``consumer`` be lost for good, as with its process; it is not used again."""
        await self.lapse(consumer, *alive)

    @abstractmethod
    def close(self) -> None:
        """Delete the store and close what was connected."""


def to_queue(queue: str, priority: int = 0) -> Destination:
    """Where Celery sends a task whose queue has a direct exchange."""
    return Destination("", queue, queue, priority=priority)


def envelope(task_id: str, body: bytes = b"[[], {}, {}]", **headers: object) -> Envelope:
    """A small protocol 2 envelope; ``task_id`` is how the suite recognises it."""
    return Envelope(
        headers={"lang": "py", "task": "suite.task", "id": task_id, **headers},
        properties={"correlation_id": task_id, "delivery_mode": 2, "delivery_tag": new_id()},
        content_type="application/json",
        content_encoding="utf-8",
        body=body,
    )


def message(
    broker: Broker, task_id: str, queue: str = "q", *, priority: int = 0, body: bytes = b"[[], {}, {}]"
) -> Publication:
    """A publication in the broker's own form."""
    destination = to_queue(queue, priority)
    return Publication(destination, broker.pack(envelope(task_id, body), destination))


def send(broker: Broker, *task_ids: str, queue: str = "q", priority: int = 0) -> None:
    """Send one message for each id, in order."""
    publisher = broker.publisher()
    publisher.send(
        [message(broker, task_id, queue, priority=priority) for task_id in task_ids], timeout=PATIENCE
    )
    publisher.close()


def ids(deliveries: Iterable[Delivery]) -> list[str]:
    """The task ids of deliveries, in order."""
    return [peek(delivery.payload).id for delivery in deliveries]


def expect_same(world: BrokerWorld, payload: bytes, sent: bytes) -> None:
    """A message arrived as it was sent, to the byte where the broker keeps every order."""
    if world.keeps_header_order:
        assert payload == sent
    else:
        assert read_envelope(payload) == read_envelope(sent)


async def expect_reclaimed(consumer: Consumer, broker: Broker, count: int) -> None:
    """Have what lapsed consumers held returned: so many messages, unless the broker has returned them already."""
    assert await consumer.reclaim() == (count if broker.capabilities.leases else 0)


async def eventually(condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Return as soon as ``condition`` holds; AssertionError when it does not within ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"{condition} did not become true in {patience} s"
        await asyncio.sleep(0.005)
