"""One asynchronous connection that many coroutines share, and its channels.

    link = await open_link(Failover(addresses))
    channel = await link.channel()
    await channel.declare_queue("video")
    await channel.select_confirms()
    outcome = await channel.publish([Outgoing("", "video", {"delivery_mode": 2}, b"...")])

Whatever goes wrong is told in our own errors: ``BrokerConnectionError`` when the connection is gone,
``ChannelClosedError`` (a ``BrokerError``) when the server refused something and closed that one channel,
``UnwritableMessageError`` (a ``BrokerError``) before anything is sent. A connection is never repaired: open another.

RabbitMQ stops reading from connections that publish while it is short of memory or disk (``blocked``), so that
acknowledgements on them are not read either: publish and consume on links of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from umbel.errors import BrokerConnectionError, BrokerError, ImproperlyConfigured
from umbel.stores.amqp import requests
from umbel.stores.amqp.confirms import Confirmation, Outgoing
from umbel.stores.amqp.consumers import Delivered
from umbel.stores.amqp.dialogue import Dialogue
from umbel.stores.amqp.sockets import prepare_socket
from umbel.stores.amqp.tls import make_context

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

    from umbel.stores.amqp import dialogue
    from umbel.stores.amqp.address import Address
    from umbel.stores.amqp.failover import Failover
    from umbel.stores.amqp.requests import Request

__all__ = ["Channel", "Confirmation", "Delivered", "Link", "Outgoing", "open_link"]

#: Seconds that connecting and logging in may take where no timeout is set.
LOGIN_TIMEOUT = 15.0
#: Seconds that the server has to answer a goodbye.
_GOODBYE_TIMEOUT = 2.0


class Link(asyncio.Protocol):
    """A connection. Every method must be called in the event loop it was opened in."""

    def __init__(self, address: Address) -> None:
        self._loop = asyncio.get_running_loop()
        self.address = address
        self._dialogue = Dialogue(address, self._schedule_flush)
        self._transport: asyncio.Transport | None = None
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._beat: asyncio.TimerHandle | None = None
        self._unblocked = asyncio.Event()
        self._unblocked.set()
        self._guard: AsyncGenerator[None, None] | None = None
        self._dialogue.on_open = self._opened
        self._dialogue.on_blocked = self._told_blocked
        self._dialogue.on_lost(self._lost)

    @property
    def lost(self) -> BrokerConnectionError | None:
        """Why the connection is gone; None while it holds."""
        return self._dialogue.lost

    @property
    def blocked(self) -> str | None:
        """Why the server takes no messages at present (``low on memory``); None when it does.

        It says so when the connection publishes, not before.
        """
        return self._dialogue.blocked

    @property
    def received(self) -> int:
        """How often something came from the server: it is not silent while this grows."""
        return self._dialogue.received

    async def wait_unblocked(self) -> None:
        """Until the server takes messages again, or the connection is lost. Waits without limit."""
        await self._unblocked.wait()

    def on_lost(self, call: Callable[[BrokerConnectionError], None]) -> None:
        """Call this, in the event loop, when the connection is gone, closed by us included; at once if it is."""
        if self._dialogue.lost is not None:
            call(self._dialogue.lost)
        else:
            self._dialogue.on_lost(call)

    async def channel(self) -> Channel:
        """Open a channel. Raises BrokerConnectionError."""
        opened: asyncio.Future[Any] = self._loop.create_future()
        channel = self._dialogue.channel(opened)
        await opened
        return Channel(channel, self._loop)

    def close(self, reason: str = "the connection was closed") -> None:
        """Drop the connection; whoever waits gets BrokerConnectionError. Safe twice.

        The server gives back what was delivered and not acknowledged.
        """
        self._dialogue.fail(BrokerConnectionError(reason))

    async def aclose(self) -> None:
        """Say goodbye and close: what was written before arrives. Safe twice."""
        if self.lost is not None:
            return
        self._dialogue.say_goodbye()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_TIMEOUT):
                await asyncio.shield(self._gone)
        self.close()

    @property
    def is_ready(self) -> bool:
        """Whether the server has let us in and the connection holds."""
        return self._ready.done() and self.lost is None

    async def wait_ready(self) -> None:
        """Until the server has let us in. Raises BrokerConnectionError when it does not."""
        await asyncio.shield(self._ready)

    async def close_with_loop(self) -> None:
        """Close when the loop ends: then it shuts down its asynchronous generators, and this makes it one."""
        self._guard = self._wait_for_end()
        await anext(self._guard)

    async def _wait_for_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._guard = None
            if self.lost is None:
                self.close("the event loop ended")
                await asyncio.sleep(0)  # lets the transport close the socket

    # The dialogue calls these.

    def _schedule_flush(self) -> None:
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._dialogue.has_output:
            out = self._dialogue.take()
            # It may have closed since it was asked to write; whoever waits is told by ``connection_lost``.
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write(out)

    def _opened(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)
        self._next_beat()

    def _next_beat(self) -> None:
        seconds = self._dialogue.beats_every
        if seconds > 0:
            self._beat = self._loop.call_later(seconds, self._beat_now)

    def _beat_now(self) -> None:
        self._dialogue.beat()
        if self.lost is None:
            self._next_beat()

    def _told_blocked(self, reason: str | None) -> None:
        if reason is None:
            self._unblocked.set()
        else:
            self._unblocked.clear()

    def _lost(self, error: BrokerConnectionError) -> None:
        if self._beat is not None:
            self._beat.cancel()
        self._unblocked.set()
        self._gone.set_result(None)
        if not self._ready.done():
            self._ready.set_exception(BrokerConnectionError(str(error)))
            self._ready.exception()  # nobody has to wait for it
        if self._transport is not None:
            self._flush()
            self._transport.close()
            if self.address.tls is not None or self._transport.get_write_buffer_size():
                # Who does not read, or does not end its encryption, would keep the socket open as long as it likes.
                self._transport.abort()
        guard, self._guard = self._guard, None
        if guard is not None:
            with contextlib.suppress(StopIteration):  # nothing is left for it to wait for
                guard.aclose().send(None)

    # The loop calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the server."""
        self._transport = cast("asyncio.Transport", transport)
        self._dialogue.begin()

    def data_received(self, data: bytes) -> None:
        """Let everyone know what concerns them."""
        self._dialogue.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everyone who waits."""
        self._dialogue.closed_by_peer(exc)


class Channel:
    """One channel of a link: numbers of deliveries and of publications are its own.

    Every method raises BrokerError when the channel is closed, BrokerConnectionError when its connection is. Answers
    come in the order of the questions; a coroutine that is cancelled while it waits for one drops it, and the server
    has done what it was asked.
    """

    def __init__(self, channel: dialogue.Channel, loop: asyncio.AbstractEventLoop) -> None:
        self._channel = channel
        self._loop = loop

    @property
    def closed(self) -> BrokerError | None:
        """Why the channel is over; None while it is open."""
        return self._channel.closed

    def on_closed(self, call: Callable[[BrokerError], None]) -> None:
        """Call this, in the event loop, when the channel is over, also with its connection; at once if it is."""
        if self._channel.closed is not None:
            call(self._channel.closed)
        else:
            self._channel.on_closed(call)

    async def ask(self, request: Request) -> tuple[Any, ...]:
        """Send any request (see ``requests``) and give the fields of its answer."""
        return await self.ask_soon(request)

    def ask_soon(self, request: Request) -> asyncio.Future[tuple[Any, ...]]:
        """As ``ask``, without waiting: several requests in a row cost one round trip."""
        answer: asyncio.Future[tuple[Any, ...]] = self._loop.create_future()
        self._channel.ask(request, answer)
        return answer

    async def declare_exchange(self, name: str, exchange_type: str = "direct", **options: Any) -> None:
        """See ``requests.declare_exchange``."""
        await self.ask(requests.declare_exchange(name, exchange_type, **options))

    async def declare_queue(self, name: str = "", **options: Any) -> tuple[str, int, int]:
        """See ``requests.declare_queue``; gives the queue's name, messages that are ready, consumers."""
        found, ready, consumers = await self.ask(requests.declare_queue(name, **options))
        return found, ready, consumers

    async def bind_queue(
        self, queue: str, exchange: str, routing_key: str = "", arguments: Mapping[str, Any] | None = None
    ) -> None:
        """Have an exchange put messages into a queue."""
        await self.ask(requests.bind_queue(queue, exchange, routing_key, arguments))

    async def bind_exchange(
        self, destination: str, source: str, routing_key: str = "", arguments: Mapping[str, Any] | None = None
    ) -> None:
        """Have an exchange pass messages on to another."""
        await self.ask(requests.bind_exchange(destination, source, routing_key, arguments))

    async def delete_queue(self, name: str, **options: Any) -> int:
        """See ``requests.delete_queue``; says how many messages went with it."""
        return int((await self.ask(requests.delete_queue(name, **options)))[0])

    async def purge_queue(self, name: str) -> int:
        """Delete what waits in a queue; says how many messages."""
        return int((await self.ask(requests.purge_queue(name)))[0])

    async def set_prefetch(self, count: int, *, shared: bool = False) -> None:
        """Limit what each consumer that is started from now on holds unacknowledged; 0 is no limit."""
        await self.ask(requests.set_prefetch(count, shared=shared))

    async def consume(
        self,
        queue: str,
        on_delivery: Callable[[Delivered], None],
        *,
        tag: str,
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Mapping[str, Any] | None = None,
        on_cancel: Callable[[], None] = lambda: None,
    ) -> None:
        """Have a queue's messages delivered to ``on_delivery``, a plain function called in the event loop.

        ``tag`` names the consumer on this channel. Deliveries may begin before this returns. ``on_cancel`` is called
        when the server ends the consumer, because its queue was deleted or its node went away.
        """
        options: dict[str, Any] = {"no_ack": no_ack, "exclusive": exclusive, "arguments": arguments}
        await self.consume_soon(queue, on_delivery, tag=tag, on_cancel=on_cancel, **options)

    def consume_soon(
        self,
        queue: str,
        on_delivery: Callable[[Delivered], None],
        *,
        tag: str,
        on_cancel: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> asyncio.Future[tuple[Any, ...]]:
        """As ``consume``, without waiting: several requests in a row cost one round trip."""
        self._channel.consumers.add(tag, on_delivery, on_cancel)
        answer = self.ask_soon(requests.consume(queue, tag, **options))
        answer.add_done_callback(partial(self._forget_refused, tag))
        return answer

    def _forget_refused(self, tag: str, answer: asyncio.Future[Any]) -> None:
        if not answer.cancelled() and answer.exception() is not None:
            self._channel.consumers.remove(tag)

    async def cancel(self, tag: str) -> None:
        """Have no more messages delivered to a consumer: none come after this has returned.

        What it was given and did not settle stays with the channel.
        """
        await self.cancel_soon(tag)

    def cancel_soon(self, tag: str) -> asyncio.Future[tuple[Any, ...]]:
        """As ``cancel``, without waiting: none come once the future is done."""
        answer = self.ask_soon(requests.cancel(tag))
        answer.add_done_callback(lambda _: self._channel.consumers.remove(tag))
        return answer

    async def get(self, queue: str, *, no_ack: bool = False) -> Delivered | None:
        """Take one message; None when the queue is empty."""
        fields = await self.ask(requests.get(queue, no_ack=no_ack))
        taken = fields[-1] if fields else None
        return taken if isinstance(taken, Delivered) else None

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """Acknowledge a delivery, with ``multiple`` all unsettled ones up to it. Written in this turn of the loop."""
        self._channel.acknowledge(tag, multiple=multiple)

    def nack(self, tag: int, *, multiple: bool = False, requeue: bool) -> None:
        """Give a delivery (all up to it) back to the front of its queue; without ``requeue`` dead-letter it."""
        self._channel.reject(tag, multiple=multiple, requeue=requeue)

    async def select_confirms(self) -> None:
        """Have everything published on this channel confirmed. Before the first ``publish``."""
        await self.ask(requests.select_confirms())

    def publish(self, messages: Sequence[Outgoing]) -> asyncio.Future[Confirmation]:
        """Write messages in this turn of the loop; the future tells what became of them.

        Needs ``select_confirms``. The server answers when it has them safely, so a batch costs about one round trip.
        Without waiting, messages of further calls follow these in order. Cancelling the future takes nothing back.
        Raises UnwritableMessageError, and writes none of them, when AMQP has no form for one.
        """
        outcome: asyncio.Future[Confirmation] = self._loop.create_future()
        if messages:
            self._channel.publish(messages, outcome)
        else:
            outcome.set_result(Confirmation())
        return outcome

    def publish_unconfirmed(self, messages: Sequence[Outgoing]) -> None:
        """Write messages in this turn of the loop, on a channel without confirms: they may be lost."""
        self._channel.publish(messages, None)

    async def aclose(self) -> None:
        """Close the channel: what it held goes back to the queues. Safe twice."""
        done: asyncio.Future[Any] = self._loop.create_future()
        with contextlib.suppress(BrokerConnectionError):
            self._channel.close(done)
            await done


async def open_link(failover: Failover) -> Link:
    """Connect and log in, trying each address once. Raises BrokerConnectionError when none lets us in."""
    failed: list[BrokerConnectionError] = []
    for _ in failover.addresses:
        address = failover.current
        try:
            return await _open(address)
        except BrokerConnectionError as error:
            failover.failed(address)
            failed.append(error)
    if len(failed) == 1:
        raise failed[0]
    raise BrokerConnectionError("; ".join(map(str, failed))) from failed[-1]


async def _open(address: Address) -> Link:
    timeout = address.connect_timeout or LOGIN_TIMEOUT
    link: Link | None = None
    try:
        link = Link(address)
        async with asyncio.timeout(timeout):
            await _connect(link, address)
            await link.wait_ready()
    except ImproperlyConfigured:
        raise
    except Exception as error:
        reason = f"no answer within {timeout:g} seconds" if isinstance(error, TimeoutError) else str(error)
        raise BrokerConnectionError(f"cannot connect to {address.display_url}: {reason}") from error
    finally:
        if link is not None and not link.is_ready:
            link.close("the login did not succeed")
    await link.close_with_loop()
    return link


async def _connect(link: Link, address: Address) -> None:
    loop = asyncio.get_running_loop()
    tls: dict[str, Any] = {}
    if address.tls is not None:
        context, name = make_context(address.tls, address.host)
        tls = {"ssl": context, "server_hostname": name}
    transport, _ = await loop.create_connection(lambda: link, address.host, address.port, **tls)
    prepare_socket(transport.get_extra_info("socket"), address)
