"""``umbel beat`` and ``umbel worker -B`` from start to end, in the foreground and in the background."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.support.processes import is_alive, wait_gone
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess

pytestmark = pytest.mark.processes

PROJECT = """
import os
from umbel import Umbel
from umbel.scheduler import Scheduler, crontab
from umbel.signals import beat_embedded_init, beat_init

app = Umbel("proj", broker=os.environ.get("BROKER") or None)
app.conf.beat_schedule = {
    "often": {"task": "proj.note", "schedule": 0.2, "args": ["often"]},
    "rarely": {"task": "proj.note", "schedule": 3600, "args": ["rarely"]},
}

@app.task
def note(word):
    with open("notes", "a") as file:
        print(word, file=file)

@app.on_after_configure.connect
def more(sender, **kwargs):
    sender.add_periodic_task(crontab(), note.s("minute"), name="minute")

@beat_init.connect
def begun(sender, **kwargs):
    print(f"beat_init {type(sender).__name__}")

@beat_embedded_init.connect
def embedded(sender, **kwargs):
    print(f"beat_embedded_init {os.getppid()}")

class Own(Scheduler):
    def setup_schedule(self):
        super().setup_schedule()
        self.add(name="own", task="proj.note", schedule=0.2, args=["own"])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "proj.py").write_text(PROJECT)
    return tmp_path


