"""The outbox: a file on this machine that takes messages while the broker is away.

Problem: a program whose broker is away gets an error for each task it sends, and has to keep what it wanted to do.

Solution: with ``broker_outbox`` set, what cannot be sent is written to a SQLite file, and ``delay()`` returns. One of
the processes that use the file forwards what is there, in order, as soon as the broker is back; until then everything
goes through the file, so that nothing overtakes. A message leaves the file when the broker has confirmed it. Where a
confirmation is lost, or the program is killed before it has struck the message out, it goes out again under the same
task id, and says that it may have been sent before (``core.repeats``): before anything is sent it is written down how
far that goes. What a killed program has left behind is forwarded by the next that uses the file.
"""

from __future__ import annotations

import fcntl
import logging
import os
import random
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from umbel.core.destination import BROADCAST_TYPES
from umbel.core.records import Publication
from umbel.core.repeats import mark_repeated, repeated
from umbel.errors import BrokerConnectionError, BrokerError, PublishTimeout
from umbel.stores.sqlite_file import insist, open_file, transact

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from umbel.brokers.base import AsyncPublisher, Publisher

T = TypeVar("T")

logger = logging.getLogger("umbel.outbox")

__all__ = ["Outbox", "OutboxFullError"]

#: ``begun``: up to which message forwarding to a broker has come, that one perhaps not confirmed.
_SCHEMA: Final = (
    """
CREATE TABLE IF NOT EXISTS outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    broker TEXT NOT NULL,
    publication BLOB NOT NULL
)
""",
    """
CREATE TABLE IF NOT EXISTS begun (
    broker TEXT PRIMARY KEY,
    upto INTEGER NOT NULL
)
""",
)
_ADD: Final = "INSERT INTO outbox (broker, publication) VALUES (?, ?)"
_NEXT: Final = "SELECT id, publication FROM outbox WHERE broker = ? ORDER BY id LIMIT ?"
_REMOVE: Final = "DELETE FROM outbox WHERE broker = ? AND id <= ?"
_ANY: Final = "SELECT 1 FROM outbox WHERE broker = ? LIMIT 1"
#: Messages leave from the front, so the ids tell how many there are, near enough, without counting.
_SIZE: Final = "SELECT max(id) - min(id) + 1 FROM outbox"
_REFUSE: Final = "UPDATE outbox SET broker = 'refused by ' || broker WHERE id = ?"
_BEGIN: Final = """
INSERT INTO begun VALUES (?, ?) ON CONFLICT DO UPDATE SET upto = max(upto, excluded.upto)
"""
_BEGUN: Final = "SELECT upto FROM begun WHERE broker = ?"
_COUNT: Final = "SELECT count(*) FROM outbox WHERE broker = ?"
_OTHERS: Final = "SELECT DISTINCT broker FROM outbox WHERE broker != ?"

#: Messages forwarded in one round trip: as many may be sent again when its confirmation is lost.
_BATCH: Final = 50
#: Seconds between attempts while the broker is away: from, to; and how often somebody looks whether there is anything.
_PAUSE: Final = (0.2, 5.0)
_LOOK: Final = 1.0
#: Seconds that another process may keep the file locked.
_BUSY: Final = 30.0


class OutboxFullError(BrokerError):
    """The broker is away, and the outbox has taken as many messages as it may (``broker_outbox_limit``)."""


