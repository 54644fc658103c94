"""Fault rounds: in every pool, bad tasks among good ones. The good ones complete; the bad ones end as policy says.

``FAULTS_ROUNDS=100 pytest -o faulthandler_timeout=0 tests/integration/test_pool_faults.py`` for the long form.
"""

from __future__ import annotations

import os
import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.integration.apps import stage as stages
from tests.integration.apps.stage import Stage, redis_stage
from tests.support.processes import tree
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess, umbel_worker
from umbel.errors import TimeoutError as ResultTimeoutError
from umbel.results.handles import AsyncResult

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(120 + 60 * int(os.environ.get("FAULTS_ROUNDS", "1"))),
]

ROUNDS = int(os.environ.get("FAULTS_ROUNDS", "1"))
#: Seconds for one result; the long form goes on while the machine has much else to do.
PATIENCE = 60.0 if ROUNDS == 1 else 300.0
GOOD = 40
APP = Path(stages.__file__).with_name("faulty.py")

LOST, LATE = {"WorkerLostError"}, {"TimeLimitExceeded"}
#: How each bad task may end: with the value, or an exception of that name.
FAULTS: dict[str, set[Any]] = {
    "segfault": LOST,
    "leave": LOST,
    "spin": LATE,
    "hold_the_gil": LATE,
    "bomb": {"MemoryError"},
    "raise_what_nobody_catches": {"OddError"},
    "close_descriptors": LOST,
    "change_directory": {"/"},
    "spawn_children": {3},
    "print_megabytes": {"printed"},
    "fork": {"forked"},
    # Only a main thread may set handlers; elsewhere asking for it is the task's failure.
    "ignore_sigterm": LATE | {"ValueError"},
}
#: eventlet's slots are gevent's in all but name, and are gone through in the long form.
POOLS = ["prefork", "threads", "asyncio", "gevent", *(["eventlet"] if ROUNDS > 1 else [])]
#: What may happen to a bad task in a process that has many slots: another bad one ends it with itself.
BESIDE = LOST


def outcome(result: AsyncResult) -> Any:
    value = result.get(timeout=PATIENCE, propagate=False)
    return type(value).__name__ if isinstance(value, BaseException) else value


@pytest.mark.parametrize("pool", POOLS)
def test_bad_tasks_among_good_ones(pool: str, tmp_path: Path, redis_server: RedisServer) -> None:
    if pool in {"gevent", "eventlet"} and find_spec(pool) is None:
        pytest.skip(f"{pool} is not installed")
    with redis_stage(tmp_path, redis_server, database=6) as stage:
        env = {"BROKER": stage.broker_url, "BACKEND": stage.backend_url}
        size = ["-c1", "--slots=4"] if pool == "asyncio" else ["-c4"]
        with umbel_worker(APP, "--pool", pool, *size, env=env) as worker:
            worker.ready()
            for number in range(ROUNDS):
                play_round(stage, worker, pool, number)
            stage.wait_empty(timeout=60)
            # The supervisor has kept its lease throughout, and has nothing to regret.
            assert "Out of touch" not in worker.output
            assert "Unrecoverable" not in worker.output
            wait_until(lambda: len(tree(worker.pid)) <= 6, timeout=30, what="the end of what was left behind")
            assert worker.terminate(timeout=60) == 0


def play_round(stage: Stage, worker: WorkerProcess, pool: str, number: int) -> None:
    names = [*FAULTS, *["good"] * GOOD]
    random.Random(number).shuffle(names)
    sent = [
        (name, mark, stage.app.send_task(f"faulty.{name}", [mark] if name == "good" else []))
        for mark, name in enumerate(names)
    ]
    for name, mark, result in sent:
        try:
            ended = outcome(result)
        except ResultTimeoutError:
            pytest.fail(
                f"{name} of round {number} never ended; the worker's output:\n{worker.output[-5000:]}"
            )
        if name == "good":
            assert ended == mark, f"{name} {mark} of round {number} ended with {ended!r}"
            continue
        expected = FAULTS[name] if pool == "prefork" else FAULTS[name] | BESIDE
        assert ended in expected, f"{name} of round {number} ended with {ended!r}, not {expected}"
