"""One database file with messages and results: opening it, transactions, waiting for changes.

Several processes use the file at once. SQLite lets one of them write at a time and refuses the others; ``Database``
tries again until the caller's deadline, so that nobody sees "database is locked".

A commit is in the write-ahead log before it returns, so it survives the death of every process. With
``synchronous=normal`` (the default) the log is not forced to the disk at each commit: when the *machine* loses power,
the last commits may be missing (the file stays sound). ``sqlite:///path?synchronous=full`` forces each commit to the
disk, at some milliseconds each.

The file grows to the most it ever held. Free pages are used again; what exceeds ``_SPARE_PAGES`` of them is given back
to the file system little by little (incremental vacuum), when expired results and dead letters are pruned.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import parse_qsl, unquote

import msgspec

from umbel.core.clock import BrokerClock
from umbel.errors import BrokerConnectionError, ImproperlyConfigured, OperationalError
from umbel.stores import sqlite_chords
from umbel.stores.doorbell import RESULTS, Ringer, topic_bits, wake_directory
from umbel.stores.forks import hold_for_forks
from umbel.stores.sqlite_clock import FileClock
from umbel.stores.sqlite_file import insist, is_busy, open_file, transact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from umbel.core.clock import Clock
    from umbel.core.records import ResultRecord

T = TypeVar("T")

#: How long operations without a deadline of their own try to get at the file, in seconds.
PATIENCE: Final = 30.0
#: How long a fork waits for the transaction that another thread is in, in seconds; it is done without that then.
_FORK_PATIENCE: Final = 2.0
#: Between two prunes by one process, in seconds.
_PRUNE_EVERY: Final = 60.0
#: The same, when the last one did not get everything.
_PRUNE_AGAIN: Final = 0.05
#: Rows that one prune deletes at most, of each table; it holds the file for a few milliseconds.
_PRUNE_ROWS: Final = 1000
#: Free pages (of 4 KiB) that the file keeps for growth, and how many are given back at a time.
_SPARE_PAGES: Final = 16 * 1024
_VACUUM_PAGES: Final = 2048

#: Of the schema, which only ever gets more tables: 2 has broadcasts, 3 bindings, 4 groups and chords, 5 revoked ids,
#: 6 what led to dead letters, and what had begun when it was lost, 7 a clock, 8 revoked stamps.
_VERSION: Final = 8
_SCHEMA: Final = Path(__file__).with_name("sqlite.sql")


class Location(msgspec.Struct, frozen=True):
    """Where the file is and how careful to be with it."""

    path: str
    synchronous: str = "normal"

    @property
    def url(self) -> str:
        """The URL without options: the identity of the store."""
        return f"sqlite:///{self.path}"


def locate(url: str, transport: Mapping[str, Any]) -> Location:
    """The file that ``sqlite:///relative`` or ``sqlite:////absolute`` names, as an absolute path.

    Options come from the query or else from ``transport``. Raises ImproperlyConfigured for a URL without a path and
    for unknown options in the query.
    """
    address, _, query = url.partition("?")
    name = unquote(address.partition("://")[2].removeprefix("/"))
    if not address.startswith("sqlite:///") or not name or name == ":memory:":
        raise ImproperlyConfigured(
            f"expected sqlite:///path (relative) or sqlite:////path (absolute), not {url!r}; for tests there is memory://"
        )
    given = dict(parse_qsl(query))
    if unknown := given.keys() - {"synchronous"}:
        raise ImproperlyConfigured(f"sqlite: unknown option {min(unknown)!r}; the one option is synchronous")
    synchronous = str(given.get("synchronous", transport.get("synchronous", "normal"))).lower()
    if synchronous not in {"normal", "full"}:
        raise ImproperlyConfigured(f"sqlite: synchronous must be normal or full, not {synchronous!r}")
    return Location(str(Path(name).expanduser().resolve()), synchronous)


class _Process:
    """What one process has of a database. A forked child starts with its own."""

    def __init__(self, inherited: _Process | None = None) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self._turn = threading.Lock()
        self.connection: sqlite3.Connection | None = None
        #: The parent's, never used and never freed: closing it here would disturb the parent's locks and log.
        self.inherited = inherited

    def take(self, timeout: float) -> bool:
        """Take the lock, in the order of asking: who is at work again and again keeps nobody out."""
        deadline = time.monotonic() + timeout
        if not self._turn.acquire(timeout=_bounded(timeout)):
            return False
        try:
            return self.lock.acquire(timeout=_bounded(deadline - time.monotonic()))
        finally:
            self._turn.release()

    def drop(self) -> None:
        """Close the connection; the lock is held."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def _bounded(timeout: float) -> float:
    return min(max(timeout, 0.0), threading.TIMEOUT_MAX)


