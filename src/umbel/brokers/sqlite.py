"""``sqlite:///path``: messages in a file, the default where no broker is configured.

Any number of producers and workers of one machine share the file. See ``stores.sqlite`` for what survives what,
``stores.sqlite.sql`` for the tables and ``stores.doorbell`` for how waiting processes are woken.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from umbel.brokers.base import Capabilities
from umbel.brokers.sqlite_bindings import BindingTable
from umbel.brokers.sqlite_broadcasts import SqliteSubscription
from umbel.brokers.sqlite_consumer import SqliteConsumer
from umbel.brokers.sqlite_dead import DeadLetters, SqliteDeadReader
from umbel.brokers.sqlite_messages import insert, lines_of, ring
from umbel.brokers.sqlite_revoked import keep, kept
from umbel.core.bindings import Bindings, no_queue_bound
from umbel.core.destination import BROADCAST_TYPES
from umbel.core.protocol import pack_native
from umbel.errors import BrokerError, PublishTimeout
from umbel.stores.sqlite import Database, locate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from sqlite3 import Connection

    from umbel.brokers.base import DeadLetter, RevokedTasks
    from umbel.brokers.options import BrokerOptions
    from umbel.core.bindings import Binding
    from umbel.core.clock import Clock
    from umbel.core.destination import Destination
    from umbel.core.protocol import Envelope
    from umbel.core.records import Publication
    from umbel.core.topology import QueueDefinition
    from umbel.stores.sqlite import Location

_DEPTH: Final = "SELECT count(*) FROM messages WHERE queue = ? AND owner IS NULL AND due IS NULL"
_DELAYED_DEPTH: Final = "SELECT count(*) FROM messages WHERE queue = ? AND due IS NOT NULL"
_HELD_DEPTH: Final = "SELECT count(*) FROM messages WHERE owner IS NOT NULL"
_PURGE: Final = "DELETE FROM messages WHERE queue = ? AND owner IS NULL AND due IS NULL"


class SqliteBroker:
    """The broker in one file."""

    capabilities = Capabilities(
        durable=True,
        shared=False,
        priorities=True,
        fanout=True,
        bindings=True,
        revocations=True,
        withdraws=True,
    )

    def __init__(self, location: Location, options: BrokerOptions, *, clock: Clock | None = None) -> None:
        self.store = self.display_url = location.url
        self.location = location
        self.options = options
        self._clock = clock
        self._database = self._connect()
        self.clock = self._database.clock
        self._dead = DeadLetters(self._database, options)
        self._consumers: WeakSet[SqliteConsumer] = WeakSet()
        self._declared = Bindings()

    @classmethod
    def from_url(cls, url: str, options: BrokerOptions, *, clock: Clock | None = None) -> SqliteBroker:
        """The broker of ``sqlite:///relative`` or ``sqlite:////absolute``. Raises ImproperlyConfigured."""
        return cls(locate(url, options.transport), options, clock=clock)

    def _connect(self) -> Database:
        return Database(
            self.location,
            clock=self._clock,
            dead_letter_expires=self.options.dead_letter_expires,
            dead_letter_limit=self.options.dead_letter_limit,
        )

    def pack(self, envelope: Envelope, destination: Destination) -> bytes:
        return pack_native(envelope)

    def declare(self, bindings: Iterable[Binding], queues: Iterable[QueueDefinition] = ()) -> None:
        self._declared.add(bindings)

    def publisher(self) -> SqlitePublisher:
        return SqlitePublisher(self._database, BindingTable(self._database, self._declared))

    def async_publisher(self) -> SqliteAsyncPublisher:
        return SqliteAsyncPublisher(self.publisher())

    def consumer(self, identity: str, lease: float) -> SqliteConsumer:
        database = self._connect()
        database.clock = self.clock  # that of programs' publishers and consumers is one
        bindings = BindingTable(database, self._declared)
        consumer = SqliteConsumer(database, identity, lease, self.options, bindings)
        self._consumers.add(consumer)
        return consumer

    def subscriber(
        self,
        exchange: str,
        routing_key: str = "",
        exchange_type: str = "fanout",
        also: Sequence[Destination] = (),
    ) -> SqliteSubscription:
        if exchange_type not in BROADCAST_TYPES:
            raise BrokerError(
                f"sqlite:// has exchanges of type fanout or broadcast to listen to, not {exchange_type!r}"
            )
        addresses = [(exchange, routing_key), *((to.exchange, to.routing_key) for to in also)]
        return SqliteSubscription(self._database, addresses)

    def depth(self, queue: str) -> int:
        return self._count(_DEPTH, queue)

    def delayed_depth(self, queue: str) -> int:
        return self._count(_DELAYED_DEPTH, queue)

    def held_depth(self) -> int:
        return self._count(_HELD_DEPTH)

    def _count(self, statement: str, *parameters: str) -> int:
        [[count]] = self._database.read(
            lambda connection: connection.execute(statement, parameters).fetchall()
        )
        return int(count)

    def purge(self, queue: str) -> int:
        return self._database.write(lambda connection: connection.execute(_PURGE, (queue,)).rowcount)

    def dead_letters(self, queue: str, limit: int) -> list[DeadLetter]:
        return self._dead.newest(queue, limit)

    def dead_count(self, queue: str) -> int:
        return self._dead.count(queue)

    def dead_queues(self, known: Iterable[str]) -> list[str]:
        return self._dead.queues()

    def dead_reader(self, queue: str) -> SqliteDeadReader:
        return SqliteDeadReader(self._dead, queue)

    def bound(self) -> list[Binding]:
        return BindingTable(self._database, self._declared).everything()

    def revoke(self, task_ids: Sequence[str], expires: float, stamps: Sequence[str] = ()) -> float:
        now = self._database.clock.now()
        gone_at = self._database.write(
            lambda connection: keep(connection, task_ids, stamps, now, now + expires)
        )
        return gone_at - now if stamps else expires

    def revoked(self) -> RevokedTasks:
        now = self._database.clock.now()
        return self._database.read(lambda connection: kept(connection, now))

    def close(self) -> None:
        self._database.close()
        for consumer in self._consumers:
            consumer.disconnect()


