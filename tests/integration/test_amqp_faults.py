"""RabbitMQ is killed, frozen, cut off and short of memory under load: nothing confirmed is lost, and all goes on.

Each test prints its seed; ``FAULTS_SEED`` in the environment repeats it, ``FAULTS_ROUNDS`` has more of everything,
and ``FAULTS_RATE`` fewer tasks, for a machine that is busy with other things.

AMQP has no step that publishes one message and ends another: what a worker passes on (the next attempt, a message that
is not yet due) is published, confirmed, and then acknowledged. A connection that ends in between leaves both, and both
run when their time has come.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.faults.arena import QUEUE, Arena, chosen_seed
from tests.integration.faults.verdict import Verdict
from tests.support.proxy import TcpProxy
from tests.support.rabbitmq import RabbitMqCluster, RabbitMqServer
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until
from umbel.errors import OperationalError

pytestmark = [pytest.mark.processes, pytest.mark.rabbitmq, pytest.mark.redis]

ROUNDS = int(os.environ.get("FAULTS_ROUNDS", "3"))
RATE = int(os.environ.get("FAULTS_RATE", "150"))  #: tasks a second
HEARTBEAT = 2  #: seconds
BACK_WITHIN = 10.0  #: seconds from the return of the broker to tasks that run again
SETTINGS = {"broker_heartbeat": HEARTBEAT, "broker_publish_timeout": 5, "worker_lease_duration": 5}


def limit(rounds: int, each: float) -> pytest.MarkDecorator:
    """How long a test may take: its rounds, and what is done before and after them."""
    return pytest.mark.timeout(max(180.0, 90.0 + rounds * each))


class RabbitArena(Arena):
    """An arena around RabbitMQ, with the results in Redis."""

    def __init__(
        self, directory: Path, server: RabbitMqServer, url: str, backend: str, vhost: str, **settings: Any
    ) -> None:
        super().__init__(directory, url, chosen_seed(), backend=backend, **{**SETTINGS, **settings})
        self._silent: dict[str, float] = {}
        self.server = server
        self.vhost = vhost

    def depths(self) -> tuple[int, int, int]:
        every, ready = self.server.queues(self.vhost), self.server.ready(self.vhost)
        # RabbitMQ 3.10 never starts some quorum queues again that it had just made when it was killed: those that have
        # no figures for long hold nothing that could come.
        self._silent = {
            name: self._silent.get(name, time.monotonic()) for name, each in every.items() if each < 0
        }
        dead = {name for name, since in self._silent.items() if time.monotonic() - since > 10.0}
        delayed = sum(
            abs(count)
            for name, count in every.items()
            if name.startswith("celery_delayed_") and name not in dead
        )
        return ready.get(QUEUE, 0), delayed, sum(every.values()) - sum(ready.values())


@pytest.fixture(scope="module")
def server() -> Iterator[RabbitMqServer]:
    """A server of this module's own: it is killed here."""
    with RabbitMqServer(f"heartbeat = {HEARTBEAT}") as server:
        yield server


