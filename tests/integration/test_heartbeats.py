"""The heartbeats of a large fleet cost a worker nothing: it listens to none.

``HEARTBEAT_SECONDS`` in the environment is how long it is watched, once in quiet and once beside the fleet. The long
form is ``HEARTBEAT_SECONDS=60 pytest -s -o faulthandler_timeout=0 tests/integration/test_heartbeats.py``.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from tests.integration.apps.stage import Stage, redis_stage
from tests.support.processes import cpu_seconds, pss_bytes
from tests.support.servers import RedisServer
from tests.support.workers import WorkerProcess
from umbel.core.destination import Destination
from umbel.core.events import make_event, write_events
from umbel.core.records import Publication

pytestmark = [pytest.mark.redis, pytest.mark.processes]

SECONDS = float(os.environ.get("HEARTBEAT_SECONDS", "3"))
FLEET = 2_000
#: Seconds between two heartbeats of one worker; Celery's send one every two.
EVERY = 2.0
_SLICES = 20


class Fleet(threading.Thread):
    """Heartbeats as Celery's workers send them, of ``FLEET`` workers in turn."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(daemon=True)
        broker = stage.broker
        to = Destination("celeryev", "worker.heartbeat", None, "broadcast")
        self._publisher = broker.publisher()
        self._beats = []
        for number in range(FLEET):
            fields = {"freq": EVERY, "active": 3, "processed": number, "loadavg": [1.0, 1.0, 1.0]}
            named = {"sw_ident": "py-celery", "sw_ver": "5.7.0", "sw_sys": "Linux"}
            name = f"worker{number}@host{number % 97}"
            event = make_event("worker-heartbeat", name, 1000 + number, number, {**fields, **named})
            self._beats.append(Publication(to, broker.pack(write_events(event, name, "json"), to)))
        self._over = threading.Event()
        self.sent = 0

    def run(self) -> None:
        size = FLEET // _SLICES
        while not self._over.wait(EVERY / _SLICES):
            start = self.sent % FLEET
            self._publisher.send(self._beats[start : start + size], timeout=30)
            self.sent += size

    def stop(self) -> None:
        self._over.set()
        self.join()
        self._publisher.close()


def watched(worker: WorkerProcess, seconds: float) -> tuple[float, int]:
    """The CPU seconds that a worker uses in some seconds, and the bytes of memory that it has then."""
    pids = worker.members()
    before = cpu_seconds(pids)
    time.sleep(seconds)  # what is measured is what it does meanwhile
    return cpu_seconds(pids) - before, pss_bytes(pids)


@pytest.mark.timeout(2 * SECONDS + 120)
def test_two_thousand_heartbeats_do_not_change_a_worker(tmp_path: Path, redis_server: RedisServer) -> None:
    with redis_stage(tmp_path, redis_server) as stage:
        worker = stage.worker("-c1", "-E")
        assert stage.send("note", "warm").get(timeout=30) == "warm"
        quiet_cpu, quiet_memory = watched(worker, SECONDS)
        fleet = Fleet(stage)
        fleet.start()
        cpu, memory = watched(worker, SECONDS)
        fleet.stop()
        assert fleet.sent > 0
        print(
            f"{SECONDS:g} s: quiet {quiet_cpu:.2f} CPU seconds, {quiet_memory / 2**20:.1f} MiB; beside {fleet.sent}"
            f" heartbeats {cpu:.2f} CPU seconds, {memory / 2**20:.1f} MiB"
        )
        # A worker that took notice of a heartbeat would need 50 microseconds and more for each.
        assert cpu - quiet_cpu < 0.05 + fleet.sent * 10e-6
        assert memory - quiet_memory < 2 * 2**20
        assert stage.send("note", "after").get(timeout=30) == "after"
