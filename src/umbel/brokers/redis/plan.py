"""A fetch plan worked out: the keys and constant arguments of fetch.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from umbel.brokers.redis.settling import trailer_of
from umbel.stores.redis.commands import pack_command

if TYPE_CHECKING:
    from umbel.brokers.base import FetchPlan
    from umbel.brokers.redis.layout import Layout

#: Delayed messages of one queue that one fetch moves at the most.
_DUE_AT_ONCE = 500


class PlanKeys:
    """Everything about a plan that is the same in each of its fetches.

    ``arguments`` are those of fetch.lua after the four that change; ``lists`` gives queue and priority step of each
    list key, in the script's numbering.
    """

    def __init__(self, plan: FetchPlan, layout: Layout, identity: str, lease: float) -> None:
        queues = sorted(plan.queues) if layout.queue_order_strategy == "sorted" else plan.queues
        self.plan = plan
        self.count = max(len(queues), 1)
        places = [(queue, step) for step in layout.priority_steps for queue in queues]
        self.lists = places
        lists = [layout.list_key(queue, step) for queue, step in places]
        delayed = [layout.delayed_key(queue) for queue in queues]
        self.keys = (
            layout.key(layout.unacked_key),
            layout.key(layout.unacked_index_key),
            layout.held_key(identity),
            layout.key("umbel:held_raw"),
            layout.key("umbel:returned_raw"),
            layout.key("umbel:consumers"),
            *delayed,
            *lists,
        )
        self.arguments = (
            b"turns" if layout.queue_order_strategy == "round_robin" else b"strict",
            _DUE_AT_ONCE,
            len(queues),
            layout.sep,
            identity,
            lease,
            *(layout.list_key(queue, 0) for queue in queues),
            *(trailer_of(queue) for queue in queues),
        )
        watched = pack_command((b"EXISTS", *lists, *delayed)) if queues else pack_command((b"PING",))
        #: What makes Redis tell of the next change to these keys; two replies.
        self.arming: bytes = pack_command((b"CLIENT", b"CACHING", b"YES")) + watched