class Companion:
    """Statements that take effect together with the message of one task, or not at all."""

    def __init__(self, task_id: str, work: Callable[[Connection], object]) -> None:
        self._task_id = task_id.encode()
        self.work = work
        self.done = False

    def belongs_to(self, publications: Sequence[Publication]) -> bool:
        """Whether these are the one message."""
        return len(publications) == 1 and self._task_id in publications[0].payload


class SqlitePublisher:
    """Puts messages into the file; each send is one transaction."""

    def __init__(self, database: Database, bindings: BindingTable) -> None:
        self._database = database
        self._bindings = bindings
        #: What goes into the same transaction as one certain message; for a program of one sending thread, as beat is.
        self.companion: Companion | None = None

    @property
    def store(self) -> str:
        """The identity of the file it sends to."""
        return self._database.location.url

    def send(self, publications: Sequence[Publication], *, timeout: float) -> None:
        if not publications:
            return
        publications, lost = self._bindings.spread(publications)
        if lost:
            raise BrokerError(no_queue_bound(lost[0].destination))
        queues = lines_of(publications)
        now = self._database.clock.now()
        companion = self.companion
        if companion is not None and not companion.belongs_to(publications):
            companion = None

        def put(connection: Connection) -> None:
            insert(connection, publications, queues, now)
            if companion is not None:
                companion.work(connection)

        self._database.write(put, timeout, late=PublishTimeout)
        if companion is not None:
            companion.done = True
        ring(self._database.ringer, publications, queues)

    def close(self) -> None:
        """Nothing of its own is open: the broker closes the file."""


class SqliteAsyncPublisher:
    """Puts messages into the file from a thread of its own: another process may be writing, and that may take long."""

    def __init__(self, publisher: SqlitePublisher) -> None:
        self._publisher = publisher
        self._thread: ThreadPoolExecutor | None = None

    async def send(self, publications: Sequence[Publication], *, timeout: float) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "umbel-publisher")
        deadline = time.monotonic() + timeout

        def send_in_time() -> None:
            self._publisher.send(publications, timeout=deadline - time.monotonic())

        await asyncio.wrap_future(self._thread.submit(send_in_time))

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.to_thread(thread.shutdown)
