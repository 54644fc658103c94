"""Workers whose clock jumps by an hour: nothing is lost, repeated, early or late by it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.integration.apps.stage import Stage, redis_stage, sqlite_stage
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import RedisServer

pytestmark = pytest.mark.processes

LEASE = 2  #: seconds
HOUR = 3600
SETTINGS = {"worker_lease_duration": LEASE, "worker_prefetch_multiplier": 1}


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """By how many seconds the workers that are told of it are ahead."""
    file = tmp_path / "clock"
    file.write_text("0")
    return file


def wait_for_jump(stage: Stage) -> None:
    """Wait until tasks see another time than the test does."""

    def seen() -> bool:
        stage.send("paced", "look").get(timeout=30)
        return any(abs(float(line[2]) - time.time()) > HOUR / 2 for line in stage.lines("paced"))

    wait_until(seen, timeout=60, what="the jump")


@pytest.mark.redis
@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_redis_has_its_own_clock(tmp_path: Path, redis_server: RedisServer, clock: Path, jump: int) -> None:
    with redis_stage(tmp_path, redis_server, **SETTINGS) as stage:
        worker = stage.worker("-c2", "-n", "jumps@%h", env={"CLOCK": str(clock)})
        stage.worker("-c1", "-n", "peer@%h")
        running = [stage.send("late", mark) for mark in "abc"]
        stage.wait_for("begun", count=3)
        parked = stage.send("note", "parked", countdown=2.5 * LEASE)
        due = time.time() + 2.5 * LEASE
        clock.write_text(str(jump))
        stage.open()
        assert [result.get(timeout=30) for result in running] == list("abc")
        wait_for_jump(stage)
        (tmp_path / "gate").unlink()
        again = stage.send("late", "again")
        stage.wait_for("begun", "again")
        near = [stage.send("note", f"near{number}", countdown=1.5, expires=600) for number in range(6)]
        soon = time.time() + 1.4
        for result in near:
            result.get(timeout=30)
        assert time.time() >= soon
        parked.get(timeout=60)
        assert time.time() >= due - 0.1
        stage.open()
        assert again.get(timeout=30) == "again"
        stage.wait_empty()
        assert [line[-1] for line in stage.lines("begun")] == ["False"] * 4
        assert sorted(line[1] for line in stage.lines("note")) == [*(f"near{n}" for n in range(6)), "parked"]
        assert worker.terminate() == 0


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_on_sqlite_the_clock_of_the_machine_jumps_under_everybody(
    tmp_path: Path, clock: Path, jump: int
) -> None:
    with sqlite_stage(tmp_path, **SETTINGS) as stage:
        for name in "ab":
            stage.worker("-c1", "-n", f"{name}@%h", env={"CLOCK": str(clock)})
        running = stage.send("late", "running")
        stage.wait_for("begun", "running")
        clock.write_text(str(jump))
        results = [stage.send("note", number) for number in range(20)]
        assert [result.get(timeout=30) for result in results] == list(range(20))
        wait_for_jump(stage)
        for number in range(4):
            stage.send("twice", f"before{number}", 3.0)
        stage.wait_for("once", count=4)
        late = stage.worker("-c1", "-n", "c@%h", env={"CLOCK": str(clock)})
        clock.write_text("0")
        for number in range(4):
            stage.send("twice", f"after{number}", 1.0)
        check_delays(stage, {"before": 3.0, "after": 1.0}, count=8)
        assert late.terminate() == 0
        stage.open()
        assert running.get(timeout=30) == "running"
        assert [line[-1] for line in stage.lines("begun")] == ["False"]
        assert sorted(int(line[1]) for line in stage.lines("note")) == list(range(20))
        stage.wait_empty()


def start_wrong_workers(stage: Stage) -> None:
    """One worker whose clock is an hour ahead, and one whose is an hour behind."""
    for name, jump in (("ahead", HOUR), ("behind", -HOUR)):
        file = stage.directory / name
        file.write_text(str(jump))
        stage.worker("-c1", "-n", f"{name}@%h", env={"CLOCK": str(file)})


@pytest.mark.redis
def test_on_redis_a_countdown_is_by_its_clock(tmp_path: Path, redis_server: RedisServer) -> None:
    with redis_stage(tmp_path, redis_server, **SETTINGS) as stage:
        start_wrong_workers(stage)
        for number in range(8):
            stage.send("twice", f"task{number}", 1.5)
        check_delays(stage, {"task": 1.5}, count=8)
        stage.wait_empty()


@pytest.mark.rabbitmq
def test_on_rabbitmq_no_wrong_clock_holds_what_has_waited(tmp_path: Path, rabbitmq_url: str) -> None:
    with Stage(tmp_path, rabbitmq_url, f"sqlite:///{tmp_path}/results.db", **SETTINGS) as stage:
        start_wrong_workers(stage)
        for number in range(8):
            stage.send("twice", f"long{number}", 7.0)
            stage.send("twice", f"short{number}", 3.0)
        # What is due within seconds goes to its queue at once, where only its eta says how much of that has passed.
        check_delays(stage, {"long": 7.0, "short": 3.0}, count=16, early=4.0)


def check_delays(stage: Stage, delays: dict[str, float], count: int, early: float = 0.1) -> None:
    """See that every task came again, and what it sent too, after the delay of its name's first part."""
    for what in ("again", "chime"):
        stage.wait_for(what, count=count)
    begun = {mark: float(at) for _, mark, at in stage.lines("once")}
    for what in ("again", "chime"):
        came = {mark: float(at) - begun[mark] for _, mark, at in stage.lines(what)}
        assert len(came) == len(stage.lines(what)) == count
        for mark, after in came.items():
            delay = delays[mark.rstrip("0123456789")]
            assert after >= delay - early, (what, mark, after)
