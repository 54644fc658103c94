"""``Connection``: a broker for programs that send and take messages themselves, by kombu's names.

Problem: programs use kombu for small queues of their own, and expect ``SimpleQueue``, ``Producer`` and ``Consumer`` to
work on the broker of their tasks, by blocking calls.

Solution: sending goes through the broker's publisher. Taking is asynchronous in Umbel, and a lease has to be renewed,
so a connection that consumes has a thread with an event loop; the blocking calls wait for it. Messages lie in the
broker as kombu's own, and are taken, held and settled as tasks are: a program that is killed loses none.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

from umbel.brokers.urls import broker_from_url
from umbel.client.messages import Consumer, Message, Producer, Receiving, SimpleQueue
from umbel.errors import OperationalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.brokers.base import Broker

__all__ = ["Connection", "ConnectionPool", "Consumer", "Message", "Producer", "ProducerPool", "SimpleQueue"]


class Connection:
    """A broker by its URL. It connects when it is used, and may be used again after ``release``.

    Args:
        hostname: the URL; None: ``sqlite:///umbel.db``.
        broker: the broker itself, where it is there.
        accept: content types that may be decoded; None: JSON only.
        options: accepted as kombu's.
    """

    connection_errors: tuple[type[Exception], ...] = (OperationalError, OSError)
    recoverable_connection_errors: tuple[type[Exception], ...] = (OperationalError, OSError)
    channel_errors: tuple[type[Exception], ...] = ()
    recoverable_channel_errors: tuple[type[Exception], ...] = ()

    def __init__(
        self,
        hostname: Any = None,
        *args: Any,
        broker: Broker | None = None,
        accept: frozenset[str] | None = None,
        **options: Any,
    ) -> None:
        url = hostname[0] if isinstance(hostname, (list, tuple)) else hostname
        self.hostname = str(url) if url else "sqlite:///umbel.db"
        self._options = options
        self._given = broker
        self._broker = broker
        self.accept = accept
        self._receiving: Receiving | None = None
        self._lock = threading.Lock()
        self.connected = False

    @property
    def broker(self) -> Broker:
        """The broker itself."""
        if self._broker is None:
            self._broker = broker_from_url(self.hostname)
        return self._broker

    @property
    def transport(self) -> Any:
        """What kind of broker it is: ``driver_type``."""
        return _Transport(self.hostname.partition("://")[0])

    def as_uri(self, include_password: bool = False, mask: str = "**", **_: Any) -> str:
        """Its URL, without the password."""
        return self.hostname if include_password else self.broker.display_url

    def info(self) -> dict[str, Any]:
        """What it connects to."""
        return {"hostname": self.as_uri(), "transport": self.transport.driver_type}

    def connect(self) -> Self:
        """Open it. Raises OperationalError when the broker cannot be reached."""
        self.broker.depth("celery")  # the cheapest thing that has to reach it
        self.connected = True
        return self

    def ensure_connection(
        self, errback: Callable[..., object] | None = None, max_retries: int | None = None, **policy: Any
    ) -> Self:
        """Open it, trying ``max_retries`` times again; ``errback(error, seconds)`` hears of each failure."""
        attempt = 0
        while True:
            try:
                return self.connect()
            except OperationalError as error:
                if max_retries is not None and attempt >= max_retries:
                    raise
                attempt += 1
                pause = min(2.0 * attempt, 30.0)
                if errback is not None:
                    errback(error, pause)
                threading.Event().wait(pause)

    def clone(self, **kwargs: Any) -> Connection:
        """Another of the same kind."""
        return Connection(self.hostname, broker=self._given, accept=self.accept, **self._options)

    def channel(self) -> Connection:
        """The connection itself: Umbel has no channels."""
        return self

    @property
    def default_channel(self) -> Connection:
        """The connection itself, open."""
        return self if self.connected else self.connect()

    @property
    def connection(self) -> Connection:
        """The connection itself."""
        return self

    client = connection

    def queue_declare(self, queue: str = "", **options: Any) -> Any:
        """How many messages wait in a queue; a queue is there as soon as it is used."""
        return (queue, self.broker.depth(queue), 0)

    def queue_purge(self, queue: str) -> int:
        """Delete what waits in a queue; says how many messages."""
        return self.broker.purge(queue)

    def Producer(self, channel: Any = None, *args: Any, **kwargs: Any) -> Producer:  # noqa: N802 -- kombu's name
        """A producer on it."""
        return Producer(channel or self, *args, **kwargs)

    def Consumer(self, queues: Any = None, channel: Any = None, **kwargs: Any) -> Consumer:  # noqa: N802 -- kombu's name
        """A consumer on it."""
        return Consumer(channel or self, queues, **kwargs)

    def SimpleQueue(self, name: Any, no_ack: bool | None = None, **options: Any) -> SimpleQueue:  # noqa: N802
        """A queue to put into and get from."""
        return SimpleQueue(self, name, no_ack, **options)

    SimpleBuffer = SimpleQueue

    def drain_events(self, timeout: float | None = None, **_: Any) -> None:
        """Wait for a message and hand it to the consumers' callbacks. Raises socket.timeout when none comes."""
        self.receiving.drain(timeout)

    @property
    def receiving(self) -> Receiving:
        """What takes messages; started when it is first wanted."""
        with self._lock:
            if self._receiving is None:
                self._receiving = Receiving(self.broker)
            return self._receiving

    def release(self) -> None:
        """Give back what was not acknowledged, and close. Safe twice."""
        with self._lock:
            receiving, self._receiving = self._receiving, None
        if receiving is not None:
            receiving.close()
        if self._given is None and self._broker is not None:
            self._broker.close()
            self._broker = None
        self.connected = False

    close = release

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Connection: {self.as_uri()}>"


