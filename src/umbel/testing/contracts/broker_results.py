"""The broker suite, part 6: results that settle writes, where the result backend lives in the broker's store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from umbel.brokers.base import Disposition
from umbel.core.records import ChordEnd
from umbel.core.states import FAILURE, RETRY, STARTED
from umbel.testing.contracts.broker_fixtures import BrokerFixtures, Q
from umbel.testing.contracts.chords import part
from umbel.testing.contracts.results import document, record
from umbel.testing.contracts.support import PATIENCE, message, send

if TYPE_CHECKING:
    from umbel.brokers.base import Broker, Consumer
    from umbel.core.records import Action
    from umbel.results.base import ResultBackend
    from umbel.testing.contracts.broker_fixtures import OpenConsumer
    from umbel.testing.contracts.support import BrokerWorld


class SharedStoreContract(BrokerFixtures):
    """Where broker and backend share a store, a result is written in the step that ends the delivery."""

    @pytest.fixture
    def backend(self, world: BrokerWorld) -> ResultBackend:
        backend = world.connect_backend()
        if backend is None:
            pytest.skip("no result backend lives in this broker's store")
        return backend

    def test_the_stores_are_one(self, broker: Broker, backend: ResultBackend) -> None:
        assert backend.store == broker.store

    @pytest.mark.parametrize("action", ["ack", "requeue", "retry_later", "dead_letter"])
    async def test_the_result_is_stored_with_the_settlement(
        self, world: BrokerWorld, broker: Broker, backend: ResultBackend, consumer: Consumer, action: Action
    ) -> None:
        send(broker, "1", "2")
        first, second = await consumer.fetch(Q, 2, PATIENCE)
        batch = [
            Disposition(first.tag, action, due=world.now() + 900, result=record("1")),
            Disposition(second.tag, action, due=world.now() + 900, result=record("2", FAILURE)),
        ]
        await consumer.settle(batch)
        assert backend.load(["1", "2"]) == [document("1"), document("2", FAILURE)]

    async def test_what_is_not_held_stores_nothing(
        self, broker: Broker, backend: ResultBackend, consumer: Consumer
    ) -> None:
        send(broker, "1")
        [delivery] = await consumer.fetch(Q, 1, PATIENCE)
        await consumer.settle([Disposition(delivery.tag, result=record("1", RETRY))])
        await consumer.settle([Disposition(delivery.tag, result=record("1", FAILURE))])
        assert backend.load(["1"]) == [document("1", RETRY)]

    async def test_the_loser_of_a_lease_stores_nothing(
        self, world: BrokerWorld, broker: Broker, backend: ResultBackend, consumer_of: OpenConsumer
    ) -> None:
        lost, peer = await consumer_of("lost"), await consumer_of("peer")
        send(broker, "1")
        [delivery] = await lost.fetch(Q, 1, PATIENCE)
        await world.lapse(lost, peer)
        await peer.reclaim()
        await lost.settle([Disposition(delivery.tag, result=record("1"))])
        assert backend.load(["1"]) == [None]

    async def test_an_unheld_result_is_always_stored(
        self, broker: Broker, backend: ResultBackend, consumer: Consumer
    ) -> None:
        send(broker, "1")
        [delivery] = await consumer.fetch(Q, 1, PATIENCE)
        await consumer.settle([Disposition(delivery.tag, result=record("1", STARTED))])
        await consumer.settle([Disposition(delivery.tag, unheld=True, result=record("1"))])
        assert backend.load(["1"]) == [document("1")]

    async def test_settling_never_replaces_success(
        self, broker: Broker, backend: ResultBackend, consumer: Consumer
    ) -> None:
        backend.save([record("1")])
        send(broker, "1")
        [delivery] = await consumer.fetch(Q, 1, PATIENCE)
        await consumer.settle([Disposition(delivery.tag, result=record("1", FAILURE))])
        assert backend.load(["1"]) == [document("1")]
        assert broker.held_depth() == 0

    async def test_settling_wakes_who_waits_for_the_result(
        self, broker: Broker, backend: ResultBackend, consumer: Consumer
    ) -> None:
        waiting = asyncio.create_task(asyncio.to_thread(lambda: dict(backend.wait(["1", "2"], PATIENCE))))
        awaiting = asyncio.create_task(_collect(backend, ["2", "1"]))
        await asyncio.sleep(0.02)
        send(broker, "1", "2")
        first, second = await consumer.fetch(Q, 2, PATIENCE)
        await consumer.settle(
            [Disposition(first.tag, result=record("1")), Disposition(second.tag, result=record("2"))]
        )
        expected = {"1": document("1"), "2": document("2")}
        assert await waiting == expected
        assert await awaiting == expected

    async def test_parts_of_chords_are_counted_with_the_settlement(
        self, broker: Broker, backend: ResultBackend, consumer: Consumer
    ) -> None:
        backend.open_chord("g", 3)
        send(broker, "1", "2")
        first, second = await consumer.fetch(Q, 2, PATIENCE)
        assert not await consumer.settle([Disposition(first.tag, result=part("g", 0))])
        followers = [part("g", 1, state=FAILURE), part("g", 2, state=FAILURE, stores=False)]
        [due] = await consumer.settle([Disposition(second.tag, followers=followers)]) or ()
        assert due.group_id == "g"
        assert backend.load(["g-0", "g-1", "g-2"]) == [document("g-0"), document("g-1", FAILURE), None]
        assert len(backend.chord_entries("g")) == 3

    async def test_what_is_not_held_counts_nothing(
        self, broker: Broker, backend: ResultBackend, consumer: Consumer
    ) -> None:
        backend.open_chord("g", 1)
        send(broker, "1")
        [delivery] = await consumer.fetch(Q, 1, PATIENCE)
        await consumer.settle([Disposition(delivery.tag)])
        assert not await consumer.settle([Disposition(delivery.tag, result=part("g", 0))])
        assert backend.chord_entries("g") == []

    async def test_a_chord_is_ended_and_its_body_published_by_the_first_who_does(
        self, broker: Broker, backend: ResultBackend, consumer: Consumer
    ) -> None:
        backend.open_chord("g", 1)
        [due] = await consumer.settle([Disposition(b"", unheld=True, result=part("g", 0))]) or ()
        ends = ChordEnd("g", due.token, due.realm)
        body = message(broker, "body")
        for _ in range(2):
            ending = Disposition(b"", unheld=True, publish=[body], result=record("x"), ends=ends)
            await consumer.settle([ending])
            assert broker.depth("q") == 1
        assert backend.load(["x"]) == [document("x")]
        assert backend.chord_entries("g") == []

    async def test_a_chord_with_another_token_is_not_ended(
        self, broker: Broker, backend: ResultBackend, consumer: Consumer
    ) -> None:
        backend.open_chord("g", 1)
        [due] = await consumer.settle([Disposition(b"", unheld=True, result=part("g", 0))]) or ()
        ends = ChordEnd("g", due.token + b"0", due.realm)
        body = message(broker, "body")
        await consumer.settle([Disposition(b"", unheld=True, publish=[body], result=record("x"), ends=ends)])
        assert broker.depth("q") == 0
        assert backend.load(["x"]) == [None]
        assert len(backend.chord_entries("g")) == 1


async def _collect(backend: ResultBackend, task_ids: list[str]) -> dict[str, bytes]:
    return {task_id: found async for task_id, found in backend.await_(task_ids, PATIENCE)}
