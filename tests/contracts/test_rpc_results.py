"""The result suite on results that are sent to their caller, through RabbitMQ and through Redis."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence

import pytest
from msgspec import structs

from tests.support.rabbitmq import RabbitMqServer
from tests.support.servers import RedisServer
from umbel.core.records import ResultRecord
from umbel.results.options import ResultOptions, SendingOptions
from umbel.results.posts import post_for
from umbel.results.rpc import RpcResultBackend
from umbel.testing.contracts.results import EXPIRES, ResultContract, ResultWorld


class Addressed(RpcResultBackend):
    """Sends to the world's reader what names no other."""

    reader: str

    def save(self, records: Sequence[ResultRecord]) -> None:
        super().save([structs.replace(record, reply_to=record.reply_to or self.reader) for record in records])

    async def asave(self, records: Sequence[ResultRecord]) -> None:
        await super().asave(
            [structs.replace(each, reply_to=each.reply_to or self.reader) for each in records]
        )


class RpcWorld(ResultWorld):
    """One reader's queue. Nothing expires while it is read."""

    one_reader = True

    def __init__(self, broker_url: str, url: str = "rpc://") -> None:
        # Another process has no settings but the URL.
        self.url = broker_url.replace("amqp", "rpc", 1) if broker_url.startswith("amqp") else None
        self._name = str(uuid.uuid4())
        self.reply_to = f"{self._name}-{os.getpid()}"
        sending = SendingOptions(reply_to=self._queue, urls=broker_url)
        self._options = ResultOptions(expires=EXPIRES, sending=sending)
        self._backends: list[RpcResultBackend] = []

    def _queue(self) -> str:
        return f"{self._name}-{os.getpid()}"

    def connect(self) -> RpcResultBackend:
        backend = Addressed(post_for("rpc://", self._options), self._options)
        backend.reader = self.reply_to
        if not self._backends:
            backend.expect(["as the sender of a task does"])
        self._backends.append(backend)
        return backend

    def pass_time(self, seconds: float) -> None:
        pass

    def close(self) -> None:
        for backend in self._backends:
            backend.close()


@pytest.mark.rabbitmq
class TestRpcResultsOnRabbitMq(ResultContract):
    """Celery's messages."""

    @pytest.fixture
    def make_world(self, rabbitmq_url: str) -> Callable[[], RpcWorld]:
        return lambda: RpcWorld(rabbitmq_url)

    def test_nothing_is_left_behind(
        self, rabbitmq_server: RabbitMqServer, rabbitmq_url: str, world: RpcWorld
    ) -> None:
        vhost = rabbitmq_url.rpartition("/")[2]
        backend = world.connect()
        backend.expect(["x"])
        assert rabbitmq_server.queues(vhost) == {world.reply_to: 0}
        assert rabbitmq_server.consumers(vhost) == {world.reply_to: 0}
        backend.load(["x"])
        assert rabbitmq_server.consumers(vhost) == {world.reply_to: 1}
        backend.close()
        assert rabbitmq_server.queues(vhost) == {}


@pytest.mark.redis
class TestRpcResultsOnRedis(ResultContract):
    """Celery's messages in kombu's lists."""

    @pytest.fixture
    def make_world(self, redis_url: str) -> Callable[[], RpcWorld]:
        return lambda: RpcWorld(redis_url)

    def test_nothing_is_left_behind(self, redis_server: RedisServer, world: RpcWorld) -> None:
        backend = world.connect()
        backend.expect(["x"])
        backend.load(["x"])
        backend.close()
        with redis_server.client() as client:
            assert client.keys("*") == []
