"""Real Flower beside Umbel's workers: it shows them and their tasks, and its orders are obeyed."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.world import APP, World
from tests.support.servers import free_port
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess

pytestmark = [pytest.mark.interop, pytest.mark.redis, pytest.mark.processes]


class Flower:
    """A Flower process and its HTTP API."""

    def __init__(self, world: World, python: Path) -> None:
        self.port = free_port()
        env = {**world.environment(), "FLOWER_UNAUTHENTICATED_API": "true"}
        program = [
            python,
            "-m",
            "celery",
            "-A",
            "shared",
            "flower",
            "--address=127.0.0.1",
            f"--port={self.port}",
        ]
        self.process = WorkerProcess(
            [*program, "--inspect_timeout=4000"], cwd=APP.parent, env={**os.environ, **env}, name="flower"
        )

    def get(self, path: str) -> Any:
        """The answer to a GET: JSON from the API, text from pages."""
        return self._ask(path, None)

    def post(self, path: str, **fields: Any) -> Any:
        """The answer to a POST."""
        return self._ask(path, urllib.parse.urlencode(fields).encode())

    def _ask(self, path: str, data: bytes | None) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=data)
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read().decode()
        return json.loads(text) if path.startswith("/api") else text

    def listens(self) -> bool:
        try:
            return self.get("/healthcheck") == "OK"
        except urllib.error.URLError:
            return False


@pytest.fixture
def world(new_world: Callable[..., World]) -> World:
    return new_world()


@pytest.fixture
def flower(world: World, interop_python: Path) -> Iterator[Flower]:
    found = Flower(world, interop_python)
    with found.process:
        wait_until(found.listens, timeout=30, what=lambda: f"Flower to listen:\n{found.process.output}")
        yield found


def test_flower_shows_and_steers_umbels_workers(world: World, flower: Flower, mark: str) -> None:
    worker = world.worker("umbel", "-c2", "-Q", "q", "-n", "u@here", "-E")
    wait_until(
        lambda: "u@here" in flower.get("/api/workers?refresh=1"), timeout=20, what="Flower to see the worker"
    )
    told = flower.get("/api/workers?workername=u@here")["u@here"]
    assert told["stats"]["pid"] == worker.pid
    assert [queue["name"] for queue in told["active_queues"]] == ["q"]
    assert "echo" in told["registered"]
    assert "u@here" in flower.get("/workers?json=1") or "u@here" in flower.get("/workers")

    done = world.celery.send("echo", "x", queue="q")
    failed = world.umbel.send("fail", "no", queue="q")
    wait_until(
        lambda: (
            {done, failed} <= flower.get("/api/tasks").keys()
            and flower.get(f"/api/task/info/{failed}")["state"] == "FAILURE"
        ),
        timeout=20,
        what=lambda: f"Flower to see the tasks; it has {flower.get('/api/tasks')}",
    )
    task = flower.get(f"/api/task/info/{done}")
    assert (task["name"], task["state"], task["result"], task["worker"]) == (
        "echo",
        "SUCCESS",
        "'x'",
        "u@here",
    )
    assert 0 <= task["runtime"] < 10
    assert "Traceback" in flower.get(f"/api/task/info/{failed}")["traceback"]

    running = world.celery.send("hold", mark, f"{mark}-gate", queue="q")
    world.wait_for_notes(mark, 1)
    flower.post(f"/api/task/revoke/{running}?terminate=true&signal=SIGKILL")
    assert world.celery.outcome(running)["state"] == "REVOKED"

    delayed = world.celery.send("echo", "never", queue="q", countdown=3600)
    flower.post(f"/api/task/revoke/{delayed}")
    wait_until(
        lambda: world.celery.evaluate("app.AsyncResult(task_id).state", task_id=delayed) == "REVOKED",
        timeout=20,
        what="the delayed task revoked",
    )

    flower.post("/api/worker/pool/grow/u@here?n=2")
    wait_until(lambda: len(processes(world)) == 4, timeout=20, what="four processes")
    flower.post("/api/worker/pool/shrink/u@here?n=3")
    wait_until(lambda: len(processes(world)) == 1, timeout=20, what="one process")
    flower.post("/api/task/rate-limit/echo", workername="u@here", ratelimit="100/m")
    assert (
        "echo [rate_limit=100/m]"
        in world.umbel.evaluate("app.control.inspect(timeout=5, limit=1).registered('rate_limit')")["u@here"]
    )
    flower.post("/api/task/timeout/echo", workername="u@here", hard="60", soft="30")
    flower.post("/api/worker/queue/add-consumer/u@here?queue=more")
    assert world.celery.value(world.celery.send("echo", "more", queue="more")) == "more"
    flower.post("/api/worker/shutdown/u@here")
    assert worker.wait() == 0


def processes(world: World) -> list[int]:
    stats = world.umbel.evaluate("app.control.inspect(timeout=5, limit=1).stats()")["u@here"]
    pids: list[int] = stats["pool"]["processes"]
    return pids
