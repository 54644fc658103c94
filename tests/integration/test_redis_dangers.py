"""Redis as a dangerous place: full, emptied, or configured to lose messages."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from typing import TYPE_CHECKING

import pytest

from tests.integration.apps.stage import Stage, redis_stage
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until, wait_until_async
from umbel.brokers.base import Disposition, FetchPlan
from umbel.brokers.options import BrokerOptions
from umbel.brokers.redis import RedisBroker
from umbel.core.destination import Destination
from umbel.core.protocol import peek
from umbel.core.records import Publication, ResultRecord
from umbel.errors import BrokerConnectionError, BrokerError, PublishTimeout
from umbel.results.options import ResultOptions
from umbel.results.redis import RedisResultBackend
from umbel.testing.contracts.support import message

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

pytestmark = [pytest.mark.redis]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with server.client() as made:
        made.config_set("maxmemory", 0)
        made.config_set("maxmemory-policy", "noeviction")
        made.flushall()
        yield made
        made.config_set("maxmemory", 0)


@pytest.fixture
def broker(server: RedisServer, client: redis.Redis) -> Iterator[RedisBroker]:
    made = RedisBroker(server.url(), BrokerOptions())
    yield made
    made.close()


def fill(client: redis.Redis) -> None:
    """Have the server refuse whatever takes memory."""
    client.config_set("maxmemory", 1)


def test_senders_wait_for_memory_until_their_deadline(broker: RedisBroker, client: redis.Redis) -> None:
    publisher = broker.publisher()
    publisher.send([message(broker, "before")], timeout=10)
    fill(client)
    with pytest.raises(PublishTimeout, match=r"out of memory for 1 seconds .* raise maxmemory"):
        publisher.send([message(broker, "refused")], timeout=1)
    batch = [message(broker, str(number)) for number in range(3)] + [message(broker, "other", queue="r")]
    sending = threading.Thread(target=publisher.send, args=(batch,), kwargs={"timeout": 60})
    sending.start()
    refused = client.info("stats")["total_error_replies"]
    wait_until(lambda: client.info("stats")["total_error_replies"] > refused + 4, what="several refusals")
    client.config_set("maxmemory", 0)
    sending.join(60)
    assert (broker.depth("q"), broker.depth("r")) == (4, 1)


async def test_coroutines_wait_for_memory_too(broker: RedisBroker, client: redis.Redis) -> None:
    publisher = broker.async_publisher()
    fill(client)
    with pytest.raises(PublishTimeout, match="out of memory"):
        await publisher.send([message(broker, "refused")], timeout=1)
    refused = client.info("stats")["total_error_replies"]
    sending = asyncio.create_task(publisher.send([message(broker, "kept")], timeout=60))

    async def is_refused() -> bool:
        return bool(client.info("stats")["total_error_replies"] > refused + 1)

    await wait_until_async(is_refused, what="several refusals")
    client.config_set("maxmemory", 0)
    await sending
    assert broker.depth("q") == 1
    await publisher.close()


async def test_workers_go_on_without_memory(broker: RedisBroker, client: redis.Redis) -> None:
    consumer = broker.consumer("c", 30)
    await consumer.open()
    publisher = broker.publisher()
    for name in ("one", "two", "three"):
        publisher.send([message(broker, name)], timeout=10)
    [due] = await consumer.fetch(FetchPlan(("q",)), 1, 10)
    await consumer.settle([Disposition(due.tag, action="retry_later", due=1.0)])
    fill(client)
    batch = []
    while len(batch) < 3:
        batch += await consumer.fetch(FetchPlan(("q",)), 3, 10)
    await consumer.renew()
    assert await consumer.reclaim() == 0
    first, second, third = batch
    following = Publication(Destination("", "r", "r"), message(broker, "next").payload)
    result = ResultRecord("one", "SUCCESS", b'{"status": "SUCCESS"}')
    await consumer.settle(
        [
            Disposition(first.tag, result=result, publish=[following]),
            Disposition(second.tag, action="requeue"),
            Disposition(third.tag, action="dead_letter", reason="tried"),
        ]
    )
    assert (broker.depth("q"), broker.depth("r"), broker.held_depth()) == (1, 1, 0)
    assert client.get("celery-task-meta-one") == result.document
    backend = RedisResultBackend(f"{broker.display_url}", ResultOptions())
    backend.save([ResultRecord("apart", "SUCCESS", b'{"status": "SUCCESS"}')])
    assert backend.load(["apart"]) == [b'{"status": "SUCCESS"}']
    backend.close()
    await consumer.close()


async def test_an_emptied_database_is_noticed_and_work_goes_on(
    broker: RedisBroker, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    consumer = broker.consumer("c", 30)
    await consumer.open()
    publisher = broker.publisher()
    publisher.send([message(broker, "held")], timeout=10)
    [held] = await consumer.fetch(FetchPlan(("q",)), 1, 10)
    await consumer.renew()
    assert "emptied" not in caplog.text
    client.flushall()
    await consumer.renew()
    assert "The Redis database has been emptied" in caplog.text
    assert "The 1 message(s) in this worker's hands go on" in caplog.text
    record = ResultRecord("held", "SUCCESS", b'{"status": "SUCCESS"}')
    following = Publication(Destination("", "q", "q"), message(broker, "next").payload)
    await consumer.settle([Disposition(held.tag, result=record, publish=[following])])
    assert client.get("celery-task-meta-held") == record.document
    [after] = await consumer.fetch(FetchPlan(("q",)), 1, 10)
    assert peek(after.payload).id == "next"
    await consumer.settle([Disposition(after.tag)])
    assert broker.held_depth() == 0
    caplog.clear()
    await consumer.renew()
    assert caplog.text == ""
    await consumer.close()


async def test_a_failover_to_a_server_that_has_nothing_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer() as first, RedisServer() as empty:
        broker = RedisBroker.from_url(f"{first.url()};{empty.url()}", BrokerOptions())
        consumer = broker.consumer("c", 30)
        await consumer.open()
        broker.publisher().send([message(broker, "held"), message(broker, "waiting")], timeout=10)
        [held] = await consumer.fetch(FetchPlan(("q",)), 1, 10)
        await consumer.renew()
        assert "emptied" not in caplog.text
        first.kill9()
        with pytest.raises(BrokerConnectionError):
            await consumer.renew()
        await consumer.open()
        await consumer.reconcile({held.tag})
        await consumer.renew()
        assert "The Redis database has been emptied" in caplog.text
        assert "The 1 message(s) in this worker's hands go on" in caplog.text
        await consumer.settle([Disposition(held.tag)])
        await consumer.close()
        broker.close()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            {"maxmemory": "50mb", "maxmemory-policy": "allkeys-lru"},
            r"deletes messages .*50\.00M.* allkeys-lru",
        ),
        ({"maxmemory": "50mb", "maxmemory-policy": "volatile-ttl"}, "deletes results .* volatile-ttl"),
        ({}, "in memory alone"),
    ],
)
async def test_a_server_that_may_lose_messages_is_warned_of(
    broker: RedisBroker,
    client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    settings: dict[str, str],
    complaint: str,
) -> None:
    for name, value in settings.items():
        client.config_set(name, value)
    with caplog.at_level(logging.WARNING, "umbel.redis"):
        consumer = broker.consumer("c", 30)
        await consumer.open()
        await consumer.open()  # once is enough
        await consumer.close()
    found = [record.getMessage() for record in caplog.records]
    assert len([text for text in found if re.search(complaint, text)]) == 1, found


async def test_a_safe_server_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(aof="everysec") as safe:
        broker = RedisBroker(safe.url(), BrokerOptions())
        consumer = broker.consumer("c", 30)
        await consumer.open()
        await consumer.close()
    assert caplog.text == ""


@pytest.mark.processes
def test_a_worker_says_what_sharing_a_database_means(tmp_path: Path, server: RedisServer) -> None:
    with redis_stage(tmp_path, server) as stage:
        worker = stage.worker("-c1")
        assert worker.output.count("Messages and results share redis://") == 1
        assert worker.output.count("in memory alone") == 1
    with Stage(tmp_path, server.url(1), server.url(2)) as stage:
        assert "Messages and results share" not in stage.worker("-c1").output


@pytest.mark.processes
def test_a_full_server_drains(tmp_path: Path, server: RedisServer) -> None:
    """Broker and results in two databases of one server, as many have it."""
    with server.client() as client:
        client.flushall()
    with Stage(tmp_path, server.url(0), server.url(1)) as stage, server.client() as client:
        results = [stage.send("nothing", number) for number in range(20)]
        fill(client)
        with pytest.raises(BrokerError, match="out of memory"):
            stage.app.broker.publisher().send([message(stage.broker, "x")], timeout=0.2)
        stage.worker("-c2")
        assert [result.get(timeout=30) for result in results] == list(range(20))
        stage.wait_empty()
        client.config_set("maxmemory", 0)
