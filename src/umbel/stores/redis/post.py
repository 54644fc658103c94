"""Replies through Redis, in the lists that kombu's transport makes of queues: what Celery's ``rpc://`` does there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from umbel.core.destination import Destination
from umbel.core.envelope import Envelope, pack_kombu, read_envelope
from umbel.core.ids import new_id
from umbel.errors import DecodeError, OperationalError
from umbel.stores.collecting import CollectorThread
from umbel.stores.redis.blocking import LinkPool
from umbel.stores.redis.commands import pack_command
from umbel.stores.redis.loopside import LoopSide
from umbel.stores.redis.replies import check
from umbel.stores.replies import Reply

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from umbel.stores.redis.address import Address
    from umbel.stores.replies import ReplyReceiver

logger = logging.getLogger("umbel.results")

__all__ = ["RedisPost"]

_TIMEOUT: Final = 30.0
#: Seconds after which a wait for a reply begins anew: shorter than any time-out on the way.
_LISTEN: Final = 20
#: Replies taken in one command once one has come.
_CHUNK: Final = 500
#: How a mark begins that a collection puts into its own queues to see when it has come so far. No message does.
_MARK: Final = b"umbel-mark:"


class RedisPost:
    """Replies as lists in one database, each named as its queue.

    Args:
        address: the server and database.
        prefix: ``global_keyprefix``, which stands before every name.
        expires: seconds after the last reply at which a list that nobody reads is gone; None: never.
        persistent: what ``delivery_mode`` says; it changes nothing here.
    """

    def __init__(
        self, address: Address, prefix: str = "", expires: float | None = None, *, persistent: bool = False
    ) -> None:
        self.display_url = address.display_url
        self._address = address
        self._prefix = prefix
        self._expires = expires
        self._mode = 2 if persistent else 1
        self._pool = LinkPool(address, None)
        self._sides: WeakKeyDictionary[Any, LoopSide] = WeakKeyDictionary()

    def declare(self, queue: str) -> None:
        """A list is made by what is put into it."""

    def send(self, replies: Sequence[Reply]) -> None:
        """As ReplyPost.send."""
        packed, count = self._pushes(replies)
        with lost(f"{len(replies)} results were not taken within {_TIMEOUT:g} seconds"):
            for answer in self._pool.call(packed, count, _TIMEOUT):
                check(answer)

    async def asend(self, replies: Sequence[Reply]) -> None:
        """As ``send``."""
        packed, count = self._pushes(replies)
        loop = asyncio.get_running_loop()
        side = self._sides.get(loop)
        if side is None:
            side = self._sides[loop] = LoopSide(self._address)
        link = await side.link()
        for answer in await link.send(packed, count):
            check(answer)

    def _pushes(self, replies: Sequence[Reply]) -> tuple[bytes, int]:
        packed, queues = [], set()
        for reply in replies:
            queues.add(reply.queue)
            packed.append(pack_command((b"LPUSH", self.key(reply.queue), self._pack(reply))))
        if self._expires:
            expires = int(self._expires * 1000)
            packed += [pack_command((b"PEXPIRE", self.key(queue), expires)) for queue in queues]
        return b"".join(packed), len(packed)

    def _pack(self, reply: Reply) -> bytes:
        headers = {"compression": reply.compression} if reply.compression else {}
        properties = {"correlation_id": reply.task_id, "delivery_mode": self._mode}
        envelope = Envelope(headers, properties, reply.content_type, reply.content_encoding, reply.body)
        return pack_kombu(envelope, Destination("", reply.queue))

    def key(self, queue: str) -> bytes:
        """The list of a queue."""
        return f"{self._prefix}{queue}".encode()

    def collect(self, queues: Sequence[str], receiver: ReplyReceiver) -> RedisCollection:
        """As ReplyPost.collect."""
        collection = RedisCollection(self, queues, receiver)
        collection.start()
        return collection

    def new_pool(self) -> LinkPool:
        """Connections for somebody who waits for long."""
        return LinkPool(self._address, None)

    def delete(self, queues: Sequence[str]) -> None:
        """As ReplyPost.delete."""
        with lost("the queues for results could not be deleted"):
            self._pool.command(b"DEL", *map(self.key, queues), timeout=_TIMEOUT)

    def close(self) -> None:
        """As ReplyPost.close."""
        self._pool.close()
        sides, self._sides = self._sides, WeakKeyDictionary()
        for side in list(sides.values()):
            side.close()


class RedisCollection(CollectorThread):
    """Replies being taken from lists."""

    def __init__(self, post: RedisPost, queues: Sequence[str], receiver: ReplyReceiver) -> None:
        super().__init__(receiver)
        self._post = post
        self._pool = post.new_pool()
        self._lock = threading.Lock()
        self._queues = {post.key(queue): queue for queue in queues}
        self._awaited: dict[bytes, threading.Event] = {}

    def add(self, queue: str) -> None:
        """As Collection.add."""
        with self._lock:
            self._queues = {**self._queues, self._post.key(queue): queue}
        self.interrupt()

    def flush(self) -> None:
        """As Collection.flush: a mark in each list has come out of it."""
        marks = {_MARK + new_id().encode(): key for key in self._queues}
        events = {mark: threading.Event() for mark in marks}
        self._awaited.update(events)
        try:
            self._put(marks)
            for event in events.values():
                self.wait_for(event, "Redis did not give the results that have arrived")
        finally:
            for mark in marks:
                self._awaited.pop(mark, None)

    def interrupt(self) -> None:
        """Have the thread look at its queues again."""
        with contextlib.suppress(OperationalError):  # without a connection it does not sleep for long
            self._put({_MARK: next(iter(self._queues))})

    def _put(self, marks: Mapping[bytes, bytes]) -> None:
        packed = b"".join(pack_command((b"LPUSH", key, mark)) for mark, key in marks.items())
        with lost(f"Redis did not answer within {_TIMEOUT:g} seconds"):
            for answer in self._pool.call(packed, len(marks), _TIMEOUT):
                check(answer)

    def collect(self) -> None:
        """As CollectorThread.collect."""
        try:
            while not self.closing:
                self._take()
                self.working()
        finally:
            self._pool.close()

    def _take(self) -> None:
        queues = self._queues
        with lost("Redis does not answer"):
            found = self._pool.command(b"BRPOP", *queues, _LISTEN, timeout=_LISTEN + _TIMEOUT)
            if found is None:
                return
            key, first = found
            self._receive(queues[key], [first])
            self._receive(queues[key], self._pool.command(b"RPOP", key, _CHUNK, timeout=_TIMEOUT) or ())

    def _receive(self, queue: str, payloads: Iterable[bytes]) -> None:
        replies: list[Reply] = []
        for payload in payloads:
            if not payload.startswith(_MARK):
                replies += _read(queue, payload)
                continue
            # What came before the mark counts as received when the mark does.
            self._receiver.arrived(replies)
            replies = []
            event = self._awaited.get(payload)
            if event is not None:
                event.set()
        if replies:
            self._receiver.arrived(replies)


def _read(queue: str, payload: bytes) -> list[Reply]:
    try:
        envelope = read_envelope(payload)
    except DecodeError as error:
        logger.error("What is no message came to the queue for results %s: %s", queue, error)  # noqa: TRY400
        return []
    task_id, compression = envelope.properties.get("correlation_id"), envelope.headers.get("compression")
    return [
        Reply(
            queue,
            task_id if isinstance(task_id, str) else "",
            envelope.body,
            envelope.content_type,
            envelope.content_encoding,
            compression if isinstance(compression, str) else "",
        )
    ]


@contextmanager
def lost(overdue: str) -> Iterator[None]:
    """Say what did not happen in time."""
    try:
        yield
    except TimeoutError as error:
        raise OperationalError(overdue) from error
