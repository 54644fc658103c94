"""Tens of thousands of strange messages on a real queue: the worker stays up and every one is accounted for.

``FUZZ_MESSAGES`` in the environment is how many: the long form is ``FUZZ_MESSAGES=100000 pytest -s`` of this file.
"""

from __future__ import annotations

import os
import re
import time
from itertools import islice
from pathlib import Path

import pytest

from tests.integration.faults.arena import APP, QUEUE, Arena, chosen_seed
from tests.integration.faults.strange import Strange
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes

STRANGE = int(os.environ.get("FUZZ_MESSAGES", "20000"))
GOOD = STRANGE // 50


@pytest.mark.timeout(240)
def test_every_strange_message_is_accounted_for(redis_server: RedisServer, tmp_path: Path) -> None:
    seed = chosen_seed()
    print(f"seed {seed}")
    redis_server.flush()
    app_file = APP.with_name("counting_app.py")
    with Arena(tmp_path, redis_server.url(), seed, app_file=app_file) as arena:
        worker = arena.worker()
        members = set(worker.members())
        strange = Strange([_payload(arena, number) for number in range(50)], seed)
        good = [arena.app.send_task("echo", ("good", number)) for number in range(GOOD // 2)]
        started = time.monotonic()
        with redis_server.client() as client:
            for _ in range(STRANGE // 1000):
                client.lpush(QUEUE, *islice(strange, 1000))
                good += [arena.app.send_task("echo", ("good", 1)) for _ in range(GOOD * 500 // STRANGE)]
        pushed = time.monotonic() - started
        wait_until(
            lambda: not worker.alive or (arena.depths()[0], arena.depths()[2]) == (0, 0),
            timeout=150,  # a hundred thousand take 25 s on two idle cores
            what=lambda: f"an empty queue: {arena.depths()}\n{worker.output[-3000:]}",
        )
        (tmp_path / "log").write_text(worker.output)
        assert worker.alive, f"the worker has ended; its log: {tmp_path}/log"
        took = time.monotonic() - started
        assert [result.get(timeout=10) for result in good] == ["good"] * len(good)
        assert set(worker.members()) == members, worker.output[-5000:]
        dead = arena.app.broker.dead_letters(QUEUE, STRANGE * 2)
        delayed = arena.app.broker.delayed_depth(QUEUE)
        lines = re.findall(r"^\[\d{4}-", worker.output, re.MULTILINE)
        counts = arena.records().counts
        print(
            f"pushed in {pushed:.1f} s, done in {took:.1f} s; dead letters {len(dead)}, delayed {delayed}, {counts}"
        )
        print(f"log records {len(lines)}")
        assert len(dead) + delayed + counts.total() == STRANGE + len(good)
        assert len(lines) <= STRANGE
        assert worker.terminate() == 0


def _payload(arena: Arena, number: int) -> bytes:
    task = "echo" if number % 2 else "add"
    signature = arena.app.signature(task, (number, 2), {} if number % 3 else {"y": 1})
    return arena.app.prepare(signature).payload