@pytest.fixture(params=["classic", "quorum"])
def queue_type(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def make_arena(tmp_path: Path, redis_server: RedisServer) -> Iterator[Callable[..., RabbitArena]]:
    redis_server.flush()
    with ExitStack() as arenas:

        def make(server: RabbitMqServer, url: str = "", **settings: Any) -> RabbitArena:
            vhost = server.add_vhost() if not url else url.rpartition("/")[2].replace("%2F", "/")
            url = url or server.url(vhost)
            return arenas.enter_context(
                RabbitArena(tmp_path, server, url, redis_server.url(), vhost, **settings)
            )

        yield make


def begin(arena: Arena) -> None:
    print(f"seed {arena.seed}")
    for _ in range(2):
        arena.worker()
    arena.produce(RATE)


def settle(arena: Arena) -> Verdict:
    verdict = arena.finish()
    print(f"{len(arena.faults)} faults: {verdict}")
    assert not verdict.wrong, "\n".join(verdict.wrong[:10])
    assert verdict.confirmed > 100
    assert verdict.abandoned == 0  # no process of a worker was touched
    return verdict


def tell(arena: Arena) -> None:
    took = arena.wait_for_fresh_runs(timeout=BACK_WITHIN)
    print(f"tasks run again {took:.1f} s after its return")


@limit(ROUNDS, 20.0)
def test_rabbitmq_is_killed(
    make_arena: Callable[..., RabbitArena], server: RabbitMqServer, queue_type: str
) -> None:
    arena = make_arena(server, task_default_queue_type=queue_type)

    def kill() -> None:
        with arena.cut_off("rabbitmq", forgets=True, doubles=True):
            server.kill9()
            server.restart()
            tell(arena)

    begin(arena)
    arena.rounds(ROUNDS, kill, 0.3, 1.0)
    settle(arena)


@limit(ROUNDS // 3, 30.0)
def test_rabbitmq_is_frozen_for_longer_than_the_heartbeat(
    make_arena: Callable[..., RabbitArena], server: RabbitMqServer
) -> None:
    arena = make_arena(server)

    def freeze() -> None:
        with arena.cut_off("frozen rabbitmq", doubles=True):
            server.freeze()
            time.sleep(3 * HEARTBEAT)  # how long nothing answers is what is tested
            server.thaw()
            tell(arena)

    begin(arena)
    arena.rounds(max(1, ROUNDS // 3), freeze, 0.5, 1.0)
    settle(arena)


@limit(4 * ROUNDS, 5.0)
def test_connections_are_closed_one_by_one(
    make_arena: Callable[..., RabbitArena], server: RabbitMqServer, queue_type: str
) -> None:
    arena = make_arena(server, task_default_queue_type=queue_type)

    def close() -> None:
        with arena.cut_off("closed connection", doubles=True):
            assert server.close_one_connection()
            tell(arena)

    begin(arena)
    arena.rounds(4 * ROUNDS, close, 0.0, 0.3)
    settle(arena)


@limit(3 * ROUNDS, 5.0)
def test_connections_are_cut_in_the_middle_of_a_frame(
    make_arena: Callable[..., RabbitArena], server: RabbitMqServer
) -> None:
    vhost = server.add_vhost()
    with TcpProxy(server.port) as proxy:
        arena = make_arena(server, proxy.url(path=vhost))

        def cut() -> None:
            with arena.cut_off("cut", doubles=True):
                towards = arena.dice.choice(["client", "server"])
                proxy.cut_after(arena.dice.randint(1, 3000), towards=towards)
                proxy.wait_cut()
                if arena.dice.random() < 0.5:
                    proxy.refuse()
                    arena.pause(0.0, 0.5)
                    proxy.accept()
                tell(arena)

        begin(arena)
        arena.rounds(3 * ROUNDS, cut, 0.0, 0.3)
        settle(arena)


@pytest.mark.timeout(120)
def test_the_network_is_silent_for_longer_than_the_heartbeat(
    make_arena: Callable[..., RabbitArena], server: RabbitMqServer
) -> None:
    """Nobody closes a connection: both sides have to find out, and the server gives back what the workers held."""
    vhost = server.add_vhost()
    with TcpProxy(server.port) as proxy:
        arena = make_arena(server, proxy.url(path=vhost))
        begin(arena)
        arena.pause(0.3, 0.6)
        with arena.cut_off("silent network", doubles=True):
            proxy.freeze()
            time.sleep(4 * HEARTBEAT)  # how long nothing passes is what is tested
            proxy.cut()
            proxy.thaw()
            tell(arena)
        settle(arena)


@pytest.mark.timeout(60)
def test_a_memory_alarm_stops_senders_and_nobody_else(
    make_arena: Callable[..., RabbitArena], server: RabbitMqServer
) -> None:
    arena = make_arena(server, broker_publish_timeout=1.5)
    arena.app.conf.update(broker_publish_timeout=1.5, task_publish_retry=False)
    worker = arena.worker()
    for mark in range(40):
        arena.app.send_task("long_early" if mark % 2 else "long_late", (mark,))
    server.raise_memory_alarm()
    try:
        began = time.monotonic()
        with pytest.raises(OperationalError, match=r"memory|blocked|short of") as refused:
            arena.app.send_task("noop_late", (100,))
        assert time.monotonic() - began < 5, refused.value
        # What is there is worked off and settled meanwhile.
        wait_until(lambda: arena.depths()[2] == 0 == arena.depths()[0], timeout=15, what=arena._story)
    finally:
        server.clear_memory_alarm()
    wait_until(lambda: _takes(arena), timeout=BACK_WITHIN, what="a sender that is let through again")
    arena.drain()
    assert all(len(arena.records().runs[mark]) == 1 for mark in range(40))
    assert worker.terminate() == 0


def _takes(arena: Arena) -> bool:
    try:
        arena.app.send_task("noop_early", (200,))
    except OperationalError:
        return False
    return True


@limit(ROUNDS // 3, 45.0)
def test_a_node_of_a_cluster_is_killed(make_arena: Callable[..., RabbitArena]) -> None:
    """Quorum queues on three nodes: the leader dies, another leads, and the workers go there."""
    with RabbitMqCluster(f"heartbeat = {HEARTBEAT}") as cluster:
        arena = make_arena(cluster.nodes[0], cluster.url(), task_default_queue_type="quorum")
        begin(arena)
        for _ in range(max(1, ROUNDS // 3)):
            arena.pause(0.5, 1.0)
            victim = cluster.leader(QUEUE)
            arena.server = next(node for node in cluster.nodes if node is not victim)
            with arena.cut_off("node", forgets=True, doubles=True):
                victim.kill9()
                tell(arena)
            victim.restart()
        settle(arena)
