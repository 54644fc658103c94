"""The broker suite's view of a Redis server: an empty database, and time that passes when a test says so."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import msgspec

from umbel.brokers.options import BrokerOptions
from umbel.brokers.redis import RedisBroker
from umbel.brokers.redis.consumer import RedisConsumer
from umbel.results.options import ResultOptions
from umbel.results.redis import RedisResultBackend
from umbel.testing.contracts.results import EXPIRES, ResultWorld
from umbel.testing.contracts.support import BrokerWorld

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.servers import RedisServer
    from umbel.brokers.base import Disposition
    from umbel.core.records import DueChord


class RedisWorld(BrokerWorld):
    """An emptied database whose time is the server's plus a shift.

    The server's clock cannot be moved. So what it was told moves instead, and due times are translated on their way.
    """

    biggest_payload = 16 * 1024 * 1024
    wake_within = 0.01

    def __init__(self, server: RedisServer, options: BrokerOptions | None = None, prefix: str = "") -> None:
        server.flush()
        # Another process has no options but those in the URL.
        self.url = f"{server.url()}?{urlencode({'global_keyprefix': prefix})}" if prefix else server.url()
        self.shift = 0.0
        self._server = server
        self._options = options or BrokerOptions()
        self._prefix = prefix
        self._client = server.client()
        self._brokers: list[RedisBroker] = []
        self._backends: list[RedisResultBackend] = []

    def connect(self) -> RedisBroker:
        self._brokers.append(_ShiftedBroker(self.url or "", self._options, self))
        return self._brokers[-1]

    def connect_backend(self) -> RedisResultBackend:
        self._backends.append(RedisResultBackend(self._server.url(), ResultOptions()))
        return self._backends[-1]

    def now(self) -> float:
        return time.time() + self.shift

    def pass_time(self, seconds: float) -> None:
        self.shift += seconds
        keys = [
            f"{self._prefix}umbel:consumers",
            f"{self._prefix}unacked_index",
            f"{self._prefix}umbel:revoked",
        ]
        for key in (*keys, *self._client.scan_iter(f"{self._prefix}umbel:delayed:*")):
            for member in self._client.zrange(key, 0, -1):
                assert isinstance(member, bytes)
                self._client.zincrby(key, -seconds, member)

    def close(self) -> None:
        for broker in self._brokers:
            broker.close()
        for backend in self._backends:
            backend.close()
        self._client.close()


class _ShiftedBroker(RedisBroker):
    def __init__(self, url: str, options: BrokerOptions, world: RedisWorld) -> None:
        super().__init__(url, options)
        self._world = world

    def consumer(self, identity: str, lease: float) -> RedisConsumer:
        consumer = _ShiftedConsumer(
            identity, lease, self._address, self._layout, self._options, self._declared
        )
        consumer.world = self._world
        return consumer


class _ShiftedConsumer(RedisConsumer):
    world: RedisWorld

    async def settle(self, batch: Sequence[Disposition]) -> list[DueChord]:
        shift = self.world.shift
        return await super().settle([msgspec.structs.replace(d, due=d.due - shift) for d in batch])


class RedisResultWorld(ResultWorld):
    """An emptied database; time passes for the expiry of its keys."""

    wake_within = 0.01

    def __init__(self, server: RedisServer, **transport: object) -> None:
        server.flush()
        self.url = server.url()
        self._options = ResultOptions(expires=EXPIRES, transport=transport)
        self._client = server.client()
        self._backends: list[RedisResultBackend] = []

    def connect(self) -> RedisResultBackend:
        self._backends.append(RedisResultBackend(self.url or "", self._options))
        return self._backends[-1]

    def pass_time(self, seconds: float) -> None:
        for key in self._client.scan_iter(b"*umbel:chords:*"):
            for member in self._client.zrange(key, 0, -1):
                assert isinstance(member, bytes)
                self._client.zincrby(key, -seconds, member)
        for key in self._client.scan_iter():
            if self._client.ttl(key) == -1:
                continue
            left = self._client.pttl(key) - int(seconds * 1000)
            self._client.pexpire(key, left) if left > 0 else self._client.delete(key)

    def close(self) -> None:
        for backend in self._backends:
            backend.close()
        self._client.close()
