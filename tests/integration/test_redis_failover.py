"""Which of several Redis servers is talked to: a list of them, sentinels, and what happens when the primary changes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.apps.stage import Stage
from tests.support.sentinel import MASTER, Replicated
from tests.support.servers import HOST, free_port
from tests.support.waiting import wait_until
from umbel.brokers.base import Disposition, FetchPlan
from umbel.brokers.options import BrokerOptions
from umbel.brokers.redis import RedisBroker
from umbel.core.protocol import peek
from umbel.errors import BrokerConnectionError, BrokerError, OperationalError, PublishTimeout
from umbel.results.options import ResultOptions
from umbel.results.redis import RedisResultBackend
from umbel.stores.redis.address import parse_address
from umbel.stores.redis.blocking import open_blocking
from umbel.stores.redis.commands import pack_command
from umbel.stores.redis.link import open_link
from umbel.testing.contracts.support import message

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.redis]


@pytest.fixture
def pair() -> Iterator[Replicated]:
    with Replicated() as found:
        yield found


def change_roles(servers: Replicated) -> None:
    """Make the replica the primary and the other way round, as an operator does; nobody's connection is ended."""
    old, new = servers.servers
    with old.client() as before, new.client() as after:
        before.set("mark", "")  # a client waits for its own writes, and for what came before them
        wait_until(lambda: before.wait(1, 100) >= 1, timeout=30, what="the replica to have everything")
        after.execute_command("REPLICAOF", "NO", "ONE")
        before.execute_command("REPLICAOF", HOST, new.port)
        wait_until(lambda: after.wait(1, 100) >= 1, timeout=30, what="the former primary to follow")


def test_a_list_leads_to_the_primary_wherever_it_stands(pair: Replicated) -> None:
    urls = ";".join(reversed(pair.urls().split(";")))
    broker = RedisBroker(urls, BrokerOptions())
    broker.publisher().send([message(broker, "one")], timeout=10)
    with pair.servers[0].client() as client:
        assert client.llen("q") == 1
    assert broker.store == RedisBroker(pair.urls(), BrokerOptions()).store
    broker.close()


async def test_who_talks_to_a_primary_that_became_a_replica_goes_to_the_new_one(pair: Replicated) -> None:
    broker = RedisBroker(pair.urls(), BrokerOptions())
    publisher, apublisher = broker.publisher(), broker.async_publisher()
    consumer = broker.consumer("c", 30)
    await consumer.open()
    publisher.send([message(broker, "one")], timeout=10)
    await apublisher.send([message(broker, "two")], timeout=10)
    [held] = await consumer.fetch(FetchPlan(("q",)), 1, 10)
    change_roles(pair)
    with pytest.raises(BrokerConnectionError, match="READONLY"):
        publisher.send([message(broker, "three")], timeout=10)
    publisher.send([message(broker, "three")], timeout=10)
    with pytest.raises(BrokerConnectionError, match="READONLY"):
        await apublisher.send([message(broker, "four")], timeout=10)
    await apublisher.send([message(broker, "four")], timeout=10)
    with pytest.raises(BrokerConnectionError):
        await consumer.settle([Disposition(held.tag)])
    await consumer.open()
    await consumer.settle([Disposition(held.tag)])  # what it holds it still holds
    names = []
    while len(names) < 3:
        batch = await consumer.fetch(FetchPlan(("q",)), 10, 10)
        names += [peek(each.payload).id for each in batch]
        await consumer.settle([Disposition(each.tag) for each in batch])
    assert sorted(names) == ["four", "three", "two"]
    assert (broker.depth("q"), broker.held_depth()) == (0, 0)
    await consumer.close()
    await apublisher.close()
    broker.close()


async def test_an_idle_fetch_notices_that_its_server_is_a_replica_by_now(pair: Replicated) -> None:
    broker = RedisBroker(pair.urls(), BrokerOptions())
    consumer = broker.consumer("c", 30)
    await consumer.open()
    assert await consumer.fetch(FetchPlan(("q",)), 1, 0) == []
    change_roles(pair)
    with pytest.raises(BrokerConnectionError):
        await consumer.fetch(FetchPlan(("q",)), 1, 0)
    await consumer.close()
    broker.close()


def test_results_move_with_the_primary(pair: Replicated) -> None:
    backend = RedisResultBackend(pair.urls(), ResultOptions())
    backend.save_group("g", b"[]")
    change_roles(pair)
    with pytest.raises(OperationalError):
        backend.save_group("h", b"[]")
    backend.save_group("h", b"[]")
    assert (backend.load_group("g"), backend.load_group("h")) == (b"[]", b"[]")
    backend.close()


def test_nothing_but_replicas_is_an_error_that_names_them(pair: Replicated) -> None:
    url = pair.servers[1].url()
    broker = RedisBroker(f"{url};redis://{HOST}:{free_port()}/0", BrokerOptions())
    with pytest.raises(BrokerConnectionError, match=r"it is a replica; .*refused"):
        broker.depth("q")


