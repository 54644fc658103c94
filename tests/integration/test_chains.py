"""Long chains with real workers: steps begin where the last ended, and nothing is lost or left behind by that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_canvas_worker import APP, CanvasStage
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess, umbel_worker
from umbel import chain
from umbel.core.ids import new_id
from umbel.errors import TaskRevokedError

pytestmark = [pytest.mark.processes, pytest.mark.redis]


class ChainStage(CanvasStage):
    """Workers log warnings only: one that tells of every job sees to every job itself."""

    def worker(self, *options: str, ready: bool = False, env: dict[str, str] | None = None) -> WorkerProcess:
        options = ("--loglevel", "INFO" if ready else "WARNING", *options)
        worker = self._running.enter_context(umbel_worker(APP, *options, env=self.environment("umbel")))
        return worker.ready() if ready else worker


@pytest.fixture
def stage(redis_server: RedisServer, tmp_path: Path) -> Iterator[ChainStage]:
    with redis_server.client(4) as client:
        client.flushdb()
    settings: dict[str, Any] = {"task_acks_late": True, "worker_lease_duration": 1}
    with ChainStage(tmp_path, redis_server.url(4), **settings) as made:
        yield made


def handles(result: Any) -> list[Any]:
    """The result and those before it, the first one first."""
    found = []
    while result is not None:
        found.append(result)
        result = result.parent
    return found[::-1]


@pytest.mark.parametrize("told", [False, True], ids=["in silence", "told of"])
def test_every_step_runs_once_in_order_with_a_result_of_its_own(stage: ChainStage, told: bool) -> None:
    worker = stage.worker("-c2", ready=told)
    stage.s("add", 0, 1).apply_async().get(timeout=60)
    result = chain(stage.s("add", 0, 1), *(stage.s("add", 1) for _ in range(99))).apply_async()
    assert result.get(timeout=60) == 100
    assert [each.result for each in handles(result)] == list(range(1, 101))
    stage.wait_empty(timeout=60)
    for each in handles(result) if told else ():
        # As of any job: received first, then succeeded.
        lines = [line for line in worker.output.splitlines() if each.id in line]
        assert [("received" in line, "succeeded" in line) for line in lines] == [(True, False), (False, True)]


def test_a_revoked_step_does_not_run(stage: ChainStage) -> None:
    stage.worker("-c1")
    chain(stage.s("add", 0, 1), *(stage.s("add", 1) for _ in range(9))).apply_async().get(timeout=60)
    revoked = new_id()
    assert stage.app.control.revoke(revoked, reply=True, limit=1, timeout=30)
    steps = [stage.s("note", number).set(immutable=True) for number in range(6)]
    steps[3].set(task_id=revoked)
    result = chain(*steps).apply_async()
    with pytest.raises(TaskRevokedError):
        handles(result)[3].get(timeout=60)  # there since the revocation
    stage.wait_for("2", timeout=60)
    stage.wait_empty(timeout=60)
    assert stage.journal == [["0"], ["1"], ["2"]]


def test_a_chain_survives_its_workers(stage: ChainStage) -> None:
    worker = stage.worker("-c2")
    steps, kills = 300, 3
    result = chain(*(stage.s("note", number).set(immutable=True) for number in range(steps))).apply_async()
    for kill in range(1, kills + 1):
        wanted = kill * steps // (kills + 2)
        wait_until(lambda wanted=wanted: len(stage.journal) >= wanted, timeout=60, what=f"{wanted} steps")
        worker.kill9()
        worker = stage.worker("-c2")
    result.get(timeout=60)
    stage.wait_empty(timeout=60)
    runs = Counter(int(number) for [number] in stage.journal)
    assert sorted(runs) == list(range(steps))
    # A step is repeated whose end had not reached the broker, never one that was settled.
    assert max(runs.values()) <= 1 + kills
    assert [each.state for each in handles(result)] == ["SUCCESS"] * steps
