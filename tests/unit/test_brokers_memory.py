"""memory:// beyond the shared suite."""

from __future__ import annotations

import pytest

from umbel.brokers.base import Disposition, FetchPlan
from umbel.brokers.memory import MemoryBroker
from umbel.brokers.options import BrokerOptions
from umbel.core.destination import Destination
from umbel.core.ids import new_id
from umbel.core.records import Publication
from umbel.errors import BrokerError
from umbel.stores.memory import MemoryStores, stores
from umbel.testing.contracts.support import ShiftedClock, message, send


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
def broker(clock):
    name = new_id()
    yield MemoryBroker(name, BrokerOptions(), clock=clock)
    stores.drop(name)


def test_stores_of_one_name_are_one() -> None:
    registry = MemoryStores()
    first = registry.get("a")
    assert registry.get("a") is first
    assert registry.get("b") is not first
    registry.drop("a")
    assert registry.get("a") is not first


def test_a_failed_send_leaves_nothing_half_done(broker) -> None:
    nowhere = Publication(Destination("logs", "key", None, "topic"), b"")
    with pytest.raises(BrokerError, match="exchange 'logs' for routing key 'key'"):
        broker.publisher().send([message(broker, "1"), nowhere], timeout=5)
    assert broker.depth("q") == 0


async def test_dead_letters_expire(broker, clock) -> None:
    consumer = broker.consumer("c", 30)
    await consumer.open()
    for name in ("old", "new"):
        send(broker, name)
        [delivery] = await consumer.fetch(FetchPlan(("q",)), 1, 5)
        await consumer.settle([Disposition(delivery.tag, "dead_letter", reason=name)])
        clock.shift += 8 * 86400
    assert [letter.reason for letter in broker.dead_letters("q", 10)] == ["new"]
