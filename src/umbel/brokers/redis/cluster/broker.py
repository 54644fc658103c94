"""The broker on a Redis Cluster.

All keys of a queue are in one hash slot, the leases of its workers among them, so that every script touches one slot
and a cluster's nodes share the queues. Celery has no transport for that layout. With a ``global_keyprefix`` that is a
hash tag everything is in one slot, and the broker is an ordinary ``RedisBroker`` on the node that has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from msgspec.structs import replace

from umbel.brokers.redis.broker import ANSWER_TIMEOUT, RedisBroker
from umbel.brokers.redis.cluster.consumer import RedisClusterConsumer
from umbel.brokers.redis.cluster.layout import cluster_layout
from umbel.brokers.redis.cluster.publisher import (
    ClusterComposer,
    RedisClusterAsyncPublisher,
    RedisClusterPublisher,
)
from umbel.brokers.redis.cluster.subscription import make_cluster_subscription
from umbel.core.destination import Destination
from umbel.errors import BrokerConnectionError
from umbel.stores.redis.cluster import has_tag, parse_cluster, slot_of
from umbel.stores.redis.commands import pack_command
from umbel.stores.redis.errands import ClusterPool, Step, script_step
from umbel.stores.redis.replies import check

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from umbel.brokers.base import Subscription
    from umbel.brokers.options import BrokerOptions
    from umbel.stores.redis.scripts import Script

#: Commands that have no key; the home's node is asked.
_KEYLESS: Final = frozenset({b"TIME", b"SCAN"})


class RedisClusterBroker(RedisBroker):
    """Messages in a Redis Cluster, each queue in a slot of its own.

    Args:
        url: ``redis+cluster://`` or ``rediss+cluster://`` with one node or several; ``rediscluster://`` is the same.
        options: the application's; ``transport`` takes kombu's Redis options.

    Raises ImproperlyConfigured for what it cannot read.
    """

    capabilities = replace(RedisBroker.capabilities, joint_priorities=False, withdraws=False)

    def __init__(self, url: str, options: BrokerOptions) -> None:
        self._cluster, rest = parse_cluster(url, options.transport, options.use_ssl, options.connect_timeout)
        self._spread = cluster_layout(rest)
        address = self._cluster.at(self._spread.home)
        self._set_up(options, address, self._spread)
        # No backend shares it: a result is in another slot than its message.
        self.store = f"{self._cluster.identity}#queues"
        self._nodes = ClusterPool(self._cluster, 1)
        self._senders: WeakSet[RedisClusterPublisher] = WeakSet()

    @classmethod
    def from_url(cls, url: str, options: BrokerOptions) -> RedisBroker:
        """The broker of a URL; nothing is connected yet."""
        _, rest = parse_cluster(url, options.transport, options.use_ssl, options.connect_timeout)
        if has_tag(str(rest.get("global_keyprefix") or "")):
            return RedisBroker(url, options)
        return cls(url, options)

    def publisher(self) -> RedisClusterPublisher:
        """A blocking publisher with connections of its own."""
        pool = ClusterPool(self._cluster, self._layout.max_connections or self._options.pool_limit)
        publisher = RedisClusterPublisher(pool, self._composer())
        self._senders.add(publisher)
        return publisher

    def async_publisher(self) -> RedisClusterAsyncPublisher:
        """A publisher for the running event loop."""
        return RedisClusterAsyncPublisher(self._cluster, self._composer())

    def consumer(self, identity: str, lease: float) -> RedisClusterConsumer:
        """A consumer whose leases, one for each queue, last ``lease`` seconds from each renewal."""
        return RedisClusterConsumer(
            identity,
            lease,
            self._cluster,
            self._spread,
            self._options,
            self._declared,
            self._composer(),
            self.clock,
        )

    def subscriber(
        self,
        exchange: str,
        routing_key: str = "",
        exchange_type: str = "fanout",
        also: Sequence[Destination] = (),
    ) -> Subscription:
        """Listens to channels, or as a queue of its own bound to a direct exchange."""
        to = Destination(exchange, routing_key, None, exchange_type)
        return make_cluster_subscription(self._cluster, self._spread, to, also)

    def held_depth(self) -> int:
        """Messages held by all consumers, of the queues that are bound."""
        layouts = [self._spread.of_queue(queue) for queue in self._queues()]
        names = (self._layout.unacked_key, "umbel:held_raw")
        return sum(self._ask([(b"HLEN", layout.key(name)) for layout in layouts for name in names]))

    def dead_queues(self, known: Iterable[str]) -> list[str]:
        """The queues that have dead letters, sorted: of those that are bound, or ``known``."""
        return self._dead.queues(tuple({*known, *self._queues()}))

    def _delayed_keys(self) -> list[bytes]:
        return [self._spread.delayed_key(queue) for queue in self._queues()]

    def _queues(self) -> set[str]:
        return {binding.queue for binding in self.bound()}

    def close(self) -> None:
        """Close the connections of the broker and of its blocking publishers. Safe twice."""
        super().close()
        self._nodes.close()
        for sender in list(self._senders):
            sender.close()

    def _composer(self) -> ClusterComposer:
        return ClusterComposer(self._spread, self._routes, self._declared)

    def _run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | str | float]) -> Any:
        return check(self._answers([script_step(slot_of(keys[0]), script, keys, arguments)])[0][0])

    def _ask(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        if commands and commands[0][0] == b"MULTI":  # of one queue, or of none
            packed = b"".join(map(pack_command, commands))
            steps = [Step(self._slot_of(commands[1]), packed, len(commands))]
        else:
            steps = [Step(self._slot_of(command), pack_command(command)) for command in commands]
        return [check(reply) for replies in self._answers(steps) for reply in replies]

    def _slot_of(self, command: tuple[Any, ...]) -> int:
        if command[0] in _KEYLESS:
            return self._spread.home
        return slot_of(command[3] if command[0] == b"EVAL" else command[1])

    def _answers(self, steps: Sequence[Step]) -> list[list[Any]]:
        timeout = self._address.socket_timeout or ANSWER_TIMEOUT
        try:
            return self._nodes.run(steps, timeout)
        except TimeoutError as error:
            raise BrokerConnectionError(
                f"Redis did not answer within {timeout:g} seconds: {error}"
            ) from error
