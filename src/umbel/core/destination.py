"""Where a message goes."""

from __future__ import annotations

from typing import Final

import msgspec

#: Types whose publications wait in no queue: who listens at that moment hears them.
BROADCAST_TYPES: Final = frozenset({"fanout", "broadcast"})


class Destination(msgspec.Struct, frozen=True, array_like=True):
    """An exchange and routing key, and the queue they lead to where that is known.

    Tasks whose queue has a direct exchange go through the anonymous exchange ``""`` with the queue's name as routing
    key, as Celery sends them; then ``queue`` is that name. ``queue`` is None for named exchanges whose bindings the
    broker has to look up. ``exchange_type`` is ``direct``, ``topic``, ``fanout`` or ``headers``; or ``broadcast``,
    which is how events go: to every subscription whose pattern matches the routing key, and to nobody where there is
    none.
    """

    exchange: str
    routing_key: str
    queue: str | None = None
    exchange_type: str = "direct"
    priority: int = 0
