"""What a consumer holds by one channel: it ends with the channel, and goes back to its queues.

A channel numbers what it hands out from 1, so a number means another message on the next one. Whatever was taken from a
channel is ended by way of the tenure that it belongs to; that of a channel that is over ends nothing any more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from umbel.brokers.amqp.messages import DELAYED_PREFIX
from umbel.brokers.amqp.settling import came_before, payload_of
from umbel.brokers.amqp.supply import OpenTags, Supply
from umbel.brokers.base import Delivery
from umbel.errors import BrokerConnectionError, BrokerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from umbel.brokers.amqp.settling import Step
    from umbel.brokers.amqp.supply import Taken
    from umbel.brokers.amqp.translations import PayloadReader
    from umbel.stores.amqp.link import Channel

__all__ = ["Tenure"]

#: Seconds that an acknowledgement may wait for those of earlier messages, to go in one frame with them.
_ACK_WITHIN: Final = 0.005


class Tenure:
    """A consumer's time with one channel.

    Args:
        number: of this one among the consumer's; it makes the tags of its deliveries different from all others'.
        channel: the channel.
        now: the clock, in epoch seconds.
        counts: whether a queue counts what goes back to it.
    """

    def __init__(
        self, number: int, channel: Channel, now: Callable[[], float], counts: Callable[[str], bool]
    ) -> None:
        self._number = number
        self.channel = channel
        self._tags = OpenTags()
        self.supply = Supply(channel, self._tags, now, counts)
        self._held: dict[bytes, Taken] = {}
        self._acking: asyncio.TimerHandle | None = None

    @property
    def is_over(self) -> bool:
        """Whether the channel is gone, and with it everything that was held."""
        return self.channel.closed is not None

    def check(self) -> None:
        """Raises BrokerConnectionError when it is over."""
        if self.is_over:
            raise BrokerConnectionError(f"the channel that messages came by is lost: {self.channel.closed}")

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, taken: Sequence[Taken], payloads: PayloadReader) -> list[Delivery]:
        """Deliveries of what was taken; they are held until they end."""
        deliveries = []
        for each in taken:
            delivered = each.delivered
            tag = b"%d.%d" % (self._number, delivered.tag)
            self._held[tag] = each
            again = came_before(delivered)
            if again or delivered.exchange.startswith(DELAYED_PREFIX):
                payload = payload_of(each)
            else:
                payload = payloads.read(delivered)
            deliveries.append(Delivery(tag, each.queue, payload, again, each.due))
        return deliveries

    def release(self, tag: bytes) -> Taken | None:
        """Hold a delivery no more, to end it; None: it is not held."""
        return self._held.pop(tag, None)

    def restore(self, steps: Iterable[Step]) -> None:
        """Hold again what could not be ended."""
        for step in steps:
            if step.taken is not None:
                self._held[step.disposition.tag] = step.taken

    async def end(self, steps: Iterable[Step]) -> None:
        """Acknowledge what is done, and give back or refuse the rest.

        Where the channel is over nothing is left to end: it has gone back. Whoever fetches finds that out.
        """
        if self.is_over:
            return
        done: list[int] = []
        moved = False
        for step in steps:
            taken = step.taken
            if taken is None:
                continue
            number = taken.delivered.tag
            if taken.stream is not None:
                taken.stream.out -= 1
            if step.front or step.reject:
                self._tags.end(number)
                self.channel.nack(number, requeue=step.front)
                moved = True
            else:
                done.append(number)
        if done:
            self._acknowledge(done)
        if moved:
            await self._synchronize()
        else:
            await asyncio.sleep(0)  # has it written

    def _acknowledge(self, done: Sequence[int]) -> None:
        upto = self._tags.end_all(done)
        if upto is not None:
            self.channel.ack(upto, multiple=True)
        if self._tags.has_unsaid and self._acking is None:
            self._acking = asyncio.get_running_loop().call_later(_ACK_WITHIN, self.acknowledge_rest)

    async def _synchronize(self) -> None:
        """Whatever was asked before has happened when this is answered."""
        try:
            await self.channel.set_prefetch(0)
        except BrokerError:
            if not self.is_over:
                raise

    def acknowledge_rest(self) -> None:
        """Acknowledge one by one what has ended before something that came earlier."""
        self._cancel_timer()
        if not self.is_over:
            for number in self._tags.take_unsaid():
                self.channel.ack(number)

    def return_unasked(self) -> int:
        """Give back what is here and was not asked for; how many that was."""
        if self.is_over:
            return 0
        rest = self.supply.drain()
        for taken in rest:
            self.channel.nack(taken.delivered.tag, requeue=True)
        return len(rest)

    def give_back_all_but(self, known: set[bytes]) -> list[bytes]:
        """Give back what is held and not among these tags; whose tags those are."""
        unknown = [tag for tag in self._held if tag not in known]
        for tag in unknown:
            number = self._held.pop(tag).delivered.tag
            self._tags.end(number)
            self.channel.nack(number, requeue=True)
        return unknown

    def leave(self) -> None:
        """The consumer goes on without this channel."""
        self._cancel_timer()
        self._held.clear()

    def _cancel_timer(self) -> None:
        if self._acking is not None:
            self._acking.cancel()
            self._acking = None
