"""Commands of an application's own: its workers obey and answer them, by API and command line of either library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.interop.world import APP, World

pytestmark = [pytest.mark.interop, pytest.mark.redis, pytest.mark.processes]


@pytest.mark.parametrize(
    ("library", "workers"), [("celery", "umbel"), ("umbel", "umbel"), ("umbel", "celery")]
)
def test_commands_of_ones_own(new_world: Callable[..., World], library: str, workers: str) -> None:
    world = new_world(imports=["commands"])
    worker = world.worker(workers, "-c1", "-Q", "q", "-n", "w@here")
    side = world.side(library)
    asked = "app.control.broadcast({}, {}, reply=True, timeout=20, destination=['w@here'])"

    def ask(name: str, **arguments: object) -> object:
        [answer] = side.evaluate(asked.format(repr(name), arguments))
        return answer["w@here"]

    assert ask("raise_level", n=2) == {"ok": "the level is 2"}
    assert ask("raise_level") == {"ok": "the level is 3"}
    assert ask("how_high") == {"level": 3, "node": "w@here"}
    assert "the ladder is gone" in str(ask("fall"))
    assert ask("current_level") == {"level": 3, "node": "w@here"}

    assert worker.terminate() == 0


@pytest.mark.parametrize("workers", ["celery", "umbel"])
def test_commands_of_ones_own_on_the_command_line(new_world: Callable[..., World], workers: str) -> None:
    """Umbel's: Celery's own knows those of the application's module only."""
    world = new_world(imports=["commands"])
    worker = world.worker(workers, "-c1", "-Q", "q", "-n", "w@here")

    def told(*words: str) -> str:
        program = [sys.executable, "-m", "umbel", "-A", "shared", *words]
        environment = {**os.environ, **world.environment()}
        return subprocess.run(
            program, check=True, capture_output=True, text=True, cwd=APP.parent, env=environment, timeout=60
        ).stdout

    here = ("-d", "w@here", "-t", "20")
    assert "the level is 4" in told("control", "raise_level", "4", *here)
    level = json.loads(told("inspect", "current_level", "--json", *here))
    assert level == {"w@here": {"level": 4, "node": "w@here"}}
    words = json.loads(told("inspect", "spell", "one", "two", "--json", *here))
    assert words == {"w@here": {"one": "eno", "two": "owt"}}
    assert worker.terminate() == 0


def test_commands_of_ones_own_are_listed(new_world: Callable[..., World]) -> None:
    environment = {**os.environ, **new_world(imports=["commands"]).environment()}
    for kind, line in (("control", "raise_level [N=1]"), ("inspect", "spell [word1 [word2 …]]")):
        program = [sys.executable, "-m", "umbel", "-A", "shared", kind, "--list"]
        listed = subprocess.run(
            program, check=True, capture_output=True, text=True, cwd=APP.parent, env=environment, timeout=60
        )
        assert line in listed.stdout
