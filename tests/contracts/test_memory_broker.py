"""The broker suite on memory://."""

from __future__ import annotations

import pytest

from umbel.brokers.memory import MemoryBroker
from umbel.brokers.options import BrokerOptions
from umbel.core.ids import new_id
from umbel.results.memory import MemoryResultBackend
from umbel.results.options import ResultOptions
from umbel.stores.memory import stores
from umbel.testing.contracts.broker import BrokerContract, BrokerWorld, ShiftedClock


class MemoryWorld(BrokerWorld):
    def __init__(self) -> None:
        self.name = new_id()
        self.clock = ShiftedClock()

    def connect(self) -> MemoryBroker:
        return MemoryBroker(self.name, BrokerOptions(), clock=self.clock)

    def connect_backend(self) -> MemoryResultBackend:
        return MemoryResultBackend(self.name, ResultOptions(), clock=self.clock)

    def now(self) -> float:
        return self.clock.now()

    def pass_time(self, seconds: float) -> None:
        self.clock.shift += seconds

    def close(self) -> None:
        stores.drop(self.name)


class TestMemoryBroker(BrokerContract):
    @pytest.fixture
    def make_world(self) -> type[MemoryWorld]:
        return MemoryWorld
