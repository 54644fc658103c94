"""What a consumer publishes while it settles, over a connection of its own that is made when there is something."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from umbel.brokers.amqp import dead, delayed
from umbel.brokers.amqp.placing import Placing
from umbel.errors import BrokerConnectionError, BrokerError
from umbel.stores.amqp.faults import ChannelClosedError
from umbel.stores.amqp.link import open_link

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from umbel.brokers.amqp.topology import Steps, Topology
    from umbel.core.destination import Destination
    from umbel.core.records import Publication
    from umbel.stores.amqp.confirms import Confirmation, Outgoing
    from umbel.stores.amqp.failover import Failover
    from umbel.stores.amqp.link import Channel, Link

__all__ = ["Sender"]

logger = logging.getLogger("umbel.amqp")

#: Seconds without an answer after which one says so. There is no deadline: nothing better could be done with the jobs.
_OVERDUE: Final = 10.0


class Sender:
    """One link with one channel whose messages are confirmed; for one event loop.

    Args:
        failover: where to connect to.
        topology: what was declared.
        dead_limit: dead letters kept of each queue at the most; None: any number.
    """

    def __init__(self, failover: Failover, topology: Topology, dead_limit: int | None = None) -> None:
        self._failover = failover
        self._topology = topology
        self._dead_limit = dead_limit
        self._link: Link | None = None
        self._channel: Channel | None = None
        self._placing: Placing | None = None
        self._done: set[str] = set()
        self._opening = asyncio.Lock()

    async def _open(self) -> tuple[Channel, Placing]:
        async with self._opening:
            if self._link is None or self._link.lost is not None or self._placing is None:
                self._link = await open_link(self._failover)
                self._placing = Placing(self._link, self._topology)
                self._done, self._channel = set(), None
            if self._channel is None or self._channel.closed is not None:
                channel = await self._link.channel()
                await channel.select_confirms()
                self._channel = channel
            return self._channel, self._placing

    async def place(self, publications: Sequence[Publication]) -> dict[Destination, str]:
        """Put in place what publications need; gives the destinations that cannot be had, and why."""
        _, placing = await self._open()
        refused: dict[Destination, str] = {}
        try:
            await placing.for_publications(publications)
        except BrokerConnectionError:
            raise
        except BrokerError:
            for publication in publications:
                await _place_one(placing, publication, refused)
        return refused

    def compose(self, publication: Publication) -> Outgoing | None:
        """A publication as it is sent; None: nobody listens. ``place`` has been called for it."""
        assert self._placing is not None, "publications are placed before they are composed"
        return self._placing.compose(publication)

    async def link(self) -> Link:
        """The connection, for what else is to be done over it."""
        await self._open()
        assert self._link is not None
        return self._link

    async def place_ends(self, dead_queues: Collection[str], waiting: Collection[str]) -> None:
        """Put in place the dead letters of some queues, and what leads delayed messages to others."""
        if not dead_queues and not waiting:
            return
        await self._open()
        for queue in dead_queues:
            await self._once(f"dead {queue}", dead.placing(queue, self._dead_limit))
        for queue in waiting:
            await self._once("delayed", delayed.placing(self._topology.delayed_queue_type))
            await self._once(f"delayed {queue}", delayed.queue_placing(queue))

    async def _once(self, what: str, steps: Steps) -> None:
        if what not in self._done:
            assert self._placing is not None
            await self._placing.take(steps)
            self._done.add(what)

    async def send(self, messages: Sequence[Outgoing]) -> Confirmation:
        """Publish, and wait until the broker has them."""
        channel, placing = await self._open()
        await placing.for_delays()
        overdue = asyncio.get_running_loop().call_later(_OVERDUE, self._tell_overdue, len(messages))
        try:
            outcome = await channel.publish(messages)
            if outcome.refused:
                # A channel keeps to the leader that a quorum queue had, and refuses for ever when that is dead.
                await channel.aclose()
            return outcome
        except ChannelClosedError as error:
            # An exchange was deleted: what was in place no longer is.
            placing.forget()
            self._done.clear()
            raise BrokerConnectionError(f"RabbitMQ took no messages: {error}") from error
        finally:
            overdue.cancel()

    def _tell_overdue(self, count: int) -> None:
        """Jobs whose followers are not confirmed cannot end: that is worth waiting for, and worth knowing."""
        blocked = self._link.blocked if self._link is not None else None
        logger.warning(
            "RabbitMQ has not confirmed %d message(s) within %g seconds%s: the jobs that sent them wait for it",
            count,
            _OVERDUE,
            f", it takes none at present ({blocked})" if blocked else "",
        )

    async def close(self) -> None:
        """Safe twice."""
        link, self._link, self._channel = self._link, None, None
        if link is not None:
            await link.aclose()


async def _place_one(placing: Placing, publication: Publication, refused: dict[Destination, str]) -> None:
    to = publication.destination
    if to in refused:
        return
    try:
        await placing.for_publications([publication])
    except BrokerConnectionError:
        raise
    except BrokerError as error:
        refused[to] = str(error)
