"""One connection for each event loop: commands, and waits for published values, by any number of coroutines."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from umbel.errors import BrokerConnectionError
from umbel.stores.redis.commands import pack_command
from umbel.stores.redis.inbox import BIG_VALUE
from umbel.stores.redis.link import Link, open_link

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
    from typing import TypeVar

    from umbel.stores.redis.address import Address

    T = TypeVar("T")

#: Channels in one command.
_CHUNK = 1000
#: Seconds between attempts to connect again: from, to; and how long it is tried before a wait fails.
_RETRY = (0.02, 1.0)
_GIVE_UP = 30.0


class LoopWaiter:
    """One wait for some channels, by one coroutine."""

    def __init__(self, channels: Sequence[bytes]) -> None:
        self.channels = channels
        self.arrivals: list[tuple[bytes, bytes]] = []
        self.woken = asyncio.Event()


class LoopSide:
    """The shared connection of one event loop."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._link: Link | None = None
        self._connecting = asyncio.Lock()
        self._table: dict[bytes, list[LoopWaiter]] = {}
        self.loop = asyncio.get_running_loop()

    async def link(self) -> Link:
        """The connection, made (again) if need be, with everything subscribed that is waited for.

        Raises BrokerConnectionError when it cannot be made.
        """
        link = self._link
        if link is not None and link.lost is None:
            return link
        async with self._connecting:
            if self._link is None or self._link.lost is not None:
                again = self._link is not None
                link = await open_link(self._address, self._on_push)
                try:
                    big = await self._read_before_subscribing(link) if again else ()
                    await self._subscribe(link, list(self._table), None, big)
                except BaseException:
                    link.close()
                    raise
                self._link = link
            return self._link

    async def repeat(self, operation: Callable[[Link], Awaitable[T]]) -> T:
        """Do something that may be done twice, again where the connection turns out to have been lost meanwhile."""
        try:
            return await operation(await self.link())
        except BrokerConnectionError:
            return await operation(await self.link())

    async def join(self, channels: Sequence[bytes]) -> LoopWaiter:
        """Subscribe, and read what is there already; ``take`` gives both."""
        waiter = LoopWaiter(channels)
        link = await self._insist()
        fresh = [channel for channel in channels if channel not in self._table]
        for channel in channels:
            self._table.setdefault(channel, []).append(waiter)
        try:
            await self._subscribe(link, fresh, waiter)
        except BrokerConnectionError:
            await self._insist()  # which reads again what is in the table
        except BaseException:
            self.leave(waiter)
            raise
        return waiter

    async def _read_before_subscribing(self, link: Link) -> set[bytes]:
        """As ``Inbox`` does, for what may have been the loss of the last connection."""
        channels, big = list(self._table), set()
        for start in range(0, len(channels), _CHUNK):
            chunk = channels[start : start + _CHUNK]
            for channel, value in zip(chunk, await self._values(link, chunk), strict=True):
                if value is not None and len(value) >= BIG_VALUE:
                    self._give(channel, value, self._table.get(channel, ()))
                    big.add(channel)
        return big

    async def _subscribe(
        self, link: Link, fresh: Sequence[bytes], only: LoopWaiter | None, skip: Collection[bytes] = ()
    ) -> None:
        """Subscribe to fresh channels; read for one waiter all of its channels, or for all waiters the fresh ones.

        Channels of ``skip`` are not read.
        """
        read = [channel for channel in (fresh if only is None else only.channels) if channel not in skip]
        for start in range(0, len(fresh), _CHUNK):
            # Confirmations are pushes, so that no reply is waited for.
            link.post(pack_command((b"SUBSCRIBE", *fresh[start : start + _CHUNK])))
        for start in range(0, len(read), _CHUNK):
            chunk = read[start : start + _CHUNK]
            values = await self._values(link, chunk)
            for channel, value in zip(chunk, values, strict=True):
                if value is not None:
                    waiters: Iterable[LoopWaiter] = self._table.get(channel, ())
                    self._give(channel, value, waiters if only is None else [only])

    async def take(self, waiter: LoopWaiter) -> list[tuple[bytes, bytes]]:
        """What has arrived, (channel, value), at least one; waits for it.

        Raises BrokerConnectionError when the server cannot be reached for half a minute.
        """
        while not waiter.arrivals:
            await self._insist()
            if not waiter.arrivals:
                await self._wait(waiter)
        arrived, waiter.arrivals = waiter.arrivals, []
        return arrived

    async def _wait(self, waiter: LoopWaiter) -> None:
        await waiter.woken.wait()
        waiter.woken.clear()

    async def _values(self, link: Link, channels: Sequence[bytes]) -> Sequence[bytes | None]:
        """The values of channels, once what was subscribed to is being heard."""
        values: Sequence[bytes | None] = await link.call(b"MGET", *channels)
        return values

    async def _insist(self) -> Link:
        deadline = self.loop.time() + _GIVE_UP
        pause = _RETRY[0]
        while True:
            try:
                return await self.link()
            except BrokerConnectionError:
                if self.loop.time() > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, _RETRY[1])

    def leave(self, waiter: LoopWaiter) -> None:
        """Wait for its channels no more."""
        unused = []
        for channel in waiter.channels:
            waiters = self._table.get(channel, [])
            if waiter in waiters:
                waiters.remove(waiter)
                if not waiters:
                    del self._table[channel]
                    unused.append(channel)
        if unused and self._link is not None and self._link.lost is None:
            for start in range(0, len(unused), _CHUNK):
                self._link.post(pack_command((b"UNSUBSCRIBE", *unused[start : start + _CHUNK])))

    def close(self) -> None:
        """Close the connection; whoever waits makes a new one. Safe twice, from any thread."""
        link, self._link = self._link, None
        if link is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(link.close)

    def _on_push(self, push: list[Any]) -> None:
        if not push:
            for waiters in self._table.values():
                for waiter in waiters:
                    waiter.woken.set()
        elif push[0] == b"message":
            self._give(push[1], push[2], self._table.get(push[1], ()))

    @staticmethod
    def _give(channel: bytes, value: bytes, waiters: Iterable[LoopWaiter]) -> None:
        for waiter in waiters:
            waiter.arrivals.append((channel, value))
            waiter.woken.set()
