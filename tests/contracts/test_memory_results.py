"""The result suite on memory://."""

from __future__ import annotations

import pytest

from umbel.core.ids import new_id
from umbel.results.memory import MemoryResultBackend
from umbel.results.options import ResultOptions
from umbel.stores.memory import stores
from umbel.testing.contracts.chords import ChordContract
from umbel.testing.contracts.results import EXPIRES, ResultContract, ResultWorld
from umbel.testing.contracts.support import ShiftedClock


class MemoryResultWorld(ResultWorld):
    def __init__(self) -> None:
        self.name = new_id()
        self.clock = ShiftedClock()

    def connect(self) -> MemoryResultBackend:
        return MemoryResultBackend(self.name, ResultOptions(expires=EXPIRES), clock=self.clock)

    def pass_time(self, seconds: float) -> None:
        self.clock.shift += seconds

    def close(self) -> None:
        stores.drop(self.name)


class TestMemoryResults(ResultContract):
    @pytest.fixture
    def make_world(self) -> type[MemoryResultWorld]:
        return MemoryResultWorld


class TestMemoryChords(ChordContract):
    @pytest.fixture
    def make_world(self) -> type[MemoryResultWorld]:
        return MemoryResultWorld
