"""The broker suite, part 9: revocations outlive who made them, find what waits, and are forgotten in time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from umbel.brokers.base import Disposition, FetchPlan, RevokedTasks
from umbel.core.stamps import read_stamps, write_stamps
from umbel.testing.contracts.broker_fixtures import BrokerFixtures, Q
from umbel.testing.contracts.support import PATIENCE, eventually, ids, send

if TYPE_CHECKING:
    from umbel.brokers.base import Broker, Consumer, Delivery
    from umbel.testing.contracts.broker_fixtures import OpenConsumer
    from umbel.testing.contracts.support import BrokerWorld


class RevocationContract(BrokerFixtures):
    """``Broker.revoke`` and ``Broker.revoked``."""

    @pytest.fixture
    def keeping(self, broker: Broker) -> Broker:
        """A broker that keeps revoked ids."""
        if not broker.capabilities.revocations:
            pytest.skip("this broker keeps no revoked ids")
        return broker

    def test_at_first_nothing_is_revoked(self, keeping: Broker) -> None:
        assert keeping.revoked() == RevokedTasks()
        keeping.revoke([], 60)
        assert keeping.revoked() == RevokedTasks()

    def test_who_comes_later_finds_what_was_revoked(self, keeping: Broker, world: BrokerWorld) -> None:
        keeping.revoke(["a", "b"], 600)
        keeping.revoke(["c"], 60)
        keeping.close()
        found = world.connect().revoked().ids
        assert set(found) == {"a", "b", "c"}
        # They have been looked at; they are there for the next one too, with the time that is left to them.
        again = world.connect().revoked().ids
        assert set(again) == {"a", "b", "c"}
        assert 300 < again["a"] <= 600.1
        assert 0 < again["c"] <= 60.1

    def test_an_id_is_kept_for_the_longest_time_asked_for(self, keeping: Broker) -> None:
        keeping.revoke(["a"], 600)
        keeping.revoke(["a"], 60)
        assert keeping.revoked().ids["a"] > 300

    async def test_ids_are_forgotten_when_their_time_is_over(self, keeping: Broker) -> None:
        keeping.revoke(["brief"], 0.2)
        keeping.revoke(["lasting"], 600)
        await eventually(lambda: set(keeping.revoked().ids) == {"lasting"})
        keeping.revoke(["next"], 600)
        assert set(keeping.revoked().ids) == {"lasting", "next"}

    def test_many_at_once(self, keeping: Broker) -> None:
        many = [f"{number:036}" for number in range(5_000)]
        keeping.revoke(many, 600)
        assert set(keeping.revoked().ids) == set(many)

    async def test_workers_that_start_together_find_the_same(
        self, keeping: Broker, world: BrokerWorld
    ) -> None:
        for number in range(20):
            keeping.revoke([str(number)], 600)
        brokers = [world.connect() for _ in range(4)]
        found = await asyncio.gather(*(asyncio.to_thread(broker.revoked) for broker in brokers * 2))
        assert [len(each.ids) for each in found] == [20] * 8

    async def test_an_id_outlives_the_delays_that_cannot_be_searched(
        self, keeping: Broker, consumer: Consumer
    ) -> None:
        if keeping.capabilities.withdraws:
            pytest.skip("this broker finds delayed messages")
        assert keeping.revoke(["near"], 60) == 60
        send(keeping, "far")
        [delivery] = await consumer.fetch(Q, 1, PATIENCE)
        due = consumer.now() + 10**6
        await consumer.settle([Disposition(delivery.tag, "retry_later", due=due)])
        await eventually(lambda: keeping.revoke(["far"], 60) > 10**6)
        assert keeping.revoked().ids["far"] > 10**6 - 60

    async def test_stamps_outlive_every_delay(self, keeping: Broker, consumer: Consumer) -> None:
        """Nobody searches for the messages that carry them."""
        assert keeping.revoke([], 60, write_stamps({"customer": ["near"]})) >= 60
        send(keeping, "far")
        [delivery] = await consumer.fetch(Q, 1, PATIENCE)
        due = consumer.now() + 10**6
        await consumer.settle([Disposition(delivery.tag, "retry_later", due=due)])
        stamps = write_stamps({"customer": ["far"]})
        await eventually(lambda: keeping.revoke([], 60, stamps) > 10**6)
        [left] = [left for text, left in keeping.revoked().stamps.items() if "far" in text]
        assert left > 10**6

    def test_stamps_are_kept_beside_ids(self, keeping: Broker, world: BrokerWorld) -> None:
        stamps: dict[str, list[object]] = {"customer": ["x", 7, None], "weiß": ["ß"]}
        assert keeping.revoke([], 600, write_stamps(stamps)) >= 600
        keeping.revoke(["a"], 600, write_stamps({"customer": ["y"]}))
        keeping.revoke([], 0.2, write_stamps({"customer": ["brief"]}))
        found = world.connect().revoked()
        assert set(found.ids) == {"a"}
        assert all(0 < left <= 600.1 for left in found.stamps.values())
        kept = read_stamps(found.stamps)
        assert kept["weiß"] == ["ß"]
        assert sorted(map(str, kept["customer"])) in (
            ["7", "None", "x", "y"],
            ["7", "None", "brief", "x", "y"],
        )

    async def test_stamps_are_forgotten_when_their_time_is_over(self, keeping: Broker) -> None:
        keeping.revoke([], 0.2, write_stamps({"customer": ["brief"]}))
        keeping.revoke([], 600, write_stamps({"customer": ["lasting"]}))
        await eventually(lambda: read_stamps(keeping.revoked().stamps) == {"customer": ["lasting"]})


async def withdrawn(consumer: Consumer, *queues: str) -> list[Delivery]:
    """What a consumer takes out of queues because it is revoked."""
    return [delivery async for portion in consumer.withdraw(queues or ("q",)) for delivery in portion]


class WithdrawalContract(BrokerFixtures):
    """``Consumer.withdraw``."""

    @pytest.fixture
    def finding(self, broker: Broker) -> Broker:
        """A broker that finds the messages of revoked tasks."""
        if not broker.capabilities.withdraws:
            pytest.skip("this broker cannot look for messages where they wait")
        return broker

    async def test_what_waits_is_taken_out_and_the_rest_stays_in_line(
        self, finding: Broker, consumer: Consumer
    ) -> None:
        send(finding, *map(str, range(10)))
        finding.revoke(["3", "9", "0", "of nobody"], 600)
        found = await withdrawn(consumer)
        assert sorted(ids(found)) == ["0", "3", "9"]
        assert {delivery.queue for delivery in found} == {"q"}
        assert (finding.depth("q"), finding.held_depth()) == (7, 3)
        await consumer.settle([Disposition(delivery.tag) for delivery in found])
        assert finding.held_depth() == 0
        assert ids(await consumer.fetch(Q, 20, PATIENCE)) == ["1", "2", "4", "5", "6", "7", "8"]

    async def test_what_is_delayed_is_taken_out(self, finding: Broker, consumer: Consumer) -> None:
        send(finding, "far", "near", "other")
        deliveries = await consumer.fetch(Q, 3, PATIENCE)
        due = consumer.now() + 10**9
        await consumer.settle([Disposition(each.tag, "retry_later", due=due) for each in deliveries])
        finding.revoke(["far", "near"], 600)
        found = await withdrawn(consumer)
        assert sorted(ids(found)) == ["far", "near"]
        assert (finding.delayed_depth("q"), finding.depth("q"), finding.held_depth()) == (1, 0, 2)
        await consumer.settle([Disposition(delivery.tag) for delivery in found])
        assert await withdrawn(consumer) == []

    async def test_it_is_searched_for_each_revocation_and_not_again(
        self, finding: Broker, consumer: Consumer, consumer_of: OpenConsumer
    ) -> None:
        other = await consumer_of("other")
        send(finding, "1", "2")
        assert await withdrawn(consumer) == []
        for name in ("1", "2"):
            finding.revoke([name], 600)
            found = await asyncio.gather(withdrawn(consumer), withdrawn(other))
            assert ids([delivery for each in found for delivery in each]) == [name]
        assert await withdrawn(other) == []

    async def test_what_nobody_finishes_goes_back(self, finding: Broker, consumer_of: OpenConsumer) -> None:
        one = await consumer_of("one")
        send(finding, "first", "mine")
        finding.revoke(["mine"], 600)
        assert ids(await withdrawn(one)) == ["mine"]
        await one.close()
        two = await consumer_of("two")
        assert sorted(ids(await two.fetch(Q, 9, PATIENCE))) == ["first", "mine"]

    async def test_only_the_queues_that_are_named_and_those_whose_time_is_not_over(
        self, finding: Broker, consumer: Consumer
    ) -> None:
        send(finding, "1", "3")
        send(finding, "2", queue="p")
        finding.revoke(["3"], 0.01)
        await eventually(lambda: not finding.revoked().ids)
        finding.revoke(["1", "2"], 600)
        assert ids(await withdrawn(consumer)) == ["1"]
        assert sorted(ids(await consumer.fetch(FetchPlan(("p", "q")), 9, PATIENCE))) == ["2", "3"]

    async def test_many_are_found_while_others_take_and_send(
        self, finding: Broker, consumer: Consumer, consumer_of: OpenConsumer
    ) -> None:
        """What is taken meanwhile is whoever's who took it; between them nothing is lost and nothing comes twice."""
        other = await consumer_of("other")
        names = [f"{number:036}" for number in range(1500)]
        send(finding, *names)
        finding.revoke(names[::2], 600)
        taken: list[str] = []

        async def take() -> None:
            for _ in range(20):
                got = await other.fetch(Q, 10, 0.0)
                taken.extend(ids(got))
                await other.settle([Disposition(delivery.tag) for delivery in got])
                send(finding, f"more{len(taken)}")

        found, _ = await asyncio.gather(withdrawn(consumer), take())
        left = ids(await consumer.fetch(Q, 5000, 0.5))
        while more := ids(await consumer.fetch(Q, 5000, 0.0)):
            left += more
        everything = [*ids(found), *taken, *left]
        assert len(everything) == len(set(everything))
        assert set(everything) >= set(names)
        assert set(ids(found)) <= set(names[::2])
        assert not set(left) & set(names[::2])
