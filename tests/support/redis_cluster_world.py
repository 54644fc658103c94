"""The suites' view of a Redis Cluster: empty, and time that passes when a test says so."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import msgspec

from umbel.brokers.options import BrokerOptions
from umbel.brokers.redis.cluster.broker import RedisClusterBroker
from umbel.brokers.redis.cluster.consumer import RedisClusterConsumer
from umbel.results.options import ResultOptions
from umbel.results.redis_cluster import RedisClusterResultBackend
from umbel.testing.contracts.results import EXPIRES, ResultWorld
from umbel.testing.contracts.support import BrokerWorld

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.redis_cluster import RedisCluster
    from umbel.brokers.base import Disposition


class RedisClusterWorld(BrokerWorld):
    """As RedisWorld: what the servers were told moves, and due times are translated on their way."""

    biggest_payload = 1024 * 1024  # what is bigger goes the way of one server
    wake_within = 0.01
    settles_in_one_step = False

    def __init__(self, cluster: RedisCluster, options: BrokerOptions | None = None, prefix: str = "") -> None:
        cluster.flush()
        self.url = cluster.url(urlencode({"global_keyprefix": prefix}) if prefix else "")
        self.shift = 0.0
        self._cluster = cluster
        self._options = options or BrokerOptions()
        self._brokers: list[RedisClusterBroker] = []

    def connect(self) -> RedisClusterBroker:
        self._brokers.append(_ShiftedBroker(self.url or "", self._options, self))
        return self._brokers[-1]

    def now(self) -> float:
        return time.time() + self.shift

    def pass_time(self, seconds: float) -> None:
        self.shift += seconds
        patterns = ("*umbel:consumers", "*unacked_index", "*umbel:revoked", "*umbel:delayed:*")
        for client in self._cluster.clients():
            for key in [key for pattern in patterns for key in client.scan_iter(pattern)]:
                for member in client.zrange(key, 0, -1):
                    assert isinstance(member, bytes)
                    client.zincrby(key, -seconds, member)

    def close(self) -> None:
        for broker in self._brokers:
            broker.close()


class _ShiftedBroker(RedisClusterBroker):
    def __init__(self, url: str, options: BrokerOptions, world: RedisClusterWorld) -> None:
        super().__init__(url, options)
        self._world = world

    def consumer(self, identity: str, lease: float) -> RedisClusterConsumer:
        consumer = _ShiftedConsumer(
            identity,
            lease,
            self._cluster,
            self._spread,
            self._options,
            self._declared,
            self._composer(),
            self.clock,
        )
        consumer.world = self._world
        return consumer


class _ShiftedConsumer(RedisClusterConsumer):
    world: RedisClusterWorld

    async def settle(self, batch: Sequence[Disposition]) -> None:
        shift = self.world.shift
        await super().settle([msgspec.structs.replace(d, due=d.due - shift) for d in batch])


class RedisClusterResultWorld(ResultWorld):
    """An emptied cluster; time passes for the expiry of its keys."""

    wake_within = 0.01

    def __init__(self, cluster: RedisCluster, **transport: object) -> None:
        cluster.flush()
        self.url = cluster.url()
        self._cluster = cluster
        self._options = ResultOptions(expires=EXPIRES, transport=transport)
        self._backends: list[RedisClusterResultBackend] = []

    def connect(self) -> RedisClusterResultBackend:
        self._backends.append(RedisClusterResultBackend(self.url or "", self._options))
        return self._backends[-1]

    def pass_time(self, seconds: float) -> None:
        for client in self._cluster.clients():
            for key in client.scan_iter(b"*umbel:chords:*"):
                for member in client.zrange(key, 0, -1):
                    assert isinstance(member, bytes)
                    client.zincrby(key, -seconds, member)
            for key in client.scan_iter():
                if client.ttl(key) == -1:
                    continue
                left = client.pttl(key) - int(seconds * 1000)
                client.pexpire(key, left) if left > 0 else client.delete(key)

    def close(self) -> None:
        for backend in self._backends:
            backend.close()
