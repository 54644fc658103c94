"""Listening to exchanges as kombu does: fanout is publish/subscribe, direct is a queue in the binding table.

Celery's ``broadcast`` publishes on the channel ``/{db}.celery.pidbox`` and needs no binding there; the answers go to
the queue that the caller has bound to ``reply.celery.pidbox``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from umbel.brokers.arrivals import Arrivals
from umbel.core.destination import BROADCAST_TYPES
from umbel.errors import BrokerConnectionError, BrokerError
from umbel.stores.redis.commands import pack_command
from umbel.stores.redis.link import open_link
from umbel.stores.redis.replies import check

if TYPE_CHECKING:
    from collections.abc import Sequence

    from umbel.brokers.base import Subscription
    from umbel.brokers.redis.layout import Layout
    from umbel.core.destination import Destination
    from umbel.stores.redis.address import Address
    from umbel.stores.redis.link import Link

logger = logging.getLogger("umbel.redis")

#: Seconds of silence after which a subscriber asks whether the server is still there.
_SILENCE: Final = 60.0
#: The longest wait for an answer that the server is asked to make, in seconds.
_LONGEST_POP: Final = 5.0
#: Milliseconds after which kombu may sweep a binding table that nobody has used, as kombu sets it.
_TABLE_LIFETIME: Final = 60 * 60 * 1000
#: Seconds after which the queue of somebody who asked, and has not closed it, is taken for left behind.
_ASKER_LIFETIME: Final = 60 * 60


def make_subscription(
    address: Address, layout: Layout, to: Destination, also: Sequence[Destination] = ()
) -> Subscription:
    """The subscription of an exchange's type. Raises BrokerError for types that cannot be listened to."""
    if to.exchange_type in BROADCAST_TYPES:
        if also and not layout.fanout_patterns:
            # Everything that is sent to an exchange goes over one channel: it would hear the whole fleet's events.
            logger.info("Without fanout_patterns nothing of %s is listened to", also[0].exchange)
            also = ()
        return RedisSubscription(address, [_channels(layout, each) for each in (to, *also)])
    if to.exchange_type == "direct":
        return RedisReplyQueue(address, layout, to.exchange, to.routing_key)
    raise BrokerError(f"expected an exchange of type fanout or direct to listen to, not {to.exchange_type!r}")


def _channels(layout: Layout, to: Destination) -> bytes:
    """The pattern of the channels to listen to."""
    return layout.fanout_channel(to.exchange, to.routing_key.replace("#", "*"))


class RedisSubscription:
    """Listens to the channels that match some patterns, on a connection of its own."""

    def __init__(self, address: Address, patterns: Sequence[bytes]) -> None:
        self._address = address
        self._patterns = patterns
        self._arrivals = Arrivals()
        self._link: Link | None = None

    async def open(self) -> None:
        await self.close()
        self._arrivals.clear()
        link = await open_link(self._address, self._on_push)
        try:
            # The confirmation is a push; the answer to what follows it says that it has been.
            link.post(pack_command((b"PSUBSCRIBE", *self._patterns)))
            await link.call(b"PING")
        except BaseException:
            link.close()
            raise
        self._link = link

    def _on_push(self, push: list[Any]) -> None:
        if not push:
            self._arrivals.end("the connection to Redis is lost")
        elif push[0] == b"pmessage":
            self._arrivals.put(push[3])

    async def get(self) -> bytes:
        while True:
            try:
                async with asyncio.timeout(_SILENCE):
                    return await self._arrivals.get()
            except TimeoutError:
                # A peer that has vanished without a word would otherwise be waited for for ever.
                if self._link is not None:
                    await self._link.call(b"PING")

    async def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
        self._arrivals.end("the subscription is closed")


class RedisReplyQueue:
    """Takes from a queue that exists only for this subscription.

    Problem: who is killed while asking leaves a binding behind, and a queue with the answers that came too late.

    Solution: every such queue is noted with the time when it is nobody's any more, by the server's clock, and whoever
    opens one removes those that are over.
    """

    def __init__(self, address: Address, layout: Layout, exchange: str, routing_key: str) -> None:
        self._address = address
        self._layout = layout
        queue = f"{routing_key}.{exchange}"
        self._exchange = exchange
        self._keys = layout.list_keys(queue)
        self._table = layout.binding_key(exchange)
        self._deadlines = layout.key("_kombu.binding_deadlines")
        self._askers = layout.key(f"umbel:askers:{exchange}")
        self._member = layout.sep.join((routing_key, "", queue)).encode()
        self._link: Link | None = None
        self._pop: asyncio.Future[list[Any]] | None = None

    async def open(self) -> None:
        await self.close()
        link = await open_link(self._address)
        try:
            await self._bind(link)
        except BaseException:
            link.close()
            raise
        self._link = link

    async def _bind(self, link: Link) -> None:
        now = int((await link.call(b"TIME"))[0])
        await self._sweep(link, now)
        deadline = int(time.time() * 1000) + _TABLE_LIFETIME
        note = pack_command((b"ZADD", self._askers, now + _ASKER_LIFETIME, self._member))
        bind = pack_command((b"SADD", self._table, self._member))
        # Should this process be killed, kombu deletes the table when nobody has used it for an hour.
        keep = pack_command((b"ZADD", self._deadlines, b"GT", deadline, self._exchange))
        for reply in await link.send(note + bind + keep, 3):
            check(reply)

    async def _sweep(self, link: Link, now: int) -> None:
        for member in await link.call(b"ZRANGEBYSCORE", self._askers, b"-inf", now):
            queue = member.decode().rpartition(self._layout.sep)[2]
            await self._delete(link, self._layout.list_keys(queue))
            await self._forget(link, member)

    async def _delete(self, link: Link, keys: Sequence[bytes]) -> None:
        """Delete the lists of a queue of this kind."""
        await link.call(b"DEL", *keys)

    async def _forget(self, link: Link, member: bytes) -> None:
        """The note goes last: nothing is left that nobody knows of."""
        await link.call(b"SREM", self._table, member)
        await link.call(b"ZREM", self._askers, member)

    async def get(self) -> bytes:
        while True:
            if self._link is None:
                raise BrokerConnectionError("the subscription is not open")
            if self._pop is None:
                pop = pack_command((b"BRPOP", *self._keys, self._pop_seconds()))
                self._pop = self._link.send(pop)
            # Whoever stops waiting leaves the answer to the next.
            [popped] = await asyncio.shield(self._pop)
            self._pop = None
            if check(popped):
                payload: bytes = popped[1]
                return payload

    def _pop_seconds(self) -> float:
        limit = self._address.socket_timeout
        return _LONGEST_POP if limit is None else min(_LONGEST_POP, limit / 2)

    async def close(self) -> None:
        link, self._link = self._link, None
        if link is None:
            return
        # It may be waiting for an answer, and the server would do nothing else on it meanwhile.
        link.close()
        self._pop = None
        try:
            cleaner = await open_link(self._address)
            await self._delete(cleaner, self._keys)
            await self._unbind(cleaner)
            cleaner.close()
        except BrokerConnectionError as error:
            logger.debug("Left the queue of a subscription behind: %s", error)

    async def _unbind(self, link: Link) -> None:
        await self._forget(link, self._member)
