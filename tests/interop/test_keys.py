"""What each library keeps in Redis is what the other reads: held messages, depths, odd names, changed layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.interop.conftest import OTHER
from tests.interop.world import World
from tests.support.servers import RedisServer

pytestmark = [pytest.mark.interop, pytest.mark.redis, pytest.mark.processes]


@pytest.fixture(scope="module")
def broker() -> str:
    return "redis"


NAMES = ["with space", "größe 世界", "a:b/c", "{braces}", "%s%%", "*?[x]", "back\\slash", "quo'te\"s", "q.1"]


@pytest.fixture(scope="module")
def quiet(own_server: RedisServer, interop_python) -> Iterator[World]:
    """Both sides without workers."""
    with World(own_server, interop_python) as world:
        yield world


#: Kombu's own words about a queue.
KOMBU = "with app.connection_for_read() as c:\n    channel = c.default_channel\n    answer = {}"


@pytest.mark.parametrize("name", NAMES)
def test_depth_and_purge_agree(quiet: World, name: str, mark: str):
    name = f"{name} {mark}"
    for number in range(5):
        for side in (quiet.celery, quiet.umbel):
            side.send("echo", number, queue=name, priority=2 * number)
    depth = "app.broker.depth(name)"
    assert quiet.celery.execute(KOMBU.format("channel._size(name)"), name=name) == 10
    assert quiet.umbel.evaluate(depth, name=name) == 10
    assert quiet.celery.execute(KOMBU.format("channel._purge(name)"), name=name) == 10
    assert quiet.umbel.evaluate(depth, name=name) == 0
    for number in range(5):
        quiet.celery.send("echo", number, queue=name, priority=2 * number)
    assert quiet.umbel.evaluate("app.broker.purge(name)", name=name) == 5
    assert quiet.celery.execute(KOMBU.format("channel._size(name)"), name=name) == 0


def test_odd_names_are_queues_like_others(world: World, library: str, mark: str):
    names = [f"{name} {mark}" for name in NAMES]
    worker = world.worker(library, "-c1", "-Q", ",".join(names))
    for side in (world.celery, world.umbel):
        ids = [side.send("echo", name, queue=name) for name in names]
        assert [side.value(task_id) for task_id in ids] == names
    assert worker.terminate() == 0


def test_kombu_reads_and_restores_what_a_dead_umbel_worker_held(new_world: Callable[..., World], mark: str):
    world = new_world(worker_prefetch_multiplier=4)
    worker = world.worker("umbel", "-c1", "-Q", "q")
    world.umbel.send("hold_late", mark, f"{mark}-gate", queue="q")
    world.wait_for_notes(mark, 1)
    world.celery.send("echo", "from celery", queue="q", priority=0)
    world.umbel.send("echo", "from umbel", queue="q", priority=6)
    world.wait_for(lambda: len(world.held()) == 3, "the worker to hold all three")
    worker.kill9()
    told = world.celery.execute(
        "from kombu.utils.json import loads\n"
        "answer = []\n"
        "with app.connection_for_read() as c:\n"
        "    channel = c.default_channel\n"
        "    index = dict(channel.client.zrange('unacked_index', 0, -1, withscores=True))\n"
        "    for tag, value in channel.client.hgetall('unacked').items():\n"
        "        payload, exchange, routing_key = loads(value.decode())\n"
        "        message = channel.message_to_python(payload)\n"
        "        answer.append((message.decode()[0], exchange, routing_key, tag in index))\n"
        "        channel.qos.restore_by_tag(tag)\n"
    )
    assert sorted(told, key=str) == sorted(
        [
            ([mark, f"{mark}-gate"], "", "q", True),
            (["from celery"], "", "q", True),
            (["from umbel"], "", "q", True),
        ],
        key=str,
    )
    assert world.held() == []
    assert [world.redis.llen(key) for key in ("q", "q\x06\x166")] == [2, 1]
    world.open(f"{mark}-gate")
    heir = world.worker("celery", "-c1", "-Q", "q")
    assert world.wait_for_notes(mark, 3) == [
        ["umbel", "begins", False],
        ["celery", "begins", True],
        ["celery", "ends"],
    ]
    assert heir.terminate() == 0


LAYOUT = {
    "broker_transport_options": {
        "global_keyprefix": "{shop}:",
        "sep": "|",
        "priority_steps": [0, 5],
        "unacked_key": "held",
        "unacked_index_key": "held_index",
        "unacked_mutex_key": "held_lock",
        "queue_order_strategy": "sorted",
        "visibility_timeout": 2,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    },
    "result_backend_transport_options": {"global_keyprefix": "shop_results"},
    "worker_lease_duration": 2,
}


class TestChangedLayout:
    def test_messages_results_and_priorities(self, new_world: Callable[..., World], library: str, mark: str):
        world = new_world(**LAYOUT)
        sides = [world.celery, world.umbel]
        ids = [
            side.send("record", mark, priority, queue="q", priority=priority)
            for priority in (9, 0, 5, 4)
            for side in sides
        ]
        assert world.redis.llen("{shop}:q") == world.redis.llen("{shop}:q|5") == 4
        worker = world.worker(library, "-c1", "-Psolo", "-Q", "q", "--prefetch-multiplier=1")
        for task_id in ids:
            assert [side.value(task_id) for side in sides] == [library, library]
        assert [priority >= 5 for _, priority in world.notes(mark)] == [False] * 4 + [True] * 4
        assert worker.terminate() == 0
        keys = [key.decode() for key in world.redis.scan_iter("*")]
        assert [
            key for key in keys if not key.startswith(("{shop}:", "shop_results_celery-task-meta-"))
        ] == []

    def test_take_over(self, new_world: Callable[..., World], library: str, mark: str):
        world = new_world(**LAYOUT)
        victim = world.worker(library, "-c1", "-Q", "q")
        task_id = world.umbel.send("hold_late", mark, f"{mark}-gate", queue="q")
        world.wait_for_notes(mark, 1)
        assert world.redis.hlen("{shop}:held") == world.redis.zcard("{shop}:held_index") == 1
        victim.kill9()
        world.open(f"{mark}-gate")
        heir = world.worker(OTHER[library], "-c1", "-Q", "q")
        assert world.celery.value(task_id, 30) == OTHER[library]
        assert heir.terminate() == 0


def test_results_may_live_elsewhere(new_world: Callable[..., World], library: str):
    world = new_world()
    elsewhere = {"result_backend": world.server.url(3)}
    worker = world.worker(library, "-c1", "-Q", "q", **elsewhere)
    side = world.side(OTHER[library], **elsewhere)
    task_id = side.send("echo", 1, queue="q")
    assert side.value(task_id) == 1
    assert not world.redis.exists(f"celery-task-meta-{task_id}")
    with world.server.client(3) as results:
        assert results.exists(f"celery-task-meta-{task_id}")
    assert worker.terminate() == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"result_serializer": "msgpack"},
        {"result_serializer": "pickle"},
        {"result_compression": "gzip"},
    ],
    ids=str,
)
def test_forms_of_results(new_world: Callable[..., World], library: str, settings: dict[str, str]):
    world = new_world(result_accept_content=["json", "msgpack", "yaml", "pickle"], **settings)
    worker = world.worker(library, "-c1", "-Q", "q")
    for side in (world.celery, world.umbel):
        assert side.value(side.send("echo", {"a": [1, "ü"]}, queue="q")) == {"a": [1, "ü"]}
        error = side.outcome(side.send("fail", "shared", queue="q"))["error"]
        assert (error["type"], error["args"]) == ("Unhappy", ("known to both", {"code": 7}))
    assert worker.terminate() == 0
