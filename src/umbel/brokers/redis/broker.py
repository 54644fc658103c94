"""The Redis and Valkey broker: kombu's layout, mended.

kombu pops a message and then writes down that it is held; between the two it can be lost. Here both are one script,
and so is everything that ends a delivery. kombu's workers hold messages for a fixed time; here each worker renews a
lease, and what it holds is fresh in ``unacked_index`` so that Celery's workers leave it alone however long it takes.
Celery's producers, workers and tools work on the same queues at the same time.

Needs Redis 6.2 or Valkey. One server, or a primary with replicas; ``brokers.redis.cluster`` is for clusters.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from umbel.brokers.base import Capabilities, RevokedTasks
from umbel.brokers.redis.consumer import RedisConsumer
from umbel.brokers.redis.dead import DeadLetters, RedisDeadReader
from umbel.brokers.redis.layout import make_layout
from umbel.brokers.redis.publisher import Composer, RedisAsyncPublisher, RedisPublisher
from umbel.brokers.redis.routing import Routes
from umbel.brokers.redis.subscription import make_subscription
from umbel.brokers.revoking import BEYOND_DELAYS
from umbel.core.bindings import Bindings
from umbel.core.clock import BrokerClock
from umbel.core.destination import Destination
from umbel.core.ids import new_id
from umbel.core.protocol import pack_kombu
from umbel.errors import BrokerConnectionError
from umbel.stores.redis.blocking import LinkPool
from umbel.stores.redis.cluster import parse_place
from umbel.stores.redis.commands import pack_command
from umbel.stores.redis.replies import check

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from umbel.brokers.base import AsyncPublisher, Consumer, DeadLetter, Publisher, Subscription
    from umbel.brokers.options import BrokerOptions
    from umbel.brokers.redis.layout import Layout
    from umbel.core.bindings import Binding
    from umbel.core.protocol import Envelope
    from umbel.core.topology import QueueDefinition
    from umbel.stores.redis.address import Address
    from umbel.stores.redis.scripts import Script

#: Seconds that a question about a queue may take, where ``socket_timeout`` does not say.
ANSWER_TIMEOUT: Final = 30.0
#: The lists of a queue counted in one command: an idle worker asks every few seconds.
_DEPTH: Final = (
    b"local sum = 0 for _, key in ipairs(KEYS) do sum = sum + redis.call('LLEN', key) end return sum"
)
#: What SCAN's patterns mean otherwise.
_GLOB: Final = re.compile(rb"[\\*?\[\]^]")


class RedisBroker:
    """Messages in one database of a Redis server.

    Args:
        url: ``redis://``, ``rediss://``, ``valkey://``, ``redis+socket://`` or ``sentinel://``, as Celery takes it;
            several with ``;`` between them.
        options: the application's; ``transport`` takes kombu's Redis options.

    Raises ImproperlyConfigured for what it cannot read.
    """

    capabilities = Capabilities(
        durable=True,
        shared=True,
        priorities=True,
        fanout=True,
        bindings=True,
        direct_subscriptions=True,
        revocations=True,
        withdraws=True,
        keeps=True,
    )

    def __init__(self, url: str, options: BrokerOptions) -> None:
        address, rest = parse_place(
            url, options.transport, options.use_ssl, options.connect_timeout, options.failover_strategy
        )
        self._set_up(options, address, make_layout(rest, address.db))

    def _set_up(self, options: BrokerOptions, address: Address, layout: Layout) -> None:
        self._options = options
        self.clock = BrokerClock()
        self._address = address
        self._layout = layout
        self._routes = Routes(self._layout)
        self._pool = LinkPool(self._address, limit=1)
        self._declared = Bindings()
        self._dead = DeadLetters(self._layout, self._routes, options, ask=self._ask, run=self._run)
        self._publishers: WeakSet[RedisPublisher] = WeakSet()
        self.store = self._address.identity
        self.display_url = self._address.display_url

    @classmethod
    def from_url(cls, url: str, options: BrokerOptions) -> RedisBroker:
        """The broker of a URL; nothing is connected yet."""
        return cls(url, options)

    def pack(self, envelope: Envelope, destination: Destination) -> bytes:
        """Kombu's JSON."""
        return pack_kombu(envelope, destination)

    def declare(self, bindings: Iterable[Binding], queues: Iterable[QueueDefinition] = ()) -> None:
        """Bindings go into kombu's tables, where Celery's producers find them."""
        self._declared.add(bindings)

    def publisher(self) -> Publisher:
        """A blocking publisher with a pool of its own."""
        pool = LinkPool(self._address, self._layout.max_connections or self._options.pool_limit)
        publisher = RedisPublisher(pool, Composer(self._layout, self._routes, self._declared))
        self._publishers.add(publisher)
        return publisher

    def async_publisher(self) -> AsyncPublisher:
        """A publisher for the running event loop."""
        return RedisAsyncPublisher(self._address, Composer(self._layout, self._routes, self._declared))

    def consumer(self, identity: str, lease: float) -> Consumer:
        """A consumer whose lease lasts ``lease`` seconds from each renewal."""
        return RedisConsumer(
            identity, lease, self._address, self._layout, self._options, self._declared, self.clock
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
        return make_subscription(self._address, self._layout, to, also)

    def depth(self, queue: str) -> int:
        """Messages waiting in a queue's lists."""
        keys = self._layout.list_keys(queue)
        (depth,) = self._ask([(b"EVAL", _DEPTH, len(keys), *keys)])
        return int(depth)

    def delayed_depth(self, queue: str) -> int:
        """Messages of a queue that wait for their time."""
        return sum(self._ask([(b"ZCARD", self._layout.delayed_key(queue))]))

    def held_depth(self) -> int:
        """Messages held by all consumers, Celery's workers included."""
        keys = (self._layout.unacked_key, "umbel:held_raw")
        return sum(self._ask([(b"HLEN", self._layout.key(key)) for key in keys]))

    def purge(self, queue: str) -> int:
        """Delete what waits in a queue's lists; says how many messages."""
        keys = self._layout.list_keys(queue)
        counts = self._ask(
            [(b"MULTI",), *((b"LLEN", key) for key in keys), (b"DEL", *keys), (b"EXEC",)],
        )[-1]
        return sum(counts[: len(keys)])

    def dead_letters(self, queue: str, limit: int) -> list[DeadLetter]:
        """The newest ``limit`` dead letters of a queue, newest first."""
        return self._dead.newest(queue, limit)

    def dead_count(self, queue: str) -> int:
        """How many dead letters a queue has."""
        return self._dead.count(queue)

    def dead_queues(self, known: Iterable[str]) -> list[str]:
        """The queues that have dead letters, sorted."""
        return self._dead.queues(tuple(known))

    def dead_reader(self, queue: str) -> RedisDeadReader:
        """Goes through the dead letters of a queue."""
        return RedisDeadReader(self._dead, queue)

    def bound(self) -> list[Binding]:
        """What kombu's tables say, of Celery's queues and ours."""
        prefix = self._layout.binding_key("")
        pattern = _GLOB.sub(rb"\\\g<0>", prefix) + b"*"
        found, cursor = set(self._declared), b"0"
        while True:
            [(cursor, keys)] = self._ask([(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", 1000)])
            tables = self._ask([(b"SMEMBERS", key) for key in keys]) if keys else []
            for key, members in zip(keys, tables, strict=True):
                exchange = key[len(prefix) :].decode("utf-8", "replace")
                read = [self._layout.read_member(exchange, member) for member in members]
                found |= {each for each in read if each is not None}
            if cursor == b"0":
                return list(found)

    def revoke(self, task_ids: Sequence[str], expires: float, stamps: Sequence[str] = ()) -> float:
        """Keep the ids in a sorted set, by the instant at which each is forgotten, and stamps in another.

        Nobody searches for stamps, and on a cluster not for ids either, since no script sees both them and the queues:
        they are kept for as long as a message waits for its time in any of the queues that are bound.
        """
        if stamps or (task_ids and not self.capabilities.withdraws):
            expires = self._beyond_delays(expires)
        now = self._server_time()
        for key, kept in ((self._layout.revoked_key, task_ids), (self._layout.revoked_stamps_key, stamps)):
            commands: list[tuple[Any, ...]] = [(b"ZREMRANGEBYSCORE", key, b"-inf", now)]
            if kept:
                scores = [part for each in kept for part in (now + expires, each)]
                # GT: what was to be kept for longer is.
                commands = [(b"MULTI",), *commands, (b"ZADD", key, b"GT", *scores), (b"EXEC",)]
            self._ask(commands)
        if task_ids:
            # Named last: whoever searches for it finds the ids.
            last = (
                b"SET",
                self._layout.key("umbel:revocations"),
                new_id(),
                b"EX",
                max(math.ceil(expires), 1),
            )
            self._ask([last])
        return expires

    def _beyond_delays(self, expires: float) -> float:
        """So many seconds, or more where the last delayed message is due later."""
        commands = [(b"ZRANGE", key, -1, -1, b"WITHSCORES") for key in self._delayed_keys()]
        last = self._ask(commands) if commands else []
        due = max((float(found[1]) for found in last if found), default=0.0)
        return max(expires, due - self._server_time() + BEYOND_DELAYS) if due else expires

    def _delayed_keys(self) -> list[bytes]:
        return [self._layout.delayed_key(queue) for queue in {binding.queue for binding in self.bound()}]

    def revoked(self) -> RevokedTasks:
        """What is in the sorted sets whose time is not over."""
        now = self._server_time()
        layout = self._layout
        return RevokedTasks(self._kept(layout.revoked_key, now), self._kept(layout.revoked_stamps_key, now))

    def _kept(self, key: bytes, now: float) -> dict[str, float]:
        [flat] = self._ask([(b"ZRANGEBYSCORE", key, f"({now!r}", b"+inf", b"WITHSCORES")])
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return {each.decode("utf-8", "replace"): float(gone_at) - now for each, gone_at in pairs}

    def _server_time(self) -> float:
        [(seconds, microseconds)] = self._ask([(b"TIME",)])
        return int(seconds) + int(microseconds) / 1e6

    def close(self) -> None:
        """Close the connections of the broker and of its blocking publishers. Safe twice."""
        self._pool.close()
        for publisher in list(self._publishers):
            publisher.close()

    def _run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | str | float]) -> Any:
        timeout = self._address.socket_timeout or ANSWER_TIMEOUT
        try:
            return self._pool.run(script, keys, arguments, timeout)
        except TimeoutError as error:
            raise BrokerConnectionError(f"Redis did not answer within {timeout:g} seconds") from error

    def _ask(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        timeout = self._address.socket_timeout or ANSWER_TIMEOUT
        packed = b"".join(pack_command(command) for command in commands)
        try:
            replies = self._pool.call(packed, len(commands), timeout)
        except TimeoutError as error:
            raise BrokerConnectionError(f"Redis did not answer within {timeout:g} seconds") from error
        return [check(reply) for reply in replies]
