"""Listening in a cluster: what is published on any node reaches the subscribers of all."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from umbel.brokers.redis.subscription import RedisReplyQueue, make_subscription
from umbel.stores.redis.cluster import slot_of
from umbel.stores.redis.link import open_link

if TYPE_CHECKING:
    from collections.abc import Sequence

    from umbel.brokers.base import Subscription
    from umbel.brokers.redis.cluster.layout import ClusterLayout
    from umbel.core.destination import Destination
    from umbel.stores.redis.cluster import Cluster
    from umbel.stores.redis.link import Link


def make_cluster_subscription(
    cluster: Cluster, layout: ClusterLayout, to: Destination, also: Sequence[Destination]
) -> Subscription:
    """As ``make_subscription``."""
    if to.exchange_type == "direct":
        return ClusterReplyQueue(cluster, layout, to.exchange, to.routing_key)
    return make_subscription(cluster.at(layout.home), layout, to, also)


class ClusterReplyQueue(RedisReplyQueue):
    """A queue of its own, in its own slot; the table that binds it is at home."""

    def __init__(self, cluster: Cluster, layout: ClusterLayout, exchange: str, routing_key: str) -> None:
        super().__init__(cluster.at(0), layout, exchange, routing_key)
        self._cluster = cluster
        self._address = cluster.at(slot_of(self._keys[0]))
        self._home = cluster.at(layout.home)

    async def _bind(self, link: Link) -> None:
        with closing(await open_link(self._home)) as home:
            await super()._bind(home)

    async def _unbind(self, link: Link) -> None:
        with closing(await open_link(self._home)) as home:
            await super()._unbind(home)

    async def _delete(self, link: Link, keys: Sequence[bytes]) -> None:
        with closing(await open_link(self._cluster.at(slot_of(keys[0])))) as there:
            await super()._delete(there, keys)
