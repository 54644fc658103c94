"""The Redis result backend beyond the shared suite."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.support.servers import RedisServer
from tests.support.waiting import wait_until, wait_until_async
from umbel import Umbel
from umbel.brokers.options import BrokerOptions
from umbel.brokers.redis import RedisBroker
from umbel.core.ids import new_id
from umbel.core.records import ChordPart, ResultRecord
from umbel.core.states import FAILURE, STARTED, SUCCESS
from umbel.errors import OperationalError
from umbel.results.options import ResultOptions
from umbel.results.redis import RedisResultBackend
from umbel.testing.contracts.results import document, record

pytestmark = pytest.mark.redis


@pytest.fixture
def client(redis_server: RedisServer, redis_url: str) -> Iterator[redis.Redis]:
    with redis_server.client() as client:
        yield client


@pytest.fixture
def backend(redis_url: str) -> Iterator[RedisResultBackend]:
    backend = RedisResultBackend(redis_url, ResultOptions())
    yield backend
    backend.close()


def test_keys_expiry_and_channel_are_celerys(backend: RedisResultBackend, client: redis.Redis) -> None:
    with client.pubsub() as pubsub:
        pubsub.subscribe("celery-task-meta-1")
        wait_until(lambda: pubsub.get_message(timeout=1), what="the subscription")
        backend.save([record("1")])
        heard: Any = wait_until(lambda: pubsub.get_message(timeout=1), what="the publication")
    assert heard["data"] == client.get("celery-task-meta-1") == document("1")
    assert client.ttl("celery-task-meta-1") == 86400


@pytest.mark.parametrize(
    ("expires", "failure_expires", "ttls"), [(None, None, (-1, -1)), (0, 5, (-1, 5)), (7.2, 0, (8, -1))]
)
def test_how_long_results_are_kept(
    redis_url: str,
    client: redis.Redis,
    expires: float | None,
    failure_expires: float | None,
    ttls: tuple[int, int],
) -> None:
    backend = RedisResultBackend(redis_url, ResultOptions(expires=expires, failure_expires=failure_expires))
    backend.save([record("good"), record("bad", FAILURE)])
    assert (client.ttl("celery-task-meta-good"), client.ttl("celery-task-meta-bad")) == ttls
    backend.close()


@pytest.mark.parametrize(("prefix", "key"), [("p", "p_celery-task-meta-1"), ("p:", "p:celery-task-meta-1")])
def test_a_key_prefix_is_joined_as_celery_does(
    redis_url: str, client: redis.Redis, prefix: str, key: str
) -> None:
    backend = RedisResultBackend(redis_url, ResultOptions(transport={"global_keyprefix": prefix}))
    backend.save([record("1")])
    assert client.keys("*") == [key.encode()]
    assert backend.store != RedisBroker(redis_url, BrokerOptions()).store
    assert list(backend.wait(["1"], 5)) == [("1", document("1"))]
    backend.close()


def test_only_the_same_database_is_the_same_store(redis_server: RedisServer) -> None:
    broker = RedisBroker(redis_server.url(2), BrokerOptions())
    assert RedisResultBackend(redis_server.url(2), ResultOptions()).store == broker.store
    assert RedisResultBackend(redis_server.url(3), ResultOptions()).store != broker.store


def test_subscriptions_end_with_the_wait(backend: RedisResultBackend, client: redis.Redis) -> None:
    ids = [new_id() for _ in range(2500)]
    backend.save([record(task_id) for task_id in ids])
    assert len(list(backend.wait(ids, 5))) == 2500
    wait_until(lambda: not client.pubsub_channels(), what="no subscriptions")


def test_a_wait_survives_the_servers_restart() -> None:
    with RedisServer(aof="always") as server:
        backend = RedisResultBackend(server.url(), ResultOptions())
        before, after = new_id(), new_id()
        found: dict[str, bytes] = {}
        waiting = threading.Thread(target=lambda: found.update(backend.wait([before, after], 30)))
        waiting.start()
        with server.client() as client:
            wait_until(lambda: len(client.pubsub_channels()) == 2, what="two subscriptions")
        server.kill9()
        server.restart()
        saver = RedisResultBackend(server.url(), ResultOptions())
        saver.save([record(before)])
        with server.client() as client:
            wait_until(client.pubsub_channels, what="the wait to come back")
        saver.save([record(after)])
        waiting.join(30)
        assert found == {before: document(before), after: document(after)}
        backend.close()
        saver.close()


async def test_an_awaiting_survives_the_servers_restart() -> None:
    with RedisServer(aof="always") as server:
        backend = RedisResultBackend(server.url(), ResultOptions())
        task_id = new_id()

        async def collect() -> dict[str, bytes]:
            return {name: value async for name, value in backend.await_([task_id], 30)}

        waiting = asyncio.create_task(collect())
        with server.client() as client:

            async def subscribed() -> bool:
                return bool(client.pubsub_channels())

            await wait_until_async(subscribed, what="a subscription")
            server.restart()
            await wait_until_async(subscribed, what="a subscription")
        await backend.asave([record(task_id)])
        assert await waiting == {task_id: document(task_id)}
        backend.close()


def test_a_thread_that_leads_hands_on(backend: RedisResultBackend, redis_url: str) -> None:
    """The first waiter reads for all; when it has its result the others still get theirs, at once."""
    saver = RedisResultBackend(redis_url, ResultOptions())
    ids = [new_id() for _ in range(20)]
    threads = [threading.Thread(target=lambda i=i: list(backend.wait([i], 20))) for i in ids]
    for thread in threads:
        thread.start()
    for task_id, thread in zip(ids, threads, strict=True):
        saver.save([record(task_id, STARTED), record(task_id, SUCCESS)])
        thread.join(5)
        assert not thread.is_alive()
    saver.close()


def test_documents_of_other_serializers_tell_their_state(redis_url: str, client: redis.Redis) -> None:
    backend = RedisResultBackend(redis_url, ResultOptions(serializer="pickle"))
    client.set("celery-task-meta-1", __import__("pickle").dumps({"status": "SUCCESS", "result": 1}))
    [(task_id, found)] = backend.wait(["1"], 5)
    assert task_id == "1"
    backend.save([record("1", FAILURE)])
    assert backend.load(["1"]) == [found]
    backend.close()


@pytest.mark.parametrize(("query", "kind"), [("", bytes), ("?decode_responses=true", str)])
def test_programs_get_a_client_as_the_url_says(redis_url: str, query: str, kind: type) -> None:
    app = Umbel(backend=redis_url + query, result_compression="gzip")
    app.backend.store_result("1", "a", SUCCESS)
    assert type(app.backend.client.get(app.backend.get_key_for_task("1"))) is kind
    assert 0 < app.backend.client.ttl("celery-task-meta-1") <= 86400
    # Clients that take everything for text could not read what is compressed.
    assert app.backend.compression == ("gzip" if kind is bytes else None)
    assert app.conf.result_compression == "gzip"
    assert app.AsyncResult("1").get(timeout=5) == "a"
    app.close()


@pytest.mark.parametrize("ordered", [True, False])
def test_parts_are_read_however_they_were_counted(redis_url: str, ordered: bool) -> None:
    def backend(ordered: bool) -> RedisResultBackend:
        return RedisResultBackend(redis_url, ResultOptions(transport={"result_chord_ordered": ordered}))

    counting, reading = backend(ordered), backend(not ordered)
    for index, name in enumerate("ab"):
        part = ChordPart("g", index, b"entry " + name.encode(), b"{}", "celery")
        counting.save([ResultRecord(name, SUCCESS, b"", chord=part)])
    assert reading.chord_entries("g") == counting.chord_entries("g") == [b"entry a", b"entry b"]
    counting.close()
    reading.close()


def test_no_server_is_said() -> None:
    backend = RedisResultBackend("redis://127.0.0.1:1/0", ResultOptions())
    for operation in (
        lambda: backend.save([record("1")]),
        lambda: backend.load(["1"]),
        lambda: backend.forget(["1"]),
    ):
        with pytest.raises(OperationalError, match="cannot connect"):
            operation()


def test_the_client_shows_the_connections_of_the_backend_and_ends_them(backend: RedisResultBackend) -> None:
    """As with Celery, whose backend has its connections in its client's pool."""
    backend.save([record("1")])
    assert list(backend.wait(["1"], 30))
    pool: Any = backend.client.connection_pool
    used = [connection._sock for connection in (*pool._available_connections, *pool._in_use_connections)]
    assert len(used) == 2
    assert all(each.fileno() >= 0 for each in used)
    pool.disconnect()
    backend.save([record("2")])
    assert list(backend.wait(["2"], 30))
    assert backend.client.get("celery-task-meta-2") == document("2")
    backend.close()
    backend.client.close()
    assert all(each.fileno() < 0 for each in used)
