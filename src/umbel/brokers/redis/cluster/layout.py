"""Where the keys of a cluster's broker are.

Everything that concerns one queue, its workers' leases included, begins with the queue's name as a hash tag and is laid
out like the keys of an ordinary Redis broker with one queue, so that the same scripts serve it. What concerns no queue
(the tables of bindings, revoked tasks) is likewise in one slot, the *home*.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from umbel.brokers.redis.layout import Layout, make_layout
from umbel.stores.redis.cluster import slot_of, tagged

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The hash tag of what concerns no queue. No queue has it: in theirs a ``%`` is followed by two digits.
_HOME: Final = "{%umbel}:"


class QueueLayout(Layout, frozen=True):
    """The layout in which one queue is the only one. Channels are nobody's: they begin with ``home``."""

    home: str = ""

    def fanout_channel(self, exchange: str, routing_key: str) -> bytes:
        """As Layout.fanout_channel."""
        return self.home.encode() + super().fanout_channel(exchange, routing_key)[len(self.key("")) :]


class ClusterLayout(Layout, frozen=True):
    """The layout of the home, which knows those of the queues. ``outer`` stands before every key."""

    outer: str = ""

    def of_queue(self, queue: str) -> QueueLayout:
        """The layout in which this queue is the only one."""
        return _of_queue(self, queue)

    def list_key(self, queue: str, step: int) -> bytes:
        """As Layout.list_key, among the queue's keys."""
        return self.of_queue(queue).list_key(queue, step)

    def delayed_key(self, queue: str) -> bytes:
        """As Layout.delayed_key, among the queue's keys."""
        return self.of_queue(queue).delayed_key(queue)

    def dead_key(self, queue: str) -> bytes:
        """As Layout.dead_key, among the queue's keys."""
        return self.of_queue(queue).dead_key(queue)

    def slot(self, queue: str) -> int:
        """The slot of a queue."""
        return slot_of(self.list_key(queue, 0))

    @property
    def home(self) -> int:
        """The slot of what concerns no queue."""
        return slot_of(self.key(""))


def cluster_layout(options: Mapping[str, Any]) -> ClusterLayout:
    """As ``make_layout``."""
    plain = make_layout(options, 0)
    fields = {name: value for name, value in _fields(plain).items() if name != "global_keyprefix"}
    outer = plain.global_keyprefix
    return ClusterLayout(**fields, global_keyprefix=outer + _HOME, outer=outer)


@lru_cache(maxsize=10_000)
def _of_queue(layout: ClusterLayout, queue: str) -> QueueLayout:
    fields = {name: value for name, value in _fields(layout).items() if name != "global_keyprefix"}
    own = f"{layout.outer}{tagged(queue)}:"
    return QueueLayout(**fields, global_keyprefix=own, home=layout.global_keyprefix)


def _fields(layout: Layout) -> dict[str, Any]:
    return {name: getattr(layout, name) for name in Layout.__struct_fields__}
