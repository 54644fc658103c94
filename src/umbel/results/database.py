"""``db+sqlite://``, ``db+postgresql://``, ``db+mysql://`` …: results in an SQL database, in Celery's tables.

Either side of a mixed fleet reads what the other wrote. A state change is one statement where the database has an
upsert (SQLite, PostgreSQL, MySQL); elsewhere an insert, or an update that leaves a SUCCESS alone.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from math import inf
from typing import TYPE_CHECKING, Any, Final, TypeVar

from umbel.core.states import FAILURE, SUCCESS
from umbel.errors import BackendError, BackendGetMetaError, BackendStoreError, ImproperlyConfigured
from umbel.results.polling import PollingResults
from umbel.results.refused import in_place_of
from umbel.results.retrying import Retries
from umbel.results.rows import Row, RowForm

try:
    import sqlalchemy as sa
    from sqlalchemy.dialects import mysql, postgresql, sqlite
    from sqlalchemy.orm import Session
except ImportError as error:
    raise ImproperlyConfigured(
        "a result backend of db+… needs SQLAlchemy: install umbel[sqlalchemy] and your database's driver"
    ) from error

from umbel.results.engines import Engines, parse_url
from umbel.results.tables import ID_LENGTH, MYSQL, ResultTables, logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from umbel.core.clock import Clock
    from umbel.core.records import ResultRecord
    from umbel.results.options import ResultOptions

_T = TypeVar("_T")

#: Ids in one question; SQLite of old took 999 parameters.
_CHUNK: Final = 500
#: Celery's own for this backend, whatever the defaults of the settings.
_RETRIES: Final = 3
_PASSING: Final = (
    sa.exc.DatabaseError,
    sa.exc.InterfaceError,
    sa.exc.InvalidRequestError,
    sa.exc.TimeoutError,
)
_UPSERTS: Final = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class DatabaseResultBackend(PollingResults):
    """Results in the tables ``celery_taskmeta`` and ``celery_tasksetmeta``.

    Args:
        url: SQLAlchemy's, with or without ``db+`` before it.
        options: the application's.
        clock: tells what has expired.

    Raises ImproperlyConfigured for a URL or driver that SQLAlchemy does not know.
    """

    def __init__(self, url: str, options: ResultOptions, *, clock: Clock | None = None) -> None:
        self.options = options
        self.serializer = options.serializer
        self._now = time.time if clock is None else clock.now
        parsed = parse_url(url)
        self.store = self.display_url = f"db+{parsed.render_as_string(hide_password=True)}"
        self._form = RowForm(options.serializer, options.accept)
        self._tables = ResultTables(options.database)
        self._engines = Engines(parsed, options.database, self._tables)
        self._retries = Retries(
            options.retry,
            passing=_PASSING,
            lasting=(sa.exc.DataError,),
            always=True,
            limit=_RETRIES,
            renew=self._engines.forget,
        )
        self._long_ids = parsed.get_backend_name() == "sqlite"
        if options.database.create_tables_at_setup:
            self.prepare()

    @classmethod
    def from_url(
        cls, url: str, options: ResultOptions, *, clock: Clock | None = None
    ) -> DatabaseResultBackend:
        """The backend of ``db+URL``, or of ``database_url`` for ``database://``."""
        rest = url.partition("+")[2] if url.startswith("db+") else ""
        rest = rest or options.database.url or ""
        if not rest:
            raise ImproperlyConfigured(
                "result_backend 'database' needs database_url, as db+… does without it"
            )
        return cls(rest.removeprefix("db+"), options, clock=clock)

    def prepare(self) -> None:
        """Create the tables now rather than with the first call. A database that cannot be reached is no error yet."""
        try:
            self._use(lambda session: None)
        except sa.exc.SQLAlchemyError as error:
            self._engines.forget()
            logger.warning("The result tables cannot be created yet: %s", error)

    def save(self, records: Sequence[ResultRecord]) -> None:
        """As ResultBackend.save. Raises BackendStoreError when the database refuses or cannot be reached."""
        now = self._now()
        latest: dict[str, ResultRecord] = {}
        for record in records:
            task_id = self._fit(record.task_id)
            if record.document and (task_id not in latest or latest[task_id].state != SUCCESS):
                latest[task_id] = record
        # In one order everywhere, so that two savers never wait for each other.
        ordered = sorted(latest.items())
        for start in range(0, len(ordered), _CHUNK):
            self._save_chunk(ordered[start : start + _CHUNK], now)

    def _save_chunk(
        self, chunk: list[tuple[str, ResultRecord]], now: float, *, is_substitute: bool = False
    ) -> None:
        """Save records; of what the tables cannot hold, a failure that says so."""
        rows = [{"task_id": task_id, **self._form.split(record, now)} for task_id, record in chunk]
        try:
            with _failing(BackendStoreError, f"{len(chunk)} results could not be stored"):
                self._try(lambda session: self._put(session, rows, now))
        except BackendStoreError as error:
            if not isinstance(error.__cause__, sa.exc.DataError):
                raise
            if len(chunk) > 1:
                for each in chunk:
                    self._save_chunk([each], now)
                return
            [(task_id, record)] = chunk
            if is_substitute:
                raise
            substitute = in_place_of(record, self.serializer, error.__cause__.orig)
            self._save_chunk([(task_id, substitute)], now, is_substitute=True)

    def _present(self, row: Row) -> Row:
        return {column.name: row[column.name] for column in self._tables.task_columns if column.name in row}

    def _put(self, session: Session, rows: list[Row], now: float) -> None:
        table, rows = self._tables.tasks, [self._present(row) for row in rows]
        dialect = session.get_bind().dialect.name
        if dialect in MYSQL:
            self._put_in_mysql(session, rows, now)
            return
        insert: Any = _UPSERTS.get(dialect)
        if insert is None:
            self._put_in_steps(session, rows, now)
            return
        statement = insert(table)
        changes = {name: statement.excluded[name] for name in rows[0] if name != "task_id"}
        replaceable = sa.or_(self._unfinished(), self._gone(now))
        session.execute(
            statement.on_conflict_do_update(index_elements=["task_id"], set_=changes, where=replaceable), rows
        )

    def _put_in_mysql(self, session: Session, rows: list[Row], now: float) -> None:
        """Upsert where the columns change one after the other, so that only the last to change can say whether to."""
        table = self._tables.tasks
        ids = [row["task_id"] for row in rows]
        # Looked for first: a deletion that finds nothing locks the gap in which others want to insert.
        gone = session.scalars(
            sa.select(table.c.task_id).where(table.c.task_id.in_(ids), self._gone(now))
        ).all()
        if gone:
            session.execute(sa.delete(table).where(table.c.task_id.in_(gone), self._gone(now)))
        statement = mysql.insert(table)
        # Not a parameter: drivers send many rows at once only if all parameters are the rows'.
        finished = table.c.status.is_not_distinct_from(sa.literal_column(f"'{SUCCESS}'"))
        names = sorted(rows[0].keys() - {"task_id"}, key=lambda name: name == "status")
        changes = [
            (name, sa.case((finished, table.c[name]), else_=statement.inserted[name])) for name in names
        ]
        session.execute(statement.on_duplicate_key_update(changes), rows)

    def _put_in_steps(self, session: Session, rows: list[Row], now: float) -> None:
        """Insert what is not there and update the rest; a row that comes in between fails this, to be tried again."""
        table = self._tables.tasks
        ids = [row["task_id"] for row in rows]
        known = set(session.scalars(sa.select(table.c.task_id).where(table.c.task_id.in_(ids))))
        new = [row for row in rows if row["task_id"] not in known]
        if new:
            session.execute(sa.insert(table), new)
        for row in rows:
            if row["task_id"] in known:
                where = sa.and_(
                    table.c.task_id == row["task_id"], sa.or_(self._unfinished(), self._gone(now))
                )
                session.execute(sa.update(table).where(where).values(row))

    def _unfinished(self) -> Any:
        return self._tables.tasks.c.status.is_distinct_from(SUCCESS)

    def _gone(self, now: float) -> Any:
        """Whether a row of the tasks has expired. Without a date it was not ready, and has not."""
        table = self._tables.tasks
        failed = table.c.status.is_not_distinct_from(FAILURE)
        alternatives = [
            # A comparison with no date is neither true nor false, and would hide the row either way.
            sa.and_(table.c.date_done.is_not(None), which, table.c.date_done < limit)
            for which, limit in (
                (failed, self._limit(FAILURE, now)),
                (sa.not_(failed), self._limit(SUCCESS, now)),
            )
            if limit is not None
        ]
        return sa.or_(sa.false(), *alternatives)

    def _limit(self, state: str, now: float) -> datetime | None:
        """Results of a state that were done before this have expired."""
        lifetime = self.options.lifetime(state)
        if lifetime == inf:
            return None
        return datetime.fromtimestamp(now, UTC).replace(tzinfo=None) - timedelta(seconds=lifetime)

    def _find(self, task_ids: Sequence[str]) -> list[tuple[str, str, bytes]]:
        asked = {self._fit(task_id): task_id for task_id in task_ids}
        stored = list(asked)
        found: list[tuple[str, str, bytes]] = []
        with _failing(BackendGetMetaError, f"{len(task_ids)} results could not be read"):
            for start in range(0, len(stored), _CHUNK):
                chunk = stored[start : start + _CHUNK]
                rows = self._try(lambda session, chunk=chunk: self._get(session, chunk))  # type: ignore[misc]
                for row in rows:
                    task_id = asked.get(row["task_id"])
                    if task_id is None:
                        continue  # of another task: the table takes "a" and "A" for one
                    found.append((task_id, row["status"], self._form.join(task_id, row)))
        return found

    def _get(self, session: Session, task_ids: list[str]) -> list[Row]:
        table = self._tables.tasks
        wanted = sa.and_(table.c.task_id.in_(task_ids), sa.not_(self._gone(self._now())))
        return [dict(row._mapping) for row in session.query(*self._tables.task_columns).filter(wanted)]

    def forget(self, task_ids: Sequence[str]) -> None:
        """As ResultBackend.forget. Raises BackendError."""
        table = self._tables.tasks
        stored = [self._fit(task_id) for task_id in task_ids]
        with _failing(BackendError, f"{len(stored)} results could not be deleted"):
            for start in range(0, len(stored), _CHUNK):
                where = table.c.task_id.in_(stored[start : start + _CHUNK])
                self._try(lambda session, where=where: session.execute(sa.delete(table).where(where)))  # type: ignore[misc]

    def save_group(self, group_id: str, document: bytes) -> None:
        """As ResultBackend.save_group. Raises BackendStoreError."""
        table = self._tables.groups
        row = {
            "taskset_id": self._fit(group_id),
            "result": self._form.split_group(document),
            "date_done": datetime.fromtimestamp(self._now(), UTC).replace(tzinfo=None),
        }

        def put(session: Session) -> None:
            session.execute(sa.delete(table).where(table.c.taskset_id == row["taskset_id"]))
            session.execute(sa.insert(table).values(row))

        with _failing(BackendStoreError, f"the group {group_id} could not be stored"):
            self._try(put)

    def load_group(self, group_id: str) -> bytes | None:
        """As ResultBackend.load_group. Raises BackendError."""
        table, limit = self._tables.groups, self._limit(SUCCESS, self._now())
        query = sa.select(table.c.result).where(table.c.taskset_id == self._fit(group_id))
        if limit is not None:
            query = query.where(sa.or_(table.c.date_done.is_(None), table.c.date_done >= limit))
        with _failing(BackendError, f"the group {group_id} could not be read"):
            found = self._try(lambda session: session.execute(query).first())
        return None if found is None else self._form.join_group(found.result)

    def forget_group(self, group_id: str) -> None:
        """As ResultBackend.forget_group. Raises BackendError."""
        table = self._tables.groups
        where = table.c.taskset_id == self._fit(group_id)
        with _failing(BackendError, f"the group {group_id} could not be deleted"):
            self._try(lambda session: session.execute(sa.delete(table).where(where)))

    def cleanup(self) -> None:
        """Delete what has expired. Raises BackendError."""
        now, tables = self._now(), self._tables
        limit = self._limit(SUCCESS, now)

        def delete(session: Session) -> None:
            session.execute(sa.delete(tables.tasks).where(self._gone(now)))
            if limit is not None:
                session.execute(sa.delete(tables.groups).where(tables.groups.c.date_done < limit))

        with _failing(BackendError, "expired results could not be deleted"):
            self._try(delete)

    def close(self) -> None:
        """Close every connection. Safe twice; the backend may be used again."""
        self._engines.forget()

    def _fit(self, task_id: str) -> str:
        """The id as the table can hold it; SQLite holds any."""
        if len(task_id) <= ID_LENGTH or self._long_ids:
            return task_id
        return f"{task_id[:90]}-{hashlib.sha256(task_id.encode()).hexdigest()}"

    def _try(self, work: Callable[[Session], _T]) -> _T:
        return self._retries.run(lambda: self._use(work))

    def _use(self, work: Callable[[Session], _T]) -> _T:
        """Do work in one transaction, of the kind that tools which follow SQLAlchemy's sessions see."""
        with Session(self._engines.own()) as session:
            done = work(session)
            session.commit()
            return done


@contextmanager
def _failing(kind: type[BackendError], what: str) -> Iterator[None]:
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) and error.orig else error
        raise kind(f"{what}: {cause}") from error