class Database:
    """One connection to the file for each process, used by one thread at a time.

    Opens on first use, and again after ``close`` or in a forked child. What cannot be done raises ``failure``.
    """

    def __init__(
        self,
        location: Location,
        *,
        clock: Clock | BrokerClock | None = None,
        dead_letter_expires: float | None = None,
        dead_letter_limit: int | None = None,
        failure: type[OperationalError] = BrokerConnectionError,
    ) -> None:
        self.location = location
        if clock is None:
            clock = FileClock()
            clock.open = self.look_at_clock
        self.clock = clock if isinstance(clock, BrokerClock) else BrokerClock(clock)
        self.ringer = Ringer(wake_directory(location.path))
        self._dead_letter_expires = dead_letter_expires
        self._dead_letter_limit = -1 if dead_letter_limit is None else dead_letter_limit
        self._failure = failure
        self._process = _Process()
        self._next_prune = 0.0
        hold_for_forks(self)

    def read(self, work: Callable[[sqlite3.Connection], T], timeout: float = PATIENCE) -> T:
        """What ``work`` finds, in as many reading transactions as it has statements."""
        return self._use(work, timeout, self._failure)

    def write(
        self,
        work: Callable[[sqlite3.Connection], T],
        timeout: float = PATIENCE,
        late: type[OperationalError] | None = None,
    ) -> T:
        """Do ``work`` in one writing transaction, all or nothing, and return what it returns.

        Raises ``late`` when others keep the file for ``timeout`` seconds. ``work`` may be done again from its
        beginning after it was undone.
        """
        result = self._use(lambda connection: transact(connection, work), timeout, late or self._failure)
        if time.monotonic() >= self._next_prune:
            self._next_prune = inf  # until this one is over, for other threads
            self._next_prune = time.monotonic() + (_PRUNE_AGAIN if self.prune() else _PRUNE_EVERY)
            self.look_at_clock()
        return result

    def look_at_clock(self) -> bool:
        """Compare the file's clock with the machine's; says whether it has moved."""
        clock = self.clock
        if not isinstance(clock, FileClock):
            return False  # one that was given is right as it is
        return self._use(clock.look, PATIENCE, self._failure)

    def _use(
        self, work: Callable[[sqlite3.Connection], T], timeout: float, late: type[OperationalError]
    ) -> T:
        deadline = time.monotonic() + timeout
        process = self._process
        if process.pid != os.getpid():
            process = self._process = _Process(inherited=process)
        if not process.take(timeout):
            raise late(f"{self.location.path} was in use by other threads for {timeout} s")
        try:
            return insist(lambda: work(self._connected(process)), deadline)
        except sqlite3.Error as error:
            kind = late if is_busy(error) else self._failure
            raise kind(f"{self.location.path}: {error}") from error
        finally:
            process.lock.release()

    def _connected(self, process: _Process) -> sqlite3.Connection:
        if process.connection is None:
            process.connection = open_file(self.location.path, self.location.synchronous, _prepare)
            if isinstance(self.clock, FileClock):
                self.clock.look(process.connection)
            self.ringer.open()
        return process.connection

    def prune(self) -> bool:
        """Delete what has expired and give free pages back, a little at a time; True when there may be more."""
        now = self.clock.now()
        died_before = -inf if self._dead_letter_expires is None else now - self._dead_letter_expires

        def delete(connection: sqlite3.Connection) -> bool:
            results = connection.execute(_PRUNE_RESULTS, (now, _PRUNE_ROWS)).rowcount
            letters = connection.execute(_PRUNE_DEAD, (died_before, _PRUNE_ROWS)).rowcount
            letters = max(letters, self._prune_surplus(connection))
            connection.execute(_PRUNE_BEGUN)
            connection.execute(_PRUNE_BROADCASTS, (now,))
            return max(results, letters, sqlite_chords.prune(connection, now, _PRUNE_ROWS)) == _PRUNE_ROWS

        more = self._use(lambda connection: transact(connection, delete), PATIENCE, self._failure)
        self._use(_vacuum, PATIENCE, self._failure)
        return more

    def _prune_surplus(self, connection: sqlite3.Connection) -> int:
        """Delete the oldest dead letters of queues that have too many; says how many of one at the most."""
        limit = self._dead_letter_limit
        if limit < 0:
            return 0
        most = 0
        for queue, count in connection.execute(_CROWDED, (limit,)).fetchall():
            surplus = min(count - limit, _PRUNE_ROWS)
            most = max(most, connection.execute(_PRUNE_SURPLUS, (queue, surplus)).rowcount)
        return most

    def close(self) -> None:
        """Close this process's connection; the next use opens another. Safe twice."""
        process = self._process
        if process.pid != os.getpid():
            return
        with process.lock:
            process.drop()
            self.ringer.close()

    def hold(self) -> Callable[[], object]:
        """Close this process's connection and let nobody open another, for as long as the process is being forked.

        SQLite keeps in memory who of a process has which locks on a file: a child would take those of its parent's
        connections for its own, wait for them for ever, and not see to it that others leave the file alone.
        """
        process = self._process
        if process.pid != os.getpid() or not process.take(_FORK_PATIENCE):
            return _nothing
        try:
            process.drop()
        except sqlite3.Error:
            process.lock.release()
            raise
        return process.lock.release


