"""What is settled again after the connection was lost."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from umbel.brokers.base import Disposition
from umbel.core.protocol import Envelope, pack_kombu, read_envelope
from umbel.core.records import Publication
from umbel.core.repeats import REPEATED
from umbel.errors import BrokerConnectionError
from umbel.testing.contracts.support import to_queue
from umbel.worker.link import BrokerLink, ConnectionPolicy


class Losing:
    """A consumer that loses its connection each time it is about to answer, so many times."""

    def __init__(self, losses: int) -> None:
        self._losses = losses
        self.settled: list[list[bool]] = []

    async def open(self) -> None:
        pass

    async def reconcile(self, known: Collection[bytes]) -> int:
        return 0

    async def settle(self, batch: Sequence[Disposition]) -> None:
        self.settled.append([_is_marked(disposition) for disposition in batch])
        if len(self.settled) <= self._losses:
            raise BrokerConnectionError("it is gone, and perhaps had all of it")


def _is_marked(disposition: Disposition) -> bool:
    [publication] = disposition.publish
    return REPEATED in read_envelope(publication.payload).headers


def disposition(tag: bytes, *, unheld: bool) -> Disposition:
    to = to_queue("q")
    envelope = Envelope({"id": "1", "task": "t"}, {}, "application/json", "utf-8", b"[[], {}, {}]")
    return Disposition(tag, "ack", publish=[Publication(to, pack_kombu(envelope, to))], unheld=unheld)


async def test_what_hangs_on_no_delivery_is_marked_when_it_is_published_again() -> None:
    consumer = Losing(2)
    policy = ConnectionPolicy(on_startup=True, later=True, max_retries=5, refused_too=False)
    policy.delay = lambda attempt: 0.0
    link = BrokerLink(consumer, display_url="there", policy=policy, held_tags=set)  # type: ignore[arg-type]
    await link.open()
    await link.settle([disposition(b"1", unheld=False), disposition(b"", unheld=True)])
    assert consumer.settled == [[False, False], [False, True], [False, True]]


def test_while_another_may_take_the_brokers_place_it_is_asked_every_second() -> None:
    policy = ConnectionPolicy(on_startup=True, later=True, max_retries=None)
    delays = [policy.delay(attempt) for attempt in range(1, 40)]
    assert 0.2 <= delays[0] <= 0.25
    assert max(delays[:15]) <= 1.0
    assert sum(delays[:15]) > 10
    assert all(4.0 <= delay <= 5.0 for delay in delays[15:])
    assert len(set(delays[15:])) > 1
