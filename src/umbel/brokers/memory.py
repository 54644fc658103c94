"""``memory://NAME``: messages in the memory of one process, for tests and programs that are their own worker."""

from __future__ import annotations

import asyncio
import heapq
from itertools import islice
from typing import TYPE_CHECKING, Final

from umbel.brokers.arrivals import Arrivals
from umbel.brokers.base import Capabilities, Delivery, RevokedTasks, records_of
from umbel.brokers.lost import tell_lost
from umbel.brokers.memory_dead import MemoryDeadReader, bury, forget_expired, letters_of
from umbel.brokers.options import BrokerOptions
from umbel.brokers.redelivery import mark_redelivered
from umbel.brokers.revoking import BEYOND_DELAYS, task_id_of
from umbel.brokers.turns import rotate, take_turns
from umbel.core.bindings import no_queue_bound, spread, spread_or_refuse
from umbel.core.causes import Cause, Loss, add_losses, losses_of
from umbel.core.clock import BrokerClock
from umbel.core.destination import BROADCAST_TYPES
from umbel.core.protocol import pack_native
from umbel.errors import BrokerError
from umbel.stores.memory import Entry, Held, stores

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence

    from umbel.brokers.base import DeadLetter, Disposition, FetchPlan
    from umbel.core.bindings import Binding
    from umbel.core.causes import Losses
    from umbel.core.clock import Clock
    from umbel.core.destination import Destination
    from umbel.core.protocol import Envelope
    from umbel.core.records import DueChord, Publication
    from umbel.core.topology import QueueDefinition
    from umbel.stores.memory import MemoryStore

#: Between two looks at a queue whose next message is delayed; the clock of a test may jump.
_LONGEST_WAIT: Final = 1.0


class MemoryBroker:
    """The broker of one named store."""

    capabilities = Capabilities(
        durable=False,
        shared=False,
        priorities=True,
        fanout=True,
        bindings=True,
        revocations=True,
        withdraws=True,
    )

    def __init__(self, name: str, options: BrokerOptions, *, clock: Clock | None = None) -> None:
        self.store = self.display_url = f"memory://{name}"
        self.options = options
        self._store = stores.get(name, clock)
        self.clock = BrokerClock(self._store.clock)

    @classmethod
    def from_url(cls, url: str, options: BrokerOptions, *, clock: Clock | None = None) -> MemoryBroker:
        """The broker of ``memory://NAME``; the name may be empty."""
        return cls(url.partition("://")[2].strip("/"), options, clock=clock)

    def pack(self, envelope: Envelope, destination: Destination) -> bytes:
        return pack_native(envelope)

    def declare(self, bindings: Iterable[Binding], queues: Iterable[QueueDefinition] = ()) -> None:
        with self._store.lock:
            self._store.bindings.add(bindings)

    def publisher(self) -> MemoryPublisher:
        return MemoryPublisher(self._store)

    def async_publisher(self) -> MemoryAsyncPublisher:
        return MemoryAsyncPublisher(self._store)

    def consumer(self, identity: str, lease: float) -> MemoryConsumer:
        return MemoryConsumer(self._store, identity, lease, self.options)

    def subscriber(
        self,
        exchange: str,
        routing_key: str = "",
        exchange_type: str = "fanout",
        also: Sequence[Destination] = (),
    ) -> MemorySubscription:
        if exchange_type not in BROADCAST_TYPES:
            raise BrokerError(
                f"memory:// has exchanges of type fanout or broadcast to listen to, not {exchange_type!r}"
            )
        addresses = [(exchange, routing_key), *((to.exchange, to.routing_key) for to in also)]
        return MemorySubscription(self._store, addresses)

    def depth(self, queue: str) -> int:
        with self._store.lock:
            return len(self._store.waiting[queue])

    def delayed_depth(self, queue: str) -> int:
        with self._store.lock:
            return len(self._store.delayed[queue])

    def held_depth(self) -> int:
        with self._store.lock:
            return sum(map(len, self._store.held.values()))

    def purge(self, queue: str) -> int:
        with self._store.lock:
            return len(self._store.waiting.pop(queue, ()))

    def dead_letters(self, queue: str, limit: int) -> list[DeadLetter]:
        with self._store.lock:
            newest = reversed(letters_of(self._store, queue, self.options.dead_letter_expires))
            return list(islice(newest, limit))

    def dead_count(self, queue: str) -> int:
        with self._store.lock:
            forget_expired(self._store, queue, self.options.dead_letter_expires)
            return len(self._store.dead[queue])

    def dead_queues(self, known: Iterable[str]) -> list[str]:
        with self._store.lock:
            return sorted(queue for queue in tuple(self._store.dead) if self.dead_count(queue))

    def dead_reader(self, queue: str) -> MemoryDeadReader:
        return MemoryDeadReader(self._store, queue, self.options.dead_letter_expires)

    def bound(self) -> list[Binding]:
        with self._store.lock:
            return list(self._store.bindings)

    def revoke(self, task_ids: Sequence[str], expires: float, stamps: Sequence[str] = ()) -> float:
        store = self._store
        with store.lock:
            now = store.clock.now()
            if stamps:  # nobody searches for them
                due = max((each for queue in store.delayed.values() for each, _, _ in queue), default=0.0)
                expires = max(expires, due - now + BEYOND_DELAYS) if due else expires
            for table, kept in ((store.revoked, task_ids), (store.revoked_stamps, stamps)):
                for each in [each for each, gone_at in table.items() if gone_at <= now]:
                    del table[each]
                for each in kept:
                    table[each] = max(now + expires, table.get(each, 0.0))
        return expires

    def revoked(self) -> RevokedTasks:
        with self._store.lock:
            now = self._store.clock.now()
            tables = (self._store.revoked, self._store.revoked_stamps)
            return RevokedTasks(
                *(
                    {each: gone_at - now for each, gone_at in table.items() if gone_at > now}
                    for table in tables
                )
            )

    def close(self) -> None:
        """Nothing is open."""


