"""What an application asks of its broker beyond the URL."""

from __future__ import annotations

from math import inf
from typing import Any

import msgspec

from umbel.stores.lifetimes import lifetime


class BrokerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the application that concern the broker; each adapter reads what it understands.

    Durations are seconds. Those that begin with ``result_`` are here because ``settle`` writes results
    when the result backend lives in the broker's own store.
    """

    transport: dict[str, Any] = {}  #: ``broker_transport_options``; options in the URL's query win over these
    connect_timeout: float = 4.0  #: ``broker_connection_timeout``
    pool_limit: int | None = 10  #: ``broker_pool_limit``; None or 0: no limit
    use_ssl: bool | dict[str, Any] | None = None  #: ``broker_use_ssl``
    heartbeat: float = 0.0  #: ``broker_heartbeat``: silence after which a connection counts as lost; 0: never
    heartbeat_rate: float = 3.0  #: ``broker_heartbeat_checkrate``: how often in that time one looks
    login_method: str | None = None  #: ``broker_login_method``; None: the broker's usual one
    failover_strategy: Any = None  #: ``broker_failover_strategy``: a name or a function; None: round-robin
    missing_queue_type: str | None = None  #: ``task_create_missing_queue_type``
    missing_exchange_type: str | None = None  #: ``task_create_missing_queue_exchange_type``
    queue_max_priority: int | None = None  #: ``task_queue_max_priority``
    delayed_queue_type: str = "quorum"  #: ``broker_native_delayed_delivery_queue_type``
    dead_letter_expires: float | None = 14 * 86400.0  #: how long dead letters are kept; None: for ever
    dead_letter_limit: int | None = 100_000  #: how many of each queue, the newest; None: any number
    result_expires: float | None = 86400.0  #: ``result_expires``; None: results are kept for ever
    result_failure_expires: float | None = None  #: ``result_failure_expires``; None: as ``result_expires``
    result_chord_expires: float | None = None  #: ``result_chord_expires``; None: as ``result_expires``
    result_chord_ordered: bool = True  #: of ``result_backend_transport_options``

    def result_lifetime(self, state: str) -> float:
        """Seconds that a result of this state is kept; infinity for ever."""
        return lifetime(state, self.result_expires, self.result_failure_expires)

    def chord_lifetime(self) -> float:
        """Seconds that the parts of a chord are kept for the ones to come; infinity for ever."""
        expires = self.result_expires if self.result_chord_expires is None else self.result_chord_expires
        return expires or inf
