"""The broker, the result backend and the sender of an application, made from its settings when they are first used."""

from __future__ import annotations

from threading import RLock
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from umbel.app.backend import Backend
from umbel.app.foreign import foreign_backend
from umbel.brokers.options import BrokerOptions
from umbel.brokers.urls import FAILING_OVER, broker_from_url
from umbel.client import CallFactory, Client, PublishDefaults
from umbel.client.sender import Sender
from umbel.config import seconds
from umbel.events.sent import tell_sent
from umbel.results.options import DatabaseOptions, ResultOptions, RetryRules, SendingOptions
from umbel.results.urls import backend_from_url
from umbel.stores.forks import renew_in_children

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.app.application import Umbel
    from umbel.brokers.base import AsyncPublisher, Broker, Publisher
    from umbel.client.outbox import Outbox
    from umbel.config import Settings
    from umbel.results.base import ResultBackend

__all__ = ["EMBEDDED_URL", "Connections"]

#: Where messages and results are kept when nothing was configured: a file in the working directory.
EMBEDDED_URL = "sqlite:///umbel.db"


class Connections:
    """What an application talks to. A change of the settings that describe a part replaces it on its next use."""

    def __init__(self, app: Umbel) -> None:
        self._app = app
        self._lock = RLock()
        renew_in_children(self, _lock=RLock)
        self._brokers: dict[str, tuple[BrokerOptions, Broker]] = {}
        self._backend: Backend | None = None
        self._backend_key: Any = None
        #: What the backend was made of, as far as that is quickly told, and the backend.
        self._backend_as_of: tuple[Any, int, Backend] | None = None
        self._sender: Sender | None = None
        self._generation = -1
        self._of_parent: list[object] = []
        self._publishers: WeakKeyDictionary[Any, tuple[int, Broker, AsyncPublisher]] = WeakKeyDictionary()

    def broker(self, url: Any) -> Broker:
        """The broker of a setting's value; None is the embedded one. One object for each URL."""
        conf = self._app.conf
        name, options = _broker_url(url, conf.broker_transport), _broker_options(conf)
        with self._lock:
            known = self._brokers.get(name)
            if known is not None and known[0] == options:
                return known[1]
            broker = broker_from_url(name, options)
            if known is not None:
                known[1].close()
            self._brokers[name] = (options, broker)
            return broker

    @property
    def backend(self) -> ResultBackend:
        """The result backend of ``result_backend``, or of the application's class."""
        conf = self._app.conf
        url = self._app.backend_cls or conf.result_backend
        if url is None:
            url = "disabled://" if conf.broker_url else EMBEDDED_URL
        known, generation = self._backend_as_of, conf.generation
        if known is not None and known[:2] == (url, generation):
            return known[2]
        if not isinstance(url, (str, type)):
            made: ResultBackend = url
            return made
        options = _result_options(conf, self._reply_to)
        with self._lock:
            if self._backend is None or self._backend_key != (url, options):
                if self._backend is not None:
                    self._backend.close()
                self._backend = foreign_backend(self._app, url) or self._own_backend(url, options)
                self._backend_key = (url, options)
            self._backend_as_of = url, generation, self._backend
            return self._backend

    def _own_backend(self, url: str | type, options: ResultOptions) -> Backend:
        return Backend(self._app, backend_from_url(_as_url(str(url)), options))

    def adapter_of(self, url: str) -> ResultBackend:
        """A new adapter for a URL, with this application's settings."""
        return backend_from_url(url, _result_options(self._app.conf, self._reply_to))

    def _reply_to(self) -> str:
        return self._app.identity.thread_oid

    @property
    def sender(self) -> Sender:
        """Sends this application's tasks as the settings are now."""
        conf = self._app.conf
        if self._sender is None or self._generation != conf.generation:
            with self._lock:
                # Resolved before the number is read: reading the source changes it.
                conf.finalize()
                generation = conf.generation
                self._sender = self._make_sender(conf)
                self._generation = generation
        return self._sender

    def _make_sender(self, conf: Settings) -> Sender:
        app = self._app
        broker = self.broker(conf.broker_write_url)
        client = self._sender.client if self._sender is not None else None
        if client is None or client.broker is not broker:
            client = Client(broker, _outbox_maker(conf))
        client.told = tell_sent(app) if conf.task_send_sent_event else None
        backend = self.backend
        calls = CallFactory(app.amqp.router, _publish_defaults(app), broker.clock.now)
        kept = backend.adapter if isinstance(backend, Backend) else backend
        expect = kept.expect if backend.stores_results else None
        return Sender(client, calls, app.identity, expect, app._result_handle)

    def async_publisher(self) -> AsyncPublisher:
        """The publisher of the running event loop. Raises RuntimeError where none is running."""
        # Only coroutines call this: their program has asyncio, which would cost every other program 30 ms.
        from asyncio import get_running_loop

        loop, conf = get_running_loop(), self._app.conf
        known = self._publishers.get(loop)
        if known is not None and known[0] == conf.generation:
            return known[2]
        broker = self.broker(conf.broker_write_url)
        kept = known is not None and known[1] is broker
        publisher = known[2] if known is not None and kept else broker.async_publisher()
        self._publishers[loop] = (conf.generation, broker, publisher)
        return publisher

    def forget_parent(self) -> None:
        """Start anew in a process that was forked from one whose threads may have been at work here.

        A lock that one of them held would stay locked for ever. What was made is kept, unused, so that nothing of the
        parent's is closed.
        """
        self._of_parent = [self._brokers, self._backend, self._sender, self._publishers]
        self._lock = RLock()
        self._brokers, self._backend, self._sender, self._generation = {}, None, None, -1
        self._backend_as_of = None
        self._publishers = WeakKeyDictionary()

    def close(self) -> None:
        """Close every connection; what is used again is made again. Safe twice."""
        with self._lock:
            if self._sender is not None:
                self._sender.client.close()
            self._sender, self._generation = None, -1
            for _, broker in self._brokers.values():
                broker.close()
            self._brokers.clear()
            if self._backend is not None:
                self._backend.close()
            self._backend = self._backend_as_of = None
            self._publishers = WeakKeyDictionary()