def _nothing() -> None:
    pass


_PRUNE_RESULTS: Final = "DELETE FROM results WHERE id IN (SELECT id FROM results WHERE gone_at <= ? LIMIT ?)"
_PRUNE_BROADCASTS: Final = "DELETE FROM broadcasts WHERE gone_at <= ?"
_PRUNE_DEAD: Final = (
    "DELETE FROM dead_letters WHERE id IN (SELECT id FROM dead_letters WHERE at <= ? ORDER BY at LIMIT ?)"
)

_CROWDED: Final = "SELECT queue, count(*) FROM dead_letters GROUP BY queue HAVING count(*) > ?"
_PRUNE_SURPLUS: Final = (
    "DELETE FROM dead_letters WHERE id IN (SELECT id FROM dead_letters WHERE queue = ? ORDER BY id LIMIT ?)"
)
_PRUNE_BEGUN: Final = """
DELETE FROM begun WHERE NOT EXISTS (
    SELECT 1 FROM messages
    WHERE messages.id = begun.id AND messages.deliveries = begun.deliveries AND owner IS NOT NULL
)
"""


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_size_limit = 16777216")
    connection.execute("PRAGMA temp_store = MEMORY")
    [[version]] = connection.execute("PRAGMA user_version")
    if version < _VERSION:
        transact(connection, _create)


def _create(connection: sqlite3.Connection) -> None:
    for statement in _SCHEMA.read_text().split(";\n"):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {_VERSION}")


def _vacuum(connection: sqlite3.Connection) -> None:
    [[free]] = connection.execute("PRAGMA freelist_count")
    if free > _SPARE_PAGES:
        # Each step frees one page and gives a row without columns, at which execute would stop.
        connection.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")


_PUT_RESULT: Final = """
INSERT OR REPLACE INTO results (task_id, state, document, gone_at)
SELECT ?1, ?2, ?3, ?4 WHERE ?2 = 'SUCCESS' OR NOT EXISTS (
    SELECT 1 FROM results WHERE task_id = ?1 AND state = 'SUCCESS' AND (gone_at IS NULL OR gone_at > ?5)
)
"""


def put_results(
    connection: sqlite3.Connection,
    records: Iterable[ResultRecord],
    lifetime: Callable[[str], float],
    now: float,
) -> None:
    """Store documents within a transaction; a SUCCESS that is still there is never replaced by another state."""
    connection.executemany(
        _PUT_RESULT,
        [
            (record.task_id, record.state, record.document, _instant(now + lifetime(record.state)), now)
            for record in records
            if record.document
        ],
    )


def _instant(at: float) -> float | None:
    return None if at == inf else at


def ring_results(ringer: Ringer, task_ids: Sequence[str]) -> None:
    """Wake who waits for results of these tasks; to be called after the commit."""
    if task_ids:
        ringer.ring(RESULTS, topic_bits(task_ids))
