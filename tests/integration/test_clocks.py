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
        workers = [stage.worker("-c1", "-n", f"{name}@%h", env={"CLOCK": str(clock)}) for name in "ab"]
        running = stage.send("late", "running")
        stage.wait_for("begun", "running")
        clock.write_text(str(jump))
        for worker in workers:
            worker.wait_for_line("The clock has jumped by", timeout=60)
        results = [stage.send("note", number) for number in range(20)]
        assert [result.get(timeout=30) for result in results] == list(range(20))
        wait_for_jump(stage)
        stage.open()
        assert running.get(timeout=30) == "running"
        assert [line[-1] for line in stage.lines("begun")] == ["False"]
        assert sorted(int(line[1]) for line in stage.lines("note")) == list(range(20))