def _outbox_maker(conf: Settings) -> Callable[[Broker, Publisher], Outbox] | None:
    """Makes the outbox of ``broker_outbox``; None where there is none."""
    path = conf.broker_outbox
    if not path:
        return None

    def make(broker: Broker, publisher: Publisher) -> Outbox:
        from umbel.client.outbox import Outbox  # only who has one pays for its import

        return Outbox(
            path,
            broker.display_url,
            publisher,
            limit=conf.broker_outbox_limit,
            timeout=conf.broker_publish_timeout,
        )

    return make


def _broker_url(url: Any, transport: str | None) -> str:
    """What a broker may be reached by, a list or text with ``;`` between URLs, as far as it can use several.

    ``transport`` is put in the place of their schemes.
    """
    urls = url if isinstance(url, (list, tuple)) else [url]
    every = [part for each in urls if each for part in str(each).split(";") if part]
    if transport:
        every = [f"{transport}://{each.split('://', 1)[-1]}" for each in every or [""]]
    if not every:
        return EMBEDDED_URL
    return ";".join(every) if every[0].partition("://")[0] in FAILING_OVER else every[0]


def _as_url(backend: str) -> str:
    """``redis`` alone means ``redis://``, as in Celery."""
    return backend if "://" in backend or not backend else f"{backend}://"


