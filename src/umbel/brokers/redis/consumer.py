"""A worker's end of the queues: takes, settles, renews, and takes over what dead workers held.

Everything goes over one connection. Waiting costs nothing: together with a fetch that may empty the queues, the
connection asks Redis to be told when one of the plan's keys changes (client tracking, armed by EXISTS). Asked after the
fetch, EXISTS says that nothing is left, or that there is reason to look again; then it is asked before the fetch, so
that whatever comes between is found. A look every few seconds catches what a lost notice would hide.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Any, Final

from umbel.brokers.base import Delivery
from umbel.brokers.redis.dangers import Mark, freed, warn_of_dangers
from umbel.brokers.redis.plan import PlanKeys
from umbel.brokers.redis.publisher import Composer, check_all, declaration, fetch_tables
from umbel.brokers.redis.returning import Returns
from umbel.brokers.redis.routing import Routes
from umbel.brokers.redis.settling import Piece, Steps, name_unheld
from umbel.brokers.redis.withdrawing import Withdrawals
from umbel.core.causes import losses_of
from umbel.core.clock import BrokerClock
from umbel.core.ids import new_id
from umbel.errors import BrokerConnectionError, BrokerError
from umbel.stores.redis.commands import pack_command, words_of
from umbel.stores.redis.link import Link, open_link
from umbel.stores.redis.replies import FullError, ReplyError, check, is_unknown_script
from umbel.stores.redis.scripts import load_script, pack_script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Sequence

    from umbel.brokers.base import Disposition, FetchPlan
    from umbel.brokers.options import BrokerOptions
    from umbel.brokers.redis.layout import Layout
    from umbel.core.bindings import Bindings
    from umbel.core.causes import Losses
    from umbel.core.records import DueChord
    from umbel.stores.redis.address import Address

logger = logging.getLogger("umbel.redis")

_PACKAGE: Final = "umbel.brokers.redis"
_FETCH: Final = load_script((_PACKAGE, "fetch.lua"))
_RENEW: Final = load_script((_PACKAGE, "renew.lua"))
_INSIST: Final = load_script((_PACKAGE, "insist.lua"))

#: Messages taken by one script at the most: other clients wait while it runs.
_MOST = 1000
#: Seconds between two looks at queues that nothing was heard of.
_LOOK_AGAIN = 15.0
#: Seconds between looks where Redis refuses to tell of changes: from, to.
_POLL = (0.005, 0.1)
#: What the hash of held messages says of itself.
_ABOUT = "umbel: messages that this worker holds, by delivery tag; see fetch.lua for the values"
_REDELIVERED = re.compile(rb'"redelivered"\s*:\s*true')


class RedisConsumer:
    """As brokers.base.Consumer. Lives in one event loop; one fetch at a time."""

    def __init__(
        self,
        identity: str,
        lease: float,
        address: Address,
        layout: Layout,
        options: BrokerOptions,
        bindings: Bindings,
        clock: BrokerClock | None = None,
    ) -> None:
        self.identity = identity
        self._lease = lease
        self._address = address
        self._layout = layout
        self._link: Link | None = None
        self._plan: PlanKeys | None = None
        self._composer = Composer(layout, Routes(layout), bindings)
        self._steps = Steps(layout, options)
        self._returns = Returns(identity, layout)
        self._withdrawals = Withdrawals(identity, lease, layout, self._connected, lambda: self._steps.taken)
        self._mark = Mark()
        self._clock = clock or BrokerClock()
        self._warned = False
        #: Of those that are held, the ones that Redis has forgotten with everything else.
        self._orphans: set[bytes] = set()
        #: What is held, oldest first: tag to queue and priority step.
        self._held: dict[bytes, tuple[str, int]] = {}
        #: Tags of redelivered messages on which work has begun.
        self._begun: set[bytes] = set()
        #: Whether names of what was settled are kept, and whether the answer to the last call is still to come.
        self._named = self._in_doubt = False
        self._unique = ""
        self._turn = 0
        self._tracking = False
        self._late: list[Delivery] = []
        self._fetching: asyncio.Future[list[Any]] | None = None
        self._fetch_at = 0
        self._quiet = True
        self._unsure = False
        self._changed = True
        self._look_at = 0.0
        self._pause = _POLL[0]
        self._sleeper: asyncio.Future[None] | None = None
        self._refreshed_at = 0.0

    async def open(self) -> None:
        """Connect and take out the lease. After a lost connection, call it again: it builds everything anew.

        Raises BrokerConnectionError when that fails.
        """
        self._forget_connection("the connection is made anew")
        link = await open_link(self._address, self._on_push)
        try:
            await self._set_up(link)
        except BaseException:
            link.close()
            raise
        self._link = link

    async def _set_up(self, link: Link) -> None:
        self._tracking = await _track(link)
        # Tags made by this connection's scripts differ from those of every other.
        self._unique = f"umbel-{self.identity}-{new_id()}-"
        self._plan = None
        self._quiet = self._changed = True
        await link.call("SCRIPT", "LOAD", _FETCH.text)
        await self._declare(link, self._composer.all_bindings())
        await self._renew(link)
        self._returns.expect_sweep()
        if not self._warned:
            await warn_of_dangers(link)
            self._warned = True

    async def fetch(self, plan: FetchPlan, limit: int, timeout: float) -> list[Delivery]:
        """As Consumer.fetch. What arrives for a cancelled fetch is given by the next one."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        await self._await_late()
        if self._late:
            late, self._late = self._late[:limit], self._late[limit:]
            return late
        keys = await self._use(plan)
        if timeout <= 0:
            self._changed = True  # a notice may be on its way; who does not wait would miss it
        while True:
            if self._should_look(loop.time()):
                deliveries = await self._look(keys, min(limit, _MOST))
                if deliveries:
                    return deliveries
            now = loop.time()
            if now >= deadline:
                return []
            if not self._changed:
                await self._sleep(min(deadline, self._look_at) - now)

    def _should_look(self, now: float) -> bool:
        """Whether there may be something: not while the queues were found empty and nobody told of a change."""
        return self._changed or now >= self._look_at

    async def _look(self, keys: PlanKeys, limit: int) -> list[Delivery]:
        """Take what is there; when nothing is left, Redis tells of the next change (``_changed``)."""
        # While messages keep coming there is no need to hear of them.
        arm = self._quiet and self._tracking
        before, self._unsure = arm and self._unsure, False
        self._changed = False
        deliveries, due_in, emptied = await self._take(keys, limit, arm=arm, before=before)
        self._quiet = len(deliveries) < limit
        if deliveries:
            self._pause = _POLL[0]
        if arm and not before:
            self._unsure = not emptied
        if not emptied and (deliveries or self._unsure or (self._tracking and not arm)):
            self._changed = True
            return deliveries
        pause = _LOOK_AGAIN
        if not self._tracking:
            pause, self._pause = self._pause, min(self._pause * 2, _POLL[1])
        self._look_at = asyncio.get_running_loop().time() + min(pause, due_in)
        return deliveries

    async def _take(
        self, keys: PlanKeys, limit: int, *, arm: bool, before: bool
    ) -> tuple[list[Delivery], float, bool]:
        """Run the fetch, and ask to be told of changes, after or before it.

        Gives the deliveries, the seconds until a delayed message is due, and whether it is known that nothing is left.
        """
        link = self._connected()
        self._turn += 1
        arguments = (
            limit,
            self._steps.taken,
            f"{self._unique}{self._turn}-",
            self._turn % keys.count,
            *keys.arguments,
        )
        packed = pack_script(_FETCH, keys.keys, arguments)
        if arm:
            packed = keys.arming + packed if before else packed + keys.arming
        self._fetch_at = -1 if before else 0
        self._fetching = link.send(packed, 3 if arm else 1)
        # Shielded: the reply of a cancelled fetch has messages in it, which the next fetch gives.
        replies = await asyncio.shield(self._fetching)
        self._fetching = None
        reply = replies[self._fetch_at]
        if is_unknown_script(reply):
            await link.call("SCRIPT", "LOAD", _FETCH.text)
            return [], 0.0, False
        deliveries, due_in = self._read(check(reply), keys)
        return deliveries, due_in, arm and not before and replies[-1] == 0

    def _read(self, reply: list[Any], keys: PlanKeys) -> tuple[list[Delivery], float]:
        due_in = float(reply[0]) if reply[0] else _LOOK_AGAIN
        if len(reply) == 1:
            return [], due_in
        deliveries = []
        held, lists = self._held, keys.lists
        for tag, number, payload in zip(reply[1::3], reply[2::3], reply[3::3], strict=True):
            place = lists[abs(number) - 1]
            held[tag] = place
            again = number < 0 or (b'"redelivered"' in payload and _REDELIVERED.search(payload) is not None)
            deliveries.append(Delivery(tag, place[0], payload, again))
        self._steps.taken += len(deliveries)
        return deliveries, due_in

    async def _await_late(self) -> None:
        """Keep what arrives for a fetch that was cancelled while its reply was on the way."""
        fetching = self._fetching
        if fetching is None:
            return
        reply = (await asyncio.shield(fetching))[self._fetch_at]
        if self._fetching is fetching:
            self._fetching = None
            self._changed = True
            if not isinstance(reply, ReplyError) and self._plan is not None:
                self._late += self._read(reply, self._plan)[0]

    async def _use(self, plan: FetchPlan) -> PlanKeys:
        """The keys of a plan; a new plan's queues are declared, as kombu's consumers do."""
        keys = self._plan
        if keys is None or (keys.plan is not plan and keys.plan != plan):
            link = self._connected()
            keys = self._plan = PlanKeys(plan, self._layout, self.identity, self._lease)
            self._quiet = self._changed = True
            commands = [command for queue in plan.queues for command in declaration(self._layout, queue)]
            await self._declare(link, commands)
        return keys

    async def _sleep(self, seconds: float) -> None:
        """Wait for a change, the loss of the connection, or some seconds."""
        if self._connected().lost is not None:
            return
        loop = asyncio.get_running_loop()
        self._sleeper = loop.create_future()
        timer = loop.call_later(max(seconds, 0), self._wake)
        try:
            await self._sleeper
        finally:
            timer.cancel()
            self._sleeper = None

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def _on_push(self, push: list[Any]) -> None:
        """Redis says that keys of the plan have changed, or (an empty push) the connection is lost."""
        if not push or push[0] == b"invalidate":
            self._changed = True
            self._wake()

    def _connected(self) -> Link:
        link = self._link
        if link is None:
            raise BrokerConnectionError(f"consumer {self.identity} is not connected: call open() first")
        if link.lost is not None:
            raise BrokerConnectionError(str(link.lost))
        return link

    async def withdraw(self, queues: Sequence[str]) -> AsyncIterator[Sequence[Delivery]]:
        """As Consumer.withdraw."""
        async for found in self._withdrawals.search(queues):
            for each in found:
                self._held[each.tag] = (each.queue, each.step)
            self._steps.taken += len(found)
            yield [Delivery(each.tag, each.queue, each.payload) for each in found]

    async def begin(self, deliveries: Sequence[Delivery]) -> list[Losses]:
        """As Consumer.begin."""
        if deliveries:
            tags = [delivery.tag for delivery in deliveries]
            await self._connected().call("SADD", self._returns.begun_key, *tags)
            self._begun.update(tags)
        return [losses_of(delivery.payload) for delivery in deliveries]

    async def _forget_begun(self, tags: Iterable[bytes]) -> None:
        """What has begun has ended, or goes to others; mostly there is nothing of the kind."""
        if self._begun and (ended := self._begun.intersection(tags)):
            await self._connected().call("SREM", self._returns.begun_key, *ended)
            self._begun -= ended

    async def settle(self, batch: Sequence[Disposition]) -> list[DueChord]:
        """As Consumer.settle. Raises BrokerError for dispositions that Redis refuses, after settling the others."""
        due: list[DueChord] = []
        if not batch:
            return due
        link = self._connected()
        name_unheld(batch)
        batch = await self._with_payloads(link, self._freed(batch))
        publications = [publication for disposition in batch for publication in disposition.publish]
        tables = await fetch_tables(link, self._composer, publications) if publications else {}
        for disposition in batch:
            if (kept := disposition.keeps) is not None:
                self._held[kept.tag] = self._steps.place_of(kept)
        refused: list[str] = []
        for piece in self._steps.pieces(batch, self._held, tables):
            failures, chords = await self._run(link, piece)
            if chords:
                due += self._steps.read_due(chords)
            refused += piece.see(failures)
        if refused:
            raise BrokerError(
                f"Redis refused to settle {len(refused)} of {len(batch)} deliveries: {refused[0]}"
            )
        self._let_go(batch)
        await self._forget_begun(disposition.tag for disposition in batch)
        return due

    async def _run(self, link: Link, piece: Piece) -> tuple[list[Any], list[Any]]:
        """Settle a piece of a batch; what is settled by name is remembered there until its answer is here."""
        arguments = piece.arguments
        if self._named and not self._in_doubt:
            arguments, self._named = [b"z", *arguments], False
        self._named = self._named or piece.has_names
        self._in_doubt = True
        failures, chords = await link.run(piece.script, self._returns.settling_keys, arguments)
        self._in_doubt = False
        return failures, chords

    def _let_go(self, batch: Sequence[Disposition]) -> None:
        """What is settled is held no more."""
        for disposition in batch:
            if not disposition.unheld or disposition.tag in self._orphans:
                self._held.pop(disposition.tag, None)
                self._orphans.discard(disposition.tag)

    def _freed(self, batch: Sequence[Disposition]) -> Sequence[Disposition]:
        """The batch, in which what Redis has forgotten belongs to no delivery: its results are stored all the same."""
        if not self._orphans:
            return batch
        return [
            freed(d, self._held[d.tag][0]) if d.tag in self._orphans and not d.unheld else d for d in batch
        ]

    async def _with_payloads(self, link: Link, batch: Sequence[Disposition]) -> Sequence[Disposition]:
        """Requeued messages that bring no payload are marked redelivered, as kombu does, so they are read first."""
        tags = [d.tag for d in batch if d.action == "requeue" and d.payload is None and not d.unheld]
        return await self._returns.fill_in(link, batch, tags) if tags else batch

    def now(self) -> float:
        """The server's time, as it was at the last renewal and has gone on since."""
        return self._clock.now()

    async def renew(self) -> None:
        """Extend the lease; every quarter of the visibility timeout, tell Celery's workers too."""
        await self._renew(self._connected())

    async def _renew(self, link: Link) -> None:
        now = asyncio.get_running_loop().time()
        due = now - self._refreshed_at >= self._layout.visibility_timeout / 4
        layout = self._layout
        keys = (*self._returns.lease_keys, layout.key(layout.unacked_index_key), layout.key("umbel:mark"))
        arguments = (self.identity, self._lease, int(due), _ABOUT, new_id())
        lapsed, mark, server_now = await link.run(_RENEW, keys, arguments)
        self._clock.tell(float(server_now))
        if self._mark.see(mark, len(self._held)):
            await self._begin_again(link)
        if due:
            self._refreshed_at = now
        if lapsed:
            logger.debug("%d consumers let their leases lapse", lapsed)

    async def _declare(self, link: Link, commands: Sequence[bytes]) -> None:
        """Put bindings in place; a worker has to start though Redis is out of memory, so that memory comes free."""
        if not commands:
            return
        try:
            check_all(await link.send(b"".join(commands), len(commands)))
        except FullError:
            await link.run(_INSIST, (self._layout.key("umbel:held_raw"),), words_of(commands))

    async def _begin_again(self, link: Link) -> None:
        """The database was emptied: what is held stands nowhere any more, nor do the bindings."""
        self._orphans.update(self._held)
        self._plan = None
        self._changed = True
        await self._declare(link, self._composer.all_bindings())

    async def reclaim(self) -> int:
        """As Consumer.reclaim. Every ten seconds one of the workers also looks after Celery's dead workers."""
        return await self._returns.reclaim(self._connected(), self._composer)

    async def reconcile(self, held: Collection[bytes]) -> int:
        """As Consumer.reconcile. Messages that arrived for a cancelled fetch and were not asked for go back too."""
        await self._await_late()
        self._late.clear()
        known = set(held)
        link = self._connected()
        unknown = [tag for tag in await self._returns.held_tags(link) if tag not in known]
        count = await self._returns.give_back(link, unknown)
        for tag in unknown:
            self._held.pop(tag, None)
        await self._forget_begun(unknown)
        self._changed = True
        return count

    async def close(self) -> None:
        """As Consumer.close. Raises BrokerConnectionError when the connection is lost meanwhile."""
        link, self._link = self._link, None
        if link is None:
            return
        try:
            if link.lost is None:
                await self._returns.leave(link)
        finally:
            link.close()
            self._forget_connection("the consumer is closed")

    def _forget_connection(self, reason: str) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close(reason)
        self._fetching = None
        self._late.clear()


async def _track(link: Link) -> bool:
    """Ask Redis to tell of changes to keys that are read after CLIENT CACHING YES."""
    reply = (await link.send(pack_command((b"CLIENT", b"TRACKING", b"ON", b"OPTIN"))))[0]
    if isinstance(reply, ReplyError):
        logger.warning(
            "Redis refuses client tracking (%s): looking for messages every %d to %d ms instead of being told of them",
            reply,
            _POLL[0] * 1000,
            _POLL[1] * 1000,
        )
        return False
    return True
