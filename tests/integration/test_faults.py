"""Processes and servers are killed and frozen at random moments under load: nothing confirmed is lost.

Each test prints its seed; ``FAULTS_SEED`` in the environment repeats it, ``FAULTS_ROUNDS`` has more of everything:
``FAULTS_ROUNDS=100 pytest -s --timeout 1200 -o faulthandler_timeout=0 tests/integration/test_faults.py``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import absent
from tests.integration.faults.arena import Arena, chosen_seed
from tests.integration.faults.load import answer
from tests.integration.faults.verdict import Verdict
from tests.support.servers import RedisServer, ServerMissingError
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes

ROUNDS = int(os.environ.get("FAULTS_ROUNDS", "10"))  #: on each broker
RATE = 200  #: tasks a second
LEASE = 1.5  #: seconds; short, so that what a dead worker held is seen to return


@pytest.fixture(scope="module")
def durable_redis() -> Iterator[RedisServer]:
    server = RedisServer(aof="always")
    try:
        try:
            server.start()
        except ServerMissingError as error:
            absent(str(error))
        yield server
    finally:
        server.stop()


@pytest.fixture
def on_redis(durable_redis: RedisServer, tmp_path: Path) -> Iterator[Arena]:
    durable_redis.flush()
    with Arena(tmp_path, durable_redis.url(), chosen_seed(), worker_lease_duration=LEASE) as arena:
        yield arena


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[Arena]:
    with Arena(
        tmp_path, f"sqlite:///{tmp_path}/faults.db", chosen_seed(), worker_lease_duration=LEASE
    ) as arena:
        yield arena


@pytest.fixture(params=["redis", "sqlite"])
def arena(request: pytest.FixtureRequest) -> Arena:
    return request.getfixturevalue(f"on_{request.param}")


def begin(arena: Arena) -> None:
    print(f"seed {arena.seed}")
    for _ in range(2):
        arena.worker()
    arena.produce(RATE)


def settle(arena: Arena) -> Verdict:
    wait_until(lambda: len(arena.records().confirmed) > 100, what="a load worth the name")
    verdict = arena.finish()
    print(f"{len(arena.faults)} faults: {verdict}")
    assert not verdict.wrong, "\n".join(verdict.wrong[:10])
    # Early acknowledgements go out with the result of short jobs, and soon after the begin of others.
    assert verdict.early_window < 0.5
    return verdict


def replacing(arena: Arena, fault: Callable[[], None]) -> Callable[[], None]:
    """The replacement is up before the victim goes, so that there is always somebody to be killed under load."""

    def do() -> None:
        arena.worker()
        fault()

    return do


def test_pool_processes_are_killed(arena: Arena) -> None:
    begin(arena)
    arena.rounds(ROUNDS, arena.kill_pool_process, 0.05, 0.4)
    verdict = settle(arena)
    # A process runs one job at a time: so many may have been lost with theirs, and no more.
    assert verdict.abandoned + verdict.late_again <= sum(min(len(fault.pids), 2) for fault in arena.faults)
    assert verdict.early_again == 0


def test_supervisors_are_killed(arena: Arena) -> None:
    begin(arena)
    arena.rounds(ROUNDS, replacing(arena, arena.kill_supervisor), 0.0, 0.3)
    settle(arena)


def test_whole_workers_are_killed(arena: Arena) -> None:
    begin(arena)
    arena.rounds(ROUNDS, replacing(arena, arena.kill_tree), 0.0, 0.3)
    settle(arena)


def test_redis_is_killed(on_redis: Arena, durable_redis: RedisServer) -> None:
    arena = on_redis

    def kill() -> None:
        with arena.fault("redis", ends_pool=False):
            durable_redis.kill9()
            arena.pause(0.0, 0.3)
            durable_redis.restart()

    begin(arena)
    arena.rounds(2 * ROUNDS, kill, 0.1, 0.8)  # the others do as many on two brokers
    settle(arena)


def test_redis_is_frozen(on_redis: Arena, durable_redis: RedisServer) -> None:
    arena = on_redis

    def freeze() -> None:
        with arena.fault("frozen redis"):
            durable_redis.freeze()
            time.sleep(3)  # how long nothing answers is what is tested
            durable_redis.thaw()

    begin(arena)
    arena.rounds(max(1, ROUNDS // 10), freeze, 0.5, 1.0)
    verdict = settle(arena)
    assert verdict.late_again + verdict.early_again + verdict.abandoned == 0


def test_a_supervisor_is_out_of_touch_for_longer_than_its_lease(arena: Arena) -> None:
    begin(arena)
    arena.rounds(max(2, ROUNDS // 5), lambda: arena.freeze_supervisor(LEASE + 1), 0.2, 0.6)
    verdict = settle(arena)
    assert verdict.abandoned == 0


def test_a_dead_workers_messages_are_taken_over_within_15_seconds(
    durable_redis: RedisServer, tmp_path: Path
) -> None:
    """With the settings as they come, on Redis and SQLite at once."""
    durable_redis.flush()
    with ExitStack() as running:
        arenas = []
        for name, url in ("redis", durable_redis.url()), ("sqlite", f"sqlite:///{tmp_path}/faults.db"):
            (tmp_path / name).mkdir()
            arenas.append(running.enter_context(Arena(tmp_path / name, url, chosen_seed())))
        for arena in arenas:
            arena.worker()
            for mark in range(2):
                arena.app.send_task("wait", (mark, 3600))
            wait_until(lambda arena=arena: len(arena.records().runs) == 2, what="two jobs that run")
            arena.worker()
        killed = time.monotonic()
        for arena in arenas:
            arena.kill_worker(arena.workers[0])
        for arena in arenas:
            wait_until(
                lambda arena=arena: all(len(runs) == 2 for runs in arena.records().runs.values()),
                timeout=40,
                what=lambda arena=arena: f"both to run again: {arena.records().runs}",
            )
            took = time.monotonic() - killed
            print(f"taken over on {arena.url} after {took:.1f} s")
            assert took < 15


def test_a_task_that_takes_longer_than_the_visibility_timeout_runs_once(
    durable_redis: RedisServer, tmp_path: Path
) -> None:
    durable_redis.flush()
    options = {"visibility_timeout": 2}
    with Arena(tmp_path, durable_redis.url(), chosen_seed(), broker_transport_options=options) as arena:
        for _ in range(2):
            arena.worker()
        assert arena.app.send_task("wait", (1, 5)).get(timeout=40) == answer(1)
        arena.drain()
        assert len(arena.records().runs[1]) == 1
