"""``umbel multi`` with real workers: started, listed, restarted and stopped, as an init script does it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import is_alive
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes

APP = """
from umbel import Umbel
app = Umbel("proj", broker="sqlite:///umbel.db", backend="sqlite:///umbel.db")

@app.task
def add(x, y):
    return x + y
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "proj.py").write_text(APP)
    yield tmp_path
    for file in tmp_path.glob("*.pid"):
        pid = int(file.read_text())
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


def multi(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    files = ("--pidfile=%n.pid", "--logfile=%n%I.log")
    program = [sys.executable, "-m", "umbel", "-A", "proj", "multi", *words, *files]
    return subprocess.run(program, check=False, cwd=folder, capture_output=True, text=True, timeout=60)


def pids(folder: Path) -> dict[str, int]:
    return {file.stem: int(file.read_text()) for file in folder.glob("*.pid")}


def test_several_workers_are_started_restarted_and_stopped(folder: Path) -> None:
    started = multi(folder, "start", "2", "-c", "1", "-c:2", "2", "-l", "INFO")
    assert started.returncode == 0, started.stdout + started.stderr
    wait_until(lambda: len(pids(folder)) == 2, timeout=20, what="two pid files")
    first = pids(folder)
    assert all(is_alive(pid) for pid in first.values())
    wait_until(
        lambda: all("ready." in (folder / f"celery{n}.log").read_text() for n in (1, 2)),
        timeout=20,
        what="both workers to be ready",
    )
    source = "from proj import add; print(add.delay(2, 3).get(timeout=20))"
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout == "5\n"
    restarted = multi(folder, "restart", "2", "-c", "1")
    assert restarted.returncode == 0, restarted.stdout + restarted.stderr
    wait_until(
        lambda: len(pids(folder)) == 2 and not set(pids(folder).values()) & set(first.values()),
        timeout=20,
        what="two new processes",
    )
    second = pids(folder)
    assert not any(is_alive(pid) for pid in first.values())
    stopped = multi(folder, "stopwait", "2")
    assert stopped.returncode == 0
    assert "OK" in stopped.stdout
    assert not any(is_alive(pid) for pid in second.values())


def test_what_is_not_there_is_down(folder: Path) -> None:
    told = multi(folder, "stop", "w", "-KILL")
    assert told.returncode == 0
    assert "DOWN" in told.stdout
    assert multi(folder, "names", "a", "b").stdout.split("\n")[1].startswith("b@")
    assert "-m umbel --app=proj worker --detach" in multi(folder, "show", "1").stdout
    assert multi(folder, "dance", "1").returncode == 1
