"""What Celery's applications have besides: their log, connections, classes that know the application.

Nothing here is made, or imported, before it is used.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, ClassVar, cast

from umbel.config.sources import import_path

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from umbel.app.application import Umbel
    from umbel.app.log import Logging
    from umbel.client.connection import Connection, ConnectionPool, ProducerPool

__all__ = ["Members"]


class Members:
    """Part of ``Umbel``."""

    log_cls: Any = "umbel.app.log:Logging"
    IS_WINDOWS: ClassVar[bool] = sys.platform == "win32"
    IS_macOS: ClassVar[bool] = sys.platform == "darwin"
    SYSTEM: ClassVar[str] = os.uname().sysname

    #: Classes of layers above, by their paths; each is given as a subclass whose ``app`` is this application.
    _classes: ClassVar[dict[str, str]] = {
        "Worker": "umbel.worker.controller:WorkController",
        "WorkController": "umbel.worker.controller:WorkController",
        "Beat": "umbel.scheduler.program:Beat",
    }
    _entries_cls: ClassVar[str] = "umbel.scheduler.changes:ScheduleEntries"
    _log: Logging | None = None
    _pools: tuple[ConnectionPool, ProducerPool] | None = None

    def _app(self) -> Umbel:
        return cast("Umbel", self)

    # Its log.

    @property
    def log(self) -> Logging:
        """The set-up of logging; for programs that are no worker."""
        if self._log is None:
            self._log = cast("Logging", _loaded(self.log_cls)(self))
        return self._log

    @log.setter
    def log(self, log: Any) -> None:
        self._log = log

    # Connections, as kombu's users know them. What Umbel sends itself needs none of them.

    def connection(self, hostname: str | None = None, **options: Any) -> Connection:
        """A connection to the broker, or to the one of another URL; not open yet.

        Other ``options`` of Celery's (``userid``, ``ssl``, ``heartbeat``, …) belong into the URL or the settings.
        """
        return self.connection_for_write(hostname, **options)

    broker_connection = connection

    def connection_for_write(self, url: str | None = None, **options: Any) -> Connection:
        """A connection to the broker that messages are sent to."""
        return self._connected(url or self._app().conf.broker_write_url)

    def connection_for_read(self, url: str | None = None, **options: Any) -> Connection:
        """A connection to the broker that messages are taken from."""
        return self._connected(url or self._app().conf.broker_read_url)

    def _connected(self, url: Any) -> Connection:
        from umbel.client.connection import Connection

        app = self._app()
        return Connection(url, broker=app._connections.broker(url), accept=app.accept)

    @property
    def pool(self) -> ConnectionPool:
        """Connections to borrow: ``with app.pool.acquire(block=True) as connection:``."""
        return self._borrowed()[0]

    @property
    def producer_pool(self) -> ProducerPool:
        """Producers to borrow: ``with app.producer_pool.acquire(block=True) as producer:``."""
        return self._borrowed()[1]

    def _borrowed(self) -> tuple[ConnectionPool, ProducerPool]:
        if self._pools is None:
            from umbel.client.connection import ConnectionPool, ProducerPool

            connections = ConnectionPool(self.connection_for_write, self._app().conf.broker_pool_limit)
            self._pools = connections, ProducerPool(connections)
        return self._pools

    def connection_or_acquire(self, connection: Any = None, pool: bool = True, *_: Any, **__: Any) -> Any:
        """A context manager of a connection: the one given, or one that is borrowed."""
        return _given(connection) if connection is not None else self.pool.acquire(block=True)

    def producer_or_acquire(self, producer: Any = None) -> AbstractContextManager[Any]:
        """A context manager of a producer: the one given, or one that is borrowed."""
        if producer is not None:
            return _given(producer)
        return cast("AbstractContextManager[Any]", self.producer_pool.acquire(block=True))

    default_connection = connection_or_acquire
    default_producer = producer_or_acquire

    def setup_security(
        self,
        allowed_serializers: Any = None,
        key: str | None = None,
        key_password: str | bytes | None = None,
        cert: str | None = None,
        store: str | None = None,
        digest: str | None = None,
        serializer: str = "json",
    ) -> None:
        """Send and take signed messages only; see ``umbel.app.signing.setup_security``.

        ``allowed_serializers`` is accepted: what is not named in ``accept_content`` is never decoded.
        """
        from umbel.app.signing import setup_security

        setup_security(self._app(), key, key_password, cert, store, digest, serializer)

    # Classes that know the application.

    def subclass_with_self(
        self,
        Class: Any,  # noqa: N803 -- Celery's name
        name: str | None = None,
        attribute: str = "app",
        **attributes: Any,
    ) -> Any:
        """A subclass of a class, or of what a path names, whose ``app`` is this application."""
        base = _loaded(Class)
        body = {attribute: self, "__module__": base.__module__, "__doc__": base.__doc__, **attributes}
        return type(name or base.__name__, (base,), body)

    @property
    def Worker(self) -> Any:  # noqa: N802 -- Celery's name
        """The class of its workers: ``app.Worker(concurrency=2).start()``. See ``worker`` for one in the background."""
        return self.subclass_with_self(self._classes["Worker"])

    WorkController = Worker

    @property
    def Beat(self) -> Any:  # noqa: N802 -- Celery's name
        """The class of its schedulers."""
        return self.subclass_with_self(self._classes["Beat"])

    @property
    def schedule_entries(self) -> Any:
        """What beat sends, to be listed and changed while it runs; see ``scheduler.changes.ScheduleEntries``.

        Raises ImproperlyConfigured where no store is shared with it.
        """
        return _loaded(self._entries_cls)(self._app())

    def uses_utc_timezone(self) -> bool:
        """Whether its time zone is UTC."""
        conf = self._app().conf
        return str(self._app().timezone) == "UTC" if conf.timezone else bool(conf.enable_utc)


def _loaded(named: Any) -> Any:
    return import_path(named) if isinstance(named, str) else named


def _given(value: Any) -> AbstractContextManager[Any]:
    from contextlib import nullcontext

    return nullcontext(value)
