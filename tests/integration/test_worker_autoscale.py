"""A worker whose pool grows and shrinks with the work, and loses nothing by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.apps.stage import Stage, redis_stage
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes


@pytest.fixture
def stage(tmp_path: Path, redis_server: RedisServer) -> Iterator[Stage]:
    with redis_stage(tmp_path, redis_server) as found:
        yield found


def size(stage: Stage) -> int:
    (stats,) = stage.app.control.inspect(timeout=5, limit=1).stats().values()
    return int(stats["autoscaler"]["current"])


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_square_wave(stage: Stage, pool: str) -> None:
    # With a multiplier of 1 nothing waits in the worker: only the broker knows that there is more.
    worker = stage.worker(
        *("--pool", pool, "--autoscale", "4,1", "--prefetch-multiplier", "1"),
        env={"AUTOSCALE_KEEPALIVE": "1"},
    )
    assert size(stage) == 1
    for wave in ("first", "second"):
        results = [stage.send("hold", f"{wave}-{mark}", wave) for mark in range(12)]
        # Twelve wait, one runs: there are four as soon as that has lasted.
        stage.wait_for("begun", count=4 if wave == "first" else 16, timeout=40)
        assert size(stage) == 4
        stage.open(wave)
        assert [result.get(timeout=40) for result in results] == [f"{wave}-{mark}" for mark in range(12)]
        wait_until(lambda: size(stage) == 1, timeout=40, what="one process")
    stage.wait_empty(timeout=40)
    begun = [line[1] for line in stage.lines("begun")]
    assert len(begun) == len(set(begun)) == 24  # none was ended, none ran twice
    assert "Scaling up" in worker.output
    assert "Scaling down" in worker.output
    assert worker.terminate(timeout=40) == 0


def test_only_idle_processes_go(stage: Stage) -> None:
    stage.worker("--autoscale=3,1", env={"AUTOSCALE_KEEPALIVE": "1"})
    long = stage.send("hold", "long", "long")
    stage.wait_for("begun", "long")
    brief = [stage.send("hold", mark, "brief") for mark in ("a", "b")]
    stage.wait_for("begun", count=3, timeout=40)
    stage.open("brief")
    assert [result.get(timeout=40) for result in brief] == ["a", "b"]
    wait_until(lambda: size(stage) == 1, timeout=40, what="one process")
    assert stage.send("nothing", "x").state == "PENDING"
    stage.open("long")
    assert long.get(timeout=40) == "long"
    assert len(stage.lines("begun", "long")) == 1


def test_bounds_are_changed_by_remote_control(stage: Stage) -> None:
    stage.worker("--autoscale=3,1")
    control = stage.app.control

    def order(method: str, *args: int) -> dict[str, str]:
        (answer,) = getattr(control, method)(*args, reply=True, timeout=5, limit=1)
        (reply,) = answer.values()
        return reply

    assert order("autoscale", 5, 2) == {"ok": "autoscale now max=5 min=2"}
    assert size(stage) == 2
    assert "min <= max" in order("autoscale", 1, 2)["error"]
    assert "change the bounds with autoscale" in order("pool_grow", 1)["error"]
    assert "change the bounds with autoscale" in order("pool_shrink", 1)["error"]
    (stats,) = control.inspect(timeout=5, limit=1).stats().values()
    assert stats["autoscaler"] == {"max": 5, "min": 2, "current": 2, "qty": 0}
    assert stats["pool"]["max-concurrency"] == 2
