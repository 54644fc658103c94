"""The messages of revoked tasks are taken out of queues and delayed stores, where nobody would meet them for long.

Nothing is written down for this when a message is sent. The queues are searched when tasks were revoked: by one worker
for all of them, a few hundred messages at a time, and for a small part of the server's time.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from umbel.brokers.redis.settling import trailer_of
from umbel.core.ids import new_id
from umbel.stores.redis.scripts import load_script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from umbel.brokers.redis.layout import Layout
    from umbel.stores.redis.link import Link

_PACKAGE: Final = "umbel.brokers.redis"
_SWEEP: Final = load_script((_PACKAGE, "sweep.lua"))
_WITHDRAW: Final = load_script((_PACKAGE, "withdraw.lua"))

#: Messages that one script looks at.
_PORTION: Final = 300
#: The part of the time that a search may take, so that others are served meanwhile.
_SHARE: Final = 0.2
#: Milliseconds after which a search that does not go on is another worker's.
_PATIENCE: Final = 10_000
#: Seconds between two questions whether the search of somebody else has ended.
_ASK_AGAIN: Final = 1.0
#: Seconds for which it is remembered that a queue was searched.
_REMEMBERED: Final = 30 * 86_400


class Withdrawn(NamedTuple):
    """A message that is held now."""

    tag: bytes
    queue: str
    step: int
    payload: bytes


class Withdrawals:
    """The searches of one consumer.

    Args:
        connected: gives the connection. Raises BrokerConnectionError when there is none.
        position: of what was taken last.
    """

    def __init__(
        self,
        identity: str,
        lease: float,
        layout: Layout,
        connected: Callable[[], Link],
        position: Callable[[], int],
    ) -> None:
        self._identity = identity
        self._lease = lease
        self._layout = layout
        self._connected = connected
        self._position = position

    async def search(self, queues: Sequence[str]) -> AsyncIterator[list[Withdrawn]]:
        """What is taken out of some queues, until each was searched after the last revocation, by whomever."""
        for queue in queues:
            finished = b""
            while wanted := await self._begin(queue, finished):
                for place in self._places(queue):
                    async for found in self._search(queue, *place):
                        yield found
                finished = wanted

    async def _begin(self, queue: str, finished: bytes) -> bytes:
        """The revocation to search for; empty: none."""
        key = self._layout.key
        keys = (key("umbel:revocations"), key("umbel:sweeps"), self._sweeping(queue))
        while True:
            arguments = (queue, self._identity, _PATIENCE, finished, _REMEMBERED)
            wanted, busy = await self._connected().run(_SWEEP, keys, arguments)
            if wanted or not busy:
                return bytes(wanted)
            await asyncio.sleep(min(busy / 1000, _ASK_AGAIN))

    def _sweeping(self, queue: str) -> bytes:
        return self._layout.key(f"umbel:sweeping:{queue}")

    def _places(self, queue: str) -> list[tuple[str, bytes, int]]:
        """What a queue is made of: how it is searched, its key, its priority step."""
        layout = self._layout
        lists = [("list", layout.list_key(queue, step), step) for step in layout.priority_steps]
        return [("delayed", layout.delayed_key(queue), 0), *lists]

    async def _search(
        self, queue: str, kind: str, key: bytes, list_step: int
    ) -> AsyncIterator[list[Withdrawn]]:
        layout, where = self._layout, b"0" if kind == "delayed" else b"-1"
        keys = (
            layout.key(layout.unacked_key),
            layout.key(layout.unacked_index_key),
            layout.held_key(self._identity),
            layout.key("umbel:held_raw"),
            layout.key("umbel:consumers"),
            layout.revoked_key,
            self._sweeping(queue),
            key,
        )
        unique = f"umbel-{self._identity}-{new_id()}-"
        arguments = (trailer_of(queue), layout.list_key(queue, 0), layout.sep, self._identity, self._lease)
        number = 0
        while where:
            number += 1
            begun = time.monotonic()
            head = (kind, where, _PORTION, self._position(), f"{unique}{number}-")
            reply = await self._connected().run(_WITHDRAW, keys, (*head, *arguments, _PATIENCE))
            took = time.monotonic() - begun
            where = reply[0]
            found = zip(reply[1::3], reply[2::3], reply[3::3], strict=True)
            yield [
                Withdrawn(tag, queue, int(step) if step else list_step, payload)
                for tag, step, payload in found
            ]
            if where:
                await asyncio.sleep(took * (1 / _SHARE - 1))
