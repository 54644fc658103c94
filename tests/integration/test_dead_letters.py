"""What each broker's dead letters are beyond the shared suite: how many are kept, and what others see of them."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import amqp
import pytest

from tests.support.rabbitmq import RabbitMqServer
from umbel import Umbel
from umbel.brokers.amqp import AmqpBroker
from umbel.brokers.base import Broker, Disposition, FetchPlan
from umbel.brokers.memory import MemoryBroker
from umbel.brokers.options import BrokerOptions
from umbel.brokers.redis import RedisBroker
from umbel.brokers.sqlite import SqliteBroker
from umbel.core.causes import Cause
from umbel.core.ids import new_id
from umbel.core.protocol import peek
from umbel.core.topology import QueueDefinition
from umbel.stores.memory import stores
from umbel.testing.contracts.support import eventually, send
from umbel.testing.worker import start_worker

CAUSE = Cause("failed", "ValueError", "no", "Traceback", "w@h")


async def bury(broker: Broker, *names: str) -> None:
    consumer = broker.consumer(new_id(), 30)
    await consumer.open()
    for name in names:
        send(broker, name)
        [delivery] = await consumer.fetch(FetchPlan(("q",)), 1, 20)
        await consumer.settle([Disposition(delivery.tag, "dead_letter", reason="r", cause=CAUSE)])
    await consumer.close()


def names_of(broker: Broker) -> list[str]:
    reader = broker.dead_reader("q")
    letters = reader.page(100)
    reader.close()
    return [peek(letter.payload).id for letter in letters]


@pytest.fixture(params=["memory", "sqlite", "redis", "rabbitmq"])
def limited(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    options = BrokerOptions(dead_letter_limit=3)
    broker: Broker
    match request.param:
        case "memory":
            broker = MemoryBroker("limited", options)
        case "sqlite":
            broker = SqliteBroker.from_url(f"sqlite:///{tmp_path}/umbel.db", options)
        case "redis":
            broker = RedisBroker(request.getfixturevalue("redis_url"), options)
        case _:
            broker = AmqpBroker(request.getfixturevalue("rabbitmq_url"), options)
    yield broker
    broker.close()
    stores.drop("limited")


async def test_no_more_are_kept_than_the_limit_says(limited: Broker) -> None:
    await bury(limited, "1", "2", "3", "4", "5")
    if isinstance(limited, SqliteBroker):
        limited._database.prune()  # as each process does once a minute
    await eventually(lambda: limited.dead_count("q") == 3)
    assert names_of(limited) == ["3", "4", "5"]


async def test_letters_over_age_are_not_shown(redis_url: str) -> None:
    broker = RedisBroker(redis_url, BrokerOptions(dead_letter_expires=0.2))
    await bury(broker, "1")
    await eventually(lambda: broker.dead_count("q") == 0)
    assert (names_of(broker), broker.dead_letters("q", 5), broker.dead_queues([])) == ([], [], [])
    broker.close()


class TestRabbitMq:
    @pytest.fixture
    def channel(self, rabbitmq_server: RabbitMqServer, rabbitmq_url: str) -> Iterator[amqp.Channel]:
        vhost = rabbitmq_url.rpartition("/")[2]
        connection = amqp.Connection(f"127.0.0.1:{rabbitmq_server.port}", virtual_host=vhost)
        connection.connect()
        yield connection.channel()
        connection.close()

    async def test_other_consumers_understand_a_letter(
        self, rabbitmq_url: str, channel: amqp.Channel
    ) -> None:
        broker = AmqpBroker(rabbitmq_url, BrokerOptions())
        await bury(broker, "1")
        letter = channel.basic_get("q.dead", no_ack=True)
        headers = letter.headers
        [death] = headers["x-death"]
        assert (death["queue"], death["reason"], death["count"]) == ("q", "rejected", 1)
        assert abs(death["time"].timestamp() - time.time()) < 86_400
        assert headers["x-first-death-queue"] == "q"
        assert headers["x-exception-message"] == "ValueError: no"
        assert headers["x-exception-stacktrace"] == "Traceback"
        assert (headers["x-original-exchange"], headers["x-original-routingKey"]) == ("", "q")
        assert headers["id"] == "1"
        assert letter.properties["expiration"] == str(14 * 86_400_000)
        broker.close()

    async def test_what_rabbitmq_gives_up_itself_is_a_letter_like_others(self, rabbitmq_url: str) -> None:
        broker = AmqpBroker(rabbitmq_url, BrokerOptions())
        arguments = {
            "x-queue-type": "quorum",
            "x-delivery-limit": 2,
            "x-dead-letter-exchange": "umbel.dead",
            "x-dead-letter-routing-key": "q",
        }
        broker.declare((), [QueueDefinition("q", arguments=arguments)])
        consumer = broker.consumer("c", 30)
        await consumer.open()
        await consumer.fetch(FetchPlan(("q",)), 1, 0)
        send(broker, "1")
        for _ in range(3):
            [delivery] = await consumer.fetch(FetchPlan(("q",)), 1, 20)
            await consumer.settle([Disposition(delivery.tag, "requeue", front=True)])
        await eventually(lambda: broker.dead_count("q") == 1)
        reader = broker.dead_reader("q")
        [letter] = reader.page(10)
        reader.close()
        assert (letter.cause.kind, letter.reason) == ("quarantined", "delivery_limit")
        assert abs(letter.at - time.time()) < 86_400
        await consumer.close()
        broker.close()

    async def test_who_crashes_while_reading_leaves_everything(self, rabbitmq_url: str) -> None:
        broker = AmqpBroker(rabbitmq_url, BrokerOptions())
        await bury(broker, "1", "2", "3")
        reader = broker.dead_reader("q")
        assert len(reader.page(2)) == 2
        assert reader._link is not None
        reader._link.abandon("as if it were killed")
        await eventually(lambda: broker.dead_count("q") == 3)
        assert names_of(broker) == ["1", "2", "3"]
        broker.close()


@pytest.mark.parametrize("enabled", [True, False])
def test_whether_letters_are_kept_at_all(enabled: bool) -> None:
    name = new_id()
    url = f"memory://{name}"
    with Umbel("keeps", broker=url, backend=url, set_as_current=False) as app:
        app.conf.dead_letter_enabled = enabled

        @app.task(name="fails", dead_letter_failed=True)
        def fails() -> None:
            raise ValueError

        with start_worker(app, pool="solo", perform_ping_check=False):
            result = app.send_task("fails")
            app.send_task("there is none")
            last = app.send_task("fails")
            for each in (result, last):
                with pytest.raises(ValueError):
                    each.get(timeout=30)
        kinds = sorted(letter.kind for letter in app.dead_letters.walk())
        assert kinds == (["failed", "failed", "unknown"] if enabled else [])
    stores.drop(name)


async def test_letters_of_an_earlier_versions_file_are_read_and_replayed(tmp_path: Path) -> None:
    path = tmp_path / "umbel.db"
    old = SqliteBroker.from_url(f"sqlite:///{path}", BrokerOptions())
    await bury(old, "1")
    old.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for kind, name in (("TRIGGER", "dead_letters_deleted"), ("TABLE", "dead_causes"), ("TABLE", "begun")):
            connection.execute(f"DROP {kind} {name}")
        connection.execute("PRAGMA user_version = 4")
        connection.commit()
    broker = SqliteBroker.from_url(f"sqlite:///{path}", BrokerOptions())
    await bury(broker, "2")
    reader = broker.dead_reader("q")
    letters = reader.page(10)
    assert [letter.cause.kind for letter in letters] == ["rejected", "failed"]
    assert reader.discard(letters) == 2
    broker.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM dead_causes").fetchall() == [(0,)]
