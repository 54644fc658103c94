"""How often messages were lost with their consumers, where the broker only says that a message came back.

RabbitMQ returns a message as it was, with a flag that does not tell a loss from a polite return. So what matters is
written down apart: before work on a message that came back begins, a mark goes into a small queue of that message's
own. The consumer that ends the message deletes the queue; marks that are there when it is handed out again are those of
consumers that were lost. A message that never came back costs nothing, and its first loss is not counted.

A consumer whose connection was cut is not lost: when it is back it takes back the marks it had made, wherever those
messages are by then. There are never more of these queues than messages that came back are being worked on, beside
those of consumers that were lost; what nobody ends here (it was purged, or Celery took it) is forgotten after days.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from umbel.core.causes import Loss, losses_of
from umbel.core.header import peek
from umbel.errors import BrokerConnectionError, DecodeError
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
#: Marks to be taken back at the most: those beyond that count as losses.
_MOST_CUT: Final = 10_000
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
        #: Marks of what was held when the connection was cut; a dictionary for its order.
        self._cut: dict[str, None] = {}
        self._taking_back = asyncio.Lock()
        self._refused = False

    async def begin(self, deliveries: Sequence[Delivery]) -> list[Losses]:
        """Mark those that came back, and say how often each was lost. A few round trips, however many they are."""
        told = [losses_of(delivery.payload) for delivery in deliveries]
        names = {
            place: name
            for place, delivery in enumerate(deliveries)
            if delivery.redelivered and (name := _name_of(delivery)) is not None
        }
        if not names or self._refused:
            return told
        await self.take_back()
        try:
            marks = await self._mark(list(names.values()))
        except ChannelClosedError as error:
            # As where this user may not make such queues: then losses of this kind are not counted.
            self._refused = True
            logger.warning(
                "RabbitMQ refuses to count how often messages are lost with their workers: %s", error
            )
            return told
        for place, name in names.items():
            self._marked[deliveries[place].tag] = name
            told[place] = told[place].plus(*marks[name])
        return told

    async def _mark(self, names: Sequence[str]) -> dict[str, list[Loss]]:
        """Add a mark of ours to each; gives those that were there before."""
        channel = await self._open()
        found = await _read(channel, names)
        mark = _encode(Loss(self._identity, time.time()))
        marks = [Outgoing("", name, {"delivery_mode": 2, "headers": {}}, mark) for name in names]
        outcome = await channel.publish(marks)
        if outcome.returned:
            # Another consumer has taken back its own at this moment, and with it the queue.
            gone = [marks[place] for place in outcome.returned]
            await asyncio.gather(
                *(channel.declare_queue(each.routing_key, arguments=_ARGUMENTS) for each in gone)
            )
            await channel.publish(gone)
        return found

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
        """Forget the marks of deliveries that have ended. What cannot be reached now is left to ``take_back``."""
        names = [self._marked.pop(tag) for tag in tags if tag in self._marked]
        await self._each(names, lambda channel, name: channel.ask(requests.delete_queue(name)))

    async def give_back(self, tags: Iterable[bytes] | None = None) -> None:
        """Take back the marks of deliveries that return to their queues; None: of all. Else as ``end``."""
        chosen = list(self._marked) if tags is None else [tag for tag in tags if tag in self._marked]
        names = [self._marked.pop(tag) for tag in chosen]
        await self._each(names, lambda channel, name: _unmark(channel, name, self._identity))

    async def _each(self, names: Sequence[str], work: Callable[[Channel, str], Awaitable[object]]) -> None:
        # Never raises: the deliveries have ended whatever becomes of their marks, and are not to be ended again.
        for place, name in enumerate(names):
            try:
                await work(await self._open(), name)
            except BrokerConnectionError as error:
                logger.info("Marks of losses are taken back later: %s", error)
                self._cut.update(dict.fromkeys(names[place:]))
                return
            except ChannelClosedError as error:
                logger.info("A mark of a loss could not be taken back: %s", error)

    def forget(self) -> None:
        """The connection is gone, and with it what was held: the marks stay until ``take_back``."""
        self._cut.update(dict.fromkeys(self._marked.values()))
        for name in list(self._cut)[:-_MOST_CUT]:
            del self._cut[name]
        self._marked.clear()
        self._channel = None

    @property
    def has_cut(self) -> bool:
        """Whether marks were left behind by a connection that was cut."""
        return bool(self._cut)

    async def take_back(self) -> None:
        """Take back the marks of what was held when the connection was cut: it was not lost with this consumer.

        Raises BrokerConnectionError; what is left then is taken back the next time.
        """
        async with self._taking_back:
            while self._cut:
                name = next(iter(self._cut))
                try:
                    await _unmark(await self._open(), name, self._identity)
                except ChannelClosedError as error:
                    logger.info("A mark of a loss that was none could not be taken back: %s", error)
                self._cut.pop(name, None)


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


async def _read(channel: Channel, names: Sequence[str]) -> dict[str, list[Loss]]:
    """The marks that are there; the queues are made where they are not."""
    made = await asyncio.gather(*(channel.declare_queue(name, arguments=_ARGUMENTS) for name in names))
    wanted = [name for name, (_, count, _) in zip(names, made, strict=True) for _ in range(count)]
    taken = await asyncio.gather(*(channel.get(name) for name in wanted))
    marks: dict[str, list[Loss]] = {name: [] for name in names}
    for name, mark in zip(wanted, taken, strict=True):
        if mark is not None:
            marks[name].append(_decode(mark.body))
            channel.nack(mark.tag, requeue=True)
    return marks


async def _unmark(channel: Channel, name: str, identity: str) -> None:
    """Take away the last mark of a consumer, and the queue when there is no other."""
    await channel.declare_queue(name, arguments=_ARGUMENTS)
    own: list[int] = []
    others: list[int] = []
    while (taken := await channel.get(name)) is not None:
        (own if _decode(taken.body).worker == identity else others).append(taken.tag)
    if own:
        channel.ack(own.pop())
    for tag in (*own, *others):
        channel.nack(tag, requeue=True)
    if not (own or others):
        await channel.delete_queue(name, if_empty=True)
