"""Listening to an exchange: a queue of this connection alone, that is gone when the connection is.

Exchanges are declared as Celery declares them, so that its workers, clients and monitors find what they expect: those
of remote control (``celery.pidbox``, ``reply.celery.pidbox``) are transient, all others durable.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from umbel.brokers.amqp.messages import from_wire
from umbel.brokers.arrivals import Arrivals
from umbel.errors import BrokerError
from umbel.stores.amqp.faults import PRECONDITION_FAILED, ChannelClosedError
from umbel.stores.amqp.link import open_link

if TYPE_CHECKING:
    from collections.abc import Sequence

    from umbel.core.destination import Destination
    from umbel.stores.amqp.failover import Failover
    from umbel.stores.amqp.link import Channel, Delivered, Link

__all__ = ["AmqpSubscription"]

logger = logging.getLogger("umbel.amqp")

#: What Celery calls the exchanges of remote control ends so.
_PIDBOX: Final = ".pidbox"
#: AMQP's types of the exchanges that can be listened to. ``broadcast`` compares routing keys with patterns.
_TYPES: Final = {"fanout": "fanout", "direct": "direct", "broadcast": "topic"}


class AmqpSubscription:
    """As brokers.base.Subscription, on a connection of its own.

    Raises BrokerError for an exchange type that cannot be listened to.
    """

    def __init__(self, failover: Failover, to: Destination, also: Sequence[Destination] = ()) -> None:
        if to.exchange_type not in _TYPES:
            known = ", ".join(_TYPES)
            raise BrokerError(f"expected an exchange of type {known} to listen to, not {to.exchange_type!r}")
        self._failover = failover
        self._to = to
        self._also = also
        self._fanouts = {each.exchange: each for each in (to, *also) if each.exchange_type == "fanout"}
        self._arrivals = Arrivals()
        self._link: Link | None = None

    async def open(self) -> None:
        """As Subscription.open."""
        await self.close()
        self._arrivals.clear()
        link = await open_link(self._failover)
        try:
            await self._listen(link)
        except BaseException:
            link.close()
            raise
        self._link = link

    async def _listen(self, link: Link) -> None:
        channel = await _declare(link, await link.channel(), self._to)
        queue, _, _ = await channel.declare_queue(durable=False, exclusive=True, auto_delete=True)
        await channel.bind_queue(queue, self._to.exchange, self._to.routing_key)
        for to in self._also:
            await _bind_too(link, queue, to)
        link.on_lost(lambda error: self._arrivals.end(str(error)))
        await channel.consume(
            queue,
            self._hear,
            tag="listening",
            no_ack=True,
            on_cancel=lambda: self._arrivals.end("RabbitMQ has deleted the queue of a subscription"),
        )

    def _hear(self, delivered: Delivered) -> None:
        # A fanout exchange gives everything to everybody, whatever the key.
        fanout = self._fanouts.get(delivered.exchange)
        if fanout is not None and delivered.routing_key != fanout.routing_key:
            return
        self._arrivals.put(
            from_wire(delivered.properties, delivered.body, delivered.exchange, delivered.routing_key)
        )

    async def get(self) -> bytes:
        """As Subscription.get."""
        return await self._arrivals.get()

    async def close(self) -> None:
        """As Subscription.close."""
        link, self._link = self._link, None
        if link is not None:
            await link.aclose()
        self._arrivals.end("the subscription is closed")


async def _declare(link: Link, channel: Channel, to: Destination) -> Channel:
    """Have an exchange; the channel to go on with."""
    durable = not to.exchange.endswith(_PIDBOX)
    try:
        await channel.declare_exchange(to.exchange, _TYPES[to.exchange_type], durable=durable)
    except ChannelClosedError as error:
        if error.code != PRECONDITION_FAILED:
            raise
        # It is there, and somebody wanted it otherwise than Celery does: it serves as well.
        return await link.channel()
    return channel


async def _bind_too(link: Link, queue: str, to: Destination) -> None:
    """Lead one more exchange to the queue, if this user may; on a channel of its own, which a refusal closes."""
    try:
        channel = await _declare(link, await link.channel(), to)
        await channel.bind_queue(queue, to.exchange, to.routing_key)
    except ChannelClosedError as error:
        logger.warning("Nothing is heard of %s in %s: %s", to.routing_key, to.exchange, error)
