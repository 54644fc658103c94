"""Beat of one library for workers of the other, and the schedule file that both keep."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.interop.conftest import OTHER
from tests.interop.world import APP, World
from tests.support.workers import WorkerProcess

pytestmark = [pytest.mark.interop, pytest.mark.redis, pytest.mark.processes]

#: Reads a schedule file with either library: how often the entries ran, and when last.
TELL = """
try:
    from celery.beat import PersistentScheduler
except ImportError:
    from umbel.scheduler import PersistentScheduler
scheduler = PersistentScheduler(app, schedule_filename=file)
answer = {name: (entry.total_run_count, entry.last_run_at.timestamp()) for name, entry in scheduler.schedule.items()}
scheduler.close()
"""


@pytest.fixture
def beats(tmp_path):
    """Starts a beat of a library in a world: ``beats(world, "celery", *options)``; it ends with the test."""
    with ExitStack() as running:

        def start(world: World, library: str, *options: str) -> WorkerProcess:
            file = tmp_path / "schedule"
            argv = [world._pythons[library], "-m", library, "-A", APP.stem, "beat", "-l", "DEBUG", "-s", file]
            environment = world.environment()
            del environment["PYTHONPATH"]
            beat = WorkerProcess([*argv, *options], cwd=APP.parent, env=environment, name=f"{library} beat")
            return running.enter_context(beat)

        yield start


def schedule(**entries) -> dict:
    return {
        name: {"task": "record", "args": [name], "options": {"queue": "q"}, **fields}
        for name, fields in entries.items()
    }


@pytest.mark.parametrize("library", ["celery", "umbel"])
def test_the_workers_of_one_library_run_what_the_beat_of_the_other_sends(
    new_world, beats, library: str
) -> None:
    lines = schedule(fast={"schedule": 0.3}, slow={"schedule": 3600})
    lines["told"] = {
        "task": "describe",
        "schedule": 0.3,
        "kwargs": {"a": 1},
        "options": {"queue": "q", "task_id": "told"},
    }
    world = new_world(beat_schedule=lines)
    worker = world.worker(OTHER[library], "-c1", "-Q", "q", ready=False)
    beat = beats(world, library)
    worker.ready()
    assert [note[0] for note in world.wait_for_notes("fast", 5)] == [OTHER[library]] * 5
    told = world.side(library).value("told")
    assert told["kwargs"] == {"a": 1}
    assert told["headers"]["celery_beat_task"] is True
    assert beat.terminate() == 0
    assert world.notes("slow") == []


@pytest.mark.parametrize("library", ["celery", "umbel"])
def test_one_beat_goes_on_where_the_other_ended(new_world, beats, tmp_path: Path, library: str) -> None:
    """The file keeps its times when a fleet changes its beat, and when it changes back."""
    world = new_world(beat_schedule=schedule(fast={"schedule": 0.2}, slow={"schedule": 3600}))
    counts = []
    for name in (library, OTHER[library], library):
        beat = beats(world, name)
        seen = beat.line_count
        for _ in range(3):
            beat.wait_for_line("Sending due task fast", since=seen)
            seen = beat.line_count
        # Celery's beat may fail, or go on, when it is told to end in the middle of sending.
        beat.wait_for_line("Waking up", since=seen)
        assert beat.terminate() == 0
        assert "Reset" not in beat.output
        assert "corrupted" not in beat.output
        told = [
            world.side(reader).execute(TELL, file=str(tmp_path / "schedule"))
            for reader in ("celery", "umbel", "celery")
        ]
        assert told[0] == told[1] == told[2]
        counts.append(told[0])
    ran = [each["fast"][0] for each in counts]
    assert 3 <= ran[0] <= ran[1] - 3 <= ran[2] - 6
    assert counts[0]["slow"] == counts[2]["slow"]


@pytest.mark.parametrize("library", ["celery", "umbel"])
def test_beat_answers_those_who_ask_whether_it_lives(new_world, beats, library: str) -> None:
    world = new_world(beat_enable_remote_control=True)
    beat = beats(world, OTHER[library], "-n", "watched")
    beat.wait_for_line("beat pidbox: Connected to")
    asked = "app.control.inspect(timeout=3, limit=1, destination=['celerybeat@watched']).ping()"
    assert world.side(library).evaluate(asked) == {"celerybeat@watched": {"ok": "pong"}}
    assert beat.terminate() == 0
