"""The broker suite, part 3: leases, take-over, reconciling, closing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from umbel.brokers.base import Disposition
from umbel.core.protocol import peek, read_envelope
from umbel.core.records import Publication
from umbel.testing.contracts.broker_fixtures import BrokerFixtures, Q
from umbel.testing.contracts.support import LEASE, PATIENCE, expect_reclaimed, ids, message, send, to_queue

if TYPE_CHECKING:
    from umbel.brokers.base import Broker, Consumer
    from umbel.testing.contracts.broker_fixtures import OpenConsumer
    from umbel.testing.contracts.support import BrokerWorld


class LeaseContract(BrokerFixtures):
    """What a consumer holds is its own while it renews, and anyone's when it stops."""

    async def test_a_live_consumer_is_not_robbed(self, broker: Broker, consumer_of: OpenConsumer) -> None:
        holder, peer = await consumer_of("holder"), await consumer_of("peer")
        send(broker, "1")
        await holder.fetch(Q, 1, PATIENCE)
        assert await peer.reclaim() == 0
        assert broker.held_depth() == 1

    async def test_renewing_keeps_what_is_held(
        self, world: BrokerWorld, broker: Broker, consumer_of: OpenConsumer
    ) -> None:
        holder, peer = await consumer_of("holder"), await consumer_of("peer")
        send(broker, "1")
        [delivery] = await holder.fetch(Q, 1, PATIENCE)
        for _ in range(6):
            world.pass_time(LEASE / 3)
            await holder.renew()
            await peer.renew()
            assert await peer.reclaim() == 0
        await holder.settle([Disposition(delivery.tag)])
        assert broker.held_depth() == 0

    async def test_a_lapsed_consumers_messages_return_marked(
        self, world: BrokerWorld, broker: Broker, consumer_of: OpenConsumer
    ) -> None:
        lost, peer = await consumer_of("lost"), await consumer_of("peer")
        send(broker, "1", "2", "3")
        await lost.fetch(Q, 2, PATIENCE)
        await world.lapse(lost, peer)
        await expect_reclaimed(peer, broker, 2)
        assert broker.depth("q") == 3
        deliveries = await peer.fetch(Q, 10, PATIENCE)
        assert ids(deliveries) == ["1", "2", "3"]
        assert [delivery.redelivered for delivery in deliveries] == [True, True, False]
        assert [peek(delivery.payload).redelivered for delivery in deliveries] == [True, True, False]
        headers = [read_envelope(delivery.payload).headers for delivery in deliveries]
        assert [header.get("redelivered", False) for header in headers] == [True, True, False]

    async def test_a_reclaimed_message_goes_before_those_that_wait(
        self, world: BrokerWorld, broker: Broker, consumer_of: OpenConsumer
    ) -> None:
        lost, peer = await consumer_of("lost"), await consumer_of("peer")
        send(broker, "1")
        await lost.fetch(Q, 1, PATIENCE)
        send(broker, "2")
        await world.lapse(lost, peer)
        await peer.reclaim()
        assert ids(await peer.fetch(Q, 1, PATIENCE)) == ["1"]

    async def test_garbage_is_reclaimed_too(
        self, world: BrokerWorld, broker: Broker, consumer_of: OpenConsumer
    ) -> None:
        lost, peer = await consumer_of("lost"), await consumer_of("peer")
        junk = b"\xfe not a message"
        broker.publisher().send([Publication(to_queue("q"), junk)], timeout=PATIENCE)
        await lost.fetch(Q, 1, PATIENCE)
        await world.lapse(lost, peer)
        await expect_reclaimed(peer, broker, 1)
        [delivery] = await peer.fetch(Q, 1, PATIENCE)
        assert (delivery.payload, delivery.redelivered) == (junk, True)

    async def test_the_loser_of_a_lease_settles_to_nothing(
        self, world: BrokerWorld, broker: Broker, consumer_of: OpenConsumer
    ) -> None:
        lost, peer = await consumer_of("lost"), await consumer_of("peer")
        send(broker, "1")
        [old] = await lost.fetch(Q, 1, PATIENCE)
        await world.lapse(lost, peer)
        await peer.reclaim()
        await lost.settle([Disposition(old.tag, publish=[message(broker, "next", "n")])])
        assert (broker.depth("q"), broker.depth("n")) == (1, 0)
        [new] = await peer.fetch(Q, 1, PATIENCE)
        await lost.settle([Disposition(old.tag, "requeue", publish=[message(broker, "next", "n")])])
        assert (broker.depth("q"), broker.depth("n"), broker.held_depth()) == (0, 0, 1)
        await peer.settle([Disposition(new.tag)])
        assert broker.held_depth() == 0

    async def test_the_loser_of_a_lease_may_work_on(
        self, world: BrokerWorld, broker: Broker, consumer_of: OpenConsumer
    ) -> None:
        lost, peer = await consumer_of("lost"), await consumer_of("peer")
        send(broker, "1")
        await lost.fetch(Q, 1, PATIENCE)
        await world.lapse(lost, peer)
        await peer.reclaim()
        await lost.renew()
        [delivery] = await lost.fetch(Q, 1, PATIENCE)
        assert await peer.reclaim() == 0
        await lost.settle([Disposition(delivery.tag)])
        assert (broker.depth("q"), broker.held_depth()) == (0, 0)

    async def test_one_who_lapsed_and_was_not_robbed_keeps_its_own(
        self, world: BrokerWorld, broker: Broker, consumer_of: OpenConsumer
    ) -> None:
        slow, peer = await consumer_of("slow"), await consumer_of("peer")
        send(broker, "1")
        [delivery] = await slow.fetch(Q, 1, PATIENCE)
        await world.lapse(slow, peer)
        await slow.renew()
        assert await peer.reclaim() == 0
        await slow.settle([Disposition(delivery.tag)])
        returned = 0 if broker.capabilities.leases else 1  # by the broker, when the lapse was noticed
        assert (broker.depth("q"), broker.held_depth()) == (returned, 0)

    async def test_racing_reclaimers_return_each_message_once(
        self, world: BrokerWorld, broker: Broker, consumer_of: OpenConsumer
    ) -> None:
        lost = await consumer_of("lost")
        peers = [await consumer_of(name) for name in "abcd"]
        names = [str(number) for number in range(100)]
        send(broker, *names)
        while len(await lost.fetch(Q, 100, 0)):
            pass
        await world.lapse(lost, *peers)
        counts = await asyncio.gather(*(peer.reclaim() for peer in peers for _ in range(2)))
        assert sum(counts) == (100 if broker.capabilities.leases else 0)
        assert broker.held_depth() == 0
        taken: list[str] = []
        while batch := await peers[0].fetch(Q, 100, 0):
            taken += ids(batch)
        assert (taken if world.returns_in_order else sorted(taken, key=int)) == names

    async def test_a_message_may_be_lost_and_returned_many_times(
        self, world: BrokerWorld, broker: Broker, consumer_of: OpenConsumer
    ) -> None:
        peer = await consumer_of("peer")
        send(broker, "1")
        for number in range(5):
            lost = await consumer_of(f"lost {number}")
            assert ids(await lost.fetch(Q, 1, PATIENCE)) == ["1"]
            await world.lapse(lost, peer)
            await expect_reclaimed(peer, broker, 1)
        [delivery] = await peer.fetch(Q, 1, PATIENCE)
        assert read_envelope(delivery.payload).body == b"[[], {}, {}]"

    async def test_a_reclaim_wakes_a_waiting_peer(
        self, world: BrokerWorld, broker: Broker, consumer_of: OpenConsumer
    ) -> None:
        lost, peer, waiter = await consumer_of("lost"), await consumer_of("peer"), await consumer_of("waiter")
        send(broker, "1")
        await lost.fetch(Q, 1, PATIENCE)
        await world.lapse(lost, peer, waiter)
        fetching = asyncio.create_task(waiter.fetch(Q, 1, PATIENCE))
        await asyncio.sleep(0.02)
        await expect_reclaimed(peer, broker, 1)
        assert ids(await fetching) == ["1"]

    async def test_reconcile_returns_what_is_not_known(
        self, broker: Broker, consumer_of: OpenConsumer
    ) -> None:
        consumer, peer = await consumer_of("a"), await consumer_of("b")
        send(broker, "1", "2", "3", "4")
        first, _second, third = await consumer.fetch(Q, 3, PATIENCE)
        [other] = await peer.fetch(Q, 1, PATIENCE)
        assert await consumer.reconcile([first.tag, third.tag]) == 1
        assert broker.held_depth() == 3
        assert ids(await consumer.fetch(Q, 10, 0)) == ["2"]
        await consumer.settle([Disposition(first.tag), Disposition(third.tag)])
        await peer.settle([Disposition(other.tag)])
        assert broker.held_depth() == 1

    async def test_reconcile_knows_when_all_is_well(self, broker: Broker, consumer: Consumer) -> None:
        assert await consumer.reconcile([]) == 0
        send(broker, "1")
        [delivery] = await consumer.fetch(Q, 1, PATIENCE)
        assert await consumer.reconcile([delivery.tag, b"unknown"]) == 0
        assert broker.held_depth() == 1

    async def test_opening_again_keeps_what_is_held(self, broker: Broker, consumer: Consumer) -> None:
        send(broker, "1", "2")
        [delivery] = await consumer.fetch(Q, 1, PATIENCE)
        await consumer.open()
        assert await consumer.reconcile([delivery.tag]) == 0
        await consumer.settle([Disposition(delivery.tag)])
        assert ids(await consumer.fetch(Q, 10, 0)) == ["2"]

    async def test_closing_returns_everything_in_order(
        self, broker: Broker, consumer_of: OpenConsumer
    ) -> None:
        leaving, staying = await consumer_of("leaving"), await consumer_of("staying")
        send(broker, "1", "2", "3", "4")
        await leaving.fetch(Q, 2, PATIENCE)
        third = (await leaving.fetch(Q, 1, PATIENCE))[0]
        await leaving.settle([Disposition(third.tag)])
        await leaving.close()
        await leaving.close()
        assert broker.held_depth() == 0
        assert ids(await staying.fetch(Q, 10, PATIENCE)) == ["1", "2", "4"]

    async def test_closing_wakes_a_waiting_peer(self, broker: Broker, consumer_of: OpenConsumer) -> None:
        leaving, waiter = await consumer_of("leaving"), await consumer_of("waiter")
        send(broker, "1")
        await leaving.fetch(Q, 1, PATIENCE)
        fetching = asyncio.create_task(waiter.fetch(Q, 1, PATIENCE))
        await asyncio.sleep(0.02)
        await leaving.close()
        assert ids(await fetching) == ["1"]

    async def test_closing_unopened_is_nothing(self, broker: Broker) -> None:
        consumer = broker.consumer("never opened", LEASE)
        assert consumer.identity == "never opened"
        await consumer.close()

    async def test_a_closed_consumer_may_open_again(self, broker: Broker, consumer: Consumer) -> None:
        await consumer.close()
        await consumer.open()
        send(broker, "1")
        assert ids(await consumer.fetch(Q, 10, PATIENCE)) == ["1"]

    @pytest.mark.parametrize("identity", ["plain", "worker1@host.example", "a b:c/d'%_\"é"])
    async def test_any_identity_will_do(
        self, world: BrokerWorld, broker: Broker, consumer_of: OpenConsumer, identity: str
    ) -> None:
        holder, peer = await consumer_of(identity), await consumer_of("peer")
        send(broker, "1")
        await holder.fetch(Q, 1, PATIENCE)
        await world.lapse(holder, peer)
        await expect_reclaimed(peer, broker, 1)
