"""Messages on their way back: requeued by their holder, or returned because their holder is gone.

What goes back is marked as redelivered the way kombu does, inside the message. Redis cannot rewrite JSON reliably, so
a message is read, rewritten here, and moved by a script that checks that nobody else has moved it meanwhile.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from umbel.brokers.redis.routing import Routes
from umbel.core.causes import Loss, add_losses, losses_of
from umbel.core.envelope import repack
from umbel.core.header import peek
from umbel.core.ids import new_id
from umbel.errors import DecodeError, EncodeError
from umbel.stores.redis.replies import check
from umbel.stores.redis.scripts import load_script

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from umbel.brokers.base import Disposition
    from umbel.brokers.redis.layout import Layout
    from umbel.brokers.redis.publisher import Composer
    from umbel.stores.redis.link import Link

logger = logging.getLogger("umbel.redis")

_PACKAGE: Final = "umbel.brokers.redis"
_SURVEY: Final = load_script((_PACKAGE, "survey.lua"))
_HOLDINGS: Final = load_script((_PACKAGE, "holdings.lua"))
_LEAVE: Final = load_script((_PACKAGE, "leave.lua"))
_RESTORE: Final = load_script((_PACKAGE, "restore.lua"))

#: Messages read or moved by one script at the most: other clients wait while it runs.
_MOST = 500
_MOST_BYTES = 1024 * 1024
#: What survey.lua says of each message.
_PARTS = 6
#: Seconds between two looks for what Celery's dead workers held, among all of Umbel's workers.
_SWEEP_INTERVAL = 10.0

#: What kombu keeps of a message it has handed out: the message, exchange and routing key.
_read_held = msgspec.json.Decoder(tuple[msgspec.Raw, str, str]).decode


class Move(msgspec.Struct):
    """One message to be returned; ``how`` is as restore.lua takes it."""

    how: str
    identity: bytes | str
    tag: bytes
    payload: bytes
    lists: list[bytes]


class Returns:
    """Reads, marks and returns messages for one consumer."""

    def __init__(self, identity: str, layout: Layout) -> None:
        self._identity = identity
        self._layout = layout
        self._routes = Routes(layout)
        self._sweep_now = True
        key = layout.key
        self.held_key = layout.held_key(identity)
        self.begun_key = layout.begun_key(identity)
        self._prefix = key("umbel:held:")
        self._consumers = key("umbel:consumers")
        self._raw = key("umbel:held_raw")
        self._unacked = key(layout.unacked_key)
        self._index = key(layout.unacked_index_key)
        self._mutex = key(layout.unacked_mutex_key)
        self.settled_key = layout.settled_key(identity)
        #: Keys of settle.lua.
        self.settling_keys = (self._unacked, self._index, self.held_key, self._raw, self.settled_key)
        #: First keys of renew.lua.
        self.lease_keys = (self._consumers, self.held_key)

    def expect_sweep(self) -> None:
        """Look for what Celery's dead workers held at the next reclaim, whoever looked last."""
        self._sweep_now = True

    async def reclaim(self, link: Link, composer: Composer) -> int:
        """Return what lapsed consumers hold, and what Celery's visibility timeout frees; says how many messages."""
        moved = 0
        while True:
            token = new_id()
            lapsed, stale = await self._survey(link, token)
            moves = [*self._lapsed_moves(lapsed), *await self._stale_moves(link, stale)]
            moved += await self._move(link, moves, token if stale else "")
            if len(lapsed) < _PARTS * _MOST:
                return moved

    async def _survey(self, link: Link, token: str) -> tuple[list[Any], list[Any]]:
        layout = self._layout
        swept = layout.key("umbel:swept")
        keys = (self._consumers, self._unacked, self._index, self._raw, swept, self._mutex)
        mutex_ms = int(layout.unacked_mutex_expire * 1000)
        sweep = int(self._sweep_now)
        numbers = (_MOST, layout.visibility_timeout, _SWEEP_INTERVAL, sweep)
        arguments = (self._prefix, *numbers, token, mutex_ms, layout.begun_key(""))
        lapsed, stale = await link.run(_SURVEY, keys, arguments)
        self._sweep_now = False
        return lapsed, stale

    def _lapsed_moves(self, flat: list[Any]) -> Iterator[Move]:
        now = time.time()
        parts = (flat[place::_PARTS] for place in range(_PARTS))
        for identity, tag, _, list_key, payload, begun in zip(*parts, strict=True):
            if begun or not losses_of(payload).count:
                back = add_losses(payload, [Loss(identity.decode("utf-8", "replace"), now)])
            else:
                back = marked(payload)
            yield Move("lapsed", identity, tag, back, [list_key])

    async def _stale_moves(self, link: Link, flat: list[Any]) -> list[Move]:
        """What Celery's workers let lie, routed again by the exchange and routing key it came by."""
        moves = []
        # Redis gave the oldest first; the last to be moved is the first in line.
        for tag, value in reversed(list(zip(flat[::2], flat[1::2], strict=True))):
            try:
                message, exchange, routing_key = _read_held(value)
            except msgspec.DecodeError as error:
                logger.warning(
                    "An unacknowledged message is not in kombu's form and stays where it is: %s", error
                )
                continue
            lists = await self._lists(link, bytes(message), exchange, routing_key)
            if lists:
                moves.append(Move("celery", "", tag, marked(bytes(message)), lists))
        return moves

    async def _lists(self, link: Link, payload: bytes, exchange: str, routing_key: str) -> list[bytes]:
        if not exchange:
            queues = [routing_key]
        else:
            table = check(await link.call("SMEMBERS", self._layout.binding_key(exchange)))
            queues = self._routes.bound_queues(exchange, routing_key, "topic", {exchange: table})
        try:
            priority = peek(payload).priority
        except DecodeError:
            priority = 0
        return [self._routes.queue_key(queue, priority) for queue in queues]

    async def held_tags(self, link: Link) -> list[bytes]:
        """Everything that Redis says this consumer holds."""
        tags = await link.call("HKEYS", self.held_key)
        return [tag for tag in tags if tag]

    async def give_back(self, link: Link, tags: Sequence[bytes]) -> int:
        """Return some of what this consumer holds to the front of its queues, in the order it was taken."""
        found = [item async for item in self._holdings(link, tags)]
        found.sort(key=lambda item: item[1], reverse=True)
        moves = [Move("own", self._identity, tag, marked(payload), [key]) for tag, _, key, payload in found]
        return await self._move(link, moves)

    async def leave(self, link: Link) -> None:
        """Return everything and give up the lease."""
        await self.give_back(link, await self.held_tags(link))
        if not await self.held_tags(link):
            own = (self.held_key, self.begun_key, self.settled_key)
            mine = (self._consumers, self._layout.key("umbel:mark"), *own)
            await link.run(_LEAVE, mine, (self._identity,))

    async def fill_in(
        self, link: Link, batch: Sequence[Disposition], tags: Sequence[bytes]
    ) -> Sequence[Disposition]:
        """The batch with the payloads of requeued messages, marked; those that are not held any more are left out."""
        payloads = {tag: marked(payload) async for tag, _, _, payload in self._holdings(link, tags)}
        wanted = set(tags)
        return [
            msgspec.structs.replace(d, payload=payloads[d.tag])
            if d.action == "requeue" and d.payload is None and d.tag in payloads
            else d
            for d in batch
            if d.tag not in wanted
            or d.unheld
            or d.payload is not None
            or d.tag in payloads
            or d.action != "requeue"
        ]

    async def _holdings(self, link: Link, tags: Sequence[bytes]) -> Any:
        keys = (self.held_key, self._unacked, self._raw)
        for start in range(0, len(tags), _MOST):
            flat = await link.run(_HOLDINGS, keys, tags[start : start + _MOST])
            for item in zip(*(flat[i::4] for i in range(4)), strict=True):
                yield item

    async def _move(self, link: Link, moves: Sequence[Move], token: str = "") -> int:
        """Move messages, the newest first, so that the oldest ends up at the front."""
        keys = (
            self._consumers,
            self._unacked,
            self._index,
            self._raw,
            self._layout.key("umbel:returned_raw"),
            self._mutex,
        )
        moved = 0
        pieces = list(_pieces(moves))
        for number, piece in enumerate(pieces, 1):
            # The lock is given back with the last piece.
            head = (self._prefix, token if number == len(pieces) else "", self._layout.visibility_timeout)
            moved += await link.run(_RESTORE, keys, (*head, *piece))
        if token and not pieces:
            await link.run(_RESTORE, keys, (self._prefix, token, self._layout.visibility_timeout))
        return moved


def _pieces(moves: Iterable[Move]) -> Iterator[list[bytes | str | float]]:
    arguments: list[bytes | str | float] = []
    size = count = 0
    for move in moves:
        arguments += (move.how, move.identity, move.tag, move.payload, len(move.lists), *move.lists)
        size += len(move.payload)
        count += 1
        if size > _MOST_BYTES or count >= _MOST:
            yield arguments
            arguments, size, count = [], 0, 0
    if arguments:
        yield arguments


def marked(payload: bytes) -> bytes:
    """The payload marked as redelivered; what is no message stays as it is (fetch.lua remembers it)."""
    try:
        return repack(payload, redelivered=True)
    except (DecodeError, EncodeError):
        return payload
