"""``Client``: the only sender. Builds the message, lets signals see it, encodes it and hands it to the broker."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from umbel.brokers.base import PipelinedPublisher
from umbel.core.message import Tail
from umbel.core.protocol import build_message, encode
from umbel.core.queues import Exchange, Queue
from umbel.core.records import Publication
from umbel.core.repeats import repeated
from umbel.core.retry import RetryPolicy
from umbel.errors import BrokerConnectionError, OperationalError
from umbel.signals import after_task_publish, before_task_publish, task_sent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from umbel.brokers.base import AsyncPublisher, Broker, Publisher
    from umbel.client.outbox import Outbox
    from umbel.core.destination import Destination
    from umbel.core.message import Call, TaskMessage

__all__ = ["Client", "PublishOptions", "Work"]

#: A bulk send goes out in chunks of so many messages or bytes, whichever comes first: one round trip each.
CHUNK_MESSAGES = 500
_CHUNK_BYTES = 4 * 1024 * 1024


def is_watched() -> bool:
    """Whether anyone listens to the signals of publishing, and has to be shown the messages."""
    return bool(before_task_publish.receivers or after_task_publish.receivers or task_sent.receivers)


class PublishOptions(NamedTuple):
    """How one message is written and sent. ``timeout`` is seconds until a publish has to be confirmed."""

    destination: Destination
    serializer: str
    compression: str | None
    retry: bool
    retry_policy: Mapping[str, Any]
    timeout: float


class Work(NamedTuple):
    """A call and how to send it."""

    call: Call
    options: PublishOptions


class Client:
    """Sends messages through one broker. Safe for use by several threads, and after a fork.

    Raises OperationalError (``BrokerError`` and its kin) when the broker cannot be reached, ``PublishTimeout`` when it
    did not confirm in time, EncodeError when the arguments cannot be written.
    """

    def __init__(
        self, broker: Broker, make_outbox: Callable[[Broker, Publisher], Outbox] | None = None
    ) -> None:
        self.broker = broker
        self._publisher: Publisher = broker.publisher()
        #: Takes messages while the broker is away; None: their senders get an error (``broker_outbox``).
        self.outbox = make_outbox(broker, self._publisher) if make_outbox is not None else None
        self._send = self._publisher.send if self.outbox is None else self.outbox.send
        #: Told of every message that was sent; None: nobody wants to be (``task_send_sent_event``).
        self.told: Callable[[TaskMessage, Destination], None] | None = None

    @property
    def publisher(self) -> Publisher:
        """What its messages go through."""
        return self._publisher

    def prepare(self, call: Call, options: PublishOptions) -> Publication:
        """The publication of a call, as ``publish`` would send it; ``before_task_publish`` has seen it."""
        if before_task_publish.receivers and isinstance(call.chain, Tail):
            call.chain = call.chain.steps()
        return self._pack(build_message(call), options)

    def publish(self, call: Call, options: PublishOptions) -> None:
        """Send one message; returning means that the broker has it."""
        if before_task_publish.receivers:
            options = _changeable(options)
        message = build_message(call)
        publications = [self._pack(message, options)]
        self.send_packed(publications, options)
        if self._is_followed():
            self._tell_published(message, options.destination)

    def send_packed(self, publications: Sequence[Publication], options: PublishOptions) -> None:
        """Send payloads that are made already, in one round trip; nobody is told of them."""
        try:
            self._send(publications, timeout=options.timeout)
        except BrokerConnectionError as error:
            self._send_again(publications, options, error)

    def send_packed_many(self, publications: Iterable[Publication], options: PublishOptions) -> None:
        """As ``send_packed``, in as many round trips as the chunks of a bulk send."""
        chunk: list[Publication] = []
        size = 0
        for publication in publications:
            chunk.append(publication)
            size += len(publication.payload)
            if size >= _CHUNK_BYTES or len(chunk) >= CHUNK_MESSAGES:
                self.send_packed(chunk, options)
                chunk, size = [], 0
        if chunk:
            self.send_packed(chunk, options)

    def publish_many(self, works: Iterable[Work]) -> None:
        """Send many messages in few round trips, in order.

        A broker that can do so takes one chunk while the next is made; when one fails, the next may have been sent.
        """
        if isinstance(self._publisher, PipelinedPublisher):
            self._publish_pipelined(self._publisher, works)
            return
        for chunk, last, seen in self._chunks(works):
            self.send_packed(chunk, last)
            self._tell_all(seen)

    def _publish_pipelined(self, publisher: PipelinedPublisher, works: Iterable[Work]) -> None:
        before: _Begun | None = None
        try:
            for chunk in self._chunks(works):
                ended, before = before, _Begun(publisher, chunk)
                if ended is not None:
                    self._end(ended)
        except BaseException:
            # What was asked for first is what is told; nothing is left on its way.
            if before is not None:
                with suppress(OperationalError):
                    self._end(before)
            raise
        if before is not None:
            self._end(before)

    def _end(self, begun: _Begun) -> None:
        """Wait until the broker has a chunk, and send it again where the connection was lost."""
        publications, options, seen = begun.chunk
        try:
            begun.wait()
        except BrokerConnectionError as error:
            self._send_again(publications, options, error)
        self._tell_all(seen)

    async def asend_packed(
        self, publications: Sequence[Publication], options: PublishOptions, publisher: AsyncPublisher
    ) -> None:
        """As ``send_packed``, without blocking the event loop."""
        await self._adeliver(publications, options, publisher)

    async def apublish(self, call: Call, options: PublishOptions, publisher: AsyncPublisher) -> None:
        """As ``publish``, without blocking the event loop."""
        if before_task_publish.receivers:
            options = _changeable(options)
        message = build_message(call)
        await self._adeliver([self._pack(message, options)], options, publisher)
        if self._is_followed():
            self._tell_published(message, options.destination)

    async def apublish_many(self, works: Iterable[Work], publisher: AsyncPublisher) -> None:
        """As ``publish_many``, without blocking the event loop."""
        for chunk, last, seen in self._chunks(works):
            await self._adeliver(chunk, last, publisher)
            self._tell_all(seen)

    def send_raw(self, publication: Publication, timeout: float) -> None:
        """Send one payload that is made already, once, and never by the outbox; ``timeout`` is seconds."""
        self._publisher.send((publication,), timeout=timeout)

    def close(self) -> None:
        """Give the connections back. Safe twice."""
        if self.outbox is not None:
            self.outbox.close()
        self._publisher.close()

    def _pack(self, message: TaskMessage, options: PublishOptions) -> Publication:
        destination = options.destination
        if before_task_publish.receivers:
            _tell_before(message, options)
        envelope = encode(message, options.serializer, options.compression)
        return Publication(destination, self.broker.pack(envelope, destination))

    def _chunks(self, works: Iterable[Work]) -> Iterator[_Chunk]:
        publications: list[Publication] = []
        seen: list[tuple[TaskMessage, Destination]] = []
        size = 0
        for call, options in works:
            message = build_message(call)
            publication = self._pack(message, options)
            publications.append(publication)
            if self._is_followed():
                seen.append((message, options.destination))
            size += len(publication.payload)
            if len(publications) >= CHUNK_MESSAGES or size >= _CHUNK_BYTES:
                yield publications, options, seen
                publications, seen, size = [], [], 0
        if publications:
            yield publications, options, seen

    def is_watched(self) -> bool:
        """Whether anyone has to be shown the messages as they are sent."""
        return self.told is not None or is_watched()

    def _is_followed(self) -> bool:
        return self.told is not None or bool(after_task_publish.receivers or task_sent.receivers)

    def _tell_published(self, message: TaskMessage, destination: Destination) -> None:
        _tell_published(message, destination)
        if self.told is not None:
            self.told(message, destination)

    def _tell_all(self, seen: list[tuple[TaskMessage, Destination]]) -> None:
        for message, destination in seen:
            self._tell_published(message, destination)

    def _send_again(
        self, publications: Sequence[Publication], options: PublishOptions, error: BrokerConnectionError
    ) -> None:
        attempts = _Attempts(options)
        publications = repeated(publications)  # the answer may have been lost, and not the messages
        while True:
            time.sleep(attempts.pause_after(error))
            try:
                return self._send(publications, timeout=attempts.timeout())
            except BrokerConnectionError as again:
                error = again

    async def _adeliver(
        self, publications: Sequence[Publication], options: PublishOptions, publisher: AsyncPublisher
    ) -> None:
        if self.outbox is not None:
            return await self.outbox.asend(publications, publisher, timeout=options.timeout)
        attempts = _Attempts(options)
        while True:
            try:
                return await publisher.send(publications, timeout=attempts.timeout())
            except BrokerConnectionError as error:
                # Only a coroutine comes here: its program has asyncio. At the top it would cost every program.
                from asyncio import sleep

                await sleep(attempts.pause_after(error))
                publications = repeated(publications)


_Chunk = tuple[list[Publication], PublishOptions, list[tuple["TaskMessage", "Destination"]]]


class _Begun:
    """A chunk that is on its way."""

    __slots__ = ("_error", "_finish", "chunk")

    def __init__(self, publisher: PipelinedPublisher, chunk: _Chunk) -> None:
        self.chunk = chunk
        self._error: BrokerConnectionError | None = None
        self._finish: Callable[[], None] | None = None
        try:
            self._finish = publisher.begin(chunk[0], timeout=chunk[1].timeout)
        except BrokerConnectionError as error:
            self._error = error  # told in its turn: the chunk before it may have to be sent again first

    def wait(self) -> None:
        """Until the broker has it. Raises as ``Publisher.send``."""
        if self._finish is None:
            raise self._error or BrokerConnectionError("nothing was begun")
        self._finish()


class _Attempts:
    """The attempts at one publish: how long each may take, and the pauses between them."""

    __slots__ = ("_deadline", "_options", "_pauses")

    def __init__(self, options: PublishOptions) -> None:
        self._options = options
        self._deadline = 0.0
        self._pauses: Iterator[float] | None = None

    def timeout(self) -> float:
        """Seconds left for the attempt that begins now."""
        if self._pauses is None:
            return self._options.timeout
        return max(0.001, self._deadline - time.monotonic())

    def pause_after(self, error: BrokerConnectionError) -> float:
        """Seconds to wait after a failed attempt. Raises the error when the policy or the deadline allows no more."""
        if self._pauses is None:
            if not self._options.retry:
                raise error
            self._deadline = time.monotonic() + self._options.timeout
            self._pauses = RetryPolicy.from_mapping(self._options.retry_policy).intervals()
        pause = next(self._pauses, None)
        if pause is None or time.monotonic() + pause >= self._deadline:
            raise error
        return pause


def _changeable(options: PublishOptions) -> PublishOptions:
    # Receivers of before_task_publish may change the retry policy, of this message only.
    return options._replace(retry_policy=dict(options.retry_policy))


def _tell_before(message: TaskMessage, options: PublishOptions) -> None:
    # Everything handed out is live: what a receiver changes is what is sent.
    destination = options.destination
    before_task_publish.send(
        message.headers.get("task"),
        body=(message.args, message.kwargs, message.embed),
        exchange=destination.exchange,
        routing_key=destination.routing_key,
        headers=message.headers,
        properties=message.properties,
        declare=_queues_of(destination),
        retry_policy=options.retry_policy,
    )


def _queues_of(destination: Destination) -> list[Queue]:
    """The queue that a message goes to, with its exchange, as receivers expect it; none where it is looked up."""
    name = destination.queue
    if not name:
        return []
    exchange = Exchange(destination.exchange or name, destination.exchange_type)
    return [Queue(name, exchange, destination.routing_key)]


def _tell_published(message: TaskMessage, destination: Destination) -> None:
    headers = message.headers
    name = headers.get("task")
    body = (message.args, message.kwargs, message.embed)
    after_task_publish.send(
        name, body=body, headers=headers, exchange=destination.exchange, routing_key=destination.routing_key
    )
    task_sent.send(
        name,
        task_id=headers.get("id"),
        task=name,
        args=message.args,
        kwargs=message.kwargs,
        eta=headers.get("eta"),
        taskset=headers.get("group"),
    )
