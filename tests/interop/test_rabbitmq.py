"""What RabbitMQ has that other brokers have not: quorum queues, and delayed messages that wait in the broker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.interop.conftest import OTHER
from tests.interop.world import RabbitMqGround, Side, World
from tests.support.servers import RedisServer

pytestmark = [pytest.mark.interop, pytest.mark.rabbitmq, pytest.mark.redis, pytest.mark.processes]

#: With exchanges other than direct ones Celery's producers delay natively.
TOPICS = {
    "task_default_exchange_type": "topic",
    "task_create_missing_queue_exchange_type": "topic",
    # RabbitMQ tells the depths of quorum queues late; and what these pass on to nobody is lost.
    "broker_native_delayed_delivery_queue_type": "classic",
}
BURST = 500


@pytest.fixture(scope="module")
def broker() -> str:
    return "quorum"


@pytest.fixture(scope="module")
def world(own_server: RedisServer, interop_python, ground: RabbitMqGround) -> Iterator[World]:
    """Both sides, and a worker of each kind on a quorum queue of its own that is bound to a topic exchange."""
    with World(own_server, interop_python, ground, **TOPICS) as world:
        # Celery's worker has no delayed delivery where the default queue's exchange is not there.
        workers = [world.worker(name, "-c2", "-Q", f"to_{name},both", ready=False) for name in OTHER]
        for worker in workers:
            worker.ready()
        yield world


def delayed(world: World) -> int:
    """How many messages wait in the queues of delayed messages."""
    assert isinstance(world.ground, RabbitMqGround)
    ready = world.ground.ready()
    return sum(count for name, count in ready.items() if name.startswith("celery_delayed_"))


def test_values_errors_and_retries(sender: Side, queue: str, mark: str) -> None:
    assert sender.value(sender.send("add", 1, 2, queue=queue)) == 3
    assert sender.outcome(sender.send("fail", "value", queue=queue))["error"]["type"] == "ValueError"
    assert sender.value(sender.send("persist", mark, 2, queue=queue)) == 2


def test_a_delayed_message_waits_in_the_broker_and_comes_when_it_is_due(
    world: World, sender: Side, queue: str
) -> None:
    """Celery's reach the worker up to a second early, which then holds them until their eta."""
    begun = time.time()
    task_id = sender.send("echo", "late", queue=queue, countdown=4)
    world.wait_for(lambda: delayed(world) == 1, "the message in a queue of delayed ones", timeout=3)
    assert sender.value(task_id) == "late"
    assert 4 <= time.time() - begun < 8
    assert delayed(world) == 0


def test_retries_with_a_countdown_wait_there_too(world: World, sender: Side, queue: str, mark: str) -> None:
    task_id = sender.send("persist", mark, 1, 3, queue=queue)
    world.wait_for_notes(mark, 1)
    world.wait_for(lambda: delayed(world) == 1, "the next attempt in a queue of delayed ones", timeout=3)
    assert sender.value(task_id) == 1


def test_one_that_expires_while_it_waits_is_revoked(sender: Side, queue: str) -> None:
    assert sender.outcome(sender.send("echo", 1, queue=queue, countdown=2, expires=1))["state"] == "REVOKED"


def test_none_is_lost_and_none_runs_twice(world: World, mark: str) -> None:
    """Both kinds of worker on one quorum queue, both kinds of producer."""
    workers = [world.worker(library, "-c2", "-Q", "load") for library in OTHER]
    sides = [world.celery, world.umbel]
    with ThreadPoolExecutor(2) as pool:
        bursts = list(pool.map(lambda side: side.call("burst", "count", BURST, mark, queue="load"), sides))
    sent = [task_id for burst in bursts for task_id in burst]
    world.wait_for(lambda: len(world.counts(mark)) >= len(sent), "all jobs", timeout=60)
    counts = world.counts(mark)
    assert set(counts) == set(sent)
    assert set(counts.values()) == {1}
    assert min(world.total(f"{mark}:{library}") for library in OTHER) > 0
    for worker in workers:
        assert worker.terminate() == 0
