"""``Receiver``: hears the events of a fleet, Celery's workers and Umbel's."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol

from umbel.core.events import read_events
from umbel.core.ids import new_id
from umbel.core.serializers import accept_set
from umbel.errors import BrokerError, ContentDisallowed, DecodeError, ImproperlyConfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from umbel.brokers.base import Broker, Subscription
    from umbel.lamport import LogicalClock

__all__ = ["Receiver", "WatchableApp"]

logger = logging.getLogger("celery.events")

#: Seconds before listening is tried again after the connection was lost.
_AGAIN = 1.0
#: A client's event is put this much before the worker's of the same instant.
_CLIENT_SKEW = -1


class WatchableApp(Protocol):
    """What watching needs of an application."""

    @property
    def conf(self) -> Any:
        """Its settings."""

    @property
    def broker(self) -> Broker:
        """Its broker."""

    @property
    def clock(self) -> LogicalClock:
        """Its logical clock."""

    @property
    def control(self) -> Any:
        """Tells workers to show themselves."""

    @property
    def identity(self) -> Any:
        """Who sends."""

    @property
    def sender(self) -> Any:
        """Sends."""


class Receiver:
    """Captures events and gives each to the handler of its type, or to the handler ``"*"``.

    Args:
        channel: accepted as Celery's, which wants a connection here; the application's own is used.
        handlers: by event type.
        routing_key: which events, ``#`` for all, ``worker.#`` for those about workers.
        node_id: who watches; None: a name of its own.
        app: the application.
        accept: content types or names of serializers that are read; None: JSON and ``event_serializer``.
        queue_prefix, queue_ttl, queue_expires, queue_exclusive, queue_durable: accepted as Celery's; a subscription
            is exclusive and goes with its watcher.

    Raises:
        ImproperlyConfigured: the broker cannot broadcast, or the queue should be exclusive and durable.
    """

    def __init__(
        self,
        channel: Any = None,
        handlers: Mapping[str, Callable[[dict[str, Any]], object]] | None = None,
        routing_key: str = "#",
        node_id: str | None = None,
        app: WatchableApp | None = None,
        queue_prefix: str | None = None,
        accept: Iterable[str] | None = None,
        queue_ttl: float | None = None,
        queue_expires: float | None = None,
        queue_exclusive: bool | None = None,
        queue_durable: bool | None = None,
    ) -> None:
        if app is None:
            from umbel.state import get_current_app

            app = get_current_app()
        assert app is not None
        if queue_exclusive and queue_durable:
            raise ImproperlyConfigured("Queue cannot be both exclusive and durable, choose one or the other.")
        if not app.broker.capabilities.fanout:
            raise ImproperlyConfigured(f"{app.broker.display_url} cannot broadcast, so there are no events")
        self.app = app
        self.channel = channel
        self.handlers = dict(handlers or {})
        self.routing_key = routing_key
        self.node_id = node_id or new_id()
        self.clock = app.clock
        self.adjust_clock, self.forward_clock = app.clock.adjust, app.clock.forward
        self.accept = accept_set(accept or (app.conf.event_serializer, "json"))
        self.should_stop = False
        self.queue = ListenerQueue(self)
        self._early: tuple[_Listening, SimpleQueue[bytes | BaseException | None]] | None = None

    def listen(self) -> None:
        """Listen from now on, so that the next ``capture`` begins with what comes before it. Safe twice.

        Raises:
            OperationalError: the broker cannot be reached.
        """
        if self._early is not None:
            return
        listening, heard = self._start_listening()
        opened = heard.get()
        if isinstance(opened, BaseException):
            listening.stop()
            raise opened
        heard.put(None)
        self._early = listening, heard

    def _start_listening(self) -> tuple[_Listening, SimpleQueue[bytes | BaseException | None]]:
        heard: SimpleQueue[bytes | BaseException | None] = SimpleQueue()
        listening = _Listening(self.app.broker, self.app.conf.event_exchange, self.routing_key, heard)
        listening.start()
        return listening, heard

    def process(self, type: str, event: dict[str, Any]) -> None:
        """Give an event to its handler."""
        handler = self.handlers.get(type) or self.handlers.get("*")
        if handler is not None:
            handler(event)

    def capture(self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True) -> None:
        """Handle events until ``limit`` messages have come or ``should_stop`` is set.

        Args:
            limit: None: no limit.
            timeout: seconds to wait for the next; None: for ever.
            wakeup: ask the workers for a heartbeat first.

        Raises:
            TimeoutError: nothing came in time. OperationalError: the broker cannot be reached at the start.
        """
        for _ in self.itercapture(limit, timeout, wakeup):
            pass

    def itercapture(
        self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True
    ) -> Iterator[None]:
        """As ``capture``; yields after each message."""
        listening, heard = self._early or self._start_listening()
        self._early = None
        count = 0
        try:
            while not self.should_stop and (limit is None or count < limit):
                payload = _next(heard, timeout)
                if payload is None:  # it listens by now
                    if wakeup:
                        self.wakeup_workers()
                    continue
                count += 1
                self._receive(payload)
                yield
        finally:
            listening.stop()

    def wakeup_workers(self, channel: Any = None) -> None:
        """Ask every worker for a heartbeat, so that it is seen at once."""
        self.app.control.broadcast("heartbeat")

    def _receive(self, payload: bytes) -> None:
        try:
            events = read_events(payload, self.accept)
        except (ContentDisallowed, DecodeError) as error:
            logger.warning("Cannot read an event: %s", error)
            return
        for body in events:
            type_, event = self.event_from_message(body)
            self.process(type_, event)

    def event_from_message(self, body: dict[str, Any], localize: bool = True) -> tuple[str, dict[str, Any]]:
        """The type of an event, and the event with its clock and ``local_received`` set.

        ``localize`` is accepted as Celery's: times are seconds since the epoch, the same everywhere.
        """
        type_: str = body["type"]
        if type_ == "task-sent":
            # Clients have no clock that workers know of.
            body["clock"] = self.clock.value + _CLIENT_SKEW
        elif isinstance(body.get("clock"), int):
            self.adjust_clock(body["clock"])
        else:
            body["clock"] = self.forward_clock()
        body["local_received"] = time.time()
        return type_, body


class ListenerQueue:
    """``Receiver.queue``: what Celery's programs declare to hear what is sent before they capture."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def __call__(self, channel: Any = None) -> ListenerQueue:
        """Give the queue on a channel, which is the same."""
        return self

    def declare(self, *args: Any, **kwargs: Any) -> None:
        """As ``Receiver.listen``."""
        self._receiver.listen()


