"""The suite of schedule stores on memory, SQLite and Redis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support.datastores import PostgresServer
from tests.support.servers import RedisServer
from umbel.core.ids import new_id
from umbel.scheduler.stores.database import DatabaseScheduleStore
from umbel.scheduler.stores.memory import MemoryScheduleStore
from umbel.scheduler.stores.redis import RedisScheduleStore
from umbel.scheduler.stores.sqlite import SqliteScheduleStore
from umbel.testing.contracts.schedule_store import ScheduleStoreContract, ScheduleWorld
from umbel.testing.contracts.support import ShiftedClock


class MemoryScheduleWorld(ScheduleWorld):
    def __init__(self) -> None:
        self.clock = ShiftedClock()
        self.store = MemoryScheduleStore(self.clock)

    def connect(self, scope: str = "app") -> MemoryScheduleStore:
        return self.store

    def pass_time(self, seconds: float) -> None:
        self.clock.shift += seconds

    def close(self) -> None:
        self.store.close()


class SqliteScheduleWorld(ScheduleWorld):
    def __init__(self, directory: Path) -> None:
        self.url = f"sqlite:///{directory}/{new_id()[:8]}.db"
        self.clock = ShiftedClock()
        self.stores: list[SqliteScheduleStore] = []

    def connect(self, scope: str = "app") -> SqliteScheduleStore:
        self.stores.append(SqliteScheduleStore(self.url, scope, clock=self.clock))
        return self.stores[-1]

    def pass_time(self, seconds: float) -> None:
        self.clock.shift += seconds

    def close(self) -> None:
        for store in self.stores:
            store.close()


class RedisScheduleWorld(ScheduleWorld):
    """The time is the server's: what it knows of leases is rewritten."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        server.flush()
        self.client = server.client()
        self.stores: list[RedisScheduleStore] = []

    def connect(self, scope: str = "app") -> RedisScheduleStore:
        self.stores.append(RedisScheduleStore(self.server.url(), scope, {"global_keyprefix": "mine:"}))
        return self.stores[-1]

    def pass_time(self, seconds: float) -> None:
        for key in self.client.keys("mine:umbel:beat:*:leader:*"):
            # With PX of nothing or less a key is gone.
            self.client.pexpire(key, int(self.client.pttl(key) - seconds * 1000))

    def close(self) -> None:
        assert all(key.startswith(b"mine:umbel:beat:{") for key in self.client.keys("*"))
        self.client.close()
        for store in self.stores:
            store.close()


class DatabaseScheduleWorld(ScheduleWorld):
    """The time is the database's: what it knows of leases is rewritten."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.stores: list[DatabaseScheduleStore] = []

    def connect(self, scope: str = "app") -> DatabaseScheduleStore:
        self.stores.append(DatabaseScheduleStore(self.url, scope))
        return self.stores[-1]

    def pass_time(self, seconds: float) -> None:
        shift = sa.text("UPDATE umbel_beat_leaders SET ends = ends - :seconds")
        with self.stores[0]._own().begin() as connection:
            connection.execute(shift, {"seconds": seconds})

    def close(self) -> None:
        with self.stores[0]._own().begin() as connection:
            for table in ("leaders", "runs", "entries", "revisions"):
                connection.execute(sa.text(f"DELETE FROM umbel_beat_{table}"))
        for store in self.stores:
            store.close()


class TestMemory(ScheduleStoreContract):
    has_scopes = False

    @pytest.fixture
    def make_world(self) -> Callable[[], ScheduleWorld]:
        return MemoryScheduleWorld


class TestSqlite(ScheduleStoreContract):
    @pytest.fixture
    def make_world(self, tmp_path: Path) -> Callable[[], ScheduleWorld]:
        return lambda: SqliteScheduleWorld(tmp_path)


@pytest.mark.redis
class TestRedis(ScheduleStoreContract):
    @pytest.fixture
    def make_world(self, redis_server: RedisServer) -> Callable[[], ScheduleWorld]:
        return lambda: RedisScheduleWorld(redis_server)


class TestDatabaseSqlite(ScheduleStoreContract):
    model_examples = 3

    @pytest.fixture
    def make_world(self, tmp_path: Path) -> Callable[[], ScheduleWorld]:
        return lambda: DatabaseScheduleWorld(f"db+sqlite:///{tmp_path}/{new_id()[:8]}.db")


class TestDatabasePostgres(ScheduleStoreContract):
    model_examples = 3

    @pytest.fixture
    def make_world(self, postgres_server: PostgresServer) -> Callable[[], ScheduleWorld]:
        return lambda: DatabaseScheduleWorld(f"db+{postgres_server.url(postgres_server.add_database())}")
