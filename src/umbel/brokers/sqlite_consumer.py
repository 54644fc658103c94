"""The consumer of ``sqlite:///path``."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

from umbel.brokers import sqlite_broadcasts as broadcasts
from umbel.brokers import sqlite_dead as dead
from umbel.brokers import sqlite_messages as messages
from umbel.brokers import sqlite_revoked as revoked
from umbel.brokers.base import records_of
from umbel.brokers.turns import rotate
from umbel.core.causes import losses_of
from umbel.stores import sqlite_chords as chords
from umbel.stores.doorbell import LOOK_EVERY, MESSAGES, rung, topic_bits
from umbel.stores.sqlite import put_results, ring_results

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence
    from concurrent.futures import Future
    from sqlite3 import Connection

    from umbel.brokers.base import Delivery, Disposition, FetchPlan
    from umbel.brokers.options import BrokerOptions
    from umbel.brokers.sqlite_bindings import BindingTable
    from umbel.core.causes import Losses
    from umbel.core.records import ChordEnd, DueChord
    from umbel.stores.doorbell import Doorbell
    from umbel.stores.sqlite import Database

T = TypeVar("T")

_RENEW: Final = "INSERT OR REPLACE INTO leases VALUES (?, ?)"
_END_LEASE: Final = "DELETE FROM leases WHERE identity = ?"
_END_LAPSED: Final = "DELETE FROM leases WHERE ends <= ?"
_LAPSED_ROWS: Final = """
SELECT id FROM messages
WHERE owner IS NOT NULL AND owner NOT IN (SELECT identity FROM leases WHERE ends > ?)
"""


class SqliteConsumer:
    """Takes messages from the file in one thread of its own.

    The statements take a fraction of a millisecond, but another process may be writing, and the worker's loop must not
    wait for that.
    """

    def __init__(
        self, database: Database, identity: str, lease: float, options: BrokerOptions, bindings: BindingTable
    ) -> None:
        self.identity = identity
        self._bindings = bindings
        self._database = database
        self._lease = lease
        self._options = options
        self._thread: ThreadPoolExecutor | None = None
        self._turn = 0

    async def open(self) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "umbel-consumer")
        await self._run(self._database.close)
        await self._run(self._bindings.complete)
        await self.renew()

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        if self._thread is None:
            raise RuntimeError(f"consumer {self.identity} is not open; await its open() first")
        return self._thread.submit(work)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._submit(work))

    async def _write(self, work: Callable[[Connection], T]) -> T:
        return await self._run(lambda: self._database.write(work))

    async def fetch(self, plan: FetchPlan, limit: int, timeout: float) -> list[Delivery]:
        queues = rotate(plan.queues, self._turn)
        self._turn += 1
        deadline = asyncio.get_running_loop().time() + timeout
        taken = await self._fetch_now(queues, limit)
        if taken or timeout <= 0 or limit <= 0:
            return taken
        bell = self._database.ringer.doorbell(MESSAGES, queues)
        try:
            return await self._fetch_rung(queues, limit, deadline, bell)
        finally:
            if bell is not None:
                bell.close()

    async def _fetch_rung(
        self, queues: Sequence[str], limit: int, deadline: float, bell: Doorbell | None
    ) -> list[Delivery]:
        """Look when the bell rings, a message is due or the time is over."""
        loop = asyncio.get_running_loop()
        while not (taken := await self._fetch_now(queues, limit)):
            left = deadline - loop.time()
            if left <= 0:
                break
            await rung(bell, min(left, await self._run(lambda: self._until_due(queues))))
        return taken

    async def _fetch_now(self, queues: Sequence[str], limit: int) -> list[Delivery]:
        future = self._submit(lambda: self._take(queues, limit))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            # The thread may be taking messages that nobody will hear of; it gives them back as its next work.
            self._submit(lambda: self._hand_back(future))
            raise

    def _take(self, queues: Sequence[str], limit: int) -> list[Delivery]:
        now = self._database.clock.now()
        if not self._database.read(lambda connection: messages.is_any_ready(connection, queues, now)):
            return []

        def work(connection: Connection) -> list[Delivery]:
            self._extend(connection)
            for queue in queues:
                messages.promote(connection, queue, now)
            return messages.take(connection, queues, limit, self.identity)

        return self._database.write(work)

    def _hand_back(self, future: Future[list[Delivery]]) -> None:
        if future.cancelled() or future.exception() is not None:
            return
        taken = [int(delivery.tag.partition(b".")[0]) for delivery in future.result()]
        self._give_back(lambda _connection: taken, redelivered=False)

    def _until_due(self, queues: Sequence[str]) -> float:
        """Seconds until there may be something without a ring."""
        due = self._database.read(lambda connection: messages.next_due(connection, queues))
        if due is None:
            return LOOK_EVERY
        return min(LOOK_EVERY, max(due - self._database.clock.now(), 0.0))

    async def withdraw(self, queues: Sequence[str]) -> AsyncIterator[Sequence[Delivery]]:
        for queue in queues:
            while wanted := await self._read(lambda connection: revoked.begin_search(connection, queue)):  # noqa: B023 - awaited at once
                after: int | None = 0
                while after is not None:
                    taken, after = await self._run(lambda: self._withdraw(queue, after or 0))  # noqa: B023
                    yield taken
                await self._write(lambda connection: revoked.end_search(connection, queue, wanted))  # noqa: B023

    async def _read(self, work: Callable[[Connection], T]) -> T:
        return await self._run(lambda: self._database.read(work))

    def _withdraw(self, queue: str, after: int) -> tuple[list[Delivery], int | None]:
        now = self._database.clock.now()
        found = self._database.read(lambda connection: revoked.look(connection, queue, after, now))
        if not found.rows:
            return [], found.after

        def work(connection: Connection) -> list[Delivery]:
            self._extend(connection)
            return messages.take_out(connection, found.rows, self.identity)

        return self._database.write(work), found.after

    async def begin(self, deliveries: Sequence[Delivery]) -> list[Losses]:
        tags = [messages.parse_tag(delivery.tag, self.identity) for delivery in deliveries]
        rows = [tag for tag in tags if tag is not None]
        await self._write(lambda connection: dead.note_begun(connection, rows))
        return [losses_of(delivery.payload) for delivery in deliveries]

    async def settle(self, batch: Sequence[Disposition]) -> list[DueChord]:
        return await self._run(lambda: self._settle(batch)) if batch else []

    def _settle(self, batch: Sequence[Disposition]) -> list[DueChord]:
        now = self._database.clock.now()
        published = [self._bindings.spread(disposition.publish) for disposition in batch]
        lines = [messages.lines_of(routed) for routed, _ in published]
        publishing = {queue for line in lines for queue in line if queue is not None}

        def work(connection: Connection) -> tuple[bool, list[DueChord]]:
            """Whether something went to a queue that ``publishing`` does not name, and which chords are due."""
            moved, due = False, []
            for disposition, queues, (routed, lost) in zip(batch, lines, published, strict=True):
                if disposition.ends is not None and not self._end_chord(connection, disposition.ends, now):
                    continue
                messages.bury_beside(connection, self.identity, disposition, lost, now)
                if disposition.unheld:
                    if disposition.action == "dead_letter":
                        messages.bury_unheld(connection, disposition, now)
                elif not messages.end(connection, self.identity, disposition, now):
                    continue
                moved = moved or (not disposition.unheld and disposition.action in _RETURNING)
                if queues:
                    messages.insert(connection, routed, queues, now)
                if records := records_of(disposition):
                    put_results(connection, records, self._options.result_lifetime, now)
                    due += chords.count_parts(connection, records, self._options.chord_lifetime(), now)
            return moved, due

        moved, due = self._database.write(work)
        # Which queue a returned message belongs to is not worth a query: all waiters look.
        self._database.ringer.ring(MESSAGES, _EVERYONE if moved else topic_bits(publishing))
        for disposition, queues in zip(batch, lines, strict=True):
            if None in queues:
                broadcasts.ring(self._database.ringer, disposition.publish)
        stored = [record.task_id for d in batch for record in records_of(d) if record.document]
        ring_results(self._database.ringer, stored)
        return due

    def _end_chord(self, connection: Connection, end: ChordEnd, now: float) -> bool:
        return chords.end_chord(connection, end, self._options.chord_lifetime(), now)

    def now(self) -> float:
        return self._database.clock.now()

    async def renew(self) -> None:
        await self._run(self._database.look_at_clock)
        await self._write(self._extend)

    def _extend(self, connection: Connection) -> None:
        connection.execute(_RENEW, (self.identity, self._database.clock.now() + self._lease))

    async def reclaim(self) -> int:
        return await self._run(self._reclaim)

    def _reclaim(self) -> int:
        if self._database.look_at_clock():
            return 0  # the others are still to renew by the clock as it is now
        now = self._database.clock.now()
        if not self._database.read(lambda connection: connection.execute(_LAPSED_ROWS, (now,)).fetchone()):
            return 0

        def lapsed(connection: Connection) -> list[int]:
            connection.execute(_END_LAPSED, (now,))
            return dead.take_lapsed(connection, now)

        return self._give_back(lapsed, redelivered=True)

    async def reconcile(self, held: Collection[bytes]) -> int:
        return await self._run(
            lambda: self._give_back(
                lambda connection: messages.unknown_rows(connection, self.identity, held), redelivered=True
            )
        )

    def _give_back(self, find: Callable[[Connection], list[int]], *, redelivered: bool) -> int:
        """Return what ``find`` finds to the queues, in one transaction; says how many messages."""

        def work(connection: Connection) -> tuple[int, list[str]]:
            rows = find(connection)
            return len(rows), messages.give_back(connection, rows, redelivered=redelivered)

        number, queues = self._database.write(work)
        self._database.ringer.ring(MESSAGES, topic_bits(queues))
        return number

    async def close(self) -> None:
        if self._thread is None:
            return
        await self.reconcile(())
        await self._write(lambda connection: connection.execute(_END_LEASE, (self.identity,)))
        await self._run(self._database.close)
        thread, self._thread = self._thread, None
        thread.shutdown(wait=False)

    def disconnect(self) -> None:
        """Close the file without giving anything back; the next use opens it again."""
        self._database.close()


#: Actions after which the message can be fetched again, at once or later.
_RETURNING: Final = frozenset({"requeue", "retry_later"})
_EVERYONE: Final = (1 << 64) - 1
