"""When a message is acknowledged, and what becomes of a job whose worker or process ends under it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.apps.stage import Stage, redis_stage, sqlite_stage
from tests.support.servers import RedisServer
from umbel.errors import WorkerLostError

pytestmark = pytest.mark.processes


@pytest.fixture(params=["redis", "sqlite"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    if request.param == "redis":
        with redis_stage(tmp_path, request.getfixturevalue("redis_server"), worker_lease_duration=2) as found:
            yield found
    else:
        with sqlite_stage(tmp_path, worker_lease_duration=2) as found:
            yield found


def test_what_had_not_begun_runs_on_the_next_worker_and_what_had_been_acknowledged_does_not(
    stage: Stage,
) -> None:
    first = stage.worker("-c2")
    for mark in range(2):
        stage.send("hold", mark)
    stage.wait_for("begun", count=2)
    waiting = [stage.send("note", mark).id for mark in range(20)]
    second_wave = stage.send("late", "queued")
    first.wait_for_line(rf"{waiting[0]}\] received")
    first.kill9()
    stage.open()
    stage.worker("-c2")
    stage.wait_for("note", count=20, timeout=15)
    assert second_wave.get(timeout=15) == "queued"
    stage.wait_empty()
    assert sorted(int(line[1]) for line in stage.lines("note")) == list(range(20))
    assert len(stage.lines("begun", 0)) == len(stage.lines("begun", 1)) == 1  # acknowledged when they began


def test_a_late_acknowledged_job_runs_again_elsewhere_marked_redelivered(stage: Stage) -> None:
    first = stage.worker("-c1")
    result = stage.send("late", "x")
    [[*_, redelivered]] = stage.wait_for("begun", "x")
    assert redelivered == "False"
    first.kill9()
    stage.open()
    stage.worker("-c1")
    assert result.get(timeout=15) == "x"
    assert [line[-1] for line in stage.lines("begun", "x")] == ["False", "True"]


def test_a_brief_task_that_for_once_takes_long_is_acknowledged_while_it_runs(stage: Stage) -> None:
    first = stage.worker("-c1")
    for _ in range(3):
        for mark in range(30):
            last = stage.send("usually_brief", mark)
        last.get(timeout=10)
    stage.send("usually_brief", "long", "gate")
    stage.wait_for("begun", "long")
    # Nothing is held any more: that is the acknowledgement.
    stage.wait_empty(timeout=5)
    first.kill9()
    stage.worker("-c1")
    assert stage.send("nothing", 1).get(timeout=10) == 1
    assert len(stage.lines("begun", "long")) == 1


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Stage]:
    """One worker for all tests that only kill processes of its pool."""
    with redis_stage(tmp_path_factory.mktemp("losses"), redis_server, database=1) as stage:
        stage.worker("-c2")
        yield stage


HOW = {
    "SEGV": "signal 11 (SIGSEGV)",
    "KILL": "signal 9 (SIGKILL)",
    "EXIT": "exitcode 3",
    "SYSTEMEXIT": "exitcode 4",
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("task", ["die", "die_late"])
def test_a_lost_job_has_failed_and_no_other_has(shared: Stage, how: str, task: str) -> None:
    letters = len(shared.dead())
    before = [shared.send("nothing", mark) for mark in range(20)]
    lost = shared.send(task, f"{task}-{how}", how)
    after = [shared.send("nothing", mark) for mark in range(20)]
    with pytest.raises(WorkerLostError, match="Worker exited prematurely: ") as caught:
        lost.get(timeout=15)
    assert HOW[how] in str(caught.value)
    assert [result.get(timeout=15) for result in (*before, *after)] == [*range(20), *range(20)]
    assert len(shared.lines("dies", f"{task}-{how}")) == 1
    assert len(shared.dead()) == letters
    shared.wait_empty()


def test_out_of_memory_in_a_body_is_a_failure_like_others(shared: Stage) -> None:
    with pytest.raises(MemoryError):
        shared.send("die", "memory", "MEMORY").get(timeout=10)


def test_reject_on_worker_lost_puts_it_back_marked_redelivered(shared: Stage) -> None:
    assert shared.send("die_once", "once", "KILL").get(timeout=15) == "survived"
    assert [line[-1] for line in shared.lines("dies", "once")] == ["False", "True"]
    shared.wait_empty()


@pytest.mark.parametrize(("times", "retries"), [(1, ["0", "1"]), (9, ["0", "1"])])
def test_retry_on_worker_lost_tries_as_often_as_the_task_may(
    shared: Stage, times: int, retries: list[str]
) -> None:
    mark = f"retry-{times}"
    result = shared.send("die_then_retry", mark, "KILL", times)
    if times == 1:
        assert result.get(timeout=15) == "survived"
    else:
        with pytest.raises(WorkerLostError):
            result.get(timeout=15)
    assert [line[-1] for line in shared.lines("dies", mark)] == retries
    shared.wait_empty()


def test_where_failures_are_not_acknowledged_they_are_dead_letters(shared: Stage) -> None:
    count = len(shared.dead())
    with pytest.raises(WorkerLostError):
        shared.send("die_refused", "refused", "KILL").get(timeout=15)
    with pytest.raises(ValueError, match="no"):
        shared.send("fail_refused", "no").get(timeout=15)
    reasons = [letter.reason for letter in shared.wait_for_dead(count + 2)[count:]]
    assert "Worker exited prematurely" in reasons[0]
    assert "ValueError('no')" in reasons[1]


def test_an_error_handler_that_exits_does_not_take_the_worker_along(shared: Stage) -> None:
    with pytest.raises(WorkerLostError):
        shared.send("die_with_handler", "KILL").get(timeout=15)
    shared.wait_for("on_failure")
    assert shared.send("nothing", 1).get(timeout=10) == 1
