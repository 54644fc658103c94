"""Limits of time, tasks and memory, and who gets which job."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.apps.stage import Stage, redis_stage
from tests.support.processes import is_alive
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until
from tests.support.workers import umbel_worker
from umbel.errors import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded

pytestmark = pytest.mark.processes

StagePool = Callable[[str], Stage]


@pytest.fixture(scope="module", params=["prefork", "threads", "solo", "asyncio"])
def pool(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer
) -> Iterator[tuple[str, Stage]]:
    """One worker of each kind for all tests of time limits."""
    with redis_stage(tmp_path_factory.mktemp(request.param), redis_server, database=1) as stage:
        size = ["-c1", "--slots=2"] if request.param == "asyncio" else ["-c2"]
        stage.worker(*size, "--pool", request.param, "--time-limit=2")
        yield request.param, stage


@pytest.fixture
def stage(tmp_path: Path, redis_server: RedisServer) -> Iterator[Stage]:
    with redis_stage(tmp_path, redis_server) as found:
        yield found


def test_soft_limits_of_task_and_message_raise_in_the_body(pool: tuple[str, Stage]) -> None:
    _, stage = pool
    assert stage.send("spin_soft", 10).get(timeout=10) == "soft"
    assert stage.send("spin", 10, soft_time_limit=0.2).get(timeout=10) == "soft"
    with pytest.raises(SoftTimeLimitExceeded):
        stage.send("hold", "never", "never", soft_time_limit=0.2).get(timeout=10)
    assert stage.send("spin_soft", 0.1).get(timeout=10) == "whole"


def test_hard_limits_of_task_message_and_worker_end_the_job(pool: tuple[str, Stage]) -> None:
    kind, stage = pool
    for limit, result in [
        ("0.5", stage.send("spin_hard", 60)),
        ("0.4", stage.send("spin", 60, time_limit=0.4)),
        ("2", stage.send("spin", 60)),
    ]:
        with pytest.raises(TimeLimitExceeded) as caught:
            result.get(timeout=10)
        assert limit in str(caught.value) or kind == "solo"  # there it is raised in the body, without words
    assert stage.send("spin_hard", 0.1).get(timeout=10) == "whole"
    stage.wait_empty()


def test_the_soft_limit_leaves_time_before_the_hard_one(pool: tuple[str, Stage]) -> None:
    _, stage = pool
    assert stage.send("spin", 60, soft_time_limit=0.2, time_limit=1.5).get(timeout=10) == "soft"


def test_a_timeout_that_is_not_acknowledged_runs_again(pool: tuple[str, Stage]) -> None:
    kind, stage = pool
    result = stage.send("spin_again", 60)
    if kind == "solo":
        # It has no process that could be ended: the limit is an exception in the body, and its failure final.
        with pytest.raises(TimeLimitExceeded):
            result.get(timeout=10)
        return
    stage.wait_for("spin", "True", timeout=10)
    wait_until(lambda: result.state == "SUCCESS", what=lambda: f"success after {result.state}")
    assert result.result == "again"


def test_neighbours_of_a_job_that_overran_are_run_again(pool: tuple[str, Stage]) -> None:
    kind, stage = pool
    if kind == "solo":
        return  # it has no neighbours
    neighbour = stage.send("late", f"beside {kind}", f"gate {kind}", time_limit=30)
    stage.wait_for("begun", "beside", kind)
    with pytest.raises(TimeLimitExceeded):
        stage.send("spin_hard", 60).get(timeout=10)
    stage.open(f"gate {kind}")
    assert neighbour.get(timeout=10) == f"beside {kind}"
    assert len(stage.lines("begun", "beside", kind)) == (1 if kind == "prefork" else 2)


@pytest.mark.parametrize("option", ["--max-tasks-per-child=7", "--max-memory-per-child=200000"])
def test_recycling_under_load_loses_nothing_and_leaves_no_gap(stage: Stage, option: str) -> None:
    stage.worker("-c2", option)
    big = "memory" in option
    results = [
        stage.send("swell" if big else "pid", 150 if big else mark) for mark in range(20 if big else 0)
    ]
    if not big:
        results = [stage.send("pid") for _ in range(300)]
    pids = [result.get(timeout=30) for result in results]
    stage.wait_empty()
    assert len(set(pids)) >= (5 if big else 40)
    if not big:
        assert max(pids.count(pid) for pid in set(pids)) <= 7
    wait_until(
        lambda: sum(is_alive(pid) for pid in set(pids)) <= 4,  # two at work, and their reliefs
        what="the end of those that were replaced",
    )


def test_a_long_job_never_delays_short_ones_while_a_slot_is_free(stage: Stage) -> None:
    stage.worker("-c2")
    for _ in range(5):
        [result.get(timeout=10) for result in [stage.send("usually_brief", mark) for mark in range(40)]]
    # Many brief ones are on their way in one frame; the first of them takes long.
    results = [
        stage.send("usually_brief", "long", "gate"),
        *(stage.send("usually_brief", n) for n in range(200)),
    ]
    begun = time.monotonic()
    assert [result.get(timeout=10) for result in results[1:]] == list(range(200))
    assert time.monotonic() - begun < 5
    stage.open()
    assert results[0].get(timeout=10) == "long"


def test_multiplier_one_leaves_to_others_what_a_busy_worker_cannot_begin(stage: Stage) -> None:
    slow = stage.worker("-c1", "-n", "slow@%h", "--prefetch-multiplier=1")
    stage.send("hold", "x")
    stage.wait_for("begun")
    results = [stage.send("note", mark) for mark in range(50)]
    stage.worker("-c1", "-n", "fast@%h", "--prefetch-multiplier=1")
    assert [result.get(timeout=10) for result in results] == list(range(50))
    assert "jobs.note" not in slow.output.partition("ready.")[2]
    stage.open()


def test_others_wait_in_the_place_of_a_job_that_was_acknowledged_when_it_began(stage: Stage) -> None:
    worker = stage.worker("-c1", "--prefetch-multiplier=2")
    results = [stage.send("hold", "x"), *(stage.send("note", mark) for mark in range(3))]
    stage.wait_for("begun", "x")
    worker.wait_for_line(rf"{results[2].id}\] received")
    assert stage.broker.depth("celery") == 1
    stage.open()
    assert [result.get(timeout=10) for result in results] == ["x", 0, 1, 2]


def test_one_that_expired_while_it_waited_is_told_of_in_its_turn(stage: Stage) -> None:
    worker = stage.worker("-c1")
    [
        stage.send("nothing", mark).get(timeout=10) for mark in range(30)
    ]  # brief, as far as the worker has seen
    held = [stage.send("hold", mark, mark) for mark in ("first", "second")]
    deadline = time.time() + 0.5
    expired = stage.send("nothing", "late", expires=0.5)
    worker.wait_for_line(rf"{expired.id}\] received")
    wait_until(lambda: time.time() > deadline + 0.1, what="the instant of its expiry")
    stage.open("first")
    stage.wait_for("begun", "second")
    stage.open("second")
    with pytest.raises(TaskRevokedError):
        expired.get(timeout=10)
    assert held[1].get(timeout=10) == "second"
    before, _, _ = worker.output.partition("Discarding revoked task")
    assert f"{held[1].id}] succeeded" in before


def test_what_was_fetched_in_hope_goes_back_when_jobs_turn_out_long(stage: Stage) -> None:
    first = stage.worker("-c1", "-n", "first@%h", "--prefetch-multiplier=1")
    for _ in range(6):
        [result.get(timeout=10) for result in [stage.send("usually_brief", mark) for mark in range(60)]]
    first.signal(19)  # SIGSTOP: let a queue form
    results = [
        stage.send("usually_brief", "long", "gate"),
        *(stage.send("usually_brief", n) for n in range(60)),
    ]
    first.signal(18)
    stage.wait_for("begun", "long")
    stage.worker("-c1", "-n", "second@%h", "--prefetch-multiplier=1")
    assert [result.get(timeout=10) for result in results[1:]] == list(range(60))
    stage.open()
    assert results[0].get(timeout=10) == "long"


def test_multiplier_zero_takes_all_there_is(stage: Stage) -> None:
    worker = stage.worker("-c1", "--prefetch-multiplier=0")
    stage.send("hold", "x")
    stage.wait_for("begun")
    results = [stage.send("note", mark) for mark in range(700)]
    worker.wait_for_line(rf"{results[-1].id}\] received")
    assert stage.broker.depth("celery") == 0
    stage.open()
    assert [result.get(timeout=20) for result in results] == list(range(700))


def test_the_fast_one_of_two_workers_does_more(stage: Stage) -> None:
    stage.worker("-c1", "-n", "one@%h", "--prefetch-multiplier=1")
    stage.worker("-c3", "-n", "three@%h", "--prefetch-multiplier=1")
    results = [stage.send("spin", 0.1) for _ in range(60)]
    begun = time.monotonic()
    assert {result.get(timeout=20) for result in results} == {"whole"}
    # 60 jobs of 0.1 s in four slots take 1.5 s; if one worker had a fixed half of them, 3 s.
    assert time.monotonic() - begun < 2.6


BOUNDED = """
import os, resource
from umbel import Umbel
from umbel.signals import worker_process_init

app = Umbel("bounded", broker=os.environ["BROKER"], backend=os.environ["BACKEND"])

@worker_process_init.connect
def bound_memory(**_kwargs):
    resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, resource.RLIM_INFINITY))

@app.task(name="bounded.take")
def take(mebibytes):
    return len(bytearray(mebibytes << 20)) >> 20, os.getpid()
"""


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_limit_on_a_process_s_data_fails_the_task_that_takes_too_much(
    pool: str, tmp_path: Path, redis_server: RedisServer
) -> None:
    """As docs/pools.md says."""
    app_file = tmp_path / "bounded.py"
    app_file.write_text(BOUNDED)
    with redis_stage(tmp_path, redis_server, database=5) as stage:
        env = {"BROKER": stage.broker_url, "BACKEND": stage.backend_url}
        with umbel_worker(app_file, "--pool", pool, "-c1", env=env) as worker:
            worker.ready()
            _, before = stage.app.send_task("bounded.take", [50]).get(timeout=30)
            with pytest.raises(MemoryError):
                stage.app.send_task("bounded.take", [4096]).get(timeout=30)
            assert stage.app.send_task("bounded.take", [50]).get(timeout=30) == [50, before]
            assert worker.terminate(timeout=30) == 0
