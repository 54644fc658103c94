"""The result suite on SQL databases: SQLite in a file, and a real PostgreSQL server."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.datastores import PostgresServer
from umbel.core.ids import new_id
from umbel.errors import BackendStoreError
from umbel.results.options import ResultOptions, RetryRules
from umbel.testing.contracts.results import EXPIRES, ResultContract, ResultWorld, record
from umbel.testing.contracts.support import ShiftedClock

pytest.importorskip("sqlalchemy")

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from umbel.results.database import DatabaseResultBackend


class Undated(DatabaseResultBackend):
    """Leaves out the one thing that the tables add to a document of the suite: the time at which it was done.

    Rows without it would never expire, in Celery's clean-up neither.
    """

    def _find(self, task_ids: Sequence[str]) -> list[tuple[str, str, bytes]]:
        return [(task_id, state, undated(found)) for task_id, state, found in super()._find(task_ids)]


def undated(document: bytes) -> bytes:
    return json.dumps({**json.loads(document), "date_done": None}).encode()


class InSteps(Undated):
    """Saves as it does in databases whose upsert is not known."""

    def _put(self, session, rows, now) -> None:
        self._put_in_steps(session, [self._present(row) for row in rows], now)


class DatabaseResultWorld(ResultWorld):
    wake_within = 0.1  # nobody wakes; see results.polling

    def __init__(self, url: str, backend: type[DatabaseResultBackend] = Undated) -> None:
        self.url = url
        self.clock = ShiftedClock()
        self.made: list[DatabaseResultBackend] = []
        self.backend = backend

    def connect(self) -> DatabaseResultBackend:
        options = ResultOptions(expires=EXPIRES)
        self.made.append(self.backend.from_url(self.url, options, clock=self.clock))
        return self.made[-1]

    def pass_time(self, seconds: float) -> None:
        self.clock.shift += seconds

    def close(self) -> None:
        for backend in self.made:
            backend.close()


def sqlite_url(directory: Path) -> str:
    return f"db+sqlite:///{directory}/{new_id()[:8]}.db"


class TestSqliteDatabaseResults(ResultContract):
    @pytest.fixture
    def make_world(self, tmp_path: Path) -> Callable[[], DatabaseResultWorld]:
        return lambda: DatabaseResultWorld(sqlite_url(tmp_path))


class TestDatabaseResultsInSteps(ResultContract):
    @pytest.fixture
    def make_world(self, tmp_path: Path) -> Callable[[], DatabaseResultWorld]:
        return lambda: DatabaseResultWorld(sqlite_url(tmp_path), InSteps)


class TestPostgresResults(ResultContract):
    @pytest.fixture
    def make_world(self, postgres_server: PostgresServer) -> Callable[[], DatabaseResultWorld]:
        return lambda: DatabaseResultWorld(f"db+{postgres_server.url(postgres_server.add_database())}")


def test_tools_that_follow_sessions_see_each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    retry = RetryRules(limit=2, base=0.001, cap=0.002)
    backend = DatabaseResultBackend.from_url(sqlite_url(tmp_path), ResultOptions(retry=retry))
    commit, query, steps = Session.commit, Session.query, []

    def failing(name: str, real: Callable[..., Any], times: int) -> Callable[..., Any]:
        def step(self: Session, *args: Any, **kwargs: Any) -> Any:
            steps.append(name)
            if steps.count(name) <= times:
                raise OperationalError("lost", {}, Exception("lost"))
            return real(self, *args, **kwargs)

        return step

    monkeypatch.setattr(Session, "commit", failing("commit", commit, 2))
    backend.save([record("1")])
    assert steps == ["commit"] * 3
    monkeypatch.setattr(Session, "query", failing("query", query, 1))
    assert backend.load(["1"]) != [None]
    assert steps[3:] == ["query", "query", "commit"]
    monkeypatch.setattr(Session, "commit", failing("commit", commit, 99))
    with pytest.raises(BackendStoreError, match="lost"):
        backend.save([record("2")])
    backend.close()
