"""A schedule store in an SQLite file, by itself or beside the broker's messages."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from umbel.brokers.sqlite import Companion, SqlitePublisher
from umbel.scheduler.stores.base import Run, Standing, StoredEntry, VersionConflictError
from umbel.stores.sqlite import Database, locate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from sqlite3 import Connection
    from typing import TypeVar

    from umbel.core.clock import Clock

    T = TypeVar("T")

__all__ = ["SqliteScheduleStore"]

_TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS beat_leaders (
    scope TEXT NOT NULL, role TEXT NOT NULL, identity TEXT NOT NULL, ends REAL NOT NULL, PRIMARY KEY (scope, role)
) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS beat_runs (
    scope TEXT NOT NULL, name TEXT NOT NULL, serial INTEGER NOT NULL, due REAL NOT NULL, at REAL NOT NULL,
    sent INTEGER NOT NULL DEFAULT 0, identity TEXT NOT NULL, PRIMARY KEY (scope, name)
) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS beat_entries (
    scope TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, document BLOB NOT NULL,
    PRIMARY KEY (scope, name)
) WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS beat_revisions (scope TEXT PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID",
)
_LEAD: Final = """
INSERT INTO beat_leaders (scope, role, identity, ends) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT DO UPDATE SET identity = ?3, ends = ?4 WHERE ends <= ?5 OR identity IN (?3, ?6)
"""
_STANDING: Final = """
SELECT identity, (SELECT revision FROM beat_revisions WHERE scope = ?1) FROM beat_leaders
WHERE scope = ?1 AND role = ?2
"""
_RESIGN: Final = "DELETE FROM beat_leaders WHERE scope = ? AND role = ? AND identity = ?"
_CLAIM: Final = """
INSERT INTO beat_runs (scope, name, serial, due, at, sent, identity) VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6)
ON CONFLICT DO UPDATE SET serial = ?3, due = ?4, at = ?5, sent = 0, identity = ?6 WHERE serial = ?3 - 1
"""
_OWNS: Final = "SELECT 1 FROM beat_runs WHERE scope = ? AND name = ? AND serial = ? AND identity = ?"
_CONFIRM: Final = "UPDATE beat_runs SET sent = 1 WHERE scope = ? AND name = ? AND serial = ?"
_RUNS: Final = "SELECT name, serial, due, at, sent FROM beat_runs WHERE scope = ?"
_ENTRIES: Final = "SELECT document FROM beat_entries WHERE scope = ?"
_VERSION: Final = "SELECT version FROM beat_entries WHERE scope = ? AND name = ?"
_COUNT: Final = """
INSERT INTO beat_revisions (scope, revision) VALUES (?, 1)
ON CONFLICT DO UPDATE SET revision = revision + 1 RETURNING revision
"""
_PUT: Final = "INSERT OR REPLACE INTO beat_entries (scope, name, version, document) VALUES (?, ?, ?, ?)"
_REMOVE: Final = "DELETE FROM beat_entries WHERE scope = ? AND name = ?"
_FORGET: Final = "DELETE FROM beat_runs WHERE scope = ? AND name = ?"


class SqliteScheduleStore:
    """Four tables in the file of ``sqlite:///path``; the time is the machine's, as is the file."""

    def __init__(
        self, url: str, scope: str, transport: Mapping[str, Any] | None = None, *, clock: Clock | None = None
    ) -> None:
        location = locate(url, transport or {})
        self.display_url = location.url
        self.scope = scope
        self._database = Database(location, clock=clock)
        self._prepared = False

    def now(self) -> float:
        return self._database.clock.now()

    def _write(self, work: Callable[[Connection], T]) -> T:
        self._prepare()
        return self._database.write(work)

    def _prepare(self) -> None:
        if not self._prepared:
            self._database.write(_create)
            self._prepared = True

    def lead(self, role: str, identity: str, lease: float, over: str = "") -> Standing:
        def work(connection: Connection) -> Standing:
            now = self.now()
            connection.execute(_LEAD, (self.scope, role, identity, now + lease, now, over or identity))
            leader, revision = connection.execute(_STANDING, (self.scope, role)).fetchone()
            return Standing(leader, revision or 0)

        return self._write(work)

    def resign(self, role: str, identity: str) -> None:
        self._write(lambda connection: connection.execute(_RESIGN, (self.scope, role, identity)))

    def claim(self, name: str, run: Run, identity: str) -> bool:
        def work(connection: Connection) -> bool:
            row = (self.scope, name, run.serial, run.due, run.at, identity)
            if connection.execute(_CLAIM, row).rowcount:
                return True
            owner = (self.scope, name, run.serial, identity)
            return connection.execute(_OWNS, owner).fetchone() is not None

        return self._write(work)

    def confirm(self, name: str, serial: int) -> None:
        self._write(lambda connection: connection.execute(_CONFIRM, (self.scope, name, serial)))

    @contextmanager
    def confirming(
        self, publisher: object, name: str, serial: int, task_id: str
    ) -> Iterator[Callable[[], bool]]:
        if not isinstance(publisher, SqlitePublisher) or publisher.store != self.display_url:
            yield lambda: False
            return
        row = (self.scope, name, serial)
        companion = Companion(task_id, lambda connection: connection.execute(_CONFIRM, row))
        publisher.companion = companion
        try:
            yield lambda: companion.done
        finally:
            publisher.companion = None

    def runs(self) -> dict[str, Run]:
        return {
            name: Run(serial, due, at, bool(sent))
            for name, serial, due, at, sent in self._read(_RUNS, self.scope)
        }

    def entries(self) -> dict[str, StoredEntry]:
        found = [
            msgspec.json.decode(document, type=StoredEntry)
            for (document,) in self._read(_ENTRIES, self.scope)
        ]
        return {entry.name: entry for entry in found}

    def _read(self, statement: str, *parameters: str) -> list[Any]:
        self._prepare()
        return self._database.read(lambda connection: connection.execute(statement, parameters).fetchall())

    def put(self, entry: StoredEntry) -> StoredEntry:
        def work(connection: Connection) -> StoredEntry:
            self._expect(connection, entry.name, entry.version)
            [revision] = connection.execute(_COUNT, (self.scope,)).fetchone()
            made = msgspec.structs.replace(entry, version=revision)
            row = (self.scope, entry.name, revision, msgspec.json.encode(made))
            connection.execute(_PUT, row)
            return made

        return self._write(work)

    def remove(self, name: str, version: int) -> None:
        def work(connection: Connection) -> None:
            self._expect(connection, name, version)
            connection.execute(_COUNT, (self.scope,)).fetchone()
            connection.execute(_REMOVE, (self.scope, name))
            connection.execute(_FORGET, (self.scope, name))

        self._write(work)

    def _expect(self, connection: Connection, name: str, version: int) -> None:
        row = connection.execute(_VERSION, (self.scope, name)).fetchone()
        if version != (row[0] if row else 0):
            raise VersionConflictError(f"the entry {name!r} has been changed; read it again")

    def close(self) -> None:
        self._database.close()


def _create(connection: Connection) -> None:
    for statement in _TABLES:
        connection.execute(statement)
