"""Replies through RabbitMQ: messages to a queue of the caller's, as Celery's ``rpc://`` sends them."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from umbel.errors import BrokerConnectionError, OperationalError
from umbel.stores.amqp.link import Delivered, Outgoing, open_link
from umbel.stores.collecting import CollectorThread
from umbel.stores.loopthread import LoopThread
from umbel.stores.replies import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from umbel.stores.amqp.failover import Failover
    from umbel.stores.amqp.link import Channel, Link
    from umbel.stores.replies import ReplyReceiver

__all__ = ["AmqpPost"]

#: Seconds in which the server has to answer, and to take messages.
_TIMEOUT: Final = 30.0
#: Seconds that queues may take to be deleted by a program that is about to end; without it they expire.
_GOODBYE: Final = 3.0
#: Replies that the server sends ahead of what was acknowledged.
_PREFETCH: Final = 2000
_LONGEST_NAME: Final = 255  #: bytes, AMQP's


class AmqpPost:
    """Replies in one virtual host.

    Args:
        failover: the server's addresses.
        expires: seconds after which a queue that nobody uses is gone; None: never.
        persistent: whether replies survive the death of the server.
    """

    def __init__(self, failover: Failover, expires: float | None = None, *, persistent: bool = False) -> None:
        self.display_url = failover.current.display_url
        self._failover = failover
        self._mode = 2 if persistent else 1
        self._thread = LoopThread("umbel replies")
        self._counters: WeakKeyDictionary[asyncio.AbstractEventLoop, _Counter] = WeakKeyDictionary()
        self._expires = expires

    def declare(self, queue: str) -> None:
        """As ReplyPost.declare."""
        self._call(
            lambda counter: counter.declare(queue, self._expires), "RabbitMQ made no queue for results"
        )

    def send(self, replies: Sequence[Reply]) -> None:
        """As ReplyPost.send."""
        messages = self._messages(replies)
        self._call(lambda counter: counter.publish(messages), f"{len(messages)} results were not taken")

    async def asend(self, replies: Sequence[Reply]) -> None:
        """As ``send``."""
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self._counter().publish(self._messages(replies))
        except TimeoutError:
            raise OperationalError(
                f"{len(replies)} results were not taken within {_TIMEOUT:g} seconds"
            ) from None

    def collect(self, queues: Sequence[str], receiver: ReplyReceiver) -> AmqpCollection:
        """As ReplyPost.collect."""
        collection = AmqpCollection(self._failover, queues, self._expires, receiver)
        collection.start()
        return collection

    def delete(self, queues: Sequence[str]) -> None:
        """As ReplyPost.delete."""
        overdue = "the queues for results were not deleted"
        self._call(lambda counter: counter.delete(queues), overdue, _GOODBYE)

    def close(self) -> None:
        """As ReplyPost.close."""
        counters, self._counters = self._counters, WeakKeyDictionary()
        for loop, counter in list(counters.items()):
            if not loop.is_closed():
                loop.call_soon_threadsafe(counter.close)
        self._thread.close()

    def _call(
        self,
        work: Callable[[_Counter], Coroutine[Any, Any, None]],
        overdue: str,
        timeout: float = _TIMEOUT,
    ) -> None:
        async def run() -> None:
            await work(self._counter())

        self._thread.call(run(), timeout, overdue)

    def _counter(self) -> _Counter:
        loop = asyncio.get_running_loop()
        counter = self._counters.get(loop)
        if counter is None:
            counter = self._counters[loop] = _Counter(self._failover)
        return counter

    def _messages(self, replies: Sequence[Reply]) -> list[Outgoing]:
        # No queue has a longer name: nobody waits for these.
        return [self._message(reply) for reply in replies if _fits(reply.queue)]

    def _message(self, reply: Reply) -> Outgoing:
        properties: dict[str, Any] = {
            "content_type": reply.content_type,
            "content_encoding": reply.content_encoding,
            "headers": {"compression": reply.compression} if reply.compression else {},
            "delivery_mode": self._mode,
            "priority": 0,
        }
        if _fits(reply.task_id):
            properties["correlation_id"] = reply.task_id
        return Outgoing("", reply.queue, properties, reply.body, mandatory=False)


def _fits(name: str) -> bool:
    return len(name.encode(errors="surrogatepass")) <= _LONGEST_NAME


class _Counter:
    """The connection of one event loop, over which replies are sent and queues made."""

    def __init__(self, failover: Failover) -> None:
        self._failover = failover
        self._opening = asyncio.Lock()
        self._link: Link | None = None
        self._channel: Channel | None = None

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """Return when the server has them."""
        outcome = await self._repeat(lambda channel: _publish(channel, messages))
        if outcome.refused:
            # A channel keeps to the leader that a quorum queue had, and refuses for ever when that is dead.
            if self._channel is not None:
                await self._channel.aclose()
            raise OperationalError(f"RabbitMQ refused {len(outcome.refused)} results")

    async def declare(self, queue: str, expires: float | None) -> None:
        """Make a queue."""
        await self._repeat(lambda channel: declare(channel, queue, expires))

    async def delete(self, queues: Sequence[str]) -> None:
        """Delete queues."""
        for queue in queues:
            await self._repeat(lambda channel, queue=queue: channel.delete_queue(queue))  # type: ignore[misc]

    async def _repeat(self, work: Callable[[Channel], Coroutine[Any, Any, Any]]) -> Any:
        """Do what may be done twice, again where the connection turns out to have been lost meanwhile."""
        try:
            return await work(await self._open())
        except BrokerConnectionError:
            return await work(await self._open())

    async def _open(self) -> Channel:
        async with self._opening:
            if self._channel is None or self._channel.closed is not None:
                if self._link is None or self._link.lost is not None:
                    self._link = await open_link(self._failover)
                self._channel = await self._link.channel()
                await self._channel.select_confirms()
            return self._channel

    def close(self) -> None:
        """Close the connection."""
        if self._link is not None:
            self._link.close()


async def _publish(channel: Channel, messages: Sequence[Outgoing]) -> Any:
    return await channel.publish(messages)


async def declare(channel: Channel, queue: str, expires: float | None) -> None:
    """Make a queue for replies as Celery does, except that it outlives the connection of its reader."""
    arguments = {"x-expires": int(expires * 1000)} if expires else None
    await channel.declare_queue(queue, durable=True, arguments=arguments)


class AmqpCollection(CollectorThread):
    """Replies being consumed, over a connection of its own."""

    def __init__(
        self, failover: Failover, queues: Sequence[str], expires: float | None, receiver: ReplyReceiver
    ) -> None:
        super().__init__(receiver)
        self._failover = failover
        self._queues = list(queues)
        self._expires = expires
        self._lock = threading.Lock()
        self._round: _Round | None = None
        self._wanted: list[threading.Event] = []

    def add(self, queue: str) -> None:
        """As Collection.add."""
        self._queues.append(queue)
        self.interrupt()

    def flush(self) -> None:
        """As Collection.flush."""
        event = threading.Event()
        self._wanted.append(event)
        self.interrupt()
        self.wait_for(event, "RabbitMQ did not give the results that have arrived")

    def interrupt(self) -> None:
        """Have the thread look at what is wanted of it."""
        with self._lock:
            if self._round is not None:
                self._round.wake()

    def collect(self) -> None:
        """As CollectorThread.collect."""
        asyncio.run(self._collect())

    async def _collect(self) -> None:
        link = await open_link(self._failover)
        try:
            current = _Round(await link.channel(), self._receiver, self._expires)
            with self._lock:
                self._round = current
            await self._serve(current)
        except BrokerConnectionError:
            self._failover.failed(link.address)
            raise
        finally:
            with self._lock:
                self._round = None
            await link.aclose()

    async def _serve(self, current: _Round) -> None:
        await current.begin()
        while not self.closing:
            await current.consume(self._queues)
            self.working()
            wanted, self._wanted = self._wanted, []
            if wanted:
                try:
                    await current.flush()
                except OperationalError:
                    self._wanted += wanted  # for the next connection
                    raise
                for event in wanted:
                    event.set()
            if not self._wanted:
                await current.wait()


class _Round:
    """The consumers of one connection, in its event loop."""

    def __init__(self, channel: Channel, receiver: ReplyReceiver, expires: float | None) -> None:
        self._channel = channel
        self._receiver = receiver
        self._expires = expires
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._error: Exception | None = None
        self._consumed: set[str] = set()
        self._arrived: list[tuple[str, Delivered]] = []
        channel.on_closed(self._lost)

    def wake(self) -> None:
        """End the wait; from any thread."""
        self._loop.call_soon_threadsafe(self._woken.set)

    async def wait(self) -> None:
        """Until there is something to do. Raises what ended the channel."""
        if self._error is None:
            await self._woken.wait()
            self._woken.clear()
        if self._error is not None:
            raise BrokerConnectionError(f"results do not arrive any more: {self._error}") from self._error

    async def begin(self) -> None:
        """Let the server send no more than can be acknowledged in good time."""
        await self._channel.set_prefetch(_PREFETCH, shared=False)

    async def consume(self, queues: Sequence[str]) -> None:
        """Consume those queues that are not yet."""
        for queue in [each for each in queues if each not in self._consumed]:
            await declare(self._channel, queue, self._expires)
            await self._channel.consume(
                queue,
                lambda delivered, queue=queue: self._take(queue, delivered),  # type: ignore[misc]
                tag=queue,
                on_cancel=lambda queue=queue: self._lost(  # type: ignore[misc]
                    OperationalError(f"the queue {queue} was deleted")
                ),
            )
            self._consumed.add(queue)

    async def flush(self) -> None:
        """Return when everything has been handed over that is in the queues by now."""
        for queue in self._consumed:
            await declare(self._channel, queue, self._expires)
        # A queue answers when it has given its messages to the channel; the channel answers this when it has sent them.
        await self.begin()
        self._hand_over()

    def _take(self, queue: str, delivered: Delivered) -> None:
        if not self._arrived:
            self._loop.call_soon(self._hand_over)
        self._arrived.append((queue, delivered))

    def _hand_over(self) -> None:
        arrived, self._arrived = self._arrived, []
        if arrived:
            self._receiver.arrived([_reply(queue, delivered) for queue, delivered in arrived])
            if self._channel.closed is None:
                self._channel.ack(arrived[-1][1].tag, multiple=True)

    def _lost(self, error: Exception) -> None:
        self._error = self._error or error
        self._woken.set()


def _reply(queue: str, delivered: Delivered) -> Reply:
    properties = delivered.properties
    compression = properties["headers"].get("compression")
    return Reply(
        queue,
        _text(properties.get("correlation_id")),
        delivered.body,
        _text(properties.get("content_type")),
        _text(properties.get("content_encoding")),
        _text(compression),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
