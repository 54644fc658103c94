"""Queues bound to named exchanges: each library's messages reach what the other library's workers have declared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.conftest import OTHER
from tests.interop.world import Ground, RabbitMqGround, World
from tests.support.servers import RedisServer

pytestmark = [pytest.mark.interop, pytest.mark.redis, pytest.mark.processes]

LIBRARIES = ("celery", "umbel")
QUEUES = {
    "both": {"exchange": "both", "routing_key": "both"},
    **{
        f"{library}_{name}": {"exchange": exchange, "exchange_type": kind, "routing_key": key}
        for library in LIBRARIES
        for name, exchange, kind, key in [
            ("media", "media", "topic", "media.#"),
            ("images", "media", "topic", "*.image.a_b-c"),
            ("errors", "logs", "direct", "error"),
            ("all", "all", "fanout", "all"),
        ]
    },
}
#: What a producer is told that has no more to go by than the queue's exchange.
TOPIC = {"queue": "both", "exchange": "media", "exchange_type": "topic"}


@pytest.fixture(scope="module")
def exchanges(own_server: RedisServer, interop_python: Path, ground: Ground) -> Iterator[World]:
    """A worker of each kind on the queues of its own name, bound to the same exchanges."""
    with World(own_server, interop_python, ground, task_queues=QUEUES) as world:
        workers = [
            world.worker(library, "-c1", "-Q", ",".join(_queues_of(library)), ready=False)
            for library in LIBRARIES
        ]
        for worker in workers:
            worker.ready()
        yield world


def _queues_of(library: str) -> list[str]:
    return [name for name in QUEUES if name.startswith(library)]


def _counts(world: World, mark: str, expected: int) -> dict[str, int]:
    """How many copies the workers of each library have run."""
    ran = [note[0] for note in world.wait_for_notes(mark, expected)]
    return {library: ran.count(library) for library in LIBRARIES}


@pytest.mark.parametrize(
    ("key", "copies"),
    [("media.video.x", 1), ("media.image.a_b-c", 2), ("other.image.a_b-c", 1)],
)
def test_topics_reach_both_kinds_of_worker(
    exchanges: World, library: str, mark: str, key: str, copies: int
) -> None:
    """Celery's producers know an exchange by a queue that they have declared."""
    sender = exchanges.side(library)
    sender.send("record", mark, queue=f"{library}_media", routing_key=key)
    assert _counts(exchanges, mark, 2 * copies) == dict.fromkeys(LIBRARIES, copies)


def test_direct_exchanges_reach_both_kinds_of_worker(exchanges: World, library: str, mark: str) -> None:
    sender = exchanges.side(library)
    sender.send("record", mark, exchange="logs", routing_key="error")
    assert _counts(exchanges, mark, 2) == dict.fromkeys(LIBRARIES, 1)


def test_what_is_broadcast_runs_on_both_kinds_of_worker(exchanges: World, library: str, mark: str) -> None:
    exchanges.side(library).send("record", mark, queue=f"{library}_all")
    assert _counts(exchanges, mark, 2) == dict.fromkeys(LIBRARIES, 1)


def test_what_is_declared_is_the_same_whoever_does(exchanges: World) -> None:
    for exchange, (kinds, count) in {"media": (2, 4), "logs": (1, 2)}.items():
        for found in _bindings(exchanges, exchange):
            plain = {
                tuple(word.replace("celery_", "").replace("umbel_", "") for word in each) for each in found
            }
            assert (len(plain), len(found)) == (kinds, count)


def _bindings(world: World, exchange: str) -> list[list[tuple[str, ...]]]:
    """What is bound to an exchange, in every place where the broker keeps it."""
    if isinstance(world.ground, RabbitMqGround):
        return [[each for each in world.ground.bindings() if each[0] == exchange]]
    return [
        [tuple(member.decode().split("\x06\x16")) for member in world.redis.smembers(f"{prefix}.{exchange}")]
        for prefix in ("_kombu.binding", "_kombu.binding_permanent")
    ]


def test_a_producer_alone_declares_what_a_later_worker_takes(new_world, library: str, mark: str) -> None:
    """Before any worker: the message waits in the queue that the producer has declared."""
    world = new_world(task_queues=QUEUES)
    sender = world.side(library)
    sender.send("record", mark, queue="umbel_media", routing_key="media.early")
    other = OTHER[library]
    worker = world.worker(other, "-c1", "-Q", "umbel_media")
    assert world.wait_for_notes(mark, 1) == [[other]]
    assert worker.terminate() == 0


def test_what_celery_drops_umbel_refuses(exchanges: World, mark: str) -> None:
    exchanges.celery.send("record", mark, queue="celery_media", routing_key="nobody.listens")
    with pytest.raises(
        AssertionError, match=r"no queue is bound to the topic exchange 'media'.*'nobody\.listens'"
    ):
        exchanges.umbel.send("record", mark, queue="umbel_media", routing_key="nobody.listens")
    assert exchanges.notes(mark) == []
