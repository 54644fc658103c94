"""Waiting for published values in a cluster: they are heard on one connection and read where they are.

Nodes pass on what was published there without confirmation. So that nobody waits for ever for what was lost on that
way, everything that is waited for is read again every few seconds.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from umbel.stores.redis.cluster import slot_of
from umbel.stores.redis.commands import pack_command
from umbel.stores.redis.errands import ClusterLinks, Step
from umbel.stores.redis.inbox import Inbox, chunks_of
from umbel.stores.redis.loopside import LoopSide
from umbel.stores.redis.replies import check

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from umbel.stores.redis.address import Address
    from umbel.stores.redis.blocking import BlockingLink
    from umbel.stores.redis.cluster import Cluster
    from umbel.stores.redis.link import Link
    from umbel.stores.redis.loopside import LoopWaiter

#: Seconds after which what is waited for is read again.
_READ_AGAIN: Final = 5.0
#: Seconds that nodes have to answer.
_TIMEOUT: Final = 15.0
_PING: Final = pack_command((b"PING",))


class ClusterInbox(Inbox):
    """Waiters of one process on one connection. ``read`` gives the values of keys, wherever they are."""

    def __init__(self, address: Address, read: Callable[[Sequence[bytes]], list[bytes | None]]) -> None:
        super().__init__(address)
        self._elsewhere = read
        self._read_at = time.monotonic()

    def _questions(self, channels: Sequence[bytes]) -> list[bytes]:
        """The answer to each says that what was subscribed to before is being heard."""
        return [_PING for _ in chunks_of(channels)]

    def _values(self, channels: Sequence[bytes], reply: Any) -> Sequence[bytes | None]:
        return self._elsewhere(channels)

    def _values_of(self, link: BlockingLink, channels: Sequence[bytes]) -> Sequence[bytes | None]:
        return self._elsewhere(channels)

    def _read_once(self, timeout: float) -> None:
        if time.monotonic() - self._read_at > _READ_AGAIN:
            with self._lock:
                self._read_again()
        super()._read_once(min(timeout, _READ_AGAIN))

    def _read_again(self) -> None:
        self._read_at = time.monotonic()
        channels = list(self._table)
        if self._link is not None and channels:
            self._write(b"".join(self._questions(channels)))
            self._reads.extend((chunk, None) for chunk in chunks_of(channels))


class ClusterSide(LoopSide):
    """The connections of one event loop: to the nodes, and one that hears."""

    def __init__(self, address: Address, cluster: Cluster) -> None:
        super().__init__(address)
        self.links = ClusterLinks(cluster)

    async def _values(self, link: Link, channels: Sequence[bytes]) -> Sequence[bytes | None]:
        await link.call(b"PING")  # what was subscribed to before is being heard
        steps = [Step(slot_of(channel), pack_command((b"GET", channel))) for channel in channels]
        return [check(reply) for (reply,) in await self.links.run(steps, _TIMEOUT)]

    async def _wait(self, waiter: LoopWaiter) -> None:
        try:
            async with asyncio.timeout(_READ_AGAIN):
                await super()._wait(waiter)
        except TimeoutError:
            link = await self.link()
            await self._subscribe(link, (), waiter)

    def close(self) -> None:
        """As LoopSide.close."""
        super().close()
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.links.close)
