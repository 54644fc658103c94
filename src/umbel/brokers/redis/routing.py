"""From destinations to Redis commands: which list, which channel, which binding tables have to be asked."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from umbel.core.bindings import no_queue_bound
from umbel.core.destination import BROADCAST_TYPES
from umbel.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from umbel.brokers.redis.layout import Layout
    from umbel.core.destination import Destination
    from umbel.core.records import Publication

    #: Members of the binding tables by exchange, as they are in Redis.
    Tables = Mapping[str, Iterable[bytes]]

logger = logging.getLogger("umbel.redis")


class Routes:
    """Where publications go. Remembers what it worked out for destinations that name their queue."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._keys: dict[tuple[str, int], bytes] = {}

    def queue_key(self, queue: str, priority: int) -> bytes:
        """The list that a message of this priority goes to."""
        key = self._keys.get((queue, priority))
        if key is None:
            if len(self._keys) > 10_000:  # names may be made up by the application
                self._keys.clear()
            key = self._layout.list_key(queue, self._layout.step_of(priority))
            self._keys[queue, priority] = key
        return key

    def tables_needed(self, publications: Sequence[Publication]) -> list[str]:
        """The exchanges whose binding tables say where publications go; usually none."""
        return list(
            dict.fromkeys(
                to.exchange
                for to in (publication.destination for publication in publications)
                if queue_of(to) is None and to.exchange_type not in BROADCAST_TYPES
            )
        )

    def commands(self, publication: Publication, tables: Tables) -> list[tuple[bytes, bytes, bytes]]:
        """The commands that publish; each is a name, a key or channel, and the payload.

        Raises BrokerError when no queue is bound for it.
        """
        to = publication.destination
        queue = queue_of(to)
        if queue is not None:
            return [(b"LPUSH", self.queue_key(queue, to.priority), publication.payload)]
        if to.exchange_type in BROADCAST_TYPES:
            channel = self._layout.fanout_channel(to.exchange, to.routing_key)
            return [(b"PUBLISH", channel, publication.payload)]
        queues = self.bound_queues(to.exchange, to.routing_key, to.exchange_type, tables)
        if not queues:
            raise BrokerError(no_queue_bound(to))
        return [(b"LPUSH", self.queue_key(name, to.priority), publication.payload) for name in queues]

    def bound_queues(self, exchange: str, routing_key: str, exchange_type: str, tables: Tables) -> list[str]:
        """The queues bound to an exchange for a routing key, in a stable order.

        Whether a binding has a pattern says of which type its exchange is: who sends may know its name only.
        """
        if not exchange:
            return [routing_key]
        if exchange_type not in {"direct", "topic"}:
            raise BrokerError(
                f"Redis has direct, topic and fanout exchanges; {exchange!r} is of type {exchange_type!r}"
            )
        separator = self._layout.sep.encode()
        queues = set()
        for member in tables.get(exchange, ()):
            parts = member.split(separator)
            if len(parts) == 3 and _matches(parts[0].decode(), parts[1].decode(), routing_key):
                queues.add(parts[2].decode())
        return sorted(queues)


def queue_of(to: Destination) -> str | None:
    """The queue that a destination names, itself or through the anonymous exchange."""
    if to.queue is not None:
        return to.queue
    return None if to.exchange else to.routing_key


def _matches(bound_key: str, pattern: str, routing_key: str) -> bool:
    if not pattern:
        return bound_key == routing_key
    compiled = _compile(pattern)
    return compiled is not None and compiled.match(routing_key) is not None


@lru_cache(maxsize=1024)
def _compile(pattern: str) -> re.Pattern[str] | None:
    """Kombu stores topic bindings as regular expressions; one that is broken matches nothing."""
    try:
        return re.compile(pattern)
    except re.error:
        logger.warning("A topic binding has an invalid pattern: %r", pattern)
        return None
