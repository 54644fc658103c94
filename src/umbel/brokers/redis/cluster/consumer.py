"""A worker's end of the queues of a cluster.

For each queue it has a *part*: an ordinary consumer whose only queue this is, on a connection to the node that has the
queue's slot. The part of the *home* holds no messages; it tells the time and keeps the bindings. What of a settlement
concerns the delivery's own queue is one step there. What goes to other queues is published before that: a crash in
between repeats work, under the ids that derive from the delivery's, and loses nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

from msgspec.structs import replace

from umbel.brokers.base import FetchPlan
from umbel.brokers.redis.cluster.publisher import fetch_tables
from umbel.brokers.redis.consumer import RedisConsumer
from umbel.brokers.redis.publisher import check_all, declaration
from umbel.brokers.redis.routing import queue_of
from umbel.brokers.redis.settling import name_unheld
from umbel.core.bindings import Bindings
from umbel.core.causes import losses_of
from umbel.core.destination import BROADCAST_TYPES
from umbel.errors import BrokerConnectionError
from umbel.stores.redis.commands import pack_command
from umbel.stores.redis.errands import ClusterLinks
from umbel.stores.redis.scripts import load_script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence

    from umbel.brokers.base import Delivery, Disposition
    from umbel.brokers.options import BrokerOptions
    from umbel.brokers.redis.cluster.layout import ClusterLayout
    from umbel.brokers.redis.cluster.publisher import ClusterComposer
    from umbel.brokers.redis.routing import Tables
    from umbel.core.causes import Losses
    from umbel.core.clock import BrokerClock
    from umbel.core.records import Publication
    from umbel.stores.redis.cluster import Cluster
    from umbel.stores.redis.link import Link

T = TypeVar("T")

_FORGET: Final = load_script(("umbel.brokers.redis.cluster", "forget.lua"))
#: Messages taken by one script at the most, as of one server.
_MOST: Final = 1000
#: Seconds between two looks at a queue that nothing was heard of.
_LOOK_AGAIN: Final = 5.0
#: Seconds that nodes have to take what is published by a settlement.
_PATIENCE: Final = 15.0


class Home(RedisConsumer):
    """The part that has no queue. It knows of every consumer which queues it may hold messages of."""

    async def declare(self, commands: Sequence[bytes]) -> None:
        """Put bindings in place."""
        await self._declare(self._connected(), commands)

    async def note(self, queue: str) -> None:
        """This consumer may hold messages of a queue from now on."""
        commands = [pack_command((b"SADD", self._queues_key(self.identity), queue))]
        await self._declare(self._connected(), commands)

    async def lapsed(self) -> dict[str, list[str]]:
        """The consumers whose leases have lapsed, each with the queues that it may hold messages of."""
        link = self._connected()
        now = self.now()
        found = await link.call(b"ZRANGEBYSCORE", self._returns.lease_keys[0], b"-inf", repr(now))
        queues: dict[str, list[str]] = {}
        for each in found:
            identity = each.decode("utf-8", "replace")
            members = await link.call(b"SMEMBERS", self._queues_key(identity))
            queues[identity] = sorted(member.decode("utf-8", "replace") for member in members)
        return queues

    async def forget(self, identity: str) -> None:
        """A consumer's messages have all been returned."""
        keys = (self._returns.lease_keys[0], self._queues_key(identity), self._layout.held_key(identity))
        await self._connected().run(_FORGET, keys, (identity,))

    def _queues_key(self, identity: str) -> bytes:
        return self._layout.key(f"umbel:queues:{identity}")

    async def close(self) -> None:
        """As Consumer.close."""
        if self._link is not None and self._link.lost is None:
            await self._link.call(b"DEL", self._queues_key(self.identity))
        await super().close()


