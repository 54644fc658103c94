"""The broker suite on sqlite:///."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from umbel.brokers.options import BrokerOptions
from umbel.brokers.sqlite import SqliteBroker
from umbel.results.options import ResultOptions
from umbel.results.sqlite import SqliteResultBackend
from umbel.testing.contracts.broker import BrokerContract, BrokerWorld, ShiftedClock


class SqliteWorld(BrokerWorld):
    def __init__(self, directory: Path | str | None = None) -> None:
        self.directory = tempfile.TemporaryDirectory(dir=directory)
        self.address = self.url = f"sqlite:///{self.directory.name}/umbel.db"
        self.clock = ShiftedClock()
        self.brokers: list[SqliteBroker] = []
        self.backends: list[SqliteResultBackend] = []

    def connect(self) -> SqliteBroker:
        self.brokers.append(SqliteBroker.from_url(self.address, BrokerOptions(), clock=self.clock))
        return self.brokers[-1]

    def connect_backend(self) -> SqliteResultBackend:
        self.backends.append(SqliteResultBackend.from_url(self.address, ResultOptions(), clock=self.clock))
        return self.backends[-1]

    def now(self) -> float:
        return self.clock.now()

    def pass_time(self, seconds: float) -> None:
        self.clock.shift += seconds

    def close(self) -> None:
        for broker in self.brokers:
            broker.close()
        for backend in self.backends:
            backend.close()
        self.directory.cleanup()


class TestSqliteBroker(BrokerContract):
    @pytest.fixture
    def make_world(self, tmp_path: Path) -> Callable[[], SqliteWorld]:
        return lambda: SqliteWorld(tmp_path)
