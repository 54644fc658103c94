"""The Redis broker beyond the shared suite: waking, losing the connection, and sharing the server with Celery."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NoReturn

import pytest
import pytest_asyncio
import redis

from tests.support.servers import RedisServer
from tests.support.waiting import wait_until, wait_until_async
from umbel.brokers.base import Disposition, FetchPlan
from umbel.brokers.options import BrokerOptions
from umbel.brokers.redis import RedisBroker
from umbel.brokers.redis.consumer import RedisConsumer
from umbel.core.bindings import Binding
from umbel.core.destination import Destination
from umbel.core.protocol import peek, read_envelope
from umbel.core.records import Publication
from umbel.errors import BrokerConnectionError, BrokerError, PublishTimeout
from umbel.testing.contracts.support import ids, message, send

pytestmark = pytest.mark.redis

Q = FetchPlan(("q",))
OpenConsumer = Callable[..., Awaitable[RedisConsumer]]


@pytest.fixture
def client(redis_server: RedisServer, redis_url: str) -> Iterator[redis.Redis]:
    with redis_server.client() as client:
        yield client


@pytest.fixture
def broker(redis_url: str) -> Iterator[RedisBroker]:
    broker = RedisBroker(redis_url, BrokerOptions())
    yield broker
    broker.close()


@pytest_asyncio.fixture
async def consumer_of() -> AsyncIterator[OpenConsumer]:
    opened: list[RedisConsumer] = []

    async def open_one(broker: RedisBroker, name: str = "w", lease: float = 30.0) -> RedisConsumer:
        consumer = broker.consumer(name, lease)
        await consumer.open()
        opened.append(consumer)
        return consumer

    yield open_one
    for consumer in opened:
        with contextlib.suppress(BrokerConnectionError):  # the test may have taken the server away
            await consumer.close()


def test_the_depth_of_a_queue_takes_one_command(broker: RedisBroker, client: redis.Redis) -> None:
    """An idle worker asks for it every few seconds, of as many lists as there are priorities."""
    send(broker, "one")
    send(broker, "two", priority=9)
    broker.depth("q")
    with client.monitor() as monitor:
        assert broker.depth("q") == 2
        client.echo("the end")
        sent = (heard for heard in iter(monitor.next_command, None) if heard["client_type"] != "lua")
        seen = list(islice(sent, 2))
    assert [heard["command"].split()[0] for heard in seen] == ["EVAL", "ECHO"]


async def test_what_a_killed_asker_has_left_is_removed_by_a_later_one(
    broker: RedisBroker, client: redis.Redis
) -> None:
    killed, living = (broker.subscriber("reply", name, "direct") for name in ("killed", "living"))
    await killed.open()
    await living.open()
    for name in ("killed", "living"):
        client.lpush(f"{name}.reply", "an answer")
    client.zadd("umbel:askers:reply", {"killed\x06\x16\x06\x16killed.reply": 1})  # an hour and more ago
    later = broker.subscriber("reply", "later", "direct")
    await later.open()
    assert client.smembers("_kombu.binding.reply") == {
        f"{name}\x06\x16\x06\x16{name}.reply".encode() for name in ("living", "later")
    }
    assert (client.exists("killed.reply"), await living.get()) == (0, b"an answer")
    for subscription in (killed, living, later):
        await subscription.close()
    assert (client.keys("*reply*"), client.keys("*asker*")) == ([], [])


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def calls(client: redis.Redis) -> int:
    """Commands that clients have sent; those that scripts run are left out."""
    stats: dict[str, Any] = client.info("commandstats")  # type: ignore[assignment]
    names = ("evalsha", "eval", "exists", "client|caching", "ping", "sadd")
    return sum(stats[f"cmdstat_{name}"]["calls"] for name in names if f"cmdstat_{name}" in stats)


class TestWaiting:
    async def test_an_idle_wait_is_nearly_silent(
        self, broker: RedisBroker, client: redis.Redis, consumer_of: OpenConsumer
    ) -> None:
        consumer = await consumer_of(broker)
        await consumer.fetch(Q, 10, 0.05)
        client.config_resetstat()
        for _ in range(10):
            assert await consumer.fetch(Q, 10, 0.2) == []
        assert calls(client) == 0

    async def test_a_push_by_anyone_wakes(
        self, broker: RedisBroker, client: redis.Redis, consumer_of: OpenConsumer
    ) -> None:
        consumer = await consumer_of(broker)
        for payload in (b"one", b"two"):
            waiting = asyncio.create_task(consumer.fetch(Q, 10, 10))
            await asyncio.sleep(0.01)
            client.lpush("q\x06\x166", payload)
            [delivery] = await waiting
            assert delivery.payload == payload

    async def test_without_tracking_it_polls_and_says_so(
        self,
        redis_server: RedisServer,
        client: redis.Redis,
        consumer_of: OpenConsumer,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        client.acl_setuser(
            "shy",
            enabled=True,
            nopass=True,
            keys=["*"],
            channels=["*"],
            commands=["+@all", "-client|tracking"],
        )
        broker = RedisBroker(f"redis://shy:x@127.0.0.1:{redis_server.port}/0", BrokerOptions())
        with caplog.at_level(logging.WARNING):
            consumer = await consumer_of(broker)
        assert "refuses client tracking" in caplog.text
        waiting = asyncio.create_task(consumer.fetch(Q, 10, 10))
        await asyncio.sleep(0.05)
        client.lpush("q", "late")
        assert [delivery.payload for delivery in await waiting] == [b"late"]
        client.acl_deluser("shy")
        broker.close()

    async def test_what_arrives_for_a_cancelled_fetch_is_the_next_ones(
        self, own_server: RedisServer, consumer_of: OpenConsumer
    ) -> None:
        broker = RedisBroker(own_server.url(), BrokerOptions())
        consumer = await consumer_of(broker)
        await consumer.fetch(Q, 10, 0)
        send(broker, "1", "2")
        own_server.freeze()
        fetching = asyncio.create_task(consumer.fetch(Q, 2, 10))

        async def on_its_way() -> bool:
            return consumer._fetching is not None

        await wait_until_async(on_its_way, what="the fetch to be on its way")
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)
        own_server.thaw()
        assert ids(await consumer.fetch(Q, 1, 10)) == ["1"]
        assert ids(await consumer.fetch(Q, 1, 10)) == ["2"]
        broker.close()

    async def test_scripts_are_loaded_again_when_the_server_forgot_them(
        self, broker: RedisBroker, client: redis.Redis, consumer_of: OpenConsumer
    ) -> None:
        consumer = await consumer_of(broker)
        send(broker, "1", "2")
        client.script_flush()
        first, second = await consumer.fetch(Q, 2, 5)
        client.script_flush()
        await consumer.settle([Disposition(first.tag)])
        client.script_flush()
        assert await consumer.reconcile([]) == 1
        client.script_flush()
        assert ids(await consumer.fetch(Q, 2, 5)) == ["2"]
        assert second.tag


class TestLostConnections:
    async def test_a_server_that_ends_ends_the_wait(
        self, own_server: RedisServer, consumer_of: OpenConsumer
    ) -> None:
        broker = RedisBroker(own_server.url(), BrokerOptions())
        consumer = await consumer_of(broker)
        waiting = asyncio.create_task(consumer.fetch(Q, 10, 30))
        await asyncio.sleep(0.05)
        own_server.kill9()
        with pytest.raises(BrokerConnectionError):
            await waiting
        for operation in (consumer.renew, consumer.reclaim, lambda: consumer.fetch(Q, 1, 0)):
            with pytest.raises(BrokerConnectionError):
                await operation()
        with pytest.raises(BrokerConnectionError, match="cannot connect"):
            await consumer.open()
        own_server.restart()
        await consumer.open()
        send(broker, "1")
        assert ids(await consumer.fetch(Q, 10, 5)) == ["1"]
        broker.close()

    async def test_a_frozen_server_is_noticed(
        self, own_server: RedisServer, consumer_of: OpenConsumer
    ) -> None:
        broker = RedisBroker(own_server.url(), BrokerOptions(transport={"socket_timeout": 0.3}))
        consumer = await consumer_of(broker)
        own_server.freeze()
        started = time.monotonic()
        with pytest.raises(BrokerConnectionError, match=r"did not answer within 0\.3 seconds"):
            await consumer.renew()
        assert time.monotonic() - started < 5
        own_server.thaw()
        await consumer.open()
        broker.close()

    def test_a_publish_ends_with_its_timeout(self, own_server: RedisServer) -> None:
        broker = RedisBroker(own_server.url(), BrokerOptions())
        publisher = broker.publisher()
        publisher.send([message(broker, "1")], timeout=5)
        own_server.freeze()
        with pytest.raises(PublishTimeout):
            publisher.send([message(broker, "2")], timeout=0.2)
        own_server.thaw()
        publisher.send([message(broker, "3")], timeout=5)
        assert broker.depth("q") >= 2
        broker.close()

    async def test_an_awaited_publish_ends_with_its_timeout(self, own_server: RedisServer) -> None:
        broker = RedisBroker(own_server.url(), BrokerOptions())
        publisher = broker.async_publisher()
        await publisher.send([message(broker, "1")], timeout=5)
        own_server.freeze()
        with pytest.raises(PublishTimeout):
            await publisher.send([message(broker, "2")], timeout=0.2)
        own_server.restart()
        with contextlib.suppress(BrokerConnectionError):  # the loss may be noticed by now, or not
            await publisher.send([message(broker, "3")], timeout=5)
        await publisher.send([message(broker, "4")], timeout=5)
        await publisher.close()

    def test_an_idle_connection_that_died_is_replaced(self, own_server: RedisServer) -> None:
        broker = RedisBroker(own_server.url(), BrokerOptions())
        publisher = broker.publisher()
        publisher.send([message(broker, "1")], timeout=5)
        own_server.restart()
        wait_until(own_server.answers, what="the server")
        time.sleep(0.03)  # a connection used this instant is not looked at
        publisher.send([message(broker, "2")], timeout=5)
        assert broker.depth("q") == 1
        broker.close()

    def test_no_server_is_said(self) -> None:
        broker = RedisBroker("redis://127.0.0.1:1/0", BrokerOptions())
        with pytest.raises(BrokerConnectionError, match=r"cannot connect to redis://127\.0\.0\.1:1/0"):
            broker.publisher().send([message(broker, "1")], timeout=5)

    def test_a_wrong_password_is_said_and_not_shown(self, redis_server: RedisServer) -> None:
        broker = RedisBroker(f"redis://me:secret@127.0.0.1:{redis_server.port}/0", BrokerOptions())
        with pytest.raises(BrokerConnectionError) as caught:
            broker.depth("q")
        assert "secret" not in str(caught.value)


class TestPublishing:
    def test_a_message_is_one_command(self, broker: RedisBroker, client: redis.Redis) -> None:
        publisher = broker.publisher()
        publisher.send([message(broker, "1")], timeout=5)
        assert client.smembers("_kombu.binding.q") == {b"q\x06\x16\x06\x16q"}
        before: Any = client.info("stats")["total_commands_processed"]  # type: ignore[index]
        publisher.send([message(broker, "2")], timeout=5)
        after: Any = client.info("stats")["total_commands_processed"]  # type: ignore[index]
        assert after - before - 1 == 1  # INFO counts itself

    def test_named_exchanges_follow_their_bindings(self, broker: RedisBroker, client: redis.Redis) -> None:
        client.sadd(
            "_kombu.binding.ex", "a.*\x06\x16^a\\.[^\\.]+$\x06\x16star", "a.b\x06\x16^a\\.b$\x06\x16exact"
        )
        to = Destination("ex", "a.b", exchange_type="topic", priority=3)
        broker.publisher().send([Publication(to, b"m")], timeout=5)
        assert (client.llen("star\x06\x163"), client.llen("exact\x06\x163")) == (1, 1)

    def test_fanout_is_broadcast(self, broker: RedisBroker, client: redis.Redis) -> None:
        with client.pubsub() as pubsub:
            pubsub.psubscribe("/0.ev/*")
            wait_until(lambda: pubsub.get_message(timeout=1), what="the subscription")
            to = Destination("ev", "task.sent", exchange_type="fanout")
            broker.publisher().send([Publication(to, b"m")], timeout=5)
            heard: Any = wait_until(lambda: pubsub.get_message(timeout=1), what="the broadcast")
            assert (heard["channel"], heard["data"]) == (b"/0.ev/task.sent", b"m")

    def test_over_a_unix_socket(self, redis_server: RedisServer, client: redis.Redis) -> None:
        broker = RedisBroker(redis_server.unix_url(3), BrokerOptions())
        send(broker, "1")
        assert broker.depth("q") == 1
        with redis_server.client(3) as third:
            assert third.llen("q") == 1
        broker.close()

    async def test_a_consumer_over_a_unix_socket(
        self, redis_server: RedisServer, consumer_of: OpenConsumer
    ) -> None:
        redis_server.flush()
        broker = RedisBroker(redis_server.unix_url(), BrokerOptions())
        consumer = await consumer_of(broker)
        waiting = asyncio.create_task(consumer.fetch(Q, 1, 5))
        await asyncio.sleep(0.01)
        send(broker, "1")
        assert ids(await waiting) == ["1"]
        broker.close()

    async def test_settling_follows_bindings_and_broadcasts_too(
        self, broker: RedisBroker, client: redis.Redis, consumer_of: OpenConsumer
    ) -> None:
        client.sadd("_kombu.binding.ex", "k\x06\x16\x06\x16bound")
        consumer = await consumer_of(broker)
        send(broker, "1")
        [delivery] = await consumer.fetch(Q, 1, 5)
        follow = [
            Publication(Destination("ex", "k"), b"a"),
            Publication(Destination("ev", "", exchange_type="fanout"), b"b"),
        ]
        await consumer.settle([Disposition(delivery.tag, publish=follow)])
        assert client.lrange("bound", 0, -1) == [b"a"]

    async def test_bindings_come_back_with_the_connection(
        self, broker: RedisBroker, client: redis.Redis, consumer_of: OpenConsumer
    ) -> None:
        broker.declare([Binding("images", "media", "topic", "*.image")])
        consumer, member = await consumer_of(broker), b"*.image\x06\x16^[^\\.]+\\.image$\x06\x16images"
        tables = ("_kombu.binding.media", "_kombu.binding_permanent.media")
        assert [client.smembers(table) for table in tables] == [{member}, {member}]
        client.flushdb()
        await consumer.open()
        assert [client.smembers(table) for table in tables] == [{member}, {member}]

    def test_a_sender_finds_out_that_redis_has_forgotten(
        self, broker: RedisBroker, client: redis.Redis
    ) -> None:
        broker.declare([Binding("images", "media", "topic", "*.image")])
        publisher, publication = broker.publisher(), Publication(Destination("media", "a.image"), b"m")
        publisher.send([publication], timeout=5)
        client.flushdb()
        publisher.send([publication], timeout=5)
        assert client.lrange("images", 0, -1) == [b"m"]
        assert client.scard("_kombu.binding.media") == 1


class TestLostAnswers:
    """Redis has settled a batch, and the connection is lost with its answer: the worker settles it again."""

    async def test_what_hangs_on_no_delivery_happens_once(
        self, broker: RedisBroker, client: redis.Redis, consumer_of: OpenConsumer
    ) -> None:
        consumer = await consumer_of(broker)
        send(broker, "1", "2")
        first, second = await consumer.fetch(Q, 2, 5)
        batch = [
            Disposition(b"early", publish=[message(broker, "next", "n")], unheld=True, queue="q"),
            Disposition(first.tag, publish=[message(broker, "of 1", "n")]),
            Disposition(b"bad", "dead_letter", payload=second.payload, unheld=True, queue="q"),
        ]
        link = consumer._link
        assert link is not None
        run = link.run

        async def lose_the_answer(*call: Any) -> NoReturn:
            await run(*call)
            raise BrokerConnectionError("the connection is lost")

        link.run = lose_the_answer  # type: ignore[method-assign]
        for _ in range(3):
            with pytest.raises(BrokerConnectionError):
                await consumer.settle(batch)
        link.run = run  # type: ignore[method-assign]
        await consumer.settle(batch)
        assert (broker.depth("n"), broker.held_depth(), len(broker.dead_letters("q", 9))) == (2, 1, 1)
        assert len(client.keys("umbel:settled:*")) == 1
        await consumer.settle([Disposition(second.tag)])
        assert client.keys("umbel:settled:*") == []  # the answer came, so nobody will ask again

    async def test_nothing_stays_behind(
        self, broker: RedisBroker, client: redis.Redis, consumer_of: OpenConsumer
    ) -> None:
        consumer = await consumer_of(broker)
        follow = [message(broker, "next", "n")]
        await consumer.settle([Disposition(b"early", publish=follow, unheld=True, queue="q")])
        [key] = client.keys("umbel:settled:*")
        assert 0 < client.ttl(key) <= 86400  # should the consumer never be back
        await consumer.close()
        assert client.keys("umbel:settled:*") == []


class TestRefusals:
    async def test_a_refused_disposition_leaves_the_others_settled(
        self, broker: RedisBroker, client: redis.Redis, consumer_of: OpenConsumer
    ) -> None:
        consumer = await consumer_of(broker)
        client.set("not-a-list", "x")
        send(broker, "1", "2", "3")
        first, second, third = await consumer.fetch(Q, 3, 5)
        bad = [message(broker, "n", "fine"), message(broker, "n", "not-a-list")]
        with pytest.raises(BrokerError, match="refused to settle 1 of 3"):
            await consumer.settle(
                [Disposition(first.tag), Disposition(second.tag, publish=bad), Disposition(third.tag)]
            )
        assert (broker.held_depth(), broker.depth("fine")) == (1, 0)
        client.delete("not-a-list")
        await consumer.settle([Disposition(second.tag, publish=bad)])
        assert (broker.held_depth(), broker.depth("fine"), broker.depth("not-a-list")) == (0, 1, 1)

    async def test_what_was_published_is_not_published_again_for_what_was_refused(
        self, broker: RedisBroker, client: redis.Redis, consumer_of: OpenConsumer
    ) -> None:
        """Nothing but the disposition itself could tell: it belongs to no delivery that is held or not."""
        consumer = await consumer_of(broker)
        client.set("not-a-list", "x")
        send(broker, "1", "2")
        first, _ = await consumer.fetch(Q, 2, 5)
        batch = [
            Disposition(b"early", publish=[message(broker, "n", "fine")], unheld=True, queue="q"),
            Disposition(first.tag, publish=[message(broker, "m", "not-a-list")]),
            Disposition(b"other", publish=[message(broker, "o", "not-a-list")], unheld=True, queue="q"),
        ]
        with pytest.raises(BrokerError, match="refused to settle 2 of 3"):
            await consumer.settle(batch)
        client.delete("not-a-list")
        for disposition in batch:
            await consumer.settle([disposition])
        assert (broker.depth("fine"), broker.depth("not-a-list")) == (1, 2)

    async def test_a_refused_disposition_keeps_no_dead_letter(
        self, broker: RedisBroker, client: redis.Redis, consumer_of: OpenConsumer
    ) -> None:
        consumer = await consumer_of(broker)
        client.set("not-a-list", "x")
        send(broker, "1")
        [delivery] = await consumer.fetch(Q, 1, 5)
        lost = [Publication(Destination("nowhere", "k"), payload) for payload in (b"a", b"b")]
        follow = [*lost, message(broker, "n", "not-a-list")]
        with pytest.raises(BrokerError, match="refused to settle 1 of 1"):
            await consumer.settle([Disposition(delivery.tag, publish=follow)])
        assert broker.dead_letters("q", 9) == []
        client.delete("not-a-list")
        await consumer.settle([Disposition(delivery.tag, publish=follow)])
        assert sorted(letter.payload for letter in broker.dead_letters("q", 9)) == [b"a", b"b"]

    async def test_dead_letters_are_forgotten_in_time(
        self, redis_url: str, client: redis.Redis, consumer_of: OpenConsumer
    ) -> None:
        broker = RedisBroker(redis_url, BrokerOptions(dead_letter_expires=100.0))
        consumer = await consumer_of(broker)
        client.zadd("umbel:dead:q", {"x:0:old": time.time() - 101, "y:1:rnewer": time.time() - 50})
        send(broker, "1")
        [delivery] = await consumer.fetch(Q, 1, 5)
        await consumer.settle([Disposition(delivery.tag, "dead_letter", reason="é")])
        assert [(letter.reason, letter.payload[:5]) for letter in broker.dead_letters("q", 9)] == [
            ("é", delivery.payload[:5]),
            ("r", b"newer"),
        ]
        broker.close()


class TestLeases:
    async def test_who_fetches_after_losing_its_lease_holds_under_a_new_one(
        self, broker: RedisBroker, client: redis.Redis, consumer_of: OpenConsumer
    ) -> None:
        slow, peer = await consumer_of(broker, "slow"), await consumer_of(broker, "peer")
        client.zadd("umbel:consumers", {"slow": 1.0})
        assert await peer.reclaim() == 0
        assert client.zscore("umbel:consumers", "slow") is None
        send(broker, "1")
        await slow.fetch(Q, 1, 5)  # and dies before it renews
        assert client.zscore("umbel:consumers", "slow") > time.time() + 20  # type: ignore[operator]
        client.zadd("umbel:consumers", {"slow": 1.0})
        assert await peer.reclaim() == 1


class TestBesideCelery:
    """What kombu's workers keep on the same server, written here as kombu writes it."""

    def hold_as_celery(
        self, client: redis.Redis, broker: RedisBroker, name: str, age: float, exchange: str = ""
    ) -> str:
        payload = message(broker, name, priority=3).payload
        tag = peek(payload).delivery_tag
        client.hset("unacked", tag, json.dumps([json.loads(payload), exchange, "q"]))
        client.zadd("unacked_index", {tag: time.time() - age})
        return tag

    async def test_what_is_held_is_in_kombus_form(
        self, broker: RedisBroker, client: redis.Redis, consumer_of: OpenConsumer
    ) -> None:
        consumer = await consumer_of(broker)
        send(broker, "1")
        broker.publisher().send([Publication(Destination("", "q", "q"), b"junk")], timeout=5)
        deliveries = await consumer.fetch(Q, 9, 5)
        held: dict[bytes, bytes] = client.hgetall("unacked")  # type: ignore[assignment]
        assert list(held) == [deliveries[0].tag]
        document, exchange, routing_key = json.loads(held[deliveries[0].tag])
        assert (document, exchange, routing_key) == (json.loads(deliveries[0].payload), "", "q")
        assert client.zcard("unacked_index") == 2

    async def test_celerys_lost_messages_return_after_the_visibility_timeout(
        self, broker: RedisBroker, client: redis.Redis, consumer_of: OpenConsumer
    ) -> None:
        client.sadd("_kombu.binding.ex", "q\x06\x16\x06\x16q")
        self.hold_as_celery(client, broker, "old", 3601)
        self.hold_as_celery(client, broker, "by exchange", 3700, exchange="ex")
        young = self.hold_as_celery(client, broker, "young", 3500)
        consumer = await consumer_of(broker)
        assert await consumer.reclaim() == 2
        assert client.hkeys("unacked") == [young.encode()]
        assert client.llen("q\x06\x163") == 2
        deliveries = await consumer.fetch(Q, 9, 5)
        assert sorted(ids(deliveries)) == ["by exchange", "old"]
        assert all(delivery.redelivered for delivery in deliveries)
        assert read_envelope(deliveries[0].payload).headers["redelivered"] is True
        assert client.exists("unacked_mutex") == 0

    async def test_kombus_lock_is_honoured(
        self, broker: RedisBroker, client: redis.Redis, consumer_of: OpenConsumer
    ) -> None:
        self.hold_as_celery(client, broker, "old", 3601)
        client.set("unacked_mutex", "kombu's")
        consumer = await consumer_of(broker)
        assert await consumer.reclaim() == 0
        assert client.get("unacked_mutex") == b"kombu's"

    async def test_one_worker_looks_every_ten_seconds(
        self, broker: RedisBroker, client: redis.Redis, consumer_of: OpenConsumer
    ) -> None:
        consumer = await consumer_of(broker)
        assert await consumer.reclaim() == 0
        self.hold_as_celery(client, broker, "old", 3601)
        assert await consumer.reclaim() == 0
        client.delete("umbel:swept")
        assert await consumer.reclaim() == 1

    async def test_what_a_live_worker_holds_stays_fresh(
        self, redis_url: str, client: redis.Redis, consumer_of: OpenConsumer
    ) -> None:
        broker = RedisBroker(redis_url, BrokerOptions(transport={"visibility_timeout": 0.04}))
        consumer, peer = await consumer_of(broker), await consumer_of(broker, "peer")
        send(broker, "1")
        [delivery] = await consumer.fetch(Q, 1, 5)
        client.zadd("unacked_index", {delivery.tag: 1.0})
        client.delete("umbel:swept")
        assert await peer.reclaim() == 0  # old as it looks, its holder lives
        await asyncio.sleep(0.02)
        await consumer.renew()
        assert client.zscore("unacked_index", delivery.tag) > time.time() - 5  # type: ignore[operator]
        broker.close()

    async def test_leaving_leaves_nothing_behind(
        self, broker: RedisBroker, client: redis.Redis, consumer_of: OpenConsumer
    ) -> None:
        consumer = await consumer_of(broker)
        send(broker, "1")
        await consumer.fetch(Q, 1, 5)
        await consumer.close()
        keys: list[bytes] = client.keys("*")  # type: ignore[assignment]
        assert sorted(keys) == [b"_kombu.binding.q", b"_kombu.binding_permanent.q", b"q"]


def test_who_asks_what_is_revoked_leaves_others_their_connection(
    redis_server: RedisServer, redis_url: str, client: redis.Redis
) -> None:
    """Two threads share the one connection that a broker has for questions: none of them closes it."""
    broker = RedisBroker(redis_url, BrokerOptions())
    broker.depth("q")
    before = client.info("stats")["total_connections_received"]

    def ask() -> None:
        for _ in range(50):
            assert broker.revoked().ids == {}
            assert broker.depth("q") == 0

    with ThreadPoolExecutor(2) as threads:
        for asking in [threads.submit(ask) for _ in range(2)]:
            asking.result()
    assert client.info("stats")["total_connections_received"] == before
    broker.close()
