"""The broker suite, part 4: many producers and consumers at once, with exact accounting."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from typing import TYPE_CHECKING

from umbel.brokers.base import Disposition, FetchPlan
from umbel.core.protocol import peek
from umbel.testing.contracts.broker_fixtures import BrokerFixtures
from umbel.testing.contracts.support import PATIENCE, message

if TYPE_CHECKING:
    from umbel.brokers.base import Broker, Consumer
    from umbel.core.records import Publication
    from umbel.testing.contracts.broker_fixtures import OpenConsumer

_PRODUCERS = 3
_EACH = 120


class TrafficContract(BrokerFixtures):
    """Under concurrent traffic every message ends exactly once."""

    async def test_every_message_ends_exactly_once(self, broker: Broker, consumer_of: OpenConsumer) -> None:
        ended: Counter[str] = Counter()
        consumers = [await consumer_of(name) for name in "abc"]
        threads = [threading.Thread(target=_produce, args=(broker, number)) for number in range(_PRODUCERS)]
        for thread in threads:
            thread.start()
        expected = _PRODUCERS * _EACH
        async with asyncio.timeout(90):
            await asyncio.gather(*(_consume(broker, consumer, ended, expected) for consumer in consumers))
        for thread in threads:
            thread.join()
        wanted = {f"{producer}-{number}" for producer in range(_PRODUCERS) for number in range(_EACH)}
        assert set(ended) == wanted
        assert set(ended.values()) == {1}
        assert (broker.depth("x"), broker.depth("y"), broker.held_depth()) == (0, 0, 0)


def _produce(broker: Broker, producer: int) -> None:
    publisher = broker.publisher()
    batch: list[Publication] = []
    for number in range(_EACH):
        batch.append(message(broker, f"{producer}-{number}", "xy"[number % 2]))
        if len(batch) > number % 4:
            publisher.send(batch, timeout=PATIENCE)
            batch = []
    publisher.send(batch, timeout=PATIENCE)
    publisher.close()


async def _consume(broker: Broker, consumer: Consumer, ended: Counter[str], expected: int) -> None:
    """End two of three messages and requeue the third, at random, until all have ended."""
    dice = random.Random(consumer.identity)
    plan = FetchPlan(("x", "y"))
    while ended.total() < expected:
        batch = []
        for delivery in await consumer.fetch(plan, dice.randint(1, 20), 0.05):
            if dice.random() < 0.33:
                batch.append(Disposition(delivery.tag, "requeue", front=dice.random() < 0.5))
            else:
                ended[peek(delivery.payload).id] += 1
                batch.append(Disposition(delivery.tag))
        await consumer.settle(batch)
