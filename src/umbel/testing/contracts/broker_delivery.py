"""The broker suite, part 1: sending, the order of fetching, waiting."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING

import pytest

from umbel.brokers.base import Disposition, FetchPlan
from umbel.core.records import Publication
from umbel.testing.contracts.broker_fixtures import BrokerFixtures, Q
from umbel.testing.contracts.support import (
    PATIENCE,
    eventually,
    expect_same,
    ids,
    message,
    send,
    to_queue,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.brokers.base import Broker, Consumer, Delivery
    from umbel.testing.contracts.broker_fixtures import OpenConsumer
    from umbel.testing.contracts.support import BrokerWorld

#: What another process runs: sends a message for each line it reads and answers with the time it was sent.
_SENDER = """
import sys, time
from umbel.brokers.options import BrokerOptions
from umbel.brokers.urls import broker_from_url
from umbel.testing.contracts.support import message
broker = broker_from_url(sys.argv[1], BrokerOptions())
publisher = broker.publisher()
for line in sys.stdin:
    publication = message(broker, line.strip())
    publisher.send([publication], timeout=20)
    print(time.time(), flush=True)
broker.close()
"""


class DeliveryContract(BrokerFixtures):
    """What is sent is fetched once, in order, without delay."""

    async def test_an_empty_queue_gives_nothing(self, consumer: Consumer) -> None:
        assert await consumer.fetch(Q, 10, 0) == []

    async def test_what_is_sent_is_fetched_in_order(self, broker: Broker, consumer: Consumer) -> None:
        send(broker, "1", "2", "3")
        deliveries = await consumer.fetch(Q, 10, PATIENCE)
        assert ids(deliveries) == ["1", "2", "3"]
        assert [delivery.queue for delivery in deliveries] == ["q"] * 3
        assert not any(delivery.redelivered for delivery in deliveries)
        assert len({delivery.tag for delivery in deliveries}) == 3

    async def test_payloads_arrive_as_they_were_sent(
        self, world: BrokerWorld, broker: Broker, consumer: Consumer
    ) -> None:
        publication = message(broker, "1", body=bytes(range(256)))
        broker.publisher().send([publication], timeout=PATIENCE)
        [delivery] = await consumer.fetch(Q, 1, PATIENCE)
        expect_same(world, delivery.payload, publication.payload)

    async def test_order_holds_over_many_sends_and_fetches(self, broker: Broker, consumer: Consumer) -> None:
        names = [str(number) for number in range(57)]
        for start in range(0, len(names), 10):
            send(broker, *names[start : start + 10])
        fetched: list[str] = []
        while len(fetched) < len(names):
            batch = await consumer.fetch(Q, 7, PATIENCE)
            assert 0 < len(batch) <= 7
            fetched += ids(batch)
        assert fetched == names

    async def test_a_fetch_takes_no_more_than_its_limit(self, broker: Broker, consumer: Consumer) -> None:
        send(broker, "1", "2", "3")
        assert ids(await consumer.fetch(Q, 2, PATIENCE)) == ["1", "2"]
        assert broker.depth("q") == 1

    async def test_a_fetch_takes_only_from_its_plan(self, broker: Broker, consumer: Consumer) -> None:
        send(broker, "elsewhere", queue="other")
        assert await consumer.fetch(Q, 10, 0) == []
        assert broker.depth("other") == 1

    async def test_a_message_is_delivered_to_one_consumer(
        self, broker: Broker, consumer_of: OpenConsumer
    ) -> None:
        first, second = await consumer_of("a"), await consumer_of("b")
        send(broker, "1")
        assert ids(await first.fetch(Q, 10, PATIENCE)) == ["1"]
        assert await second.fetch(Q, 10, 0) == []

    async def test_one_send_may_go_to_several_queues(self, broker: Broker, consumer: Consumer) -> None:
        parts = [message(broker, "1", "a"), message(broker, "2", "b"), message(broker, "3", "a")]
        broker.publisher().send(parts, timeout=PATIENCE)
        assert ids(await consumer.fetch(FetchPlan(("a",)), 10, PATIENCE)) == ["1", "3"]
        assert ids(await consumer.fetch(FetchPlan(("b",)), 10, PATIENCE)) == ["2"]

    async def test_an_empty_send_is_nothing(self, broker: Broker) -> None:
        broker.publisher().send([], timeout=PATIENCE)
        assert broker.depth("q") == 0

    async def test_the_first_priority_is_served_first(
        self, world: BrokerWorld, broker: Broker, consumer: Consumer
    ) -> None:
        if not world.priorities:
            pytest.skip("this broker does not order by priority")
        send(broker, "late", queue="q", priority=world.last_priority)
        send(broker, "early 1", "early 2", queue="q", priority=world.first_priority)
        assert ids(await consumer.fetch(Q, 10, PATIENCE)) == ["early 1", "early 2", "late"]

    async def test_priority_goes_before_the_turn_of_queues(
        self, world: BrokerWorld, broker: Broker, consumer: Consumer
    ) -> None:
        if not world.priorities or not broker.capabilities.joint_priorities:
            pytest.skip("this broker does not compare the priorities of several queues")
        send(broker, "a", queue="a", priority=world.last_priority)
        send(broker, "b", queue="b", priority=world.first_priority)
        plan = FetchPlan(("a", "b"))
        assert ids(await consumer.fetch(plan, 1, PATIENCE)) == ["b"]
        assert ids(await consumer.fetch(plan, 1, PATIENCE)) == ["a"]

    async def test_queues_take_turns_within_a_fetch(self, broker: Broker, consumer: Consumer) -> None:
        send(broker, *(f"a{number}" for number in range(20)), queue="a")
        send(broker, "b0", "b1", queue="b")
        names = ids(await consumer.fetch(FetchPlan(("a", "b")), 6, PATIENCE))
        assert {"b0", "b1"} <= set(names)
        assert len(names) == 6

    async def test_queues_take_turns_between_fetches(self, broker: Broker, consumer: Consumer) -> None:
        send(broker, *(f"a{number}" for number in range(20)), queue="a")
        send(broker, *(f"b{number}" for number in range(3)), queue="b")
        plan = FetchPlan(("a", "b"))
        names = [name for _ in range(8) for name in ids(await consumer.fetch(plan, 1, PATIENCE))]
        assert {"b0", "b1", "b2"} <= set(names)

    async def test_depth_counts_what_waits(self, broker: Broker, consumer: Consumer) -> None:
        assert (broker.depth("q"), broker.held_depth(), broker.delayed_depth("q")) == (0, 0, 0)
        send(broker, "1", "2", "3")
        await consumer.fetch(Q, 1, PATIENCE)
        assert (broker.depth("q"), broker.held_depth(), broker.delayed_depth("q")) == (2, 1, 0)

    async def test_purge_deletes_what_waits_and_nothing_else(
        self, broker: Broker, consumer: Consumer
    ) -> None:
        send(broker, "held", "1", "2")
        send(broker, "other", queue="other")
        await consumer.fetch(Q, 1, PATIENCE)
        assert broker.purge("q") == 2
        assert broker.purge("q") == 0
        assert (broker.depth("q"), broker.depth("other"), broker.held_depth()) == (0, 1, 1)

    @pytest.mark.parametrize(
        "size", [0, 1, 70_000, 5_000_000, -1], ids=lambda size: "biggest" if size < 0 else None
    )
    async def test_bodies_of_every_size(
        self, world: BrokerWorld, broker: Broker, consumer: Consumer, size: int
    ) -> None:
        body = os.urandom(world.biggest_payload if size < 0 else size)
        publication = message(broker, "big", body=body)
        broker.publisher().send([publication], timeout=120)
        [delivery] = await consumer.fetch(Q, 1, 120)
        expect_same(world, delivery.payload, publication.payload)

    @pytest.mark.parametrize(
        "junk", [b"", b"\x00", b"not json", b"{", b"[]", b"\xff\xfe" * 40, b'{"body": 3}']
    )
    async def test_garbage_passes_through(self, broker: Broker, consumer: Consumer, junk: bytes) -> None:
        broker.publisher().send([Publication(to_queue("q"), junk)], timeout=PATIENCE)
        send(broker, "sound")
        garbage, sound = await consumer.fetch(Q, 2, PATIENCE)
        assert garbage.payload == junk
        assert ids([sound]) == ["sound"]

    async def test_the_awaitable_publisher_sends_as_the_blocking_one(
        self, broker: Broker, consumer: Consumer
    ) -> None:
        publisher = broker.async_publisher()
        await publisher.send([message(broker, "1"), message(broker, "2")], timeout=PATIENCE)
        await asyncio.gather(
            *(publisher.send([message(broker, f"x{n}")], timeout=PATIENCE) for n in range(20))
        )
        await publisher.close()
        await publisher.close()
        names = ids(await consumer.fetch(Q, 100, PATIENCE))
        assert names[:2] == ["1", "2"]
        assert sorted(names[2:]) == sorted(f"x{n}" for n in range(20))

    async def test_one_publisher_serves_many_threads(self, broker: Broker, consumer: Consumer) -> None:
        publisher = broker.publisher()

        def send_some(letter: str) -> None:
            for number in range(25):
                publisher.send([message(broker, f"{letter}{number}")], timeout=PATIENCE)

        threads = [threading.Thread(target=send_some, args=(letter,)) for letter in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        names = ids(await consumer.fetch(Q, 200, PATIENCE))
        assert sorted(names) == sorted(f"{letter}{number}" for letter in "abcd" for number in range(25))
        for letter in "abcd":  # each thread's own messages keep their order
            assert [name for name in names if name[0] == letter] == [f"{letter}{n}" for n in range(25)]

    async def test_a_publisher_works_on_both_sides_of_a_fork(
        self, world: BrokerWorld, broker: Broker, consumer: Consumer
    ) -> None:
        if world.url is None:
            pytest.skip("this broker lives in one process")
        publisher = broker.publisher()
        publisher.send([message(broker, "before")], timeout=PATIENCE)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # forking beside threads is what is tried here
            child = os.fork()
        if child == 0:
            status = 1
            try:
                publisher.send([message(broker, "child")], timeout=PATIENCE)
                status = 0
            finally:
                os._exit(status)
        publisher.send([message(broker, "parent")], timeout=PATIENCE)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert status == 0
        names = ids(await consumer.fetch(Q, 10, PATIENCE))
        assert names[0] == "before"
        assert sorted(names[1:]) == ["child", "parent"]

    async def test_a_waiting_fetch_ends_with_its_timeout(self, consumer: Consumer) -> None:
        started = time.monotonic()
        assert await consumer.fetch(Q, 10, 0.2) == []
        assert 0.19 <= time.monotonic() - started < 5

    async def test_a_waiting_fetch_is_woken_by_a_thread(
        self, world: BrokerWorld, broker: Broker, consumer: Consumer
    ) -> None:
        publisher = broker.publisher()

        def send_one(name: str) -> float:
            publisher.send([message(broker, name)], timeout=PATIENCE)
            return time.time()

        await self._expect_quick_wakes(consumer, send_one, world.wake_within)

    async def test_a_waiting_fetch_is_woken_by_another_process(
        self, world: BrokerWorld, consumer: Consumer
    ) -> None:
        if world.url is None:
            pytest.skip("this broker lives in one process")
        command = [sys.executable, "-c", _SENDER, world.url]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sender:
            assert sender.stdin is not None
            assert sender.stdout is not None

            def send_one(name: str) -> float:
                print(name, file=sender.stdin, flush=True)
                return float(sender.stdout.readline())  # type: ignore[union-attr]

            await self._expect_quick_wakes(consumer, send_one, world.wake_within)

    async def _expect_quick_wakes(
        self, consumer: Consumer, send_one: Callable[[str], float], within: float
    ) -> None:
        delays = []
        for number in range(9):
            fetching = asyncio.create_task(consumer.fetch(Q, 10, PATIENCE))
            await asyncio.sleep(
                0.02
            )  # lets the fetch begin to wait; if it has not, the figure is only better
            sent = await asyncio.to_thread(send_one, str(number))
            assert ids(await fetching) == [str(number)]
            delays.append(time.time() - sent)
        assert statistics.median(delays) < within, delays

    async def test_a_waiting_fetch_is_woken_for_each_of_its_queues(
        self, broker: Broker, consumer: Consumer
    ) -> None:
        plan = FetchPlan(("a", "b", "c"))
        for queue in plan.queues:
            fetching = asyncio.create_task(consumer.fetch(plan, 10, PATIENCE))
            await asyncio.sleep(0.02)
            await asyncio.to_thread(send, broker, queue, queue=queue)
            assert ids(await fetching) == [queue]

    async def test_of_many_waiting_consumers_one_gets_the_message(
        self, broker: Broker, consumer_of: OpenConsumer
    ) -> None:
        consumers = [await consumer_of(name) for name in "abcd"]
        fetches = [asyncio.create_task(consumer.fetch(Q, 10, 1.0)) for consumer in consumers]
        await asyncio.sleep(0.05)
        send(broker, "1", "2", "3")
        batches = await asyncio.gather(*fetches)
        assert sorted(name for batch in batches for name in ids(batch)) == ["1", "2", "3"]

    async def test_a_cancelled_wait_takes_nothing(self, broker: Broker, consumer: Consumer) -> None:
        fetching = asyncio.create_task(consumer.fetch(Q, 10, PATIENCE))
        await asyncio.sleep(0.02)
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        send(broker, "1")
        assert ids(await consumer.fetch(Q, 10, PATIENCE)) == ["1"]

    async def test_whenever_a_fetch_is_cancelled_nothing_stays_unknown(
        self, broker: Broker, consumer: Consumer
    ) -> None:
        names = {str(number) for number in range(30)}
        known: dict[bytes, str] = {}
        for number, name in enumerate(sorted(names)):
            fetching = asyncio.create_task(consumer.fetch(Q, 1, PATIENCE))
            await asyncio.sleep(0)
            await asyncio.to_thread(send, broker, name)
            await asyncio.sleep(0.0005 * (number % 6))
            fetching.cancel()
            for delivery in await _result_of(fetching):
                known[delivery.tag] = ids([delivery])[0]
        await consumer.reconcile(list(known))
        await eventually(lambda: broker.held_depth() == len(known))
        rest = await consumer.fetch(Q, 100, 0)
        assert sorted([*known.values(), *ids(rest)]) == sorted(names)

    async def test_what_was_on_its_way_from_a_paused_queue_is_anybodys_at_once(
        self, broker: Broker, consumer_of: OpenConsumer
    ) -> None:
        """Whose worker was told to take from it no more goes on with its other queues."""
        paused, peer = await consumer_of("paused"), await consumer_of("peer")
        both = FetchPlan(("q", "r"))
        assert await paused.fetch(both, 1, 0) == []  # it has made the queues, where that takes its time
        for number in range(10):
            fetching = asyncio.create_task(paused.fetch(both, 1, PATIENCE))
            await asyncio.to_thread(send, broker, str(number))
            fetching.cancel()
            await _result_of(fetching)
            await paused.reconcile([])
            going_on = asyncio.create_task(paused.fetch(FetchPlan(("r",)), 1, PATIENCE))
            found = await peer.fetch(Q, 1, PATIENCE)
            assert ids(found) == [str(number)]
            await peer.settle([Disposition(found[0].tag)])
            going_on.cancel()
            assert await _result_of(going_on) == []

    async def test_reading_display_url_and_store(self, world: BrokerWorld, broker: Broker) -> None:
        assert "://" in broker.display_url
        assert broker.store
        assert world.connect().store == broker.store

    async def test_closing_twice_is_closing_once(self, broker: Broker) -> None:
        publisher = broker.publisher()
        publisher.close()
        send(broker, "1")
        publisher.close()
        broker.close()
        broker.close()


async def _result_of(fetching: asyncio.Task[list[Delivery]]) -> list[Delivery]:
    """What the fetch took if it ended before it was cancelled."""
    try:
        return await fetching
    except asyncio.CancelledError:
        return []
