"""A worker's end of the queues on RabbitMQ.

What a consumer took and did not settle belongs to its channel. RabbitMQ gives it back when the channel or its
connection ends, whoever ends it, so nobody has to reclaim anything: a worker that is killed loses its connection at
once, one that is frozen when its heartbeats fail to come. What is published while settling goes over a connection of
its own: RabbitMQ stops reading from those that publish when it is short of memory, acknowledgements included.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from umbel.brokers.amqp.dead import DEAD_EXCHANGE
from umbel.brokers.amqp.delayed import receiving
from umbel.brokers.amqp.losses import LossBook
from umbel.brokers.amqp.placing import Placing
from umbel.brokers.amqp.settling import Batch
from umbel.brokers.amqp.tenure import Tenure
from umbel.brokers.amqp.translations import PayloadReader
from umbel.brokers.base import spend
from umbel.brokers.turns import rotate
from umbel.core.clock import SteadyClock
from umbel.errors import BrokerConnectionError, BrokerError
from umbel.stores.amqp.faults import ChannelClosedError
from umbel.stores.amqp.link import open_link

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from umbel.brokers.amqp.sending import Sender
    from umbel.brokers.amqp.settling import Step
    from umbel.brokers.amqp.supply import Supply, Taken
    from umbel.brokers.amqp.topology import Topology
    from umbel.brokers.base import Delivery, Disposition, FetchPlan
    from umbel.brokers.options import BrokerOptions
    from umbel.core.causes import Losses
    from umbel.stores.amqp.confirms import Outgoing
    from umbel.stores.amqp.failover import Failover
    from umbel.stores.amqp.link import Link

logger = logging.getLogger("umbel.amqp")

#: What RabbitMQ says when it closes a channel for its consumer_timeout.
_TIMED_OUT: Final = "delivery acknowledgement on channel"
#: Seconds after the last fetch at which what was pushed and not asked for goes back to its queues. A worker that takes
#: hundreds of brief jobs at a time comes back for more later than one that takes a few, and is not long about any.
_LINGER: Final = 0.05
_LINGER_MUCH: Final = 0.25
#: The same where a queue counts what comes back.
_LINGER_COUNTED: Final = 5.0


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
        self._placing: Placing | None = None
        self._tenure: Tenure | None = None
        self._tenures = 0
        self._payloads = PayloadReader()
        self._losses = LossBook(identity, sender.link)
        self._taking_back: asyncio.Task[None] | None = None
        self._plan: FetchPlan | None = None
        self._turn = 0
        self._fetching = 0
        self._linger: asyncio.TimerHandle | None = None
        self._lapse: asyncio.TimerHandle | None = None
        self._renewed_at = 0.0

    async def open(self) -> None:
        """Connect. A connection that holds is kept, with what is held; otherwise everything is built anew.

        Raises BrokerConnectionError when that fails.
        """
        if self._tenure is None or self._tenure.is_over:
            self._forget()
            if self._link is None or self._link.lost is not None:
                self._link = await open_link(self._failover)
            channel = await self._link.channel()
            self._tenures += 1
            self._tenure = Tenure(self._tenures, channel, self.now, self._topology.counts_returns)
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
        if self._tenure is not None:
            self._tenure.supply.wake()

    def _connected(self) -> Tenure:
        tenure = self._tenure
        if tenure is None:
            raise BrokerConnectionError(f"consumer {self.identity} is not connected: call open() first")
        tenure.check()
        return tenure

    # Taking.

    async def fetch(self, plan: FetchPlan, limit: int, timeout: float) -> list[Delivery]:
        """As Consumer.fetch. What arrives for a cancelled fetch is given by the next one, or goes back."""
        tenure = self._connected()
        supply = tenure.supply
        self._fetching += 1
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        try:
            await self._use(plan, supply)
            taken = await self._await(tenure, plan, limit, timeout)
            tenure.check()
            return tenure.hold(taken, self._payloads)
        except BrokerConnectionError:
            raise
        except BrokerError as error:
            tenure.check()  # the channel is over: for who fetches that is as if the connection were
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

    async def _await(self, tenure: Tenure, plan: FetchPlan, limit: int, timeout: float) -> list[Taken]:
        supply, loop = tenure.supply, asyncio.get_running_loop()
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
            await supply.stream(queues, limit, len(tenure))
            if not supply.has_arrived:
                await supply.wait(min(left, supply.until_due()))
            tenure.check()
            await self._use(plan, supply)

    def _give_up_waiting(self) -> None:
        """Nobody fetches any more: what is here and on its way belongs to others."""
        self._linger = None
        tenure = self._tenure
        if tenure is not None and not tenure.is_over and not self._fetching:
            tenure.supply.stop().add_done_callback(lambda _: self._return_unasked(tenure))

    def _return_unasked(self, tenure: Tenure) -> int:
        return 0 if self._fetching else tenure.return_unasked()

    async def begin(self, deliveries: Sequence[Delivery]) -> list[Losses]:
        """As Consumer.begin. Raises BrokerConnectionError when the marks cannot be made."""
        return await self._losses.begin(deliveries)

    # Settling.

    async def settle(self, batch: Sequence[Disposition]) -> None:
        """As Consumer.settle. Raises BrokerError for what RabbitMQ refuses to take, after settling the others."""
        if not batch:
            return
        tenure = self._connected()
        work = await self._plan_batch(batch, tenure)
        failed: list[Step] = []
        if messages := work.messages:
            try:
                failed = await self._publish(work, messages)
            except BaseException:
                # Nobody knows what was published: the deliveries stay, and are settled again.
                tenure.restore(work.steps)
                raise
        ended = [step for step in work.steps if step not in failed] if failed else work.steps
        for step in ended:
            spend(step.disposition)
        await tenure.end(ended)
        tenure.restore(failed)
        if self._losses.has_marks:
            await self._end_losses(step.disposition for step in ended)
        if failed:
            raise BrokerError(f"RabbitMQ refused to settle {len(failed)} of {len(batch)} deliveries")

    async def _plan_batch(self, batch: Sequence[Disposition], tenure: Tenure) -> Batch:
        """What a batch takes; its deliveries are held no more."""
        publications = [publication for disposition in batch for publication in disposition.publish]
        refused = await self._sender.place(publications) if publications else {}
        tenure.check()
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
            elif (taken := tenure.release(disposition.tag)) is not None:
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

    async def _publish(self, work: Batch, messages: Sequence[Outgoing]) -> list[Step]:
        await self._sender.place_ends(work.dead_queues, work.delays)
        letters, failed = work.judge(await self._sender.send(messages))
        if letters:
            await self._sender.place_ends(work.dead_queues, ())
            await self._sender.send(letters)
        return failed

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
        tenure = self._connected()
        tenure.acknowledge_rest()
        await tenure.supply.stop()
        returned = self._return_unasked(tenure)
        unknown = tenure.give_back_all_but(set(held))
        await self._losses.give_back(unknown)
        await tenure.channel.set_prefetch(0)
        return returned + len(unknown)

    async def close(self) -> None:
        """As Consumer.close: the channel takes along what it held."""
        link, tenure = self._link, self._tenure
        self._link = None
        if self._taking_back is not None:
            self._taking_back.cancel()
            await asyncio.wait([self._taking_back])
        try:
            if link is not None and tenure is not None and link.lost is None:
                tenure.acknowledge_rest()
                await self._losses.give_back()
                await tenure.channel.aclose()
                await link.aclose()
        finally:
            if link is not None:
                link.close()
            self._forget()
            await self._sender.close()

    def _forget(self) -> None:
        for timer in (self._linger, self._lapse):
            if timer is not None:
                timer.cancel()
        self._linger = self._lapse = None
        if self._tenure is not None:
            self._tenure.leave()
        self._tenure = self._plan = None
        self._losses.forget()


def _tell_failure(taking_back: asyncio.Task[None]) -> None:
    if not taking_back.cancelled() and (error := taking_back.exception()) is not None:
        logger.info("Marks of losses that were none are taken back later: %s", error)