class Outbox:
    """Sends by a publisher, and by way of the file while that fails. Safe for several threads, and after a fork.

    Args:
        path: of the file; it is made when it is needed.
        broker: names the broker; messages of others in the same file are left to them.
        publisher: of that broker.
        limit: messages in the file at the most.
        timeout: seconds that the broker has to confirm what is forwarded.
    """

    def __init__(self, path: str, broker: str, publisher: Publisher, *, limit: int, timeout: float) -> None:
        self._path = Path(path).expanduser()
        self._broker = broker
        self._publisher = publisher
        self._limit = limit
        self._timeout = timeout
        self._closed = threading.Event()
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._forwarder: threading.Thread | None = None
        self._closed = threading.Event()

    def send(self, publications: Sequence[Publication], *, timeout: float) -> None:
        """As Publisher.send; returning means that the broker or the file has them. Raises OutboxFullError too."""
        if self._is_in_use():
            self._keep(publications, None)
            return
        try:
            self._publisher.send(publications, timeout=timeout)
        except (BrokerConnectionError, PublishTimeout) as error:
            self._keep(publications, error)

    async def asend(
        self, publications: Sequence[Publication], publisher: AsyncPublisher, *, timeout: float
    ) -> None:
        """As ``send``, by a publisher of the running event loop."""
        from asyncio import to_thread  # only programs with coroutines come here

        if await to_thread(self._is_in_use):
            await to_thread(self._keep, publications, None)
            return
        try:
            await publisher.send(publications, timeout=timeout)
        except (BrokerConnectionError, PublishTimeout) as error:
            await to_thread(self._keep, publications, error)

    def depth(self) -> int:
        """How many messages wait in the file for this broker."""
        with self._lock:
            return int(self._ask(_COUNT, self._broker)[0][0])

    def close(self) -> None:
        """End the forwarding; what is left waits for the next who uses the file. Safe twice; may be used again."""
        self._closed.set()
        forwarder = self._forwarder
        if forwarder is not None and forwarder is not threading.current_thread() and self._pid == os.getpid():
            forwarder.join(self._timeout)
        with self._lock:
            connection, self._connection = self._connection, None
            self._forwarder = None
            if connection is not None:
                connection.close()

    def _is_in_use(self) -> bool:
        """Whether anything waits in the file, which may be another process's."""
        if os.getpid() != self._pid:
            # A connection must not be used on both sides of a fork, and the thread is the parent's.
            self._of_parent = self._connection
            self._start_afresh()
        with self._lock:
            found = bool(self._ask(_ANY, self._broker))
            if found:
                self._forward_in_background()
        return found

    def _keep(self, publications: Sequence[Publication], error: BrokerError | None) -> None:
        if any(each.destination.exchange_type in BROADCAST_TYPES for each in publications):
            # Whoever listens now is meant, not whoever does when the broker is back.
            raise error or BrokerConnectionError(
                "the broker is away, and what is broadcast cannot wait for it"
            )
        if error is not None:
            publications = repeated(publications)  # the answer may have been lost, and not the message
        rows = [(self._broker, msgspec.msgpack.encode(each)) for each in publications]

        def add(file: sqlite3.Connection) -> None:
            size = file.execute(_SIZE).fetchone()[0] or 0
            if size + len(rows) > self._limit:
                raise OutboxFullError(
                    f"the broker is away and the outbox {self._path} is full: it has {size} of at most "
                    f"{self._limit} messages (broker_outbox_limit)"
                ) from error
            file.executemany(_ADD, rows)

        with self._lock:
            self._use(lambda file: transact(file, add))
            if error is not None:
                logger.warning("The broker is away (%s); messages go to the outbox %s", error, self._path)
            self._forward_in_background()

    def _use(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What ``work`` does with the file. Call it with the lock held. Raises BrokerError for what goes wrong."""
        try:
            return insist(lambda: work(self._file()), time.monotonic() + _BUSY)
        except sqlite3.Error as error:
            raise BrokerError(f"the outbox {self._path} cannot be used: {error} (broker_outbox)") from error

    def _ask(self, statement: str, *values: object) -> list[Any]:
        """The rows that a statement gives. Call it with the lock held."""
        return self._use(lambda file: file.execute(statement, values).fetchall())

    def _file(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = open_file(self._path, "full", _prepare)
            self._warn_of_others(self._connection)
        return self._connection

    def _warn_of_others(self, connection: sqlite3.Connection) -> None:
        for (broker,) in connection.execute(_OTHERS, (self._broker,)):
            logger.warning("The outbox %s has messages for %s too; they wait for it", self._path, broker)

    def _forward_in_background(self) -> None:
        """Have a thread forward. Call it with the lock held."""
        if self._forwarder is None or not self._forwarder.is_alive():
            self._closed.clear()
            self._forwarder = threading.Thread(target=self._run, name="umbel-outbox", daemon=True)
            self._forwarder.start()

    def _run(self) -> None:
        """Forward until nothing is left; one process at a time does."""
        try:
            with closing(_Turn(self._path)) as turn:
                while not turn.taken():
                    if self._closed.wait(_LOOK) or not self._left():
                        return
                self._forward_all()
        except Exception:
            logger.exception(
                "Forwarding from the outbox %s has ended; the next message tries again", self._path
            )

    def _left(self) -> bool:
        with self._lock:
            return bool(self._ask(_ANY, self._broker))

    def _forward_all(self) -> None:
        pause, count = _PAUSE[0], 0
        while not self._closed.is_set():
            with self._lock:
                rows = self._ask(_NEXT, self._broker, _BATCH)
            if not rows:
                logger.info("The broker is back: %d messages were forwarded from the outbox", count)
                return
            try:
                self._forward(rows)
            except (BrokerConnectionError, PublishTimeout) as error:
                logger.debug("The broker is still away: %s", error)
                self._closed.wait(pause * random.uniform(0.8, 1.0))
                pause = min(pause * 2, _PAUSE[1])
                continue
            pause, count = _PAUSE[0], count + len(rows)

    def _forward(self, rows: Sequence[tuple[int, bytes]]) -> None:
        """Send some messages and take them out of the file; one that the broker refuses for good stays, set aside."""
        with self._lock:
            begun = self._ask(_BEGUN, self._broker)
            self._ask(_BEGIN, self._broker, rows[-1][0])
        upto = begun[0][0] if begun else 0
        try:
            self._publisher.send([_publication(*row, upto) for row in rows], timeout=self._timeout)
        except (BrokerConnectionError, PublishTimeout):
            raise
        except BrokerError as error:
            if len(rows) > 1:
                for row in rows:
                    self._forward([row])
                return
            logger.error("%s. Message %d stays in the outbox %s", error, rows[0][0], self._path)  # noqa: TRY400
            with self._lock:
                self._ask(_REFUSE, rows[0][0])
            return
        with self._lock:
            self._ask(_REMOVE, self._broker, rows[-1][0])


def _prepare(file: sqlite3.Connection) -> None:
    for statement in _SCHEMA:
        file.execute(statement)


def _publication(number: int, text: bytes, begun: int) -> Publication:
    """What a row has; up to ``begun`` it may have been sent before."""
    publication = msgspec.msgpack.decode(text, type=Publication)
    if number <= begun:
        return Publication(publication.destination, mark_repeated(publication.payload))
    return publication


class _Turn:
    """Whose turn it is to forward: a lock on a file beside the outbox, which ends with the process at the latest."""

    def __init__(self, path: Path) -> None:
        self._file: Any = open(path.with_name(f"{path.name}.lock"), "ab")  # noqa: SIM115 - close() closes it

    def taken(self) -> bool:
        """Whether it is ours, now or already."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Leave the turn to others."""
        self._file.close()
