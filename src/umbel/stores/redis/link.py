"""One asynchronous connection that many coroutines share.

The protocol does three things and nothing else: it writes what was asked for in one turn of the loop with one system
call, gives replies to those who wait for them in order, and hands pushes to one listener. A reply that does not come
within the socket's timeout means that the connection is half open; it is then given up like one that was closed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import hiredis

from umbel.errors import BrokerConnectionError, BrokerError
from umbel.stores.redis.commands import pack_command
from umbel.stores.redis.connecting import (
    async_tls_connection,
    connecting,
    keep_alive,
    login_commands,
    login_timeout,
)
from umbel.stores.redis.replies import ReplyError, check, is_unknown_script, is_wrong_server, refusal
from umbel.stores.redis.scripts import pack_script

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from redis.asyncio import SSLConnection

    from umbel.stores.redis.address import Address
    from umbel.stores.redis.finding import Search
    from umbel.stores.redis.scripts import Script


#: Seconds without a reply after which a connection counts as lost, where ``socket_timeout`` is not set. No command
#: that goes over a link blocks, so only a server that is gone (or very sick) takes this long.
REPLY_TIMEOUT = 15.0


class Link(asyncio.Protocol):
    """A connection. Every method must be called in the event loop it was opened in."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._on_push: Callable[[list[Any]], None] | None = None
        self._reader = hiredis.Reader()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[asyncio.Future[list[Any]], int, float]] = deque()
        self._partial: list[Any] = []
        self._unsent: list[bytes] = []
        self._watch: asyncio.TimerHandle | None = None
        self.lost: BrokerError | None = None  #: why the connection is gone
        #: Which error replies mean that the connection is of no use.
        self.gives_up: Callable[[ReplyError], bool] = is_wrong_server
        self.writer: asyncio.StreamWriter | None = None  #: keeps the socket of redis-py's connection open
        self._guard: AsyncGenerator[None, None] | None = None

    def listen(self, on_push: Callable[[list[Any]], None] | None) -> None:
        """Hand pushes to ``on_push``, and an empty list when the connection is lost."""
        self._on_push = on_push

    def send(self, packed: bytes, replies: int = 1) -> asyncio.Future[list[Any]]:
        """Write packed commands in this turn of the loop; the future gives their replies, errors among them.

        The future fails with BrokerConnectionError when the connection is lost. Cancelling it drops the replies.
        """
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        if self.lost is not None:
            future.set_exception(BrokerConnectionError(str(self.lost)))
            return future
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(packed)
        self._waiting.append((future, replies, self._loop.time()))
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout, self._check_oldest)
        return future

    def post(self, packed: bytes) -> None:
        """Write packed commands that have no reply: with RESP3, SUBSCRIBE and its like are answered by pushes."""
        if self.lost is None:
            if not self._unsent:
                self._loop.call_soon(self._flush)
            self._unsent.append(packed)

    async def call(self, *command: bytes | str | float) -> Any:
        """The reply to one command. Raises BrokerError when it is an error."""
        return check((await self.send(pack_command(command)))[0])

    async def run(
        self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | str | float]
    ) -> Any:
        """Run a script, loading it first where the server does not know it."""
        packed = pack_script(script, keys, arguments)
        reply = (await self.send(packed))[0]
        if is_unknown_script(reply):
            _, reply = await self.send(pack_command((b"SCRIPT", b"LOAD", script.text)) + packed, 2)
        return check(reply)

    def close(self, reason: str = "the connection was closed") -> None:
        """Close the connection; whoever waits for a reply gets BrokerConnectionError. Safe twice."""
        self._fail(BrokerConnectionError(reason))

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

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        # It may have closed since it was asked to write; whoever waits is told by ``connection_lost``.
        if self._transport is not None and unsent and not self._transport.is_closing():
            self._transport.write(unsent[0] if len(unsent) == 1 else b"".join(unsent))

    def _check_oldest(self) -> None:
        self._watch = None
        if not self._waiting:
            return
        left = self._waiting[0][2] + self._timeout - self._loop.time()
        if left <= 0:
            self._fail(BrokerConnectionError(f"Redis did not answer within {self._timeout:g} seconds"))
        else:
            self._watch = self._loop.call_later(left, self._check_oldest)

    def _fail(self, error: BrokerError) -> None:
        if self.lost is not None:
            return
        self.lost = error
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()
        guard, self._guard = self._guard, None
        if guard is not None:
            with contextlib.suppress(StopIteration):  # nothing is left for it to wait for
                guard.aclose().send(None)
        waiting, self._waiting = self._waiting, deque()
        for future, _, _ in waiting:
            if not future.done():
                future.set_exception(BrokerConnectionError(str(error)))
                # The one who waited may have been cancelled in this very turn; then nobody looks at it.
                future.exception()
        if self._on_push is not None:
            self._on_push([])

    # The loop calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the socket."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Give replies and pushes to those who wait for them."""
        reader = self._reader
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not False:
                if type(reply) is hiredis.PushNotification:
                    if self._on_push is not None:
                        self._on_push(reply)
                else:
                    self._deliver(reply)
        except hiredis.ProtocolError as error:
            self._fail(BrokerConnectionError(f"Redis sent what is not its protocol: {error}"))

    def _deliver(self, reply: Any) -> None:
        if not self._waiting:
            self._fail(BrokerConnectionError(f"Redis answered what nobody asked: {reply!r}"))
            return
        future, replies, _ = self._waiting[0]
        if replies == 1:
            answer = [reply]
        else:
            self._partial.append(reply)
            if len(self._partial) < replies:
                return
            answer, self._partial = self._partial, []
        self._waiting.popleft()
        if not future.done():
            future.set_result(answer)
        for part in answer:
            if type(part) is ReplyError and self.gives_up(part):
                self._fail(refusal(part))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everyone who waits."""
        self._fail(BrokerConnectionError(f"the connection to Redis is lost: {exc or 'closed by the server'}"))


async def open_link(address: Address, on_push: Callable[[list[Any]], None] | None = None) -> Link:
    """Connect to the server of an address, which may have to be found first, and log in with RESP3.

    ``on_push`` gets every push as it arrives, and an empty list when the connection is lost. Raises
    BrokerConnectionError when no connection can be made.
    """
    link = await (_open_at(address) if address.way is None else _find(address.way.search()))
    link.listen(on_push)
    await link.close_with_loop()
    return link


async def _find(search: Search) -> Link:
    for place in search:
        try:
            link = await _open_at(place.address)
            try:
                answers = await link.send(place.question, place.replies)
                accepted = search.accepts(place, answers)
            except BaseException:
                link.close()
                raise
        except BrokerConnectionError as error:
            search.failed(place, error)
            continue
        if accepted:
            return link
        link.close()
    raise search.error()


async def _open_at(address: Address) -> Link:
    link = Link(address.socket_timeout or REPLY_TIMEOUT)
    try:
        with connecting(address):
            async with asyncio.timeout(login_timeout(address)):
                await (_connect(link, address) if address.tls is None else _connect_tls(link, address))
    except BaseException:
        link.close()
        raise
    return link


async def _connect(link: Link, address: Address) -> None:
    loop = asyncio.get_running_loop()
    if address.path:
        await loop.create_unix_connection(lambda: link, address.path)
    else:
        transport, _ = await loop.create_connection(lambda: link, address.host, address.port)
        keep_alive(transport.get_extra_info("socket"), address)
    packed, replies = login_commands(address, protocol=3)
    for reply in await link.send(packed, replies):
        check(reply)


async def _connect_tls(link: Link, address: Address) -> None:
    connection = async_tls_connection(address, protocol=3)
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    _take_over(connection, link)


def _take_over(connection: SSLConnection, link: Link) -> None:
    """Exchange the protocol of a connected connection.

    redis-py has no public way to its transport; the two private attributes are touched here and nowhere else.
    """
    writer = connection._writer
    assert writer is not None, "connect() leaves a writer"
    transport = writer.transport
    transport.set_protocol(link)
    link.connection_made(transport)
    # The connection would close the socket when it is collected, and so would the writer: one forgets, one is kept.
    link.writer = writer
    connection._writer = connection._reader = None