def _broker_options(conf: Settings) -> BrokerOptions:
    return BrokerOptions(
        transport=dict(conf.broker_transport_options or {}),
        connect_timeout=conf.broker_connection_timeout,
        pool_limit=conf.broker_pool_limit,
        use_ssl=conf.broker_use_ssl,
        heartbeat=conf.broker_heartbeat or 0.0,
        heartbeat_rate=conf.broker_heartbeat_checkrate or 3.0,
        login_method=conf.broker_login_method,
        failover_strategy=conf.broker_failover_strategy,
        missing_queue_type=conf.task_create_missing_queue_type,
        missing_exchange_type=conf.task_create_missing_queue_exchange_type,
        queue_max_priority=conf.task_queue_max_priority,
        delayed_queue_type=conf.broker_native_delayed_delivery_queue_type or "quorum",
        dead_letter_expires=seconds(conf.dead_letter_expires) or None,
        dead_letter_limit=conf.dead_letter_limit or None,
        result_expires=seconds(conf.result_expires) or None,
        result_failure_expires=_own_expiry(conf.result_failure_expires),
        result_chord_expires=_own_expiry(conf.result_chord_expires),
        result_chord_ordered=bool(
            (conf.result_backend_transport_options or {}).get("result_chord_ordered", True)
        ),
    )


def _result_options(conf: Settings, reply_to: Callable[[], str]) -> ResultOptions:
    return ResultOptions(
        expires=seconds(conf.result_expires) or None,
        failure_expires=_own_expiry(conf.result_failure_expires),
        chord_expires=_own_expiry(conf.result_chord_expires),
        serializer=conf.result_serializer,
        compression=conf.result_compression,
        use_ssl=conf.redis_backend_use_ssl,
        transport=dict(conf.result_backend_transport_options or {}),
        accept=_accepted(conf),
        retry=_retry_rules(conf),
        database=_database_options(conf),
        sending=_sending_options(conf, reply_to),
        cache_backend=conf.cache_backend,
        cache_options=dict(conf.cache_backend_options or {}),
    )


def _accepted(conf: Settings) -> tuple[str, ...] | None:
    names = conf.accept_content if conf.result_accept_content is None else conf.result_accept_content
    return None if names is None else tuple(names)


def _retry_rules(conf: Settings) -> RetryRules:
    """A backend has reasons of its own to try again, which only settings that were made overrule."""
    always, limit = "result_backend_always_retry", "result_backend_max_retries"
    return RetryRules(
        always=conf[always] if conf.value_set_for(always) else None,
        limit=conf[limit] if conf.value_set_for(limit) else None,
        base=(conf.result_backend_base_sleep_between_retries_ms or 0) / 1000,
        cap=(conf.result_backend_max_sleep_between_retries_ms or 0) / 1000,
    )


def _database_options(conf: Settings) -> DatabaseOptions:
    return DatabaseOptions(
        url=conf.database_url,
        engine_options=dict(conf.database_engine_options or {}),
        engine_callback=conf.database_engine_callback,
        short_lived_sessions=bool(conf.database_short_lived_sessions),
        table_schemas=conf.database_table_schemas,
        table_names=conf.database_table_names,
        create_tables_at_setup=bool(conf.database_create_tables_at_setup),
    )


def _own_expiry(value: Any) -> float | None:
    """Seconds, 0 for ever; None where ``result_expires`` decides."""
    return None if value is None else seconds(value)


def _sending_options(conf: Settings, reply_to: Callable[[], str]) -> SendingOptions:
    urls = conf.broker_url
    return SendingOptions(
        reply_to=reply_to,
        persistent=bool(conf.result_persistent),
        urls=tuple(urls) if isinstance(urls, (list, tuple)) else urls or "",
        transport=dict(conf.broker_transport_options or {}),
        use_ssl=conf.broker_use_ssl,
        connect_timeout=conf.broker_connection_timeout,
        heartbeat=conf.broker_heartbeat or 0.0,
        login_method=conf.broker_login_method,
        failover_strategy=conf.broker_failover_strategy,
    )


def _publish_defaults(app: Umbel) -> PublishDefaults:
    conf = app.conf
    return PublishDefaults(
        serializer=conf.task_serializer,
        compression=conf.task_compression,
        retry=bool(conf.task_publish_retry),
        retry_policy=dict(conf.task_publish_retry_policy or {}),
        timeout=conf.broker_publish_timeout,
        timezone=app.timezone,
        inherit_priority=bool(conf.task_inherit_parent_priority),
    )
