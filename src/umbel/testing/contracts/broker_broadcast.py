"""The broker suite, part 7: what is broadcast reaches those who listen, and nobody else, and leaves nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from umbel.brokers.base import Disposition
from umbel.core.destination import Destination
from umbel.core.protocol import read_envelope
from umbel.core.records import Publication
from umbel.errors import BrokerConnectionError, BrokerError
from umbel.testing.contracts.broker_fixtures import BrokerFixtures, Q
from umbel.testing.contracts.support import PATIENCE, envelope, ids, message, send

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from umbel.brokers.base import Broker, Consumer, Subscription
    from umbel.testing.contracts.support import BrokerWorld

    Subscribe = Callable[..., Awaitable[Subscription]]

EXCHANGE = "suite.pidbox"


def broadcast(broker: Broker, *names: str, key: str = "", exchange: str = EXCHANGE) -> list[Publication]:
    """Publications to a fanout exchange, each recognised by its name."""
    to = Destination(exchange, key, None, "fanout")
    return [Publication(to, broker.pack(envelope(name), to)) for name in names]


async def heard(subscription: Subscription, count: int) -> list[str]:
    """The names of the next so many broadcasts."""
    async with asyncio.timeout(PATIENCE):
        return [_name(await subscription.get()) for _ in range(count)]


def _name(payload: bytes) -> str:
    return str(read_envelope(payload).headers["id"])


class BroadcastContract(BrokerFixtures):
    """Fanout exchanges, and direct ones where the broker can listen to them."""

    @pytest_asyncio.fixture
    async def subscribe(self, world: BrokerWorld) -> AsyncIterator[Subscribe]:
        """Opens a subscription, each with a Broker object of its own as separate workers have."""
        opened: list[Subscription] = []

        async def open_one(exchange: str = EXCHANGE, *rest: Any) -> Subscription:
            broker = world.connect()
            if not broker.capabilities.fanout:
                pytest.skip("this broker cannot broadcast")
            subscription = broker.subscriber(exchange, *rest)
            await subscription.open()
            opened.append(subscription)
            return subscription

        yield open_one
        for subscription in opened:
            await subscription.close()

    async def test_every_subscriber_hears_all_in_order(self, broker: Broker, subscribe: Subscribe) -> None:
        listeners = [await subscribe() for _ in range(3)]
        publisher = broker.publisher()
        publisher.send(broadcast(broker, "1", "2"), timeout=PATIENCE)
        publisher.send(broadcast(broker, "3"), timeout=PATIENCE)
        for listener in listeners:
            assert await heard(listener, 3) == ["1", "2", "3"]
        publisher.close()

    async def test_who_waits_is_woken(self, broker: Broker, subscribe: Subscribe) -> None:
        listener = await subscribe()
        hearing = asyncio.create_task(heard(listener, 1))
        await asyncio.sleep(0.05)  # it waits by now, most likely; either way it must hear
        publisher = broker.async_publisher()
        begun = asyncio.get_running_loop().time()
        await publisher.send(broadcast(broker, "1"), timeout=PATIENCE)
        assert await hearing == ["1"]
        assert asyncio.get_running_loop().time() - begun < 0.5
        await publisher.close()

    async def test_broadcasts_arrive_as_they_were_sent(self, broker: Broker, subscribe: Subscribe) -> None:
        listener = await subscribe()
        to = Destination(EXCHANGE, "", None, "fanout")
        publication = Publication(to, broker.pack(envelope("1", bytes(range(256)) * 4096), to))
        broker.publisher().send([publication], timeout=PATIENCE)
        async with asyncio.timeout(PATIENCE):
            assert await listener.get() == publication.payload

    async def test_what_was_sent_before_or_elsewhere_is_not_heard(
        self, broker: Broker, subscribe: Subscribe
    ) -> None:
        publisher = broker.publisher()
        publisher.send(broadcast(broker, "early"), timeout=PATIENCE)
        listener, keyed = await subscribe(), await subscribe(EXCHANGE, "key")
        publisher.send(broadcast(broker, "other", exchange="another"), timeout=PATIENCE)
        publisher.send(broadcast(broker, "plain"), timeout=PATIENCE)
        publisher.send(broadcast(broker, "keyed", key="key"), timeout=PATIENCE)
        publisher.send(broadcast(broker, "last"), timeout=PATIENCE)
        assert await heard(listener, 2) == ["plain", "last"]
        assert await heard(keyed, 1) == ["keyed"]

    async def test_messages_and_broadcasts_travel_together(
        self, broker: Broker, consumer: Consumer, subscribe: Subscribe
    ) -> None:
        listener = await subscribe()
        both = [message(broker, "1"), *broadcast(broker, "b"), message(broker, "2")]
        broker.publisher().send(both, timeout=PATIENCE)
        assert ids(await consumer.fetch(Q, 10, PATIENCE)) == ["1", "2"]
        assert await heard(listener, 1) == ["b"]
        assert broker.depth("q") == 0

    async def test_settlement_broadcasts_too(
        self, broker: Broker, consumer: Consumer, subscribe: Subscribe
    ) -> None:
        listener = await subscribe()
        send(broker, "1")
        [delivery] = await consumer.fetch(Q, 1, PATIENCE)
        await consumer.settle(
            [
                Disposition(delivery.tag, publish=broadcast(broker, "settled")),
                Disposition(b"", unheld=True, publish=broadcast(broker, "unheld")),
                Disposition(delivery.tag, publish=broadcast(broker, "never: it is not held any more")),
                Disposition(b"", unheld=True, publish=broadcast(broker, "last")),
            ]
        )
        assert await heard(listener, 3) == ["settled", "unheld", "last"]

    async def test_without_subscribers_it_is_gone(self, broker: Broker, subscribe: Subscribe) -> None:
        listener = await subscribe()
        await listener.close()
        broker.publisher().send(broadcast(broker, "nobody"), timeout=PATIENCE)
        await listener.open()
        broker.publisher().send(broadcast(broker, "again"), timeout=PATIENCE)
        assert await heard(listener, 1) == ["again"]

    async def test_one_that_is_not_open_says_so(self, broker: Broker, subscribe: Subscribe) -> None:
        listener = await subscribe()
        await listener.close()
        await listener.close()
        with pytest.raises(BrokerConnectionError):
            await listener.get()
        unopened = broker.subscriber(EXCHANGE)
        with pytest.raises(BrokerConnectionError):
            await unopened.get()
        await unopened.close()

    async def test_a_reader_that_stops_waiting_misses_nothing(
        self, broker: Broker, subscribe: Subscribe
    ) -> None:
        listener = await subscribe()
        for number in range(20):
            broker.publisher().send(broadcast(broker, str(number)), timeout=PATIENCE)
        found: list[str] = []
        patience = 0.0001
        while len(found) < 20 and patience < PATIENCE:
            try:
                async with asyncio.timeout(patience):
                    found.append(_name(await listener.get()))
                patience = 0.0001
            except TimeoutError:
                patience *= 2
        assert found == [str(number) for number in range(20)]

    async def test_a_direct_subscription_is_a_queue_while_it_is_open(
        self, broker: Broker, subscribe: Subscribe
    ) -> None:
        if not broker.capabilities.direct_subscriptions:
            pytest.skip("this broker has no direct subscriptions")
        mine, other = await subscribe("reply", "mine", "direct"), await subscribe("reply", "other", "direct")
        to = Destination("reply", "mine", None, "direct")
        publication = Publication(to, broker.pack(envelope("1"), to))
        broker.publisher().send([publication], timeout=PATIENCE)
        assert await heard(mine, 1) == ["1"]
        broker.publisher().send([publication], timeout=PATIENCE)
        await mine.close()
        await mine.open()
        broker.publisher().send([publication, publication], timeout=PATIENCE)
        assert await heard(mine, 2) == ["1", "1"]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await other.get()

    async def test_no_other_exchange_can_be_listened_to(self, broker: Broker) -> None:
        if broker.capabilities.fanout:
            with pytest.raises(BrokerError, match="headers"):
                broker.subscriber(EXCHANGE, "", "headers")

    async def test_events_go_to_whoever_listens_to_their_kind(
        self, broker: Broker, subscribe: Subscribe
    ) -> None:
        all_of_it = await subscribe("suite.events", "#", "broadcast")
        of_workers = await subscribe("suite.events", "worker.#", "broadcast")
        publisher = broker.publisher()
        for name, key in (("1", "task.multi"), ("2", "worker.online"), ("3", "worker.heartbeat")):
            to = Destination("suite.events", key, None, "broadcast")
            publisher.send([Publication(to, broker.pack(envelope(name), to))], timeout=PATIENCE)
        assert await heard(all_of_it, 3) == ["1", "2", "3"]
        assert await heard(of_workers, 2) == ["2", "3"]
        publisher.close()

    async def test_one_subscription_may_hear_of_several_exchanges_in_order(
        self, broker: Broker, subscribe: Subscribe
    ) -> None:
        more = [Destination("suite.events", f"worker.{kind}", None, "broadcast") for kind in ("a", "b.c")]
        listener = await subscribe(EXCHANGE, "", "fanout", more)
        other = Destination("suite.events", "worker.other", None, "broadcast")
        orders = broadcast(broker, "1", "2", "3")
        events = [Publication(to, broker.pack(envelope(to.routing_key), to)) for to in (*more, other)]
        publisher = broker.publisher()
        for publication in (orders[0], events[0], events[2], orders[1], events[1], orders[2]):
            publisher.send([publication], timeout=PATIENCE)
        assert await heard(listener, 5) == ["1", "worker.a", "2", "worker.b.c", "3"]
        await listener.close()
        publisher.send([events[0]], timeout=PATIENCE)
        await listener.open()
        publisher.send([events[1]], timeout=PATIENCE)
        assert await heard(listener, 1) == ["worker.b.c"]
        publisher.close()

    async def test_events_that_nobody_hears_are_gone(self, broker: Broker, subscribe: Subscribe) -> None:
        to = Destination("suite.unheard", "worker.online", None, "broadcast")
        publisher = broker.publisher()
        publisher.send([Publication(to, broker.pack(envelope("1"), to))], timeout=PATIENCE)
        listener = await subscribe("suite.unheard", "#", "broadcast")
        publisher.send([Publication(to, broker.pack(envelope("2"), to))], timeout=PATIENCE)
        assert await heard(listener, 1) == ["2"]
        publisher.close()
