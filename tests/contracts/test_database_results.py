"""The result suite on SQL databases: SQLite in a file, and real PostgreSQL and MariaDB servers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.datastores import MariaDbServer, PostgresServer
from umbel.core.ids import new_id
from umbel.errors import BackendStoreError
from umbel.results.options import ResultOptions, RetryRules
from umbel.testing.contracts.results import EXPIRES, ResultContract, ResultWorld, record
from umbel.testing.contracts.support import ShiftedClock

pytest.importorskip("sqlalchemy")

import sqlalchemy as sa
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


class TestMariaDbResults(ResultContract):
    # How one waits is the same for all databases, and here it is slow: the driver is Python all through.
    test_many_threads_wait_for_many_tasks = None
    test_many_coroutines_await_many_tasks = None

    @pytest.fixture
    def make_world(self, mariadb_server: MariaDbServer) -> Callable[[], DatabaseResultWorld]:
        return lambda: DatabaseResultWorld(f"db+{mariadb_server.url(mariadb_server.add_database())}")


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


def test_tables_that_celery_made_in_mysql_are_used_as_they_are(mariadb_server: MariaDbServer) -> None:
    """They hold 64 kB, whole seconds, and take "a" and "A" for one task."""
    url = mariadb_server.url(mariadb_server.add_database())
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for order in CELERYS_TABLE:
            connection.execute(sa.text(order))
    backend = DatabaseResultBackend.from_url(f"db+{url}", ResultOptions())
    backend.save([record("a", result=1), record("b", result="x" * 100_000)])
    small, other, large = backend.load(["a", "A", "b"])
    assert small is not None
    assert json.loads(small)["result"] == 1
    assert other is None
    assert large is not None
    assert "Data too long" in json.loads(large)["result"]["exc_message"][0]
    backend.close()
    engine.dispose()


#: As SQLAlchemy makes it of Celery 5.7's model in MariaDB.
CELERYS_TABLE = (
    "CREATE SEQUENCE task_id_sequence START WITH 1 INCREMENT BY 1 NOCACHE",
    """
    CREATE TABLE celery_taskmeta (
        id INTEGER NOT NULL, task_id VARCHAR(155), status VARCHAR(50), result BLOB, date_done DATETIME,
        traceback TEXT, children BLOB, name VARCHAR(155), args BLOB, kwargs BLOB, worker VARCHAR(155),
        retries INTEGER, queue VARCHAR(155), stamps BLOB, PRIMARY KEY (id), UNIQUE (task_id)
    )
    """,
)
