"""How often messages were lost with their consumers, where the broker only says that a message came back.

RabbitMQ returns a message as it was, with a flag that does not tell a loss from a polite return. So what matters is
written down apart: before work on a message that came back begins, a mark goes into a small queue of that message's
own. The consumer that ends the message deletes the queue; marks that are there when it is handed out again are those of
consumers that were lost. A message that never came back costs nothing, and its first loss is not counted.
"""

from __future__ import annotations

import hashlib
import logging
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from umbel.core.causes import Loss, losses_of
from umbel.core.header import peek
from umbel.errors import DecodeError
from umbel.stores.amqp import requests
from umbel.stores.amqp.confirms import Outgoing
from umbel.stores.amqp.faults import ChannelClosedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from umbel.brokers.base import Delivery
    from umbel.core.causes import Losses
    from umbel.stores.amqp.link import Channel, Link

__all__ = ["LossBook"]

logger = logging.getLogger("umbel.amqp")

_PREFIX: Final = "umbel.losses."
#: Milliseconds without use after which RabbitMQ deletes the marks of a message that nobody ended.
_FORGOTTEN_AFTER: Final = 72 * 3600 * 1000
_ARGUMENTS: Final[dict[str, Any]] = {"x-expires": _FORGOTTEN_AFTER}
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Loss).decode


class LossBook:
    """The marks of one consumer's messages; for one event loop.

    Args:
        identity: the consumer's.
        connect: gives the connection to use.
    """

    def __init__(self, identity: str, connect: Callable[[], Awaitable[Link]]) -> None:
        self._identity = identity
        self._connect = connect
        self._channel: Channel | None = None
        self._marked: dict[bytes, str] = {}
        self._refused = False

    async def begin(self, deliveries: Sequence[Delivery]) -> list[Losses]:
        """Mark those that came back, and say how often each was lost."""
        return [await self._begin(delivery) for delivery in deliveries]

    async def _begin(self, delivery: Delivery) -> Losses:
        told = losses_of(delivery.payload)
        name = _name_of(delivery) if delivery.redelivered and not self._refused else None
        if name is None:
            return told
        try:
            channel = await self._open()
            marks = await _read(channel, name)
            mark = _encode(Loss(self._identity, time.time()))
            await channel.publish([Outgoing("", name, {"delivery_mode": 2, "headers": {}}, mark)])
        except ChannelClosedError as error:
            # As where this user may not make such queues: then losses of this kind are not counted.
            self._refused = True
            logger.warning(
                "RabbitMQ refuses to count how often messages are lost with their workers: %s", error
            )
            return told
        self._marked[delivery.tag] = name
        return told.plus(*marks)

    async def _open(self) -> Channel:
        channel = self._channel
        if channel is None or channel.closed is not None:
            channel = await (await self._connect()).channel()
            await channel.select_confirms()
            self._channel = channel
        return channel

    @property
    def has_marks(self) -> bool:
        """Whether any of the messages in hand came back; mostly none did."""
        return bool(self._marked)

    async def end(self, tags: Iterable[bytes]) -> None:
        """Forget the marks of deliveries that have ended."""
        for name in [self._marked.pop(tag) for tag in tags if tag in self._marked]:
            await (await self._open()).ask(requests.delete_queue(name))

    async def give_back(self, tags: Iterable[bytes] | None = None) -> None:
        """Take back the marks of deliveries that return to their queues; None: of all."""
        chosen = list(self._marked) if tags is None else [tag for tag in tags if tag in self._marked]
        for name in [self._marked.pop(tag) for tag in chosen]:
            await _unmark(await self._open(), name, self._identity)

    def forget(self) -> None:
        """The connection is gone, and with it what was held: the marks stay."""
        self._marked.clear()
        self._channel = None


def _name_of(delivery: Delivery) -> str | None:
    """The queue of a message's marks; None for what has no id."""
    try:
        task_id = peek(delivery.payload).id
    except DecodeError:
        return None
    if not task_id:
        return None
    key = f"{delivery.queue}\0{task_id}".encode()
    return _PREFIX + hashlib.sha256(key).hexdigest()[:40]


async def _read(channel: Channel, name: str) -> list[Loss]:
    """The marks that are there; the queue is made if it is not."""
    _, count, _ = await channel.declare_queue(name, arguments=_ARGUMENTS)
    marks, last = [], 0
    for _ in range(count):
        taken = await channel.get(name)
        if taken is None:
            break
        last = taken.tag
        marks.append(_decode(taken.body))
    if last:
        channel.nack(last, multiple=True, requeue=True)
    return marks


async def _unmark(channel: Channel, name: str, identity: str) -> None:
    """Take away the last mark of a consumer."""
    await channel.declare_queue(name, arguments=_ARGUMENTS)
    own: list[int] = []
    others: list[int] = []
    while (taken := await channel.get(name)) is not None:
        (own if _decode(taken.body).worker == identity else others).append(taken.tag)
    if own:
        channel.ack(own.pop())
    for tag in (*own, *others):
        channel.nack(tag, requeue=True)