class _Transport:
    def __init__(self, scheme: str) -> None:
        name = scheme.partition("+")[0].removeprefix("py").rstrip("s") or "memory"
        self.driver_type = self.driver_name = "redis" if scheme in {"redis", "rediss"} else name

    supports_heartbeats = False

    def driver_version(self) -> str:
        """The version of what talks to the broker."""
        return "umbel"


class _Pool:
    """Things to borrow, ``limit`` of them at a time; None or 0: without limit."""

    def __init__(self, make: Callable[[], Any], limit: int | None) -> None:
        self._make = make
        self.limit = limit or None
        self._idle: list[Any] = []
        self._room = threading.BoundedSemaphore(limit) if limit else None

    def acquire(self, block: bool = False, timeout: float | None = None) -> Any:
        """One of them, as a context manager. Raises OperationalError when all are lent."""
        if self._room is not None and not self._room.acquire(
            blocking=block, timeout=timeout if block else None
        ):
            raise OperationalError(f"all {self.limit} are in use")
        return _Loan(self, self._idle.pop() if self._idle else self._make())

    def give_back(self, thing: Any) -> None:
        """Take it back."""
        self._idle.append(thing)
        if self._room is not None:
            self._room.release()

    def force_close_all(self, *_: Any, **__: Any) -> None:
        """Close those that are not lent."""
        while self._idle:
            self._idle.pop().release()

    close_after_fork = False


class _Loan:
    """Something borrowed: used as it is, and given back by ``release`` or at the end of the block."""

    def __init__(self, pool: _Pool, thing: Any) -> None:
        self._pool = pool
        self._thing = thing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._thing, name)

    def release(self) -> None:
        """Give it back. Safe twice."""
        pool, self._pool = self._pool, None  # type: ignore[assignment]
        if pool is not None:
            pool.give_back(self._thing)

    def __enter__(self) -> Any:
        return self._thing

    def __exit__(self, *exc_info: object) -> None:
        self.release()


class ConnectionPool(_Pool):
    """Connections to borrow."""


class ProducerPool(_Pool):
    """Producers to borrow."""

    def __init__(self, connections: ConnectionPool) -> None:
        super().__init__(lambda: Producer(connections._make()), connections.limit)
        self.connections = connections
