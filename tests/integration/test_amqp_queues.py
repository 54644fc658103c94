"""Consuming from RabbitMQ's kinds of queues that others do not have."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import wait_until
from umbel.brokers.amqp.consumer import AmqpConsumer
from umbel.brokers.base import Disposition, FetchPlan
from umbel.brokers.options import BrokerOptions
from umbel.brokers.urls import broker_from_url
from umbel.core.destination import Destination
from umbel.core.queues import Broadcast, Exchange, Queue
from umbel.core.records import Publication
from umbel.core.topology import define
from umbel.errors import BrokerConnectionError, BrokerError
from umbel.stores.amqp.link import open_link

if TYPE_CHECKING:
    from collections.abc import Iterator

    from umbel.brokers.base import Broker
    from umbel.stores.amqp.failover import Failover
    from umbel.stores.amqp.link import Link

PATIENCE = 10.0
NEWS = Destination("news", "", None, "fanout")
JOBS = Destination("", "jobs", "jobs")
NEXT = Destination("", "next", "next")


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
            supply = consumer._tenure.supply  # type: ignore[attr-defined]
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


async def test_what_was_to_end_on_a_lost_channel_ends_nothing_on_the_next(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel numbers what it hands out from 1: an end that is tried again must not meet another message."""
    publisher = broker.async_publisher()
    await publisher.send([Publication(JOBS, b"first"), Publication(JOBS, b"second")], timeout=PATIENCE)
    consumer = broker.consumer("one", 30)
    assert isinstance(consumer, AmqpConsumer)
    await consumer.open()
    taken = await consumer.fetch(FetchPlan(("jobs",)), 1, PATIENCE)
    end = [Disposition(each.tag, publish=[Publication(NEXT, b"next")]) for each in taken]

    publishing, connecting, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def fail(_messages: object) -> None:
        publishing.set()
        await connecting.wait()
        raise BrokerConnectionError("the connection was cut while this was published")

    async def connect(failover: Failover) -> Link:
        connecting.set()
        await go_on.wait()
        return await open_link(failover)

    with monkeypatch.context() as patches:
        patches.setattr(consumer._sender, "send", fail)
        patches.setattr("umbel.brokers.amqp.consumer.open_link", connect)
        settling = asyncio.create_task(consumer.settle(end))
        await publishing.wait()
        assert consumer._link is not None
        consumer._link.close("cut")
        opening = asyncio.create_task(consumer.open())
        with pytest.raises(BrokerConnectionError):
            await settling  # while the next connection is being made
        go_on.set()
        await opening
    again = [each.payload for each in await consumer.fetch(FetchPlan(("jobs",)), 2, PATIENCE)]
    assert sorted(again) == [b"first", b"second"]
    await consumer.settle(end)
    await consumer.close()
    await publisher.close()
    await asyncio.to_thread(wait_until, lambda: broker.depth("jobs") == 2, what="both messages, unsettled")
