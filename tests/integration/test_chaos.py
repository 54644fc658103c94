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
from pathlib import Path
from typing import Any

import pytest

from scripts.environments import ROOT
from tests.conftest import absent
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

SECONDS = "10"
#: A clock's jump is another file's; restarts of RabbitMQ, a quarter of a minute each, are left to the long form.
FAULTS = "all,-broker-restart,-clock"


def need(*brokers: str) -> None:
    for broker in brokers:
        if not shutil.which(f"{broker}-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
            absent(f"{broker}-server is not installed: run `apt-get install {broker}-server` as root")


def chaos(*words: str, directory: Path) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "chaos", "--json", "--keep", str(directory), *words],
        cwd=ROOT,
        check=False,
        stdout=subprocess.PIPE,
        text=True,
        timeout=540,
    )
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "broker",
    [
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("rabbitmq", marks=[pytest.mark.rabbitmq, pytest.mark.redis]),
        "sqlite",
    ],
)
def test_nothing_is_lost_or_stuck_or_done_twice_without_a_reason(broker: str, tmp_path: Path) -> None:
    need(*{"redis": ["redis"], "rabbitmq": ["rabbitmq", "redis"]}.get(broker, []))
    seed = os.environ.get("FAULTS_SEED", str(random.randrange(1_000_000)))
    words = ["--broker", broker, "--seed", seed, "--seconds", SECONDS, "--every", "1.2", "--rate", "25"]
    status, found = chaos(*words, "--faults", FAULTS, directory=tmp_path)
    assert (status, found["holds"]) == (0, True), json.dumps(found, indent=1)
    assert found["confirmed"] > 20
    assert found["faults_total"] >= 4
    assert found["lost"] == found["stuck"] == found["results_missing"] == found["chords_broken"] == 0


@pytest.mark.redis
def test_a_killed_primary_takes_nothing_that_was_confirmed_along(tmp_path: Path) -> None:
    need("redis")
    seed = os.environ.get("FAULTS_SEED", str(random.randrange(1_000_000)))
    words = ["--broker", "sentinel", "--seed", seed, "--seconds", "6", "--every", "2", "--rate", "25"]
    status, found = chaos(*words, "--faults", "failover,pool-kill", directory=tmp_path)
    assert (status, found["holds"]) == (0, True), json.dumps(found, indent=1)
    assert found["faults"]["failover"] >= 1
    assert found["confirmed"] > 20
    assert found["lost"] == found["stuck"] == found["results_missing"] == found["chords_broken"] == 0


@pytest.mark.redis
def test_a_broker_without_persistence_is_found_to_lose(tmp_path: Path) -> None:
    need("redis")
    words = ["--without-persistence", "--faults", "broker-kill", "--seconds", "6", "--every", "4"]
    status, found = chaos(*words, "--rate", "50", directory=tmp_path)
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
