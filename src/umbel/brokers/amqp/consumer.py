"""A worker's end of the queues on RabbitMQ.

What a consumer took and did not settle belongs to its channel. RabbitMQ gives it back when the channel or its
connection ends, whoever ends it, so nobody has to reclaim anything: a worker that is killed loses its connection at
once, one that is frozen when its heartbeats fail to come. What is published while settling goes over a connection of
its own: RabbitMQ stops reading from those that publish when it is short of memory, acknowledgements included.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from umbel.brokers.amqp.dead import DEAD_EXCHANGE
from umbel.brokers.amqp.delayed import receiving
from umbel.brokers.amqp.losses import LossBook
from umbel.brokers.amqp.messages import DELAYED_PREFIX
from umbel.brokers.amqp.placing import Placing
from umbel.brokers.amqp.settling import Batch, came_before, payload_of
from umbel.brokers.amqp.supply import OpenTags, Supply
from umbel.brokers.amqp.translations import PayloadReader
from umbel.brokers.base import Delivery
from umbel.brokers.turns import rotate
from umbel.core.clock import SteadyClock
from umbel.errors import BrokerConnectionError, BrokerError
from umbel.stores.amqp.faults import ChannelClosedError
from umbel.stores.amqp.link import open_link

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from umbel.brokers.amqp.sending import Sender
    from umbel.brokers.amqp.supply import Taken
    from umbel.brokers.amqp.topology import Topology
    from umbel.brokers.base import Disposition, FetchPlan
    from umbel.brokers.options import BrokerOptions
    from umbel.core.causes import Losses
    from umbel.stores.amqp.failover import Failover
    from umbel.stores.amqp.link import Channel, Link

logger = logging.getLogger("umbel.amqp")

#: What RabbitMQ says when it closes a channel for its consumer_timeout.
_TIMED_OUT: Final = "delivery acknowledgement on channel"
#: Seconds after the last fetch at which what was pushed and not asked for goes back to its queues. A worker that takes
#: hundreds of brief jobs at a time comes back for more later than one that takes a few, and is not long about any.
_LINGER: Final = 0.05
_LINGER_MUCH: Final = 0.25
#: The same where a queue counts what comes back.
_LINGER_COUNTED: Final = 5.0
#: Seconds that an acknowledgement may wait for those of earlier messages, to go in one frame with them.
_ACK_WITHIN: Final = 0.005


class AmqpConsumer:
    """As brokers.base.Consumer. Lives in one event loop; one fetch at a time."""

    def __init__(
        self,
        identity: str,
        lease: float,
        failover: Failover,
        topology: Topology,
        sender: Sender,
        options: BrokerOptions,
        clock: SteadyClock | None = None,
    ) -> None:
        self.identity = identity
        self._clock = clock or SteadyClock()
        self._lease = lease
        self._failover = failover
        self._topology = topology
        self._sender = sender
        self._options = options
        self._link: Link | None = None
        self._channel: Channel | None = None
        self._placing: Placing | None = None
        self._supply: Supply | None = None
        self._tags = OpenTags()
        self._payloads = PayloadReader()
        self._held: dict[bytes, Taken] = {}
        self._losses = LossBook(identity, sender.link)
        self._taking_back: asyncio.Task[None] | None = None
        self._generation = 0
        self._plan: FetchPlan | None = None
        self._turn = 0
        self._fetching = 0
        self._linger: asyncio.TimerHandle | None = None
        self._acking: asyncio.TimerHandle | None = None
        self._lapse: asyncio.TimerHandle | None = None
        self._renewed_at = 0.0

    async def open(self) -> None:
        """Connect. A connection that holds is kept, with what is held; otherwise everything is built anew.

        Raises BrokerConnectionError when that fails.
        """
        if self._channel is None or self._channel.closed is not None:
            self._forget("the connection is made anew")
            if self._link is None or self._link.lost is not None:
                self._link = await open_link(self._failover)
            channel = await self._link.channel()
            self._tags = OpenTags()
            self._channel = channel
            self._supply = Supply(channel, self._tags, self.now, self._topology.counts_returns)
            self._generation += 1
            channel.on_closed(self._lost)
            self._placing = Placing(self._link, self._topology)
            await self._placing.everything()
            await self._placing.take(receiving(self._topology, self._topology.delayed_queue_type))
            self._take_back_marks()
        self._clock.look()
        self._renewed_at = asyncio.get_running_loop().time()
        self._watch()

    def _take_back_marks(self) -> None:
        """In the background: RabbitMQ may not listen where messages are published, while it is short of memory."""
        if self._losses.has_cut and (self._taking_back is None or self._taking_back.done()):
            self._taking_back = asyncio.create_task(self._losses.take_back())
            self._taking_back.add_done_callback(_tell_failure)

    def _lost(self, error: BrokerError) -> None:
        """Whoever waits for messages is to hear of it."""
        if isinstance(error, ChannelClosedError) and _TIMED_OUT in error.text:
            logger.warning(
                "RabbitMQ took back what this worker holds: a message was not acknowledged within its "
                "consumer_timeout. A job that is acknowledged late runs again when it takes longer than that: let "
                "the task be acknowledged early, or raise consumer_timeout, on newer servers also with the queue's "
                "argument x-consumer-timeout. (%s)",
                error.text,
            )
        if self._supply is not None:
            self._supply.wake()

    def _connected(self) -> tuple[Channel, Supply]:
        channel, supply = self._channel, self._supply
        if channel is None or supply is None:
            raise BrokerConnectionError(f"consumer {self.identity} is not connected: call open() first")
        if channel.closed is not None:
            raise BrokerConnectionError(f"consumer {self.identity} lost its channel: {channel.closed}")
        return channel, supply

    # Taking.

    async def fetch(self, plan: FetchPlan, limit: int, timeout: float) -> list[Delivery]:
        """As Consumer.fetch. What arrives for a cancelled fetch is given by the next one, or goes back."""
        _, supply = self._connected()
        self._fetching += 1
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        try:
            await self._use(plan, supply)
            return self._hold(await self._await(supply, plan, limit, timeout))
        except BrokerConnectionError:
            raise
        except BrokerError as error:
            self._connected()  # the channel is over: for who fetches that is as if the connection were
            raise BrokerError(f"cannot fetch from {', '.join(plan.queues)}: {error}") from error
        finally:
            self._fetching -= 1
            if not supply.is_idle and self._linger is None:
                linger = self._linger_for(plan, supply)
                self._linger = asyncio.get_running_loop().call_later(linger, self._give_up_waiting)

    def _linger_for(self, plan: FetchPlan, supply: Supply) -> float:
        if any(map(self._topology.counts_returns, plan.queues)):
            return _LINGER_COUNTED
        return _LINGER_MUCH if supply.takes_much else _LINGER

    async def _use(self, plan: FetchPlan, supply: Supply) -> None:
        """Make a new plan's queues, and those that were deleted while they were consumed."""
        queues = lost = supply.take_lost()
        if self._plan is not plan and self._plan != plan:
            queues = {*lost, *plan.queues}
        for queue in queues:
            assert self._placing is not None
            await self._placing.for_consumer(queue, again=queue in lost)
            if self._topology.queue(queue).arguments.get("x-dead-letter-exchange") == DEAD_EXCHANGE:
                await self._sender.place_ends([queue], ())
            if self._topology.queue(queue).auto_delete:
                supply.keep(queue)
        if queues:
            await supply.stop()
            self._plan = plan

    async def _await(self, supply: Supply, plan: FetchPlan, limit: int, timeout: float) -> list[Taken]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        self._turn += 1
        queues = rotate(plan.queues, self._turn)
        if timeout <= 0 and supply.streams:
            await supply.stop()  # what the server has pushed is here when it answers, and the rest can be got
        if not supply.streams and not (timeout > 0 and supply.wants_stream) and not supply.has_arrived:
            await supply.get(queues, limit)
        while True:
            taken = supply.take(queues, limit)
            left = deadline - loop.time()
            if taken or limit <= 0 or left <= 0:
                return taken
            await supply.stream(queues, limit, len(self._held))
            if not supply.has_arrived:
                await supply.wait(min(left, supply.until_due()))
            self._connected()
            await self._use(plan, supply)

    def _hold(self, taken: Sequence[Taken]) -> list[Delivery]:
        generation, held = self._generation, self._held
        deliveries = []
        for each in taken:
            delivered = each.delivered
            tag = b"%d.%d" % (generation, delivered.tag)
            held[tag] = each
            again = came_before(delivered)
            if again or delivered.exchange.startswith(DELAYED_PREFIX):
                payload = payload_of(each)
            else:
                payload = self._payloads.read(delivered)
            deliveries.append(Delivery(tag, each.queue, payload, again, each.due))
        return deliveries

    def _give_up_waiting(self) -> None:
        """Nobody fetches any more: what is here and on its way belongs to others."""
        self._linger = None
        supply, channel = self._supply, self._channel
        if supply is None or channel is None or channel.closed is not None or self._fetching:
            return
        supply.stop().add_done_callback(lambda _: self._return_unasked())

    def _return_unasked(self) -> int:
        supply, channel = self._supply, self._channel
        if supply is None or channel is None or channel.closed is not None or self._fetching:
            return 0
        rest = supply.drain()
        for taken in rest:
            channel.nack(taken.delivered.tag, requeue=True)
        return len(rest)

    async def begin(self, deliveries: Sequence[Delivery]) -> list[Losses]:
        """As Consumer.begin. Raises BrokerConnectionError when the marks cannot be made."""
        return await self._losses.begin(deliveries)

    # Settling.

    async def settle(self, batch: Sequence[Disposition]) -> None:
        """As Consumer.settle. Raises BrokerError for what RabbitMQ refuses to take, after settling the others."""
        if not batch:
            return
        self._connected()
        generation = self._generation
        work = await self._plan_batch(batch)
        failed: list[Any] = []
        if messages := work.messages:
            try:
                failed = await self._publish(work, messages)
            except BaseException:
                # Nobody knows what was published: the deliveries stay, and are settled again.
                self._restore(work.steps, generation)
                raise
        if generation == self._generation:
            await self._end([step for step in work.steps if step not in failed])
        self._restore(failed, generation)
        if self._losses.has_marks:
            await self._end_losses(step.disposition for step in work.steps if step not in failed)
        if failed:
            raise BrokerError(f"RabbitMQ refused to settle {len(failed)} of {len(batch)} deliveries")

    async def _plan_batch(self, batch: Sequence[Disposition]) -> Batch:
        """What a batch takes; its deliveries are held no more."""
        publications = [publication for disposition in batch for publication in disposition.publish]
        refused = await self._sender.place(publications) if publications else {}
        work = Batch(
            self.now(),
            self._sender.compose,
            refused,
            self._has_dead_letter_exchange,
            self._options.dead_letter_expires,
        )
        for disposition in batch:
            if disposition.unheld:
                work.add(disposition, None)
            elif (taken := self._held.pop(disposition.tag, None)) is not None:
                work.add(disposition, taken)
        return work

    async def _end_losses(self, dispositions: Iterable[Disposition]) -> None:
        ended: list[bytes] = []
        returned: list[bytes] = []
        for disposition in dispositions:
            (returned if disposition.action == "requeue" else ended).append(disposition.tag)
        await self._losses.end(ended)
        await self._losses.give_back(returned)

    def _has_dead_letter_exchange(self, queue: str) -> bool:
        # What names ours is told more when it is put there than when it is rejected.
        exchange = self._topology.queue(queue).arguments.get("x-dead-letter-exchange")
        return exchange is not None and exchange != DEAD_EXCHANGE

    async def _publish(self, work: Batch, messages: Sequence[Any]) -> list[Any]:
        await self._sender.place_ends(work.dead_queues, work.delays)
        letters, failed = work.judge(await self._sender.send(messages))
        if letters:
            await self._sender.place_ends(work.dead_queues, ())
            await self._sender.send(letters)
        return failed

    def _restore(self, steps: Sequence[Any], generation: int) -> None:
        if generation != self._generation:
            return
        for step in steps:
            if step.taken is not None:
                self._held[step.disposition.tag] = step.taken

    async def _end(self, steps: Sequence[Any]) -> None:
        """Acknowledge what is done, and give back or refuse the rest."""
        channel, _ = self._connected()
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
                channel.nack(number, requeue=step.front)
                moved = True
            else:
                done.append(number)
        if done:
            upto = self._tags.end_all(done)
            if upto is not None:
                channel.ack(upto, multiple=True)
            if self._tags.has_unsaid and self._acking is None:
                self._acking = asyncio.get_running_loop().call_later(_ACK_WITHIN, self._acknowledge_rest)
        if moved:
            await channel.set_prefetch(0)  # whatever was asked before has happened when this is answered
        else:
            await asyncio.sleep(0)  # has it written

    def _acknowledge_rest(self) -> None:
        """Acknowledge one by one what has ended before something that came earlier."""
        if self._acking is not None:
            self._acking.cancel()
            self._acking = None
        if self._channel is not None and self._channel.closed is None:
            for number in self._tags.take_unsaid():
                self._channel.ack(number)

    # The lease.

    def now(self) -> float:
        """The machine's time, kept steady: RabbitMQ does not tell its own."""
        return self._clock.now()

    async def renew(self) -> None:
        """Say that this worker lives. What it holds is its own as long as its connection holds."""
        self._connected()
        self._clock.look()
        self._renewed_at = asyncio.get_running_loop().time()

    def _watch(self) -> None:
        """Close the connection of a worker that does not renew: nobody else could take over what it holds."""
        loop = asyncio.get_running_loop()
        if self._lapse is not None:
            self._lapse.cancel()
        self._lapse = loop.call_at(self._renewed_at + self._lease, self._check_lease)

    def _check_lease(self) -> None:
        self._lapse = None
        if asyncio.get_running_loop().time() - self._renewed_at < self._lease:
            self._watch()
        elif self._link is not None:
            self._link.close("the worker did not renew its lease")

    async def reclaim(self) -> int:
        """RabbitMQ has returned what lost consumers held: there is nothing to do."""
        self._connected()
        return 0

    async def reconcile(self, held: Collection[bytes]) -> int:
        """As Consumer.reconcile. What arrived and was not asked for goes back too."""
        channel, supply = self._connected()
        self._acknowledge_rest()
        await supply.stop()
        returned = self._return_unasked()
        known = set(held)
        for tag in [tag for tag in self._held if tag not in known]:
            taken = self._held.pop(tag)
            self._tags.end(taken.delivered.tag)
            channel.nack(taken.delivered.tag, requeue=True)
            returned += 1
            await self._losses.give_back([tag])
        await channel.set_prefetch(0)
        return returned

    async def close(self) -> None:
        """As Consumer.close: the channel takes along what it held."""
        link, channel = self._link, self._channel
        self._link = None
        if self._taking_back is not None:
            self._taking_back.cancel()
            await asyncio.wait([self._taking_back])
        try:
            if link is not None and channel is not None and link.lost is None:
                self._acknowledge_rest()
                await self._losses.give_back()
                await channel.aclose()
                await link.aclose()
        finally:
            if link is not None:
                link.close()
            self._forget("the consumer is closed")
            await self._sender.close()

    def _forget(self, _reason: str) -> None:
        for timer in (self._linger, self._lapse, self._acking):
            if timer is not None:
                timer.cancel()
        self._linger = self._lapse = self._acking = None
        self._channel = self._supply = self._plan = None
        self._held.clear()
        self._losses.forget()


def _tell_failure(taking_back: asyncio.Task[None]) -> None:
    if not taking_back.cancelled() and (error := taking_back.exception()) is not None:
        logger.info("Marks of losses that were none are taken back later: %s", error)
