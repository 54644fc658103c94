"""A schedule store in an SQL database, through SQLAlchemy: SQLite, PostgreSQL, MySQL and MariaDB."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from umbel.errors import BrokerConnectionError, ImproperlyConfigured
from umbel.scheduler.stores.base import Run, Standing, StoredEntry, VersionConflictError

try:
    import sqlalchemy as sa
except ImportError as error:
    raise ImproperlyConfigured(
        "beat_store_url of db+… needs SQLAlchemy: install umbel[sqlalchemy] and your database's driver"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from sqlalchemy.engine import Connection, Engine

    T = TypeVar("T")

__all__ = ["DatabaseScheduleStore"]

#: The database's time in epoch seconds.
_NOW: Final = {
    "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "SELECT extract(epoch FROM clock_timestamp())",
    "mysql": "SELECT UNIX_TIMESTAMP(NOW(6))",
    "mariadb": "SELECT UNIX_TIMESTAMP(NOW(6))",
}
_METADATA: Final = sa.MetaData()


def _name(name: str) -> sa.Column[str]:
    # Two of them have to fit into an index of MySQL.
    return sa.Column(name, sa.String(155), primary_key=True)


_LEADERS: Final = sa.Table(
    "umbel_beat_leaders",
    _METADATA,
    _name("scope"),
    _name("role"),
    sa.Column("identity", sa.String(255), nullable=False),
    sa.Column("ends", sa.Double, nullable=False),
)
_RUNS: Final = sa.Table(
    "umbel_beat_runs",
    _METADATA,
    _name("scope"),
    _name("name"),
    sa.Column("serial", sa.BigInteger, nullable=False),
    sa.Column("due", sa.Double, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("sent", sa.Boolean, nullable=False),
    sa.Column("identity", sa.String(255), nullable=False),
)
_ENTRIES: Final = sa.Table(
    "umbel_beat_entries",
    _METADATA,
    _name("scope"),
    _name("name"),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
)
_REVISIONS: Final = sa.Table(
    "umbel_beat_revisions", _METADATA, _name("scope"), sa.Column("revision", sa.BigInteger, nullable=False)
)


class DatabaseScheduleStore:
    """Four tables ``umbel_beat_…``, made when they are missing; the time is the database's.

    Args:
        url: SQLAlchemy's, with ``db+`` before it.
        scope: the application's.

    Raises ImproperlyConfigured for a URL that SQLAlchemy does not know, or a database whose clock is not known here.
    """

    def __init__(self, url: str, scope: str) -> None:
        try:
            self._url = sa.make_url(url.removeprefix("db+"))
        except sa.exc.ArgumentError:
            raise ImproperlyConfigured(
                "beat_store_url: expected db+DIALECT[+DRIVER]://user:password@host/name as SQLAlchemy reads it"
            ) from None
        if self._url.get_backend_name() not in _NOW:
            raise ImproperlyConfigured(f"beat_store_url: expected db+ and one of {', '.join(_NOW)}")
        self.display_url = f"db+{self._url.render_as_string(hide_password=True)}"
        self.scope = scope
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._pid = 0

    def _own(self) -> Engine:
        """This process's engine; the tables are made with it."""
        with self._lock:
            if self._engine is not None and self._pid != os.getpid():
                self._engine.dispose(close=False)
                self._engine = None
            if self._engine is None:
                engine = sa.create_engine(self._url, pool_pre_ping=True)
                try:
                    _METADATA.create_all(engine)
                except sa.exc.DatabaseError:
                    # Another beat makes them between our look and our order; a second look finds them.
                    _METADATA.create_all(engine)
                self._engine, self._pid = engine, os.getpid()
            return self._engine

    def _use(self, work: Callable[[Connection], T]) -> T:
        """Do work in a transaction, once more when another's came in between."""
        try:
            try:
                with self._own().begin() as connection:
                    return work(connection)
            except sa.exc.IntegrityError:
                # Both have found no row, and the other one's is there now.
                with self._own().begin() as connection:
                    return work(connection)
        except sa.exc.SQLAlchemyError as error:
            raise BrokerConnectionError(f"{self.display_url}: {error}") from error

    def now(self) -> float:
        return self._use(self._now)

    def _now(self, connection: Connection) -> float:
        return float(connection.execute(sa.text(_NOW[self._url.get_backend_name()])).scalar_one())

    def lead(self, role: str, identity: str, lease: float, over: str = "") -> Standing:
        def work(connection: Connection) -> Standing:
            now, row = self._now(connection), _LEADERS.c
            mine = (row.scope == self.scope) & (row.role == role)
            free = (row.ends <= now) | row.identity.in_([identity, over or identity])
            values = {"identity": identity, "ends": now + lease}
            connection.execute(sa.update(_LEADERS).where(mine & free).values(values))
            leader = connection.execute(sa.select(row.identity).where(mine)).scalar()
            if leader is None:
                connection.execute(sa.insert(_LEADERS).values(scope=self.scope, role=role, **values))
                leader = identity
            changes = sa.select(_REVISIONS.c.revision).where(_REVISIONS.c.scope == self.scope)
            revision = connection.execute(changes).scalar()
            return Standing(leader, revision or 0)

        return self._use(work)

    def resign(self, role: str, identity: str) -> None:
        row = _LEADERS.c
        where = (row.scope == self.scope) & (row.role == role) & (row.identity == identity)
        self._use(lambda connection: connection.execute(sa.delete(_LEADERS).where(where)))

    def claim(self, name: str, run: Run, identity: str) -> bool:
        def work(connection: Connection) -> bool:
            row = _RUNS.c
            mine = (row.scope == self.scope) & (row.name == name)
            values = {"serial": run.serial, "due": run.due, "at": run.at, "sent": False, "identity": identity}
            follows = mine & (row.serial == run.serial - 1)
            if connection.execute(sa.update(_RUNS).where(follows).values(values)).rowcount:
                return True
            known = connection.execute(sa.select(row.serial, row.identity).where(mine)).first()
            if known is not None:
                return (known.serial, known.identity) == (run.serial, identity)
            connection.execute(sa.insert(_RUNS).values(scope=self.scope, name=name, **values))
            return True

        return self._use(work)

    def confirm(self, name: str, serial: int) -> None:
        row = _RUNS.c
        where = (row.scope == self.scope) & (row.name == name) & (row.serial == serial)
        self._use(lambda connection: connection.execute(sa.update(_RUNS).where(where).values(sent=True)))

    @contextmanager
    def confirming(
        self, publisher: object, name: str, serial: int, task_id: str
    ) -> Iterator[Callable[[], bool]]:
        yield lambda: False

    def runs(self) -> dict[str, Run]:
        rows = self._rows(_RUNS)
        return {row.name: Run(row.serial, row.due, row.at, bool(row.sent)) for row in rows}

    def entries(self) -> dict[str, StoredEntry]:
        found = [msgspec.json.decode(row.document, type=StoredEntry) for row in self._rows(_ENTRIES)]
        return {entry.name: entry for entry in found}

    def _rows(self, table: sa.Table) -> list[Any]:
        where = table.c.scope == self.scope
        return self._use(lambda connection: list(connection.execute(sa.select(table).where(where)).all()))

    def put(self, entry: StoredEntry) -> StoredEntry:
        def work(connection: Connection) -> StoredEntry:
            revision = self._count(connection)
            self._expect(connection, entry.name, entry.version)
            made = msgspec.structs.replace(entry, version=revision)
            values = {"version": revision, "document": msgspec.json.encode(made)}
            if entry.version:
                where = (_ENTRIES.c.scope == self.scope) & (_ENTRIES.c.name == entry.name)
                connection.execute(sa.update(_ENTRIES).where(where).values(values))
            else:
                row = {"scope": self.scope, "name": entry.name, **values}
                connection.execute(sa.insert(_ENTRIES).values(row))
            return made

        return self._use(work)

    def remove(self, name: str, version: int) -> None:
        def work(connection: Connection) -> None:
            self._count(connection)
            self._expect(connection, name, version)
            for table in (_ENTRIES, _RUNS):
                where = (table.c.scope == self.scope) & (table.c.name == name)
                connection.execute(sa.delete(table).where(where))

        self._use(work)

    def _count(self, connection: Connection) -> int:
        """The number of this change; changes wait for each other from here on."""
        row = _REVISIONS.c
        mine = row.scope == self.scope
        counted = connection.execute(
            sa.update(_REVISIONS).where(mine).values(revision=row.revision + 1)
        ).rowcount
        if not counted:
            connection.execute(sa.insert(_REVISIONS).values(scope=self.scope, revision=1))
        revision: int = connection.execute(sa.select(row.revision).where(mine)).scalar_one()
        return revision

    def _expect(self, connection: Connection, name: str, version: int) -> None:
        row = _ENTRIES.c
        where = (row.scope == self.scope) & (row.name == name)
        known = connection.execute(sa.select(row.version).where(where)).scalar()
        if version != (known or 0):
            raise VersionConflictError(f"the entry {name!r} has been changed; read it again")

    def close(self) -> None:
        with self._lock:
            engine, self._engine = self._engine, None
            if engine is not None:
                engine.dispose(close=self._pid == os.getpid())
