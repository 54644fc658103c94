"""Workers on a Redis Cluster: workflows, slots that move while tasks run, and a master that is killed under load."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.apps.stage import Stage
from tests.integration.test_canvas_worker import CanvasStage
from tests.support.certificates import self_signed
from tests.support.redis_cluster import RedisCluster
from tests.support.waiting import wait_until
from umbel import chain, chord
from umbel.brokers.base import Disposition, FetchPlan
from umbel.brokers.options import BrokerOptions
from umbel.brokers.redis.broker import RedisBroker
from umbel.brokers.redis.cluster.broker import RedisClusterBroker
from umbel.brokers.urls import broker_from_url
from umbel.core.protocol import peek
from umbel.core.records import Publication
from umbel.errors import BrokerConnectionError, BrokerError, PublishTimeout
from umbel.results.options import ResultOptions
from umbel.results.redis_cluster import RedisClusterResultBackend
from umbel.scheduler.stores.redis import RedisScheduleStore
from umbel.stores.redis.cluster import slot_of, tagged
from umbel.testing.contracts.results import document, record
from umbel.testing.contracts.support import eventually, message

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.redis]


@pytest.fixture
def empty_cluster(redis_cluster: RedisCluster) -> RedisCluster:
    redis_cluster.flush()
    return redis_cluster


def other_than(cluster: RedisCluster, slot: int) -> Any:
    """A master that does not have a slot."""
    owner = cluster.owner(slot)
    return next(node for node in cluster.masters() if node is not owner)


@pytest.mark.processes
def test_workflows_and_workers(empty_cluster: RedisCluster, tmp_path: Path) -> None:
    with CanvasStage(tmp_path, empty_cluster.url()) as stage:
        stage.worker("-c2", "-Q", "celery,other")
        s = stage.s
        whole = chain(s("add", 1, 1), s("add", 2).set(queue="other"), s("add", 3))
        parts = [s("add", n, n).set(queue="other" if n % 2 else "celery") for n in range(10)]
        running = [whole.apply_async(), chord(parts, s("total").set(queue="other")).apply_async()]
        assert [each.get(timeout=60) for each in running] == [7, 90]
        assert stage.app.control.inspect(timeout=10).ping()
        stage.wait_empty()


@pytest.mark.processes
def test_retries_delays_and_priorities(empty_cluster: RedisCluster, tmp_path: Path) -> None:
    with Stage(tmp_path, empty_cluster.url(), worker_prefetch_multiplier=1) as stage:
        retried = stage.send("retry", 2, "again")
        later = stage.send("note", "later", countdown=1)
        for priority in (9, 0, 6):
            stage.send("note", f"p{priority}", priority=priority)
        stage.worker("-c1")
        assert (retried.get(timeout=40), later.get(timeout=40)) == (2, "later")
        notes = [words[1] for words in stage.lines("note")]
        assert [each for each in notes if each.startswith("p")] == ["p0", "p6", "p9"]
        assert "later" in notes
        stage.wait_empty()


@pytest.mark.processes
def test_slots_move_while_tasks_run(empty_cluster: RedisCluster, tmp_path: Path) -> None:
    slot = slot_of(tagged("celery").encode())
    with Stage(tmp_path, empty_cluster.url(), worker_lease_duration=10) as stage:
        stage.worker("-c2", "--loglevel", "WARNING", ready=False)
        sent = 0
        for _ in range(3):
            for _ in range(50):
                sent += 1
                stage.send("note", sent, ignore_result=True)
            empty_cluster.move(slot, other_than(empty_cluster, slot))
        last = stage.send("note", "last")
        assert last.get(timeout=40) == "last"
        wait_until(
            lambda: (
                {words[1] for words in stage.lines("note")} >= {str(number) for number in range(1, sent + 1)}
            ),
            timeout=40,
            what="all tasks to have run",
        )
        stage.wait_empty()


async def test_while_a_slot_is_on_its_way_senders_go_on_and_workers_wait(empty_cluster: RedisCluster) -> None:
    broker = RedisClusterBroker(empty_cluster.url(), BrokerOptions())
    publisher, apublisher = broker.publisher(), broker.async_publisher()
    consumer = broker.consumer("c", 30)
    await consumer.open()
    publisher.send([message(broker, "1")], timeout=10)
    [held] = await consumer.fetch(FetchPlan(("q",)), 1, 10)
    slot = slot_of(b"{q}")
    target = other_than(empty_cluster, slot)
    source = empty_cluster.begin_to_move(slot, target)
    try:
        # The queue's list is empty, so it is not here any more: whoever asks is sent to the other node.
        publisher.send([message(broker, "2")], timeout=10)
        await apublisher.send([message(broker, "3")], timeout=10)
        with pytest.raises(BrokerConnectionError, match=r"TRYAGAIN|ASK"):
            await consumer.fetch(FetchPlan(("q",)), 1, 0)
    finally:
        empty_cluster.end_move(slot, source, target)
    await consumer.open()
    assert await consumer.reconcile({held.tag}) == 0
    await consumer.settle([Disposition(held.tag)])
    rest = await consumer.fetch(FetchPlan(("q",)), 10, 10)
    assert [peek(each.payload).id for each in rest] == ["2", "3"]
    await consumer.settle([Disposition(each.tag) for each in rest])
    assert (broker.depth("q"), broker.held_depth()) == (0, 0)
    await consumer.close()
    await apublisher.close()
    broker.close()


async def test_who_waits_for_messages_notices_that_their_slot_has_moved(empty_cluster: RedisCluster) -> None:
    broker = RedisClusterBroker(empty_cluster.url(), BrokerOptions())
    consumer = broker.consumer("c", 30)
    await consumer.open()
    waiting = asyncio.create_task(consumer.fetch(FetchPlan(("q",)), 1, 30))
    slot = slot_of(b"{q}")
    client = empty_cluster.client(empty_cluster.owner(slot))
    await eventually(lambda: bool(client.exists("{q}:umbel:consumers")))
    await asyncio.to_thread(empty_cluster.move, slot, other_than(empty_cluster, slot))
    with pytest.raises(BrokerConnectionError, match="MOVED"):
        await asyncio.wait_for(waiting, 15)
    await consumer.open()
    broker.publisher().send([message(broker, "1")], timeout=10)
    assert len(await consumer.fetch(FetchPlan(("q",)), 1, 10)) == 1
    await consumer.close()
    broker.close()


async def test_one_message_in_two_queues_is_two_deliveries(empty_cluster: RedisCluster) -> None:
    broker = RedisClusterBroker(empty_cluster.url(), BrokerOptions())
    one = message(broker, "1", "a")
    two = Publication(message(broker, "1", "b").destination, one.payload)
    broker.publisher().send([one, two], timeout=10)
    consumer = broker.consumer("c", 30)
    await consumer.open()
    plan = FetchPlan(("a", "b"))
    found = []
    while len(found) < 2:
        found += await consumer.fetch(plan, 2, 10)
    assert len({each.tag for each in found}) == 2
    await consumer.settle([Disposition(found[0].tag)])
    assert broker.held_depth() == 1
    await consumer.settle([Disposition(found[1].tag, "requeue")])
    assert (broker.held_depth(), broker.depth(found[1].queue)) == (0, 1)
    await consumer.close()
    broker.close()


async def test_queues_share_what_a_fetch_takes(empty_cluster: RedisCluster) -> None:
    broker = RedisClusterBroker(empty_cluster.url(), BrokerOptions())
    for queue, count in (("a", 10), ("b", 3), ("c", 10)):
        broker.publisher().send([message(broker, f"{queue}{n}", queue) for n in range(count)], timeout=10)
    consumer = broker.consumer("c", 30)
    await consumer.open()
    found = await consumer.fetch(FetchPlan(("a", "b", "c")), 15, 10)
    counts = {queue: sum(each.queue == queue for each in found) for queue in "abc"}
    assert sum(counts.values()) == 15
    assert counts["b"] == 3
    assert abs(counts["a"] - counts["c"]) <= 1
    await consumer.close()
    broker.close()


def test_a_wait_finds_what_no_node_told_of(empty_cluster: RedisCluster) -> None:
    """Nodes pass on what is published without confirmation; what is waited for is read again."""
    backend = RedisClusterResultBackend(empty_cluster.url(), ResultOptions())
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.extend(backend.wait(["silent"], 20)))
    waiting.start()
    key = b"celery-task-meta-silent"
    listening = [b"PUBSUB", b"NUMSUB", key]
    wait_until(
        lambda: any(empty_cluster.call(node, *listening)[1] for node in empty_cluster.nodes),
        timeout=10,
        what="somebody to listen",
    )
    empty_cluster.call(empty_cluster.owner(slot_of(key)), "SET", key, document("silent"))
    waiting.join(15)
    assert found == [("silent", document("silent"))]
    backend.close()


def test_results_are_found_though_their_slots_have_moved(empty_cluster: RedisCluster) -> None:
    backend = RedisClusterResultBackend(empty_cluster.url(), ResultOptions())
    backend.save([record("1")])
    slot = slot_of(b"celery-task-meta-1")
    empty_cluster.move(slot, other_than(empty_cluster, slot))
    assert backend.load(["1"]) == [document("1")]
    backend.forget(["1"])
    assert asyncio.run(backend.aload(["1"])) == [None]
    backend.close()


@pytest.mark.processes
def test_a_prefix_that_is_a_hash_tag_keeps_everything_in_one_slot(
    empty_cluster: RedisCluster, tmp_path: Path
) -> None:
    url = empty_cluster.url("global_keyprefix={shop}:")
    with Stage(tmp_path, url) as stage:
        assert type(stage.broker) is RedisBroker
        stage.worker("-c1")
        assert stage.send("note", "one").get(timeout=40) == "one"
        used = {slot_of(key) for client in empty_cluster.clients() for key in client.scan_iter()}
        assert used == {slot_of(b"shop")}


#: What a worker and those who send may do: everything with their data, and little with the server.
ANN = (
    "--user",
    "ann",
    "on",
    ">secret",
    "~*",
    "&*",
    "+@all",
    "-@admin",
    "-@dangerous",
    "+info",
    "+config|get",
)


@pytest.mark.processes
def test_over_tls_as_a_user_of_each_node(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    with RedisCluster(certificate=certificate, server_options=ANN) as cluster:
        url = partial(cluster.url, scheme="rediss+cluster")
        trusted = f"ssl_ca_certs={certificate[0]}"
        with CanvasStage(tmp_path, url(trusted, login="ann:secret@")) as stage:
            worker = stage.worker("-c2", "-Q", "celery,other")
            s = stage.s
            whole = chain(s("add", 1, 1), s("add", 2).set(queue="other"), s("add", 3))
            parts = [s("add", n, n).set(queue="other" if n % 2 else "celery") for n in range(6)]
            running = [whole.apply_async(), chord(parts, s("total").set(queue="other")).apply_async()]
            assert [each.get(timeout=60) for each in running] == [7, 30]
            assert stage.app.control.inspect(timeout=10).ping()
            stage.wait_empty()
            users = [user for client in cluster.clients() for user in users_of(client)]
            assert users.count("ann") >= 3
            assert worker.terminate() == 0
        for address, said in (
            (url(login="ann:secret@"), "CERTIFICATE_VERIFY_FAILED"),
            (url(trusted, login="ann:wrong@"), "WRONGPASS|invalid username-password"),
        ):
            broker = broker_from_url(address, BrokerOptions(connect_timeout=5))
            with pytest.raises(BrokerConnectionError, match=said):
                broker.publisher().send([message(broker, "1")], timeout=5)
            broker.close()


def users_of(client: Any) -> list[str]:
    """As whom those are there who have a connection to a server by now."""
    return [each["user"] for each in client.client_list()]


@pytest.fixture(scope="module")
def replicated() -> Iterator[RedisCluster]:
    # Two for each, so that a promoted one has one that can confirm.
    with RedisCluster(replicas=2, aof="everysec", patience=2) as cluster:
        yield cluster


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


def test_beats_choose_a_leader(empty_cluster: RedisCluster) -> None:
    stores = [RedisScheduleStore(empty_cluster.url(), "shop") for _ in range(2)]
    assert [store.lead("beat", name, 10).leader for store, name in zip(stores, "ab", strict=True)] == [
        "a",
        "a",
    ]
    stores[0].resign("beat", "a")
    assert stores[1].lead("beat", "b", 10).leader == "b"
    for store in stores:
        store.close()


async def test_a_message_counts_as_sent_when_a_replica_has_it(replicated: RedisCluster) -> None:
    url = replicated.url("wait_for_replicas=1")
    broker = RedisClusterBroker(url, BrokerOptions())
    broker.publisher().send([message(broker, str(number)) for number in range(3)], timeout=10)
    apublisher = broker.async_publisher()
    await apublisher.send([message(broker, "4")], timeout=10)
    demanding = RedisClusterBroker(replicated.url("wait_for_replicas=3"), BrokerOptions())
    with pytest.raises(PublishTimeout, match=r"only [12] of the 3 replicas"):
        demanding.publisher().send([message(broker, "5")], timeout=1)
    await apublisher.close()
    broker.close()
    demanding.close()


@pytest.mark.processes
def test_a_killed_master_loses_no_confirmed_message(replicated: RedisCluster, tmp_path: Path) -> None:
    slot = slot_of(tagged("celery").encode())
    with Stage(tmp_path, replicated.url("wait_for_replicas=1"), replicated.url()) as stage:
        worker = stage.worker("-c2")
        load = Load(stage)
        load.start()
        try:
            wait_until(lambda: len(load.confirmed) >= 100, timeout=30, what="messages before the failover")
            # The replica of the queue's node gets all that is confirmed.
            killed = replicated.owner(slot)
            killed.kill9()
            wait_until(lambda: replicated.owner(slot) is not killed, timeout=60, what="a replica's promotion")
            promoted_at, before = time.monotonic(), len(stage.lines("note"))
            wait_until(
                lambda: len(stage.lines("note")) > before, timeout=60, what="a task after the failover"
            )
            first_at = time.monotonic()
            wait_until(
                lambda: len(stage.lines("note")) >= before + 100, timeout=60, what="tasks after the failover"
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
        assert first_at - promoted_at < 5, "workers ask every second: it is half a second on a busy machine"
