"""Putting in place what was declared, on the connection of an event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from umbel.brokers.amqp.topology import Placed
from umbel.errors import BrokerConnectionError, BrokerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from umbel.brokers.amqp.topology import Steps, Topology
    from umbel.core.records import Publication
    from umbel.stores.amqp.confirms import Outgoing
    from umbel.stores.amqp.link import Channel, Link
    from umbel.stores.amqp.requests import Request

__all__ = ["Placing"]


class Placing:
    """What one link has in place, on a channel of its own: a refused declaration costs nothing but that channel.

    Every method raises BrokerConnectionError when the link is lost, BrokerError when something exists and differs.
    """

    def __init__(self, link: Link, topology: Topology) -> None:
        self._link = link
        self._topology = topology
        self._placed = Placed(topology)
        self._channel: Channel | None = None
        self._one_at_a_time = asyncio.Lock()

    async def for_publications(self, publications: Sequence[Publication]) -> None:
        """Put in place what publications need, before they are composed; mostly nothing."""
        if not self._placed.missing(publications):
            return
        async with self._one_at_a_time:
            for to in self._placed.missing(publications):
                await self._take(self._placed.steps(to))

    def compose(self, publication: Publication) -> Outgoing | None:
        """A publication as it is sent; None: a broadcast that nobody listens to."""
        return self._placed.compose(publication)

    async def for_consumer(self, queue: str, *, again: bool = False) -> None:
        """Make a queue that is going to be consumed from; ``again``: it may be gone since it was made."""
        async with self._one_at_a_time:
            if again:
                self._placed.forget()
            definition = self._topology.queue(queue)
            await self._take(self._placed.queue_steps(definition, consumes=True))
            await self._take(self._placed.consumer_steps(definition))

    async def everything(self) -> None:
        """Put in place all that was declared, as a worker does; queues of other consumers are left to them."""
        async with self._one_at_a_time:
            for queue in self._topology:
                await self._take(self._placed.queue_steps(queue, consumes=False))

    async def for_delays(self) -> None:
        """Put in place what the delayed messages need that were composed; mostly nothing."""
        if self._placed.new_delays:
            await self.take(self._placed.delay_steps())

    async def take(self, steps: Steps) -> None:
        """Take any steps."""
        async with self._one_at_a_time:
            await self._take(steps)

    async def requests(self, requests: Iterable[Request]) -> None:
        """Ask any requests, in order; they do not wait for each other's answers. Raises the first refusal."""
        async with self._one_at_a_time:
            channel = await self._open_channel()
            for answer in [channel.ask_soon(request) for request in requests]:
                await answer

    def forget(self) -> None:
        """Something that was in place is gone: put everything in place again when it is needed."""
        self._placed.forget()

    async def _take(self, steps: Steps) -> None:
        try:
            request = next(steps)
            while True:
                channel = await self._open_channel()
                try:
                    fields = await channel.ask(request)
                except BrokerConnectionError:
                    raise
                except BrokerError as error:
                    request = steps.throw(error)
                else:
                    request = steps.send(fields)
        except StopIteration:
            return

    async def _open_channel(self) -> Channel:
        if self._channel is None or self._channel.closed is not None:
            self._channel = await self._link.channel()
        return self._channel
