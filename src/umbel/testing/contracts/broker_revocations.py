"""The broker suite, part 9: the ids of revoked tasks outlive who revoked them, and are forgotten in time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from umbel.testing.contracts.broker_fixtures import BrokerFixtures
from umbel.testing.contracts.support import eventually

if TYPE_CHECKING:
    from umbel.brokers.base import Broker
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
        assert keeping.revoked() == {}
        keeping.revoke([], 60)
        assert keeping.revoked() == {}

    def test_who_comes_later_finds_what_was_revoked(self, keeping: Broker, world: BrokerWorld) -> None:
        keeping.revoke(["a", "b"], 600)
        keeping.revoke(["c"], 60)
        keeping.close()
        found = world.connect().revoked()
        assert set(found) == {"a", "b", "c"}
        # They have been looked at; they are there for the next one too, with the time that is left to them.
        again = world.connect().revoked()
        assert set(again) == {"a", "b", "c"}
        assert 300 < again["a"] <= 600.1
        assert 0 < again["c"] <= 60.1

    def test_an_id_is_kept_for_the_longest_time_asked_for(self, keeping: Broker) -> None:
        keeping.revoke(["a"], 600)
        keeping.revoke(["a"], 60)
        assert keeping.revoked()["a"] > 300

    async def test_ids_are_forgotten_when_their_time_is_over(self, keeping: Broker) -> None:
        keeping.revoke(["brief"], 0.2)
        keeping.revoke(["lasting"], 600)
        await eventually(lambda: set(keeping.revoked()) == {"lasting"})
        keeping.revoke(["next"], 600)
        assert set(keeping.revoked()) == {"lasting", "next"}

    def test_many_at_once(self, keeping: Broker) -> None:
        many = [f"{number:036}" for number in range(5_000)]
        keeping.revoke(many, 600)
        assert set(keeping.revoked()) == set(many)

    async def test_workers_that_start_together_find_the_same(
        self, keeping: Broker, world: BrokerWorld
    ) -> None:
        for number in range(20):
            keeping.revoke([str(number)], 600)
        brokers = [world.connect() for _ in range(4)]
        found = await asyncio.gather(*(asyncio.to_thread(broker.revoked) for broker in brokers * 2))
        assert [len(each) for each in found] == [20] * 8
