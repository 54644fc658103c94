"""The transport in memory; Umbel's is ``umbel.brokers.memory``."""

from __future__ import annotations

from typing import Any, ClassVar

from umbel.brokers.memory import MemoryBroker as Transport


class Channel:
    """Where kombu keeps such queues; programs empty it between tests. Umbel's queues are not here."""

    queues: ClassVar[dict[str, Any]] = {}
