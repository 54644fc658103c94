"""``umbel events`` in a real terminal, and cameras: the fleet is seen and steered by keys, which are Celery's."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.apps.stage import APP, Stage, redis_stage
from tests.support.servers import RedisServer
from tests.support.terminal import Terminal
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess

pytestmark = [pytest.mark.redis, pytest.mark.processes]

UP, DOWN = "\x1b[A", "\x1b[B"


@pytest.fixture
def stage(tmp_path: Path, redis_server: RedisServer) -> Iterator[Stage]:
    with redis_stage(tmp_path, redis_server) as stage:
        yield stage


def environment(stage: Stage) -> dict[str, str]:
    return {"STAGE": str(stage.directory), "BROKER": stage.broker_url, "BACKEND": stage.backend_url}


@pytest.fixture
def show(stage: Stage) -> Iterator[Callable[..., Terminal]]:
    """Start ``umbel events`` in a terminal, which has shown its first picture."""
    with ExitStack() as running:

        def start(**size: int) -> Terminal:
            argv = [sys.executable, "-m", "umbel", "-A", APP.stem, "events"]
            terminal = Terminal(argv, cwd=APP.parent, env=environment(stage), **size)
            running.enter_context(terminal)
            terminal.wait_for("q:quit")
            return terminal

        yield start


def is_as_before(terminal: Terminal) -> bool:
    return (
        not terminal.on_other_screen
        and terminal.shows_cursor
        and terminal.settings() == terminal.before
        and "Traceback" not in terminal.text()
    )


def test_the_fleet_is_seen_and_steered(stage: Stage, show: Callable[..., Terminal]) -> None:
    terminal = show()
    assert terminal.on_other_screen
    assert "No task selected" in terminal.text()
    worker = stage.worker("-c1", "-E", "-n", "w@here")
    terminal.wait_for(r"w@here .* ONLINE\W+0\W+0\W")
    done = stage.send("note", "argument")
    terminal.wait_for(rf"{done.id} .* jobs\.note .* w@here .* \d\d:\d\d:\d\d .* SUCCESS")
    failed = stage.send("fail", "bad luck")
    terminal.wait_for(rf"{failed.id} .* jobs\.fail .* FAILURE")
    running = stage.send("hold", "x")
    terminal.wait_for(rf"{running.id} .* jobs\.hold .* STARTED")
    terminal.wait_for(r"events: \d+ tasks: 3 workers: 1/1")

    # The first that came is the one that is chosen until another is.
    assert done.id in terminal.reversed()
    terminal.press("k")
    wait_until(lambda: failed.id in terminal.reversed(), what=terminal.text)
    terminal.press("J")
    wait_until(lambda: done.id in terminal.reversed(), what=terminal.text)
    terminal.press("r")
    terminal.wait_for(f"Task result for {done.id}")
    terminal.wait_for("^'argument'")
    terminal.press(" ")
    terminal.press("i")
    terminal.wait_for(f"Task details for {done.id}")
    terminal.wait_for(r"^args: .*argument")
    terminal.wait_for("^state: SUCCESS")
    terminal.press("x")
    terminal.press("t")  # it has none
    terminal.press(UP)
    wait_until(lambda: failed.id in terminal.reversed(), what=terminal.text)
    terminal.press("t")
    terminal.wait_for(f"Task exception traceback for {failed.id}")
    terminal.wait_for("^Traceback ")
    terminal.wait_for("bad luck")
    terminal.press("\r")

    terminal.press("l")
    terminal.wait_for("New rate limit for jobs.fail: _")
    terminal.press("7/mm\x7f\n")
    terminal.wait_for("Remote control command replies")
    terminal.wait_for("^w@here: new rate limit set successfully")
    [limits] = stage.app.control.inspect(timeout=5, limit=1).registered("rate_limit").values()
    assert "jobs.fail [rate_limit=7/m]" in limits
    terminal.press(" l")
    terminal.wait_for("New rate limit for jobs.fail: _")
    terminal.press("q\x1b")
    terminal.wait_for("q:quit")

    waiting = stage.send("note", "never")
    terminal.wait_for(rf"{waiting.id} .* RECEIVED")
    terminal.press(UP * 10)
    wait_until(lambda: waiting.id in terminal.reversed(), what=terminal.text)
    terminal.press("c")
    terminal.wait_for(r"^w@here: tasks .* flagged as revoked")
    terminal.press(" ")
    stage.open()
    terminal.wait_for(rf"{waiting.id} .* REVOKED")
    terminal.wait_for(rf"{running.id} .* SUCCESS")
    terminal.press("q")
    assert terminal.wait() == 0
    assert is_as_before(terminal)
    assert worker.terminate() == 0


def test_it_fits_the_terminal(stage: Stage, show: Callable[..., Terminal]) -> None:
    terminal = show(rows=24, columns=80)
    worker = stage.worker("-c1", "-E", "-n", "a-worker-with-a-long-name@a-host-with-a-long-name")
    ids = [stage.send("note", mark).id for mark in range(30)]
    terminal.wait_for(r"tasks: 30 ")

    def fits(rows: int) -> bool:
        lines = terminal.lines()
        return (
            "tasks: 30 " in lines[0]
            and sum("SUCCESS" in line for line in lines) >= 3
            and any("j:down" in line for line in lines[rows - 3 :])
        )

    for rows, columns in ((24, 80), (40, 160), (20, 60), (24, 80)):
        terminal.resize(rows, columns)
        wait_until(lambda rows=rows: fits(rows), timeout=10, what=lambda: f"it to fit:\n{terminal.text()}")
    # Down to the oldest, which is far below what fits.
    terminal.press(DOWN * 40)
    terminal.press("i")
    terminal.wait_for(f"Task details for {ids[0]}")
    # A page is as long as it is; what does not fit is a key away.
    terminal.resize(8, 80)
    terminal.wait_gone("^state: SUCCESS")
    terminal.press("j" * 20)
    terminal.wait_for("^state: SUCCESS")
    assert worker.terminate() == 0


@pytest.mark.parametrize("how", ["interrupt", "terminate"])
def test_the_terminal_is_as_before_at_every_end(
    stage: Stage, show: Callable[..., Terminal], how: str
) -> None:
    terminal = show()
    assert not is_as_before(terminal)
    if how == "interrupt":
        terminal.press("\x03")
    else:
        os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.wait() == 0
    assert is_as_before(terminal)


def test_without_a_terminal_it_says_what_to_do(stage: Stage) -> None:
    argv = [sys.executable, "-m", "umbel", "-A", APP.stem, "events"]
    with WorkerProcess(argv, cwd=APP.parent, env=environment(stage), name="events") as process:
        assert process.wait() != 0
    assert "--dump" in process.output


CAMERA = """
import json
from {library}.events.snapshot import Polaroid