@pytest.fixture
def umbel(folder: Path):
    """Starts the program in the folder: ``umbel("beat", …)``; it ends with the test."""
    with contextlib.ExitStack() as running:

        def start(*words: str, **env: str) -> WorkerProcess:
            hidden = dict.fromkeys(("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "APP"), "")
            argv = [sys.executable, "-m", "umbel", "-A", "proj", *words]
            process = WorkerProcess(argv, cwd=folder, env=hidden | {"C_FORCE_ROOT": "1"} | env, name=words[0])
            return running.enter_context(process)

        yield start


def notes(folder: Path) -> list[str]:
    path = folder / "notes"
    return path.read_text().split() if path.exists() else []


def sent(beat: WorkerProcess, entry: str, times: int = 3) -> None:
    """Wait until beat has sent an entry's task some times more."""
    for _ in range(times):
        beat.wait_for_line(f"Sending due task {entry} ", since=beat.line_count)


def test_a_worker_runs_what_beat_sends(umbel, folder: Path) -> None:
    beat = umbel("beat", "-l", "DEBUG")
    beat.wait_for_line(r"umbel beat v\S+ is starting\.")
    beat.wait_for_line(r"^    \. scheduler -> umbel\.scheduler\.persistent\.PersistentScheduler$")
    beat.wait_for_line(r"^    \. db -> celerybeat-schedule$")
    beat.wait_for_line("beat_init Service")
    beat.wait_for_line(r"Scheduler: Sending due task often \(proj\.note\)")
    beat.wait_for_line(r"proj\.note sent\. id->[0-9a-f-]{36}")
    umbel("worker", "-l", "INFO", "-c", "1").ready()
    wait_until(lambda: notes(folder).count("often") >= 5, what="five notes")
    assert beat.terminate() == 0
    assert "beat: Shutting down..." in beat.output
    assert "rarely" not in notes(folder)


def test_times_survive_a_restart_and_a_kill(umbel, folder: Path) -> None:
    """With a write after every task nothing is forgotten, however beat ends."""
    options = ("beat", "-l", "DEBUG", "-s", "times", "beat.sync_every=1")
    for end in ("terminate", "kill9", "terminate"):
        beat = umbel(*options)
        sent(beat, "often", 2)
        beat.terminate() if end == "terminate" else beat.kill9()
        assert "corrupted" not in beat.output
    counts = re.compile(r"<ScheduleEntry: often .*>")
    assert counts.search(beat.output)
    assert "Sending due task rarely" not in beat.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_its_times_written(umbel, folder: Path, number: int) -> None:
    beat = umbel("beat", "-l", "INFO")
    sent(beat, "often", 1)
    beat.signal(number)
    assert beat.wait() == 0
    assert any(path.name.startswith("celerybeat-schedule") for path in folder.iterdir())


def test_a_scheduler_of_ones_own(umbel, folder: Path) -> None:
    beat = umbel("beat", "-l", "INFO", "-S", "proj:Own", "--max-interval", "7")
    beat.wait_for_line(r"\. scheduler -> proj\.Own$")
    beat.wait_for_line(r"\. maxinterval -> 7\.00 seconds \(7s\)")
    sent(beat, "own", 2)
    assert beat.terminate() == 0
    refused = umbel("beat", "-S", "proj:Nothing")
    assert refused.wait() == 1
    assert "'proj:Nothing' cannot be imported" in refused.output


def test_a_worker_may_have_its_beat_inside(umbel, folder: Path) -> None:
    worker = umbel("worker", "-B", "-l", "INFO", "-c", "1", "-s", "inside").ready()
    parent = worker.wait_for_line(r"beat_embedded_init (\d+)")[1]
    assert int(parent) == worker.pid
    wait_until(lambda: notes(folder).count("often") >= 3, what="three notes")
    assert worker.terminate() == 0
    assert "beat: Shutting down..." in worker.output
    assert any(path.name.startswith("inside") for path in folder.iterdir())


def test_the_beat_of_a_worker_that_is_killed_ends(umbel) -> None:
    worker = umbel("worker", "-B", "-l", "INFO", "-c", "1").ready()
    worker.wait_for_line("beat_embedded_init")
    children = worker.children()
    worker.kill9(whole_tree=False)
    wait_gone(children, timeout=15)


def test_a_worker_goes_on_without_a_beat_that_cannot_run(umbel, folder: Path) -> None:
    worker = umbel("worker", "-B", "-l", "INFO", "-c", "1", "--scheduler", "proj:Nothing").ready()
    worker.wait_for_line("beat raised exception .*'proj:Nothing' cannot be imported")
    assert worker.terminate() == 0


def test_only_one_holds_the_pid_file(umbel, folder: Path) -> None:
    first = umbel("beat", "--pidfile", "beat.pid")
    first.wait_for_line("beat_init")
    assert (folder / "beat.pid").read_text() == f"{first.pid}\n"
    second = umbel("beat", "--pidfile", "beat.pid", "-s", "another")
    assert second.wait() == 73
    assert "already exists" in second.output
    assert first.terminate() == 0
    assert not (folder / "beat.pid").exists()


def test_in_the_background(umbel, folder: Path) -> None:
    starter = umbel("beat", "--detach", "-l", "INFO", "--pidfile", "beat.pid", "--logfile", "beat.log")
    assert starter.wait() == 0
    wait_until((folder / "beat.pid").exists, what="the pid file")
    pid = int((folder / "beat.pid").read_text())
    try:
        wait_until(lambda: "Sending due task often" in (folder / "beat.log").read_text(), what="a log line")
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not is_alive(pid), what="the end of beat")
    assert not (folder / "beat.pid").exists()


@pytest.mark.redis
def test_it_goes_on_when_the_broker_is_back(umbel, folder: Path) -> None:
    with RedisServer(aof="always") as server:
        beat = umbel("beat", "-l", "INFO", BROKER=server.url())
        sent(beat, "often", 2)
        server.kill9()
        beat.wait_for_line(r"beat: Connection error: .* Trying again in \S+ seconds\.\.\.", timeout=30)
        seen = beat.line_count
        server.restart()
        beat.wait_for_line("Sending due task often", since=seen)
        before = int(server.client().llen("celery"))
        wait_until(lambda: int(server.client().llen("celery")) > before, what="another task on the queue")
        assert beat.terminate() == 0


def told(umbel, *words: str, status: int = 0) -> str:
    process = umbel("schedule", *words)
    assert process.wait() == status, process.output
    return process.output.strip()


def test_entries_are_shown_and_changed(umbel) -> None:
    told(umbel, "add", "new", "proj.note", "*/5 * * * *", "-a", '["new"]', "--missed", "all")
    told(umbel, "pause", "often")
    shown = {entry["name"]: entry for entry in json.loads(told(umbel, "list", "--json"))}
    assert set(shown) == {"often", "rarely", "minute", "new"}
    assert (shown["often"]["paused"], shown["often"]["stored"]) == (True, False)
    new = shown["new"]
    assert (new["schedule"], new["args"], new["missed"]) == ("*/5 * * * *", ["new"], "all")
    assert re.fullmatch("[0-9a-f-]{36}", told(umbel, "run", "new"))
    told(umbel, "remove", "new")
    assert "often: proj.note, 0.2, last never, 0 times (paused)" in told(umbel, "list").splitlines()
    assert told(umbel, "pause", "new", status=1) == "Error: there is no entry 'new'"
    assert "'sometimes' is no schedule" in told(umbel, "add", "x", "t", "sometimes", status=1)


def test_mistakes_are_told(umbel) -> None:
    wrong = umbel("beat", "-l", "LOUD")
    assert wrong.wait() == 2
    assert "LOUD" in wrong.output
    unknown = umbel("beat", "beat.sync_evry=3")
    assert unknown.wait() == 2
    assert "beat_sync_every" in unknown.output