async def test_a_message_counts_as_sent_when_replicas_have_it(pair: Replicated) -> None:
    options = BrokerOptions(transport={"wait_for_replicas": 1})
    broker = RedisBroker(pair.servers[0].url(), options)
    publisher, apublisher = broker.publisher(), broker.async_publisher()
    publisher.send([message(broker, str(number)) for number in range(3)], timeout=10)
    await apublisher.send([message(broker, "4")], timeout=10)
    with pair.servers[1].client() as copy:
        assert copy.llen("q") == 4
    pair.servers[1].freeze()
    with pytest.raises(PublishTimeout, match="only 0 of the 1 replicas"):
        publisher.send([message(broker, "5")], timeout=2)
    with pytest.raises(PublishTimeout, match="only 0 of the 1 replicas"):
        await apublisher.send([message(broker, "6")], timeout=2)
    pair.servers[1].thaw()
    publisher.send([message(broker, "7")], timeout=10)
    await apublisher.close()
    broker.close()


@pytest.fixture(scope="module")
def watched() -> Iterator[Replicated]:
    """A server that knows a user with a password, and sentinels with another password."""
    user = ("--user", "ann", "on", ">secret", "~*", "&*", "+@all")
    options = ("requirepass guard", "sentinel sentinel-pass guard")
    with Replicated(replicas=0, sentinels=3, server_options=user, sentinel_options=options) as found:
        yield found


async def test_sentinels_lead_to_the_primary(watched: Replicated) -> None:
    options: dict[str, Any] = {"sentinel_kwargs": {"password": "guard"}, "min_other_sentinels": 2}
    url = watched.sentinel_urls(3, login="ann:secret@")
    address, rest = parse_address(url, options, None, 5)
    assert rest == {}
    packed = b"".join(map(pack_command, (("ACL", "WHOAMI"), ("CLIENT", "INFO"))))
    blocking, link = open_blocking(address), await open_link(address)
    for who, info in (blocking.call(packed, 2, 5), await link.send(packed, 2)):
        assert who == b"ann"
        assert f" laddr={HOST}:{watched.servers[0].port} " in info.decode()
        assert " db=3 " in info.decode()
    blocking.close()
    link.close()
    assert "secret" not in address.display_url


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"sentinel_kwargs": {"password": "wrong"}}, "WRONGPASS|invalid username-password"),
        ({}, "Authentication required|NOAUTH"),
        ({"sentinel_kwargs": {"password": "guard"}, "min_other_sentinels": 9}, "knows of 2 others, not 9"),
    ],
)
async def test_what_sentinels_refuse_is_said(
    watched: Replicated, options: dict[str, Any], complaint: str
) -> None:
    address, _ = parse_address(watched.sentinel_urls(login="ann:secret@"), options, None, 5)
    with pytest.raises(BrokerConnectionError, match=complaint):
        open_blocking(address)
    with pytest.raises(BrokerConnectionError, match=complaint):
        await open_link(address)


def test_a_sentinel_that_is_gone_is_passed_over(watched: Replicated) -> None:
    options = {"sentinel_kwargs": {"password": "guard"}}
    first = f"sentinel://ann:secret@{HOST}:{free_port()}/0?master_name={MASTER}"
    address, _ = parse_address(f"{first};{watched.sentinel_urls()}", options, None, 5)
    open_blocking(address).close()
    unknown, _ = parse_address(
        watched.sentinel_urls(login="ann:secret@").replace(MASTER, "other"), options, None, 5
    )
    with pytest.raises(BrokerConnectionError, match="watches no 'other'"):
        open_blocking(unknown)


class Load(threading.Thread):
    """Sends tasks one by one until told to stop, and remembers which were confirmed."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage
        self._stop_now = threading.Event()
        self.confirmed: list[str] = []

    def run(self) -> None:
        number = 0
        while not self._stop_now.is_set():
            number += 1
            try:
                self._stage.send("note", number, ignore_result=False)
            except BrokerError:
                self._stop_now.wait(0.02)
                continue
            self.confirmed.append(str(number))

    def end(self) -> None:
        self._stop_now.set()
        self.join()


@pytest.mark.processes
def test_a_killed_primary_loses_no_confirmed_message(tmp_path: Path) -> None:
    with Replicated(replicas=2, sentinels=3) as servers:
        url = servers.sentinel_urls(options="&wait_for_replicas=1")
        with Stage(tmp_path, url, servers.sentinel_urls()) as stage:
            worker = stage.worker("-c2")
            load = Load(stage)
            load.start()
            try:
                wait_until(
                    lambda: len(load.confirmed) >= 100, timeout=30, what="messages before the failover"
                )
                primary = servers.primary()
                assert primary is servers.servers[0]
                primary.kill9()
                before = len(load.confirmed)
                wait_until(
                    lambda: len(load.confirmed) >= before + 100,
                    timeout=60,
                    what="messages after the failover",
                )
            finally:
                load.end()
            wait_until(
                lambda: set(load.confirmed) <= {line[1] for line in stage.lines("note")},
                timeout=60,
                what=lambda: f"{len(load.confirmed)} tasks to have run\n{worker.output[-3000:]}",
            )
            stage.wait_empty()
            stage.send("nothing", "after").get(timeout=30)
