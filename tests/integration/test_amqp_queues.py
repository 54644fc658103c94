"""Consuming from RabbitMQ's kinds of queues that others do not have."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import wait_until
from umbel.brokers.base import Disposition, FetchPlan
from umbel.brokers.options import BrokerOptions
from umbel.brokers.urls import broker_from_url
from umbel.core.destination import Destination
from umbel.core.queues import Broadcast, Exchange, Queue
from umbel.core.records import Publication
from umbel.core.topology import define
from umbel.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from umbel.brokers.base import Broker

PATIENCE = 10.0
NEWS = Destination("news", "", None, "fanout")


@pytest.fixture
def broker(rabbitmq_url: str) -> Iterator[Broker]:
    made = broker_from_url(rabbitmq_url, BrokerOptions(connect_timeout=4.0))
    yield made
    made.close()


async def test_every_listener_gets_what_is_broadcast_also_after_a_pause(broker: Broker) -> None:
    """A queue that goes with its last consumer must have one while its worker is busy with other things."""
    consumers = {}
    for name in ("one", "two"):
        broker.declare((), [define(Broadcast("news", queue=name))])
        consumers[name] = broker.consumer(name, 30)
        await consumers[name].open()
        assert await consumers[name].fetch(FetchPlan((name, "shared")), 4, 0.1) == []
    publisher = broker.async_publisher()
    for turn in (b"first", b"second"):
        for consumer in consumers.values():
            supply = consumer._supply  # type: ignore[attr-defined]
            await asyncio.to_thread(wait_until, lambda supply=supply: not supply.streams, what="the pause")
        await publisher.send([Publication(NEWS, turn)] * 3, timeout=PATIENCE)
        for name, consumer in consumers.items():
            got = []
            while len(got) < 3:
                got += await consumer.fetch(FetchPlan((name, "shared")), 2, PATIENCE)
            assert [each.payload for each in got] == [turn] * 3
            await consumer.settle([Disposition(each.tag) for each in got])
    for consumer in consumers.values():
        await consumer.close()
    await publisher.close()


async def test_a_queue_of_another_connection_alone_is_an_error_that_names_it(broker: Broker) -> None:
    broker.declare((), [define(Queue("mine", Exchange("x"), "k", exclusive=True))])
    first, second = broker.consumer("first", 30), broker.consumer("second", 30)
    await first.open()
    assert await first.fetch(FetchPlan(("mine",)), 1, 0.05) == []
    await second.open()
    with pytest.raises(BrokerError, match="queue 'mine'"):
        await second.fetch(FetchPlan(("mine",)), 1, 0.05)
    for consumer in (first, second):
        await consumer.close()
