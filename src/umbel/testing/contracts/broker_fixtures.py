"""Fixtures of the broker suite: a world, a broker in it, and consumers that are closed at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from umbel.brokers.base import FetchPlan
from umbel.testing.contracts.support import LEASE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from umbel.brokers.base import Broker, Consumer
    from umbel.testing.contracts.support import BrokerWorld

    OpenConsumer = Callable[[str], Awaitable[Consumer]]

#: Takes from the queue that most tests use.
Q = FetchPlan(("q",))


class BrokerFixtures:
    """What every part of the suite starts from."""

    @pytest.fixture
    def make_world(self) -> Callable[[], BrokerWorld]:
        """Override: makes a fresh world each time it is called."""
        raise NotImplementedError("a subclass of the broker suite must override the make_world fixture")

    @pytest.fixture
    def world(self, make_world: Callable[[], BrokerWorld]) -> Iterator[BrokerWorld]:
        world = make_world()
        yield world
        world.close()

    @pytest.fixture
    def broker(self, world: BrokerWorld) -> Broker:
        return world.connect()

    @pytest_asyncio.fixture
    async def consumer_of(self, world: BrokerWorld) -> AsyncIterator[OpenConsumer]:
        """Opens a consumer by name, each with a Broker object of its own as separate workers have."""
        opened: list[Consumer] = []

        async def open_one(name: str) -> Consumer:
            consumer = world.connect().consumer(name, LEASE)
            await consumer.open()
            opened.append(consumer)
            return consumer

        yield open_one
        for consumer in opened:
            await consumer.close()

    @pytest_asyncio.fixture
    async def consumer(self, consumer_of: OpenConsumer) -> Consumer:
        return await consumer_of("alone")
