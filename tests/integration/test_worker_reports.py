"""What a worker says: log lines, signals, results."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from tests.integration.apps.stage import Stage, redis_stage, sqlite_stage
from tests.support.servers import RedisServer
from tests.support.workers import WorkerProcess

pytestmark = pytest.mark.processes

STAMP = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}: "
POOL = STAMP + r"(INFO|WARNING|ERROR)/ForkPoolWorker-\d+\] "


@pytest.fixture(scope="module")
def scene(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer
) -> Iterator[tuple[Stage, WorkerProcess]]:
    with redis_stage(tmp_path_factory.mktemp("reports"), redis_server, database=1) as stage:
        yield stage, stage.worker("-c1", "-n", "reporter@host")


def test_lines_of_a_success(scene: tuple[Stage, WorkerProcess]) -> None:
    stage, worker = scene
    result = stage.send("note", "it is")
    worker.wait_for_line(rf"^{STAMP}INFO/MainProcess\] Task jobs\.note\[{result.id}\] received$")
    worker.wait_for_line(rf"^{POOL}Task jobs\.note\[{result.id}\] succeeded in [\d.e-]+s: 'it is'$")


def test_lines_of_a_failure(scene: tuple[Stage, WorkerProcess]) -> None:
    stage, worker = scene
    result = stage.send("fail", "oh")
    line = worker.wait_for_line(
        rf"^{POOL}Task jobs\.fail\[{result.id}\] raised unexpected: ValueError\('oh'\)$"
    )
    assert line[1] == "ERROR"
    worker.wait_for_line(r"^Traceback \(most recent call last\):$")
    worker.wait_for_line(r"^ValueError: oh$")


def test_lines_of_a_retry(scene: tuple[Stage, WorkerProcess]) -> None:
    stage, worker = scene
    result = stage.send("retry", 1, "line")
    worker.wait_for_line(
        rf"^{POOL}Task jobs\.retry\[{result.id}\] retry: Retry in 0\.1s: ValueError\('not yet'\)$"
    )
    worker.wait_for_line(rf"Task jobs\.retry\[{result.id}\] succeeded in [\d.e-]+s: 1$")


def test_lines_of_the_task_itself(scene: tuple[Stage, WorkerProcess]) -> None:
    stage, worker = scene
    result = stage.send("talk")
    worker.wait_for_line(rf"^{POOL}jobs\.talk\[{result.id}\]: said by the task$")
    assert worker.wait_for_line(rf"^{POOL}printed by the task$")[1] == "WARNING"


def test_signals_of_a_start_in_order(scene: tuple[Stage, WorkerProcess]) -> None:
    stage, _ = scene
    stage.wait_for("signal", "worker_ready")
    names = [line[1:] for line in stage.lines("signal") if not line[1].startswith("task_")]
    assert ["celeryd_init", "reporter@host"] in names
    assert ["celeryd_after_setup", "reporter@host"] in names
    assert ["worker_init", "Worker"] in names
    order = [line[0] for line in names]
    places = [order.index(name) for name in ("celeryd_init", "worker_init", "celeryd_after_setup")]
    assert places == sorted(places)
    assert (
        order.index("celeryd_after_setup") < order.index("worker_process_init") < order.index("worker_ready")
    )
    assert order.count("worker_process_init") == 1


def test_task_received_shows_the_request(scene: tuple[Stage, WorkerProcess]) -> None:
    stage, _ = scene
    result = stage.send("note", "seen", link_error=[stage.app.signature("jobs.note", ("failed",))])
    [line] = stage.wait_for("signal", "task_received", "Narrator", "jobs.note", result.id)
    assert line[-3:] == ["reporter@host", "celery", "1"]


def test_receivers_of_celeryd_init_change_settings_of_their_worker(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    with redis_stage(tmp_path, redis_server) as stage:
        worker = stage.worker("-c1", "-n", "fair@%h")
        stage.send("hold", "x")
        stage.wait_for("begun")
        for mark in range(5):
            stage.send("note", mark)
        other = stage.worker("-c1", "-n", "other@%h")
        stage.wait_for("note", count=5)
        assert "jobs.note" not in worker.output.partition("ready.")[2]
        assert other.output.count("received") == 5
        stage.open()


def test_logfile_and_level(tmp_path: Path) -> None:
    with sqlite_stage(tmp_path) as stage:
        log = tmp_path / "worker.log"
        worker = stage.worker("-c1", "--loglevel=WARNING", f"--logfile={log}", ready=False)
        stage.send("talk").get(timeout=15)
        stage.send("note", 1).get(timeout=15)
        assert worker.terminate() == 0
        text = log.read_text()
        assert re.search(rf"{STAMP}WARNING/ForkPoolWorker-1\] printed by the task", text)
        assert "said by the task" not in text
        assert "succeeded" not in text
        assert "printed by the task" not in worker.output


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
def test_a_result_is_there_within_milliseconds(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    world = (
        redis_stage(tmp_path, request.getfixturevalue("redis_server"))
        if kind == "redis"
        else sqlite_stage(tmp_path)
    )
    with world as stage:
        stage.worker("-c2", "--loglevel=WARNING", ready=False)
        assert stage.send("nothing", -1).get(timeout=15) == -1
        trips = []
        for mark in range(100):
            begun = time.perf_counter()
            assert stage.send("nothing", mark).get(timeout=10) == mark
            trips.append(time.perf_counter() - begun)
        # Far above what an idle machine shows (half a millisecond); polling would be tens of milliseconds.
        assert median(trips) < 0.02


@pytest.mark.parametrize("backend", ["sqlite", "redis"])
def test_results_in_another_store_than_messages(
    tmp_path: Path, redis_server: RedisServer, backend: str
) -> None:
    redis_server.flush()
    urls = {"redis": redis_server.url(), "sqlite": f"sqlite:///{tmp_path}/jobs.db"}
    broker = "redis" if backend == "sqlite" else "sqlite"
    with Stage(tmp_path, urls[broker], urls[backend]) as stage:
        stage.worker("-c2")
        results = [stage.send("note", mark) for mark in range(100)]
        assert [result.get(timeout=20) for result in results] == list(range(100))
        with pytest.raises(ValueError, match="oh"):
            stage.send("fail", "oh").get(timeout=10)
        assert stage.send("retry", 1, "apart").get(timeout=10) == 1
        stage.wait_empty()


def test_a_result_is_stored_before_its_message_is_gone(tmp_path: Path) -> None:
    """With the result store away, what has run stays held, and is settled when the store is back."""
    with RedisServer(aof="always") as server:
        urls = f"sqlite:///{tmp_path}/jobs.db", server.url()
        with Stage(tmp_path, *urls) as stage:
            worker = stage.worker("-c1")
            result = stage.send("late", "x")
            stage.wait_for("begun")
            server.kill9()
            stage.open()
            stage.wait_for("ended")
            worker.wait_for_line("Results cannot be stored")
            assert stage.broker.held_depth() == 1
            server.restart()
            assert result.get(timeout=20) == "x"
            stage.wait_empty()
            assert len(stage.lines("begun")) == 1


@pytest.mark.parametrize("hijack", [False, True])
def test_the_root_logger_is_the_applications_unless_the_worker_is_asked_to_take_it(
    tmp_path: Path, hijack: bool
) -> None:
    settings = {"worker_hijack_root_logger": True} if hijack else {}
    with sqlite_stage(tmp_path, **settings) as stage:
        worker = stage.worker("-c1", env={"ROOT_LOG": "1"})
        assert stage.send("talk").get(timeout=10) is None
        worker.terminate()
        own = (tmp_path / "root.log").read_text()
        assert ("said to the root logger" in own) is not hijack
        assert ("said to the root logger" in worker.output) is hijack
        assert "succeeded" not in own  # the worker's lines are in the worker's log alone
        assert "succeeded" in worker.output