class Part(RedisConsumer):
    """The consumer of one queue. ``on_change``: it may be worth looking."""

    def __init__(
        self,
        queue: str,
        identity: str,
        lease: float,
        cluster: Cluster,
        layout: ClusterLayout,
        options: BrokerOptions,
        on_change: Callable[[], None],
    ) -> None:
        address = cluster.at(layout.slot(queue))
        super().__init__(identity, lease, address, layout.of_queue(queue), options, Bindings())
        self.queue = queue
        self._queue_alone = FetchPlan((queue,))
        self._on_change = on_change
        self._warned = True  # the home's node was looked at

    async def look(self, limit: int) -> list[Delivery]:
        """What is there, at most ``limit``; asks only where there is reason to."""
        await self._await_late()
        if self._late:
            late, self._late = self._late[:limit], self._late[limit:]
            return late
        keys = await self._use(self._queue_alone)
        if not self.is_restless():
            return []
        deliveries = await self._look(keys, min(limit, _MOST))
        # A node that loses a slot says so to those who ask, not to those who wait.
        self._look_at = min(self._look_at, asyncio.get_running_loop().time() + _LOOK_AGAIN)
        return deliveries

    def is_restless(self) -> bool:
        """Whether there is reason to look."""
        return bool(self._late) or self._should_look(asyncio.get_running_loop().time())

    def expect_change(self) -> None:
        """Look, whatever was heard."""
        self._changed = True

    @property
    def look_at(self) -> float:
        """When to look again without any reason, by the loop's time."""
        return self._look_at

    def _wake(self) -> None:
        self._on_change()

    async def _declare(self, link: Link, commands: Sequence[bytes]) -> None:
        """Bindings are kept at home."""

    async def still_held(self, tags: Sequence[bytes]) -> set[bytes]:
        """Those of some tags that this consumer holds, or that nobody can hold since the database was emptied."""
        found = await self._connected().call(b"HMGET", self._returns.held_key, *tags)
        held = {tag for tag, value in zip(tags, found, strict=True) if value is not None}
        return held | self._orphans.intersection(tags)