def _next(heard: SimpleQueue[bytes | BaseException | None], timeout: float | None) -> bytes | None:
    try:
        payload = heard.get(timeout=timeout)
    except Empty:
        raise TimeoutError(f"no event came within {timeout:g} seconds") from None
    if isinstance(payload, BaseException):
        raise payload
    return payload


class _Listening:
    """A thread with a loop that listens, and goes on listening when the connection was lost."""

    def __init__(
        self, broker: Broker, exchange: str, pattern: str, heard: SimpleQueue[bytes | BaseException | None]
    ) -> None:
        self._subscription: Subscription = broker.subscriber(exchange, pattern, "broadcast")
        self._heard = heard
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = Thread(target=self._work, name="umbel-events", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._cancel)
        self._thread.join()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._task = self._loop.create_task(self._listen())
            self._loop.run_until_complete(asyncio.wait([self._task]))
            if not self._task.cancelled() and (error := self._task.exception()):
                self._heard.put(error)
        finally:
            self._loop.close()

    async def _listen(self) -> None:
        try:
            await self._subscription.open()
            self._heard.put(None)
            while True:
                try:
                    self._heard.put(await self._subscription.get())
                except BrokerError as error:
                    logger.warning("consumer: Connection to broker lost: %s. Trying again...", error)
                    await self._open_again()
                    self._heard.put(None)
        finally:
            await self._subscription.close()

    async def _open_again(self) -> None:
        while True:
            await asyncio.sleep(_AGAIN)
            try:
                await self._subscription.open()
            except BrokerError as error:
                logger.debug("still no connection to the broker: %s", error)
            else:
                return
