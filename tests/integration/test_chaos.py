"""The fault harness in its short form, on every broker; a run that has to fail, and one that is broken off.

``make chaos`` has the long form, ``docs/reliability.md`` what it has found. Each run prints its seed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from scripts.environments import ROOT
from tests.conftest import absent
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

LOAD = ("--seconds", "60", "--every", "4", "--rate", "8")
#: A clock's jump is another file's; restarts of RabbitMQ, a quarter of a minute each, are left to the long form.
FAULTS = "all,-broker-restart,-clock"
#: The short form of each broker. A primary with replicas is met by what it is there for.
FORMS = {
    "redis": ("--faults", FAULTS),
    "sentinel": ("--faults", "failover,pool-kill"),
    "rabbitmq": ("--faults", FAULTS),
    "sqlite": ("--faults", FAULTS),
}
_NEEDED = {"redis": ["redis"], "sentinel": ["redis"], "rabbitmq": ["rabbitmq", "redis"]}


def missing(broker: str) -> list[str]:
    """The servers that a run needs and that are not installed."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    return [name for name in _NEEDED.get(broker, []) if not shutil.which(f"{name}-server", path=path)]


def need(broker: str) -> None:
    for name in missing(broker):
        absent(f"{name}-server is not installed: run `apt-get install {name}-server` as root")


class Chaos:
    """A run of the harness, in the background until its document is asked for."""

    def __init__(self, *words: str, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "chaos", "--json", "--keep", str(directory), *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )

    def document(self) -> tuple[int, dict[str, Any]]:
        """Its exit status, and what it says in the end."""
        written, _ = self._process.communicate(timeout=540)
        return self._process.returncode, json.loads(written.splitlines()[-1])

    def end(self) -> None:
        """Break it off, if it still runs: it ends what it has started."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        self._process.communicate(timeout=120)


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Chaos]]:
    """The short forms that are to be tested, all at once: they wait more than they work."""
    names = [item.name for item in request.session.items if item.path == request.path]
    brokers = [broker for broker in FORMS if any(name.endswith(f"[{broker}]") for name in names)]
    seed = os.environ.get("FAULTS_SEED", str(random.randrange(1_000_000)))
    with ExitStack() as ending:
        started = {}
        for broker in brokers:
            if not missing(broker):
                words = ("--broker", broker, "--seed", seed, *LOAD, *FORMS[broker])
                started[broker] = Chaos(*words, directory=tmp_path_factory.mktemp(broker))
                ending.callback(started[broker].end)
        yield started


@pytest.mark.parametrize(
    "broker",
    [
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("sentinel", marks=pytest.mark.redis),
        pytest.param("rabbitmq", marks=[pytest.mark.rabbitmq, pytest.mark.redis]),
        "sqlite",
    ],
)
def test_nothing_is_lost_or_stuck_or_done_twice_without_a_reason(broker: str, runs: dict[str, Chaos]) -> None:
    need(broker)
    status, found = runs[broker].document()
    assert (status, found["holds"]) == (0, True), json.dumps(found, indent=1)
    assert found["confirmed"] > 20
    assert found["faults_total"] >= 4  # on a busy machine the broker is away for much of the minute
    assert found["lost"] == found["stuck"] == found["results_missing"] == found["chords_broken"] == 0
    if broker == "sentinel":
        assert found["faults"]["failover"] >= 1


@pytest.mark.redis
def test_a_broker_without_persistence_is_found_to_lose(tmp_path: Path) -> None:
    need("redis")
    words = ["--without-persistence", "--faults", "broker-kill", "--seconds", "6", "--every", "4"]
    status, found = Chaos(*words, "--rate", "50", directory=tmp_path).document()
    assert (status, found["holds"]) == (1, False)
    assert found["lost"] > 0, found


def test_broken_off_it_leaves_nothing_running(tmp_path: Path) -> None:
    words = ["--broker", "sqlite", "--faults", "pool-stop", "--seconds", "300", "--keep", str(tmp_path)]
    run = WorkerProcess([sys.executable, "-m", "chaos", *words], cwd=ROOT, name="chaos")
    with run:
        run.wait_for_line(r"confirmed [1-9]", timeout=90)
        assert len(under(tmp_path)) >= 6
        run.signal(signal.SIGINT)
        assert run.wait(timeout=60) == 130
        run.wait_for_line("interrupted: everything that was started has ended")
        wait_until(lambda: not under(tmp_path), timeout=30, what=lambda: f"the end of {under(tmp_path)}")


def under(directory: Path) -> list[int]:
    """The processes that write journals there."""
    wanted = f"JOURNAL={directory}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue  # it has ended, or it is another user's
    return found