class Camera(Polaroid):
    clear_after = True

    def on_shutter(self, state):
        if state.event_count:
            shot = {{
                "workers": sorted(worker.hostname for worker in state.alive_workers()),
                "tasks": {{task.uuid: [task.name, task.state] for _, task in state.tasks_by_time()}},
            }}
            with open("shots", "a") as file:
                file.write(json.dumps(shot) + "\\n")

class Broken(Camera):
    def on_shutter(self, state):
        super().on_shutter(state)
        raise KeyError("the film is full")
"""


@pytest.mark.parametrize("camera", ["Camera", "Broken"])
def test_a_camera_is_shown_what_happens(stage: Stage, camera: str) -> None:
    (stage.directory / "cameras.py").write_text(CAMERA.format(library="umbel"))
    argv = [sys.executable, "-m", "umbel", "-A", APP.stem, "--workdir", str(stage.directory)]
    argv += ["events", "-c", f"cameras.{camera}", "-F", "0.1"]
    env = environment(stage) | {"PYTHONPATH": str(APP.parent)}
    worker = stage.worker("-c1", "-E", "-n", "w@here")
    with WorkerProcess(argv, cwd=stage.directory, env=env, name="camera") as process:
        process.wait_for_line(f"Taking snapshots with cameras.{camera} ")
        wait_until(lambda: any("w@here" in shot["workers"] for shot in shots(stage)), what="the worker")
        done, failed = stage.send("note", "x"), stage.send("fail", "x")
        assert done.get(timeout=20) == "x"
        seen: dict[str, Any] = {}

        def both() -> bool:
            for shot in shots(stage):
                seen.update(shot["tasks"])
            return seen.get(done.id) == ["jobs.note", "SUCCESS"] and seen.get(failed.id) == [
                "jobs.fail",
                "FAILURE",
            ]

        wait_until(both, what=lambda: f"both tasks; seen were {seen}")
        assert process.terminate() == 0
    # What was shown is forgotten: no task that has ended is on a later shot.
    ended = [
        uuid for shot in shots(stage) for uuid, (_, state) in shot["tasks"].items() if state == "SUCCESS"
    ]
    assert ended == [done.id]
    assert ("the film is full" in process.output) == (camera == "Broken")
    assert worker.terminate() == 0


def shots(stage: Stage) -> list[dict[str, Any]]:
    path = stage.directory / "shots"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