def _publish(store: MemoryStore, publications: Sequence[Publication]) -> None:
    for publication in publications:
        to = publication.destination
        if to.exchange_type in BROADCAST_TYPES or to.queue is None:
            _broadcast(store, publication)
        else:
            store.push(to.queue, Entry(to.priority, store.back(), publication.payload))


def _broadcast(store: MemoryStore, publication: Publication) -> None:
    to = publication.destination
    for (exchange, pattern), hearers in tuple(store.listeners.items()):
        if exchange == to.exchange and _matches(pattern, to.routing_key):
            for hear in tuple(hearers):
                hear(publication.payload)


def _matches(pattern: str, routing_key: str) -> bool:
    """Whether a subscription's pattern, in which ``#`` at the end stands for any text, takes a routing key."""
    return routing_key.startswith(pattern[:-1]) if pattern.endswith("#") else routing_key == pattern


class MemoryPublisher:
    """Puts messages in line."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def send(self, publications: Sequence[Publication], *, timeout: float) -> None:
        with self._store.lock:
            _publish(self._store, spread_or_refuse(publications, self._store.bindings.to))
            self._store.changed()

    def close(self) -> None:
        """Nothing is open."""


class MemoryAsyncPublisher:
    """Puts messages in line, from a coroutine."""

    def __init__(self, store: MemoryStore) -> None:
        self._publisher = MemoryPublisher(store)

    async def send(self, publications: Sequence[Publication], *, timeout: float) -> None:
        self._publisher.send(publications, timeout=timeout)

    async def close(self) -> None:
        """Nothing is open."""


class MemoryConsumer:
    """Takes messages from the lines of one store; each method that changes them does so under the store's lock."""

    def __init__(self, store: MemoryStore, identity: str, lease: float, options: BrokerOptions) -> None:
        self.identity = identity
        self._store = store
        self._lease = lease
        self._options = options
        self._turn = 0

    async def open(self) -> None:
        await self.renew()

    async def fetch(self, plan: FetchPlan, limit: int, timeout: float) -> list[Delivery]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        taken = self._take(plan, limit)
        if taken or timeout <= 0:
            return taken
        changed = asyncio.Event()

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(changed.set)

        self._store.on_change(wake)
        try:
            while not (taken := self._take(plan, limit)) and (left := deadline - loop.time()) > 0:
                await _wait(changed, min(left, self._until_due(plan)))
        finally:
            self._store.forget_waker(wake)
        return taken

    def _take(self, plan: FetchPlan, limit: int) -> list[Delivery]:
        store = self._store
        with store.lock:
            self._extend()
            queues = rotate(plan.queues, self._turn)
            self._turn += 1
            for queue in queues:
                self._promote(queue)
            lines = [
                [(entry.priority, queue) for entry in heapq.nsmallest(limit, store.waiting[queue])]
                for queue in queues
                if store.waiting[queue]
            ]
            return [
                self._hold(queue, heapq.heappop(store.waiting[queue])) for queue in take_turns(lines, limit)
            ]

    def _promote(self, queue: str) -> None:
        """Move what is due to the front, the earliest first in line."""
        delayed, now = self._store.delayed[queue], self._store.clock.now()
        due = []
        while delayed and delayed[0][0] <= now:
            due.append(heapq.heappop(delayed)[2])
        for entry in reversed(due):
            entry.position = self._store.front()
            self._store.push(queue, entry)

    def _hold(self, queue: str, entry: Entry) -> Delivery:
        tag = b"%d" % self._store.back()  # never used twice in a store, so that an old one settles nothing
        self._store.held[self.identity][tag] = Held(queue, entry)
        payload = mark_redelivered(entry.payload) if entry.redelivered else entry.payload
        return Delivery(tag, queue, payload, entry.redelivered)

    def _until_due(self, plan: FetchPlan) -> float:
        with self._store.lock:
            first = [self._store.delayed[queue][0][0] for queue in plan.queues if self._store.delayed[queue]]
        return min([_LONGEST_WAIT, *(max(at - self._store.clock.now(), 0.001) for at in first)])

    async def withdraw(self, queues: Sequence[str]) -> AsyncIterator[Sequence[Delivery]]:
        with self._store.lock:
            self._extend()
            found = [self._hold(queue, entry) for queue in queues for entry in self._take_revoked(queue)]
        yield found

    def _take_revoked(self, queue: str) -> list[Entry]:
        store, now = self._store, self._store.clock.now()

        def is_revoked(entry: Entry) -> bool:
            return store.revoked.get(task_id_of(entry.payload), 0.0) > now

        waiting, delayed = store.waiting[queue], store.delayed[queue]
        found = [entry for entry in waiting if is_revoked(entry)]
        found += [entry for _, _, entry in delayed if is_revoked(entry)]
        if found:
            store.waiting[queue] = [entry for entry in waiting if not is_revoked(entry)]
            store.delayed[queue] = [item for item in delayed if not is_revoked(item[2])]
            heapq.heapify(store.waiting[queue])
            heapq.heapify(store.delayed[queue])
        return found

    async def begin(self, deliveries: Sequence[Delivery]) -> list[Losses]:
        with self._store.lock:
            for delivery in deliveries:
                held = self._store.held[self.identity].get(delivery.tag)
                if held is not None:
                    held.begun = True
        return [losses_of(delivery.payload) for delivery in deliveries]

    async def settle(self, batch: Sequence[Disposition]) -> list[DueChord]:
        with self._store.lock:
            due = [chord for disposition in batch for chord in self._settle_one(disposition)]
            self._store.changed()
        return due

    def _settle_one(self, disposition: Disposition) -> list[DueChord]:
        queue = disposition.queue
        if disposition.ends is not None and not self._store.end_chord(disposition.ends):
            return []
        held = None
        if not disposition.unheld:
            held = self._store.held[self.identity].pop(disposition.tag, None)
            if held is None:
                return []
            queue = held.queue
        routed, lost = spread(disposition.publish, self._store.bindings.to)
        _publish(self._store, routed)
        for publication in lost:
            reason = no_queue_bound(publication.destination)
            if tell_lost(reason, queue):
                self._bury(queue, publication.payload, reason, Cause("unroutable"))
        if held is not None:
            self._end(held, disposition)
        elif disposition.action == "dead_letter":
            self._bury(queue, disposition.payload or b"", disposition.reason, disposition.cause)
        options = self._options
        return self._store.put_results(
            records_of(disposition), options.result_lifetime, options.chord_lifetime()
        )

    def _end(self, held: Held, disposition: Disposition) -> None:
        store, entry = self._store, held.entry
        payload = entry.payload if disposition.payload is None else disposition.payload
        match disposition.action:
            case "requeue":
                position = store.front() if disposition.front else store.back()
                store.push(held.queue, Entry(entry.priority, position, payload, redelivered=True))
            case "retry_later":
                later = Entry(entry.priority, 0, payload, entry.redelivered)
                heapq.heappush(store.delayed[held.queue], (disposition.due, store.back(), later))
            case "dead_letter":
                self._bury(held.queue, payload, disposition.reason, disposition.cause)

    def _bury(self, queue: str, payload: bytes, reason: str, cause: Cause | None) -> None:
        bury(self._store, queue, payload, reason, cause, self._options)

    def now(self) -> float:
        return self._store.clock.now()

    async def renew(self) -> None:
        with self._store.lock:
            self._extend()

    def _extend(self) -> None:
        self._store.leases[self.identity] = self._store.clock.now() + self._lease

    async def reclaim(self) -> int:
        store = self._store
        with store.lock:
            now = store.clock.now()
            lapsed = [name for name in store.held if store.leases.get(name, 0.0) <= now]
            for name in lapsed:
                self._count_losses(name, now)
            return sum(self._give_back(name, lambda _tag: True) for name in lapsed)

    def _count_losses(self, identity: str, now: float) -> None:
        for held in self._store.held[identity].values():
            if held.begun or not losses_of(held.entry.payload).count:
                held.entry.payload = add_losses(held.entry.payload, [Loss(identity, now)])

    async def reconcile(self, held: Collection[bytes]) -> int:
        known = frozenset(held)
        with self._store.lock:
            return self._give_back(self.identity, lambda tag: tag not in known)

    async def close(self) -> None:
        with self._store.lock:
            self._give_back(self.identity, lambda _tag: True)
            self._store.leases.pop(self.identity, None)

    def _give_back(self, identity: str, chosen: Callable[[bytes], bool]) -> int:
        """Put what a consumer holds back to the front of its queues, as it lay; says how many messages."""
        store = self._store
        held = store.held[identity]
        returned = [tag for tag in held if chosen(tag)]
        for item in sorted((held.pop(tag) for tag in returned), key=lambda item: item.entry, reverse=True):
            place = store.front()
            store.push(item.queue, Entry(item.entry.priority, place, item.entry.payload, redelivered=True))
        if not held:
            del store.held[identity]
        if returned:
            store.changed()
        return len(returned)


class MemorySubscription:
    """Listens to the broadcasts of one store."""

    def __init__(self, store: MemoryStore, addresses: Sequence[tuple[str, str]]) -> None:
        self._store = store
        self._addresses = addresses
        self._arrivals = Arrivals()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrivals.clear()
        with self._store.lock:
            for address in self._addresses:
                self._store.listeners[address].add(self._hear)

    def _hear(self, payload: bytes) -> None:
        """Called by whoever sends, in any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._arrivals.put, payload)

    async def get(self) -> bytes:
        return await self._arrivals.get()

    async def close(self) -> None:
        with self._store.lock:
            for address in self._addresses:
                listeners = self._store.listeners[address]
                listeners.discard(self._hear)
                if not listeners:
                    del self._store.listeners[address]
        self._arrivals.end("the subscription is closed")


async def _wait(changed: asyncio.Event, timeout: float) -> None:
    """Until the store changes or ``timeout`` seconds pass."""
    try:
        async with asyncio.timeout(timeout):
            await changed.wait()
    except TimeoutError:
        return
    changed.clear()