class RedisClusterConsumer:
    """As brokers.base.Consumer. Lives in one event loop; one fetch at a time."""

    def __init__(
        self,
        identity: str,
        lease: float,
        cluster: Cluster,
        layout: ClusterLayout,
        options: BrokerOptions,
        bindings: Bindings,
        composer: ClusterComposer,
        clock: BrokerClock,
    ) -> None:
        self.identity = identity
        self._lease = lease
        self._cluster = cluster
        self._layout = layout
        self._options = options
        self._composer = composer
        self._home = Home(identity, lease, cluster.at(layout.home), layout, options, bindings, clock)
        self._parts: dict[str, Part] = {}
        self._declared: set[str] = set()
        self._links = ClusterLinks(cluster)
        #: Where each delivery is, by its tag: a message that went to two queues has one tag in both.
        self._places: dict[bytes, tuple[Part, bytes]] = {}
        self._arrived: list[Delivery] = []
        self._changed = asyncio.Event()
        self._turn = 0
        #: The queues of the last plan.
        self._wanted: set[str] = set()

    def now(self) -> float:
        """As Consumer.now."""
        return self._home.now()

    async def open(self) -> None:
        """As Consumer.open."""
        self._arrived.clear()
        self._declared.clear()
        self._links.close()
        await self._home.open()
        await _all(part.open() for part in self._parts.values())

    async def fetch(self, plan: FetchPlan, limit: int, timeout: float) -> list[Delivery]:
        """As Consumer.fetch."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        parts = await self._use(plan)
        if timeout <= 0:
            for part in parts:
                part.expect_change()  # a notice may be on its way; who does not wait would miss it
        while True:
            self._changed.clear()
            if not self._arrived:
                await self._look(parts, limit)
            if self._arrived:
                given, self._arrived = self._arrived[:limit], self._arrived[limit:]
                return given
            now = loop.time()
            if now >= deadline:
                return []
            if not any(part.is_restless() for part in parts):
                await self._sleep(min([deadline, *(part.look_at for part in parts)]) - now)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _use(self, plan: FetchPlan) -> list[Part]:
        """The parts of a plan, in the order in which they have their turns."""
        queues = sorted(plan.queues) if self._layout.queue_order_strategy == "sorted" else list(plan.queues)
        self._wanted = set(queues)
        parts = [await self._part(queue) for queue in queues]
        new = [queue for queue in queues if queue not in self._declared]
        if new:
            await self._home.declare([each for queue in new for each in declaration(self._layout, queue)])
            self._declared.update(new)
        if self._layout.queue_order_strategy == "round_robin" and parts:
            self._turn = (self._turn + 1) % len(parts)
            return parts[self._turn :] + parts[: self._turn]
        return parts

    async def _part(self, queue: str) -> Part:
        part = self._parts.get(queue)
        if part is None:
            part = Part(
                queue,
                self.identity,
                self._lease,
                self._cluster,
                self._layout,
                self._options,
                self._changed.set,
            )
            await self._home.note(queue)
            await part.open()
            self._parts[queue] = part
        return part

    async def _look(self, parts: Sequence[Part], limit: int) -> None:
        """Take what is there; queues share what is wanted, and what one does not use is the others'."""
        waiting = [part for part in parts if part.is_restless()]
        if self._layout.queue_order_strategy != "round_robin":
            for part in waiting:
                if (left := limit - len(self._arrived)) > 0:
                    await self._take(part, left)
            return
        while waiting and (left := limit - len(self._arrived)) > 0:
            shares = [left // len(waiting) + (place < left % len(waiting)) for place in range(len(waiting))]
            counts = await asyncio.gather(*map(self._take, waiting, shares))
            waiting = [
                part for part, share, count in zip(waiting, shares, counts, strict=True) if count == share
            ]

    async def _take(self, part: Part, limit: int) -> int:
        """Take from one queue; what has arrived stays, should this be cancelled meanwhile."""
        if limit <= 0:
            return 0
        deliveries = await part.look(limit)
        for delivery in deliveries:
            inner = delivery.tag
            if inner in self._places and self._places[inner][0] is not part:
                delivery.tag = inner + b"@" + part.queue.encode()
            self._places[delivery.tag] = (part, inner)
        self._arrived += deliveries
        return len(deliveries)

    async def withdraw(self, queues: Sequence[str]) -> AsyncIterator[Sequence[Delivery]]:
        """Nothing: the ids are in another slot than the messages, and no script sees both."""
        for _ in ():
            yield []

    async def begin(self, deliveries: Sequence[Delivery]) -> list[Losses]:
        """As Consumer.begin."""
        shares: dict[Part, list[Delivery]] = {}
        for delivery in deliveries:
            part, inner = self._places.get(delivery.tag, (None, b""))
            if part is not None:
                shares.setdefault(part, []).append(replace(delivery, tag=inner))
        await _all(part.begin(share) for part, share in shares.items())
        return [losses_of(delivery.payload) for delivery in deliveries]

    async def settle(self, batch: Sequence[Disposition]) -> None:
        """As Consumer.settle. No result backend shares this broker's store, so there are no chords to tell of."""
        for disposition in batch:
            if (kept := disposition.keeps) is not None:
                self._places[kept.tag] = (await self._part(kept.queue), kept.tag)
        name_unheld(batch)
        publications = [each for disposition in batch for each in disposition.publish]
        tables: Tables = {}
        loose: list[Publication] = []
        if publications:
            tables = await fetch_tables(self._links, self._composer, publications, _PATIENCE)
            batch, loose = await self._publish_elsewhere(batch, tables)
        shares: dict[Part, list[Disposition]] = {}
        for disposition in batch:
            part, inner = await self._settler(disposition)
            if part is None:
                continue
            shares.setdefault(part, []).append(replace(disposition, tag=inner))
        await _all(part.settle(share) for part, share in shares.items())
        await self._publish(loose, tables)
        for disposition in batch:
            if not disposition.unheld:
                self._places.pop(disposition.tag, None)

    async def _settler(self, disposition: Disposition) -> tuple[Part | None, bytes]:
        """The part that settles this, and the tag it has there; none where nothing is left to do."""
        if not disposition.unheld:
            return self._places.get(disposition.tag, (None, b""))
        queue = disposition.queue if disposition.keeps is None else disposition.keeps.queue
        anything = disposition.publish or disposition.keeps or disposition.action == "dead_letter"
        return (await self._part(queue) if queue and anything else None), b""

    async def _publish_elsewhere(
        self, batch: Sequence[Disposition], tables: Tables
    ) -> tuple[Sequence[Disposition], list[Publication]]:
        """Publish what does not go to the delivery's own queue.

        Gives the batch without that, and without what is not held any more; and what belongs to no delivery, which is
        left for later.
        """
        divided = [(each, *self._divide(each, tables)) for each in batch]
        held = await self._held_among([each for each, _, away in divided if away or each.keeps])
        rest: list[Disposition] = []
        sending: list[Publication] = []
        loose: list[Publication] = []
        for disposition, own, away in divided:
            if away and not disposition.unheld and disposition.tag not in held:
                continue  # somebody else settles it
            (loose if disposition.unheld and not disposition.queue else sending).extend(away)
            rest.append(replace(disposition, publish=own) if away else disposition)
        await self._publish(sending, tables)
        return rest, loose

    async def _publish(self, publications: Sequence[Publication], tables: Tables) -> None:
        steps = self._composer.steps(publications, tables)
        try:
            answers = await self._links.run(steps, _PATIENCE) if steps else []
        except TimeoutError as error:
            why = f"Redis did not take {len(publications)} message(s): {error}"
            raise BrokerConnectionError(why) from error
        for replies in answers:
            check_all(replies)

    def _divide(
        self, disposition: Disposition, tables: Tables
    ) -> tuple[list[Publication], list[Publication]]:
        """What goes to the delivery's own queue, or nowhere; and what goes elsewhere."""
        own: list[Publication] = []
        away: list[Publication] = []
        queue = self._queue_of(disposition)
        for publication in disposition.publish:
            to = publication.destination
            if to.exchange_type in BROADCAST_TYPES:
                (own if queue else away).append(publication)
            elif (named := queue_of(to)) is not None:
                (own if named == queue else away).append(publication)
            else:
                # Those of no queue are left to the own queue's dead letters.
                queues = self._composer.queues_of(to, tables)
                away += [replace(publication, destination=replace(to, queue=each)) for each in queues]
                own += [] if queues else [publication]
        return own, away

    def _queue_of(self, disposition: Disposition) -> str:
        if disposition.unheld:
            return disposition.queue
        part, _ = self._places.get(disposition.tag, (None, b""))
        return "" if part is None else part.queue

    async def _held_among(self, dispositions: Sequence[Disposition]) -> set[bytes]:
        """The tags of those that are held, so that nothing is published for what somebody else has settled.

        What one of them has kept with this consumer is held where that one is.
        """
        found: set[bytes] = set()
        asked: dict[Part, dict[bytes, bytes]] = {}
        for disposition in dispositions:
            part, inner = self._places.get(disposition.tag, (None, b""))
            if part is not None and not disposition.unheld:
                asked.setdefault(part, {})[inner] = disposition.tag
        for part, tags in asked.items():
            found |= {tags[inner] for inner in await part.still_held(list(tags))}
        for disposition in dispositions:
            if disposition.keeps is not None and (disposition.unheld or disposition.tag in found):
                found.add(disposition.keeps.tag)
        return found

    async def renew(self) -> None:
        """As Consumer.renew."""
        await _all([self._home.renew(), *(part.renew() for part in self._parts.values())])

    async def reclaim(self) -> int:
        """As Consumer.reclaim: of the queues that this consumer takes from, and those of whoever is gone."""
        gone = await self._home.lapsed()
        known = set(self._parts)
        for queue in {queue for queues in gone.values() for queue in queues} - known:
            await self._part(queue)
        count = sum(await _all(part.reclaim() for part in self._parts.values()))
        for identity in gone:
            await self._home.forget(identity)
        await _all(self._parts.pop(queue).close() for queue in set(self._parts) - known - self._wanted)
        return count

    async def reconcile(self, held: Collection[bytes]) -> int:
        """As Consumer.reconcile."""
        self._arrived.clear()
        known: Mapping[Part, set[bytes]] = {part: set() for part in self._parts.values()}
        for tag in set(self._places).difference(held):
            del self._places[tag]
        for part, inner in self._places.values():
            known[part].add(inner)
        returned = await _all(part.reconcile(tags) for part, tags in known.items())
        self._changed.set()
        return sum(returned)

    async def close(self) -> None:
        """As Consumer.close."""
        parts, self._parts = self._parts, {}
        self._places.clear()
        self._links.close()
        await _all([*(part.close() for part in parts.values()), self._home.close()])


async def _all(work: Iterable[Awaitable[T]]) -> list[T]:
    """Do things at once; when one fails the others are waited for all the same."""
    results = await asyncio.gather(*work, return_exceptions=True)
    done: list[T] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        done.append(result)
    return done
