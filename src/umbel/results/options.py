"""What an application asks of its result backend beyond the URL."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import msgspec

from umbel.stores.lifetimes import lifetime


class RetryRules(msgspec.Struct, frozen=True, kw_only=True):
    """How often a backend tries again by itself what failed for a reason that may pass. Durations are seconds."""

    always: bool | None = None  #: ``result_backend_always_retry``; None leaves it to the backend
    limit: float | None = None  #: ``result_backend_max_retries``; None leaves it to the backend
    base: float = 0.01  #: ``result_backend_base_sleep_between_retries_ms``
    cap: float = 10.0  #: ``result_backend_max_sleep_between_retries_ms``


class DatabaseOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the SQL backend, each ``database_`` and its name here."""

    url: str | None = None
    engine_options: dict[str, Any] = {}
    engine_callback: Any = None
    short_lived_sessions: bool = False
    table_schemas: dict[str, str | None] | None = None
    table_names: dict[str, str | None] | None = None
    create_tables_at_setup: bool = True


class SendingOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How results travel that are sent to their caller; most of it is what leads to the broker."""

    reply_to: Callable[[], str] | None = None  #: gives the name of the calling thread's queue
    persistent: bool = False  #: ``result_persistent``
    urls: str | tuple[str, ...] = ""  #: ``broker_url``
    transport: dict[str, Any] = {}  #: ``broker_transport_options``
    use_ssl: bool | dict[str, Any] | None = None  #: ``broker_use_ssl``
    connect_timeout: float | None = None  #: ``broker_connection_timeout``, in seconds
    heartbeat: float = 0.0  #: ``broker_heartbeat``, in seconds; 0: none
    login_method: str | None = None  #: ``broker_login_method``
    failover_strategy: Any = None  #: ``broker_failover_strategy``


class ResultOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the application that concern results; each adapter reads what it understands.

    Durations are seconds.
    """

    expires: float | None = 86400.0  #: ``result_expires``; None: kept for ever
    failure_expires: float | None = None  #: ``result_failure_expires``; None: as ``expires``
    chord_expires: float | None = None  #: ``result_chord_expires``; None: as ``expires``
    serializer: str = "json"  #: ``result_serializer``
    compression: str | None = None  #: ``result_compression``
    use_ssl: bool | dict[str, Any] | None = None  #: ``redis_backend_use_ssl`` and the like
    transport: dict[str, Any] = {}  #: ``result_backend_transport_options``
    accept: tuple[str, ...] | None = None  #: ``result_accept_content`` or ``accept_content``
    retry: RetryRules = RetryRules()
    database: DatabaseOptions = DatabaseOptions()
    sending: SendingOptions = SendingOptions()
    cache_backend: str | None = None  #: ``cache_backend``: the URL that ``cache`` alone means
    cache_options: dict[str, Any] = {}  #: ``cache_backend_options``

    def lifetime(self, state: str) -> float:
        """Seconds that a result of this state is kept; infinity for ever."""
        return lifetime(state, self.expires, self.failure_expires)

    def chord_lifetime(self) -> float:
        """Seconds that the parts of a chord are kept for the ones to come; infinity for ever."""
        return (self.expires if self.chord_expires is None else self.chord_expires) or inf


def compression_of(conf: Any) -> str | None:
    """How an application's results are compressed (``result_compression``).

    Not at all where its Redis clients take whatever they read for text (``decode_responses``), as Celery's would then.
    """
    compression: str | None = conf.result_compression
    if not compression:
        return None
    options = dict(conf.result_backend_transport_options or {})
    if isinstance(conf.result_backend, str):
        # Only who compresses pays for the import.
        from urllib.parse import parse_qs, urlsplit

        options.update(parse_qs(urlsplit(conf.result_backend).query))
    return None if is_true(options.get("decode_responses")) else compression


def is_true(value: Any) -> bool:
    """Whether an option is switched on; in the query of a URL it is text."""
    if isinstance(value, list):
        value = value[-1]
    return value.lower() in {"1", "yes", "true", "on"} if isinstance(value, str) else bool(value)
