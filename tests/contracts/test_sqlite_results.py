"""The result suite on sqlite:///."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from umbel.core.ids import new_id
from umbel.results.options import ResultOptions
from umbel.results.sqlite import SqliteResultBackend
from umbel.testing.contracts.chords import ChordContract
from umbel.testing.contracts.results import EXPIRES, ResultContract, ResultWorld
from umbel.testing.contracts.support import ShiftedClock


class SqliteResultWorld(ResultWorld):
    def __init__(self, directory: Path) -> None:
        self.address = self.url = f"sqlite:///{directory}/{new_id()[:8]}.db"
        self.clock = ShiftedClock()
        self.backends: list[SqliteResultBackend] = []

    def connect(self) -> SqliteResultBackend:
        options = ResultOptions(expires=EXPIRES)
        self.backends.append(SqliteResultBackend.from_url(self.address, options, clock=self.clock))
        return self.backends[-1]

    def pass_time(self, seconds: float) -> None:
        self.clock.shift += seconds

    def close(self) -> None:
        for backend in self.backends:
            backend.close()


class TestSqliteResults(ResultContract):
    @pytest.fixture
    def make_world(self, tmp_path: Path) -> Callable[[], SqliteResultWorld]:
        return lambda: SqliteResultWorld(tmp_path)


class TestSqliteChords(ChordContract):
    @pytest.fixture
    def make_world(self, tmp_path: Path) -> Callable[[], SqliteResultWorld]:
        return lambda: SqliteResultWorld(tmp_path)
