"""Sending and taking messages of a program's own, by kombu's names; see ``umbel.client.connection``."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Self, cast

from umbel.brokers.base import Disposition, FetchPlan
from umbel.core.bindings import bindings_of
from umbel.core.compression import compress, decompress
from umbel.core.destination import Destination
from umbel.core.envelope import Envelope, read_envelope
from umbel.core.ids import new_id
from umbel.core.queues import Exchange, Queue
from umbel.core.records import Publication
from umbel.core.serializers import accept_set, dumps, loads
from umbel.errors import BrokerConnectionError, OperationalError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    from umbel.brokers.base import Broker, Delivery
    from umbel.brokers.base import Consumer as BrokerConsumer
    from umbel.client.connection import Connection

__all__ = ["Consumer", "Message", "Producer", "Receiving", "SimpleQueue"]

#: Seconds until what is sent has to be confirmed, and that a lease lasts.
_TIMEOUT: Final = 30.0
_LEASE: Final = 30.0


class Producer:
    """Sends messages to an exchange."""

    def __init__(
        self,
        channel: Any,
        exchange: Any = None,
        routing_key: str = "",
        serializer: str | None = None,
        auto_declare: bool | None = None,
        compression: str | None = None,
        on_return: Any = None,
    ) -> None:
        self.channel = self.connection = cast("Connection", channel)
        self.exchange = exchange if isinstance(exchange, Exchange) else Exchange(exchange or "")
        self.routing_key = routing_key
        self.serializer = serializer
        self.compression = compression
        self._publisher: Any = None

    def publish(
        self,
        body: Any,
        routing_key: str | None = None,
        delivery_mode: Any = None,
        mandatory: bool = False,
        immediate: bool = False,
        priority: int = 0,
        content_type: str | None = None,
        content_encoding: str | None = None,
        serializer: str | None = None,
        headers: Mapping[str, Any] | None = None,
        compression: str | None = None,
        exchange: Any = None,
        retry: bool | None = False,
        retry_policy: Any = None,
        declare: Iterable[Any] = (),
        expiration: float | None = None,
        timeout: float | None = None,
        **properties: Any,
    ) -> None:
        """Send one message; returning means that the broker has it.

        Args:
            body: anything that the serializer can write; text and bytes as they are when ``content_type`` is given.
            declare: queues that are to be bound first.
            expiration: seconds until it is worth nothing any more.
            properties: more properties of the message.

        Raises:
            OperationalError: the broker cannot be reached, or no queue is bound for it.
            EncodeError: the body cannot be written.
        """
        broker = self.connection.broker
        broker.declare([bound for each in declare if isinstance(each, Queue) for bound in bindings_of(each)])
        envelope = self._written(body, serializer or self.serializer, content_type, content_encoding)
        envelope.headers = dict(headers or {})
        self._compress(envelope, compression or self.compression)
        envelope.properties = {"delivery_mode": 2 if delivery_mode is None else delivery_mode, **properties}
        if expiration is not None:
            envelope.properties["expiration"] = str(int(expiration * 1000))
        destination = self._destination(exchange, routing_key, priority)
        self.send(Publication(destination, broker.pack(envelope, destination)), timeout)

    def send(self, publication: Publication, timeout: float | None = None) -> None:
        """Send a message that is packed already. Raises OperationalError as ``publish`` does."""
        if self._publisher is None:
            self._publisher = self.connection.broker.publisher()
        self._publisher.send((publication,), timeout=timeout or _TIMEOUT)

    def _destination(self, exchange: Any, routing_key: str | None, priority: int | None) -> Destination:
        target = self.exchange if exchange is None else exchange
        target = target if isinstance(target, Exchange) else Exchange(str(target or ""))
        key = self.routing_key if routing_key is None else routing_key
        return Destination(target.name, key, None if target.name else key, target.type, priority or 0)

    @staticmethod
    def _written(body: Any, serializer: str | None, kind: str | None, encoding: str | None) -> Envelope:
        if kind is not None and isinstance(body, (str, bytes)):
            data = body.encode(encoding or "utf-8") if isinstance(body, str) else body
            return Envelope({}, {}, kind, encoding or ("utf-8" if isinstance(body, str) else "binary"), data)
        found_type, found_encoding, data = dumps(body, serializer or "json")
        return Envelope({}, {}, found_type, found_encoding, data)

    @staticmethod
    def _compress(envelope: Envelope, compression: str | None) -> None:
        if compression:
            envelope.headers["compression"], envelope.body = compress(envelope.body, compression)

    def declare(self) -> None:
        """An exchange is there as soon as it is used."""

    def maybe_declare(self, entity: Any, retry: bool = False, **retry_policy: Any) -> None:
        """Bind a queue."""
        if isinstance(entity, Queue):
            self.connection.broker.declare(bindings_of(entity))

    def revive(self, channel: Any) -> None:
        """Use another connection."""
        self.release()
        self.channel = self.connection = channel

    def release(self) -> None:
        """Close it. Safe twice."""
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None

    close = release

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()


class Message:
    """A message that was taken, to be acknowledged, rejected or put back."""

    def __init__(self, receiving: Receiving, delivery: Delivery, accept: frozenset[str] | None) -> None:
        envelope = read_envelope(delivery.payload)
        self._receiving = receiving
        self._accept = accept
        self.delivery = delivery
        self.delivery_tag = delivery.tag
        self.headers = envelope.headers
        self.properties = envelope.properties
        self.content_type = envelope.content_type
        self.content_encoding = envelope.content_encoding
        self.body: Any = envelope.body
        if "compression" in self.headers:
            self.body = decompress(self.body, self.headers["compression"])
        info = self.properties.get("delivery_info") or {}
        # Brokers of Umbel's own form say the queue only.
        self.delivery_info = {"exchange": "", "routing_key": delivery.queue, **info}
        self.delivery_info["redelivered"] = delivery.redelivered
        self.acknowledged = False
        self.channel = None

    @property
    def payload(self) -> Any:
        """The body, decoded. Raises ContentDisallowed or DecodeError."""
        return loads(self.body, self.content_type, self.content_encoding, self._accept)

    decode = property(lambda self: lambda: self.payload)

    def ack(self, multiple: bool = False) -> None:
        """It is done."""
        self._settle("ack")

    def reject(self, requeue: bool = False) -> None:
        """It is refused: dead-lettered, or put back."""
        self._settle("requeue" if requeue else "dead_letter")

    def requeue(self) -> None:
        """Put it back."""
        self._settle("requeue")

    def forward(self, publications: Sequence[Publication]) -> None:
        """It is done, and these are sent in its place, all in one step of its broker."""
        if not self.acknowledged:
            self.acknowledged = True
            self._receiving.settle(Disposition(self.delivery.tag, publish=publications))

    def ack_log_error(self, logger: Any, errors: Any, multiple: bool = False) -> None:
        """As ``ack``; ``errors`` are logged."""
        try:
            self.ack()
        except errors as error:
            logger.critical("Couldn't ack %r, reason:%r", self.delivery_tag, error, exc_info=True)

    def _settle(self, action: Any) -> None:
        if not self.acknowledged:
            self.acknowledged = True
            reason = "rejected" if action == "dead_letter" else ""
            self._receiving.settle(Disposition(self.delivery.tag, action, reason=reason, front=True))

    def __repr__(self) -> str:
        return f"<Message: {self.content_type} from {self.delivery.queue}>"


class Consumer:
    """Takes messages from queues, for ``drain_events`` to hand to callbacks ``(body, message)``."""

    def __init__(
        self,
        channel: Any,
        queues: Any = None,
        no_ack: bool | None = None,
        auto_declare: bool | None = None,
        callbacks: Sequence[Callable[[Any, Message], object]] | None = None,
        on_decode_error: Callable[[Message, Exception], object] | None = None,
        on_message: Callable[[Message], object] | None = None,
        accept: Iterable[str] | None = None,
        prefetch_count: int | None = None,
        tag_prefix: str | None = None,
        **_: Any,
    ) -> None:
        self.connection = self.channel = cast("Connection", channel)
        given = queues if isinstance(queues, (list, tuple)) else [queues] if queues else []
        self.queues = [
            each if isinstance(each, Queue) else Queue(str(each), routing_key=str(each)) for each in given
        ]
        self.no_ack = bool(no_ack)
        self.callbacks = list(callbacks or ())
        self.on_message = on_message
        self.on_decode_error = on_decode_error
        self.accept = accept_set(accept) if accept is not None else self.connection.accept

    def register_callback(self, callback: Callable[[Any, Message], object]) -> None:
        """Add a callback."""
        self.callbacks.append(callback)

    def add_queue(self, queue: Any) -> Any:
        """Take from one more queue."""
        self.queues.append(queue)
        return queue

    def consume(self, no_ack: bool | None = None) -> None:
        """Begin to take messages."""
        self.no_ack = self.no_ack if no_ack is None else no_ack
        self.connection.broker.declare([bound for queue in self.queues for bound in bindings_of(queue)])
        self.connection.receiving.add(self)

    def cancel(self) -> None:
        """Take no more. Safe twice."""
        self.connection.receiving.remove(self)

    close = cancel

    def qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        """Accepted: messages are taken one by one."""

    def purge(self) -> int:
        """Delete what waits in its queues."""
        return sum(self.connection.broker.purge(queue.name) for queue in self.queues)

    def receive(self, message: Message) -> None:
        """Hand a message to the callbacks."""
        if self.no_ack:
            message.ack()
        if self.on_message is not None:
            self.on_message(message)
            return
        try:
            body = message.payload
        except Exception as error:
            if self.on_decode_error is None:
                raise
            self.on_decode_error(message, error)
            return
        for callback in self.callbacks:
            callback(body, message)

    def __enter__(self) -> Self:
        self.consume()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cancel()


class Receiving:
    """One broker consumer, in an event loop of a thread of its own; the calls from outside wait for it."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._consumers: list[Consumer] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="umbel-receiving", daemon=True)
        self._thread.start()
        self._consumer: BrokerConsumer = self._call(self._open())
        self._renewal = self._call(self._start_renewal())

    def _call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _open(self) -> BrokerConsumer:
        consumer = self._broker.consumer(f"connection:{new_id()}", _LEASE)
        await consumer.open()
        return consumer

    async def _start_renewal(self) -> asyncio.Task[None]:
        return asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_LEASE / 3)
            try:
                await self._consumer.renew()
            except BrokerConnectionError:
                continue  # the next call to fetch meets it too, and raises

    def add(self, consumer: Consumer) -> None:
        """Take messages for a consumer too."""
        if consumer not in self._consumers:
            self._consumers.append(consumer)

    def remove(self, consumer: Consumer) -> None:
        """Take none for it any more."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)

    def drain(self, timeout: float | None) -> None:
        """Take one message and hand it to the consumers of its queue."""
        queues = tuple({queue.name: None for each in self._consumers for queue in each.queues})
        delivery = self.take(queues, timeout)
        if delivery is None:
            raise TimeoutError(f"no message within {timeout} seconds")
        for consumer in self._consumers:
            if any(queue.name == delivery.queue for queue in consumer.queues):
                consumer.receive(Message(self, delivery, consumer.accept))
                return

    def take(self, queues: tuple[str, ...], timeout: float | None) -> Delivery | None:
        """One delivery, or None when none comes in time."""
        plan = FetchPlan(queues)
        while True:
            # Without limit in steps: a program must be able to be interrupted.
            found = self.fetch(plan, 1, 1.0 if timeout is None else timeout)
            if found or timeout is not None:
                return found[0] if found else None

    def fetch(self, plan: FetchPlan, limit: int, timeout: float) -> list[Delivery]:
        """Up to ``limit`` deliveries; none when none comes within ``timeout`` seconds."""
        found: list[Delivery] = self._call(self._consumer.fetch(plan, limit, timeout))
        return found

    def settle(self, disposition: Disposition) -> None:
        """End a delivery."""
        self._call(self._consumer.settle([disposition]))

    def close(self) -> None:
        """Give back what is held, and end the thread."""
        self._loop.call_soon_threadsafe(self._renewal.cancel)
        try:
            self._call(self._consumer.close())
        except OperationalError:
            pass  # its lease lapses, and peers return what it held
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


class SimpleQueue:
    """A queue: ``put`` and ``get``. Raises ``SimpleQueue.Empty`` when nothing comes in time."""

    class Empty(Exception):
        """Nothing came in time."""

    def __init__(self, channel: Any, name: Any, no_ack: bool | None = None, **options: Any) -> None:
        self.connection = self.channel = cast("Connection", channel)
        self.queue = name if isinstance(name, Queue) else Queue(str(name), routing_key=str(name))
        self.no_ack = bool(no_ack)
        exchange, key = self.queue.exchange, self.queue.routing_key or self.queue.name
        named = exchange is not None and exchange.name
        self.producer = Producer(channel, exchange if named else None, key if named else self.queue.name)
        self.producer.serializer = options.get("serializer")
        self._waiting: deque[Message] = deque()
        self.connection.broker.declare(bindings_of(self.queue))

    def put(
        self,
        message: Any,
        serializer: str | None = None,
        headers: Mapping[str, Any] | None = None,
        compression: str | None = None,
        routing_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Send a message."""
        self.producer.publish(
            message, routing_key, serializer=serializer, headers=headers, compression=compression, **kwargs
        )

    def get(self, block: bool = True, timeout: float | None = None) -> Message:
        """The next message; waits at most ``timeout`` seconds, None for as long as it takes."""
        receiving = self.connection.receiving
        delivery = receiving.take((self.queue.name,), timeout if block else 0.0)
        if delivery is None:
            raise self.Empty
        message = Message(receiving, delivery, self.connection.accept)
        if self.no_ack:
            message.ack()
        return message

    def get_nowait(self) -> Message:
        """The next message, if there is one."""
        return self.get(block=False)

    def clear(self) -> int:
        """Delete what waits; says how many messages."""
        return self.connection.broker.purge(self.queue.name)

    def qsize(self) -> int:
        """How many messages wait."""
        return self.connection.broker.depth(self.queue.name)

    __len__ = qsize

    def __bool__(self) -> bool:
        return True

    def close(self) -> None:
        """Close it. Safe twice."""
        self.producer.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
