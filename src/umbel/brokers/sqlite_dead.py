"""Dead letters in the file, and what is known of messages that were lost: statements within a caller's transaction.

Why a message was given up stands beside it, in a table of its own, so that earlier versions go on with the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from umbel.brokers.base import DeadLetter
from umbel.brokers.sqlite_messages import insert, ring
from umbel.core.causes import Cause, Loss, add_losses, losses_of, read_cause

if TYPE_CHECKING:
    from collections.abc import Sequence
    from sqlite3 import Connection

    from umbel.brokers.options import BrokerOptions
    from umbel.core.records import Publication
    from umbel.stores.sqlite import Database

_LETTERS: Final = """
SELECT queue, payload, reason, at, cause, dead_letters.id
FROM dead_letters LEFT JOIN dead_causes ON dead_causes.id = dead_letters.id
"""
_NEWEST: Final = f"{_LETTERS} WHERE queue = ? AND at > ? ORDER BY dead_letters.id DESC LIMIT ?"
_PAGE: Final = (
    f"{_LETTERS} WHERE queue = ? AND dead_letters.id > ? AND at > ? ORDER BY dead_letters.id LIMIT ?"
)
_COUNT: Final = "SELECT count(*) FROM dead_letters WHERE queue = ? AND at > ?"
_QUEUES: Final = "SELECT DISTINCT queue FROM dead_letters WHERE at > ? ORDER BY queue"
_TAKE: Final = "DELETE FROM dead_letters WHERE id = ? AND queue = ?"

_BEGIN: Final = """
INSERT OR REPLACE INTO begun (id, deliveries)
SELECT id, deliveries FROM messages WHERE id = ? AND deliveries = ? AND owner = ?
"""
_LAPSED: Final = """
SELECT messages.id, owner, payload, begun.id IS NOT NULL FROM messages
LEFT JOIN begun ON begun.id = messages.id AND begun.deliveries = messages.deliveries
WHERE owner IS NOT NULL AND owner NOT IN (SELECT identity FROM leases WHERE ends > ?)
"""
_REWRITE: Final = "UPDATE messages SET payload = ? WHERE id = ?"


def note_begun(connection: Connection, rows: Sequence[tuple[int, int, str]]) -> None:
    """That work on these deliveries begins."""
    connection.executemany(_BEGIN, rows)


def take_lapsed(connection: Connection, now: float) -> list[int]:
    """The messages whose holders' leases have lapsed, with the loss written into those to which it counts."""
    found = []
    for row, owner, payload, begun in connection.execute(_LAPSED, (now,)).fetchall():
        found.append(row)
        if begun or not losses_of(payload).count:
            connection.execute(_REWRITE, (add_losses(payload, [Loss(owner, now)]), row))
    return found


class DeadLetters:
    """The dead letters of one file, as the options have them kept."""

    def __init__(self, database: Database, options: BrokerOptions) -> None:
        self.database = database
        self._expires = options.dead_letter_expires

    def since(self) -> float:
        """The instant from which on they are kept."""
        return 0.0 if self._expires is None else self.database.clock.now() - self._expires

    def newest(self, queue: str, limit: int) -> list[DeadLetter]:
        """The newest of a queue, newest first."""
        return self._read(_NEWEST, (queue, self.since(), limit))

    def page(self, queue: str, after: int, limit: int) -> list[DeadLetter]:
        """Those after a number, oldest first."""
        return self._read(_PAGE, (queue, after, self.since(), limit))

    def _read(self, statement: str, parameters: tuple[object, ...]) -> list[DeadLetter]:
        rows = self.database.read(lambda connection: connection.execute(statement, parameters).fetchall())
        return [
            DeadLetter(queue, payload, reason, at, _cause(cause), b"%d" % number)
            for queue, payload, reason, at, cause, number in rows
        ]

    def count(self, queue: str) -> int:
        """How many there are of a queue."""
        parameters = (queue, self.since())
        [[count]] = self.database.read(lambda connection: connection.execute(_COUNT, parameters).fetchall())
        return int(count)

    def queues(self) -> list[str]:
        """The queues that have some."""
        parameters = (self.since(),)
        rows = self.database.read(lambda connection: connection.execute(_QUEUES, parameters).fetchall())
        return [queue for (queue,) in rows]


def _cause(text: str | None) -> Cause:
    return Cause("rejected") if text is None else read_cause(text)[1]


class SqliteDeadReader:
    """As brokers.base.DeadReader."""

    def __init__(self, letters: DeadLetters, queue: str) -> None:
        self._letters = letters
        self._queue = queue
        self._seen = 0

    def page(self, limit: int) -> list[DeadLetter]:
        found = self._letters.page(self._queue, self._seen, limit)
        if found:
            self._seen = int(found[-1].tag)
        return found

    def replay(self, letter: DeadLetter, publication: Publication) -> bool:
        database, to = self._letters.database, publication.destination
        queues = [to.queue or to.routing_key]

        def work(connection: Connection) -> bool:
            if not self._take(connection, letter):
                return False
            insert(connection, [publication], queues, database.clock.now())
            return True

        replayed = database.write(work)
        if replayed:
            ring(database.ringer, [publication], queues)
        return replayed

    def discard(self, letters: Sequence[DeadLetter]) -> int:
        return self._letters.database.write(
            lambda connection: sum(self._take(connection, letter) for letter in letters)
        )

    def _take(self, connection: Connection, letter: DeadLetter) -> bool:
        return connection.execute(_TAKE, (int(letter.tag), self._queue)).rowcount > 0

    def close(self) -> None:
        """Nothing of its own is open."""
