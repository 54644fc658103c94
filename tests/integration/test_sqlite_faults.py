"""sqlite:/// under kill -9 at random moments, and under contention.

``FAULTS_ROUNDS`` in the environment is how often everyone is killed.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest

from tests.integration import sqlite_traffic
from umbel.brokers.base import FetchPlan
from umbel.brokers.options import BrokerOptions
from umbel.brokers.sqlite import SqliteBroker
from umbel.core.protocol import peek
from umbel.results.options import ResultOptions
from umbel.results.sqlite import SqliteResultBackend
from umbel.testing.contracts.support import eventually, message

pytestmark = pytest.mark.processes

_ROUNDS = int(os.environ.get("FAULTS_ROUNDS", "10"))


class Program:
    """One running program; ``lines`` grows with what it prints."""

    def __init__(self, role: str, url: str, name: str) -> None:
        command = [sys.executable, sqlite_traffic.__file__, role, url, name]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self.first_line = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("\n"):  # a line cut by the kill confirms nothing
                self.lines.append(line.strip())
                self.first_line.set()

    def kill(self) -> None:
        """Kill it, and fail the test if it had died of something else."""
        assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
        self.end()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.returncode is None:
            self.end()


async def test_nothing_is_lost_or_done_twice_when_everyone_is_killed(tmp_path: Path) -> None:
    url, dice = f"sqlite:///{tmp_path}/umbel.db", random.Random(5)
    confirmed: list[str] = []
    with ExitStack() as running:
        running.enter_context(Program("work", url, "survivor")).first_line.wait(30)
        for number in range(_ROUNDS):
            producer = running.enter_context(Program("produce", url, f"p{number}"))
            worker = running.enter_context(Program("work", url, f"w{number}"))
            assert producer.first_line.wait(30)
            assert worker.first_line.wait(30)
            await asyncio.sleep(dice.uniform(0.0, 0.15))  # the moment of the kill is what is random
            for victim in dice.sample([producer, worker], 2):
                victim.kill()
            confirmed += producer.lines
        broker = SqliteBroker.from_url(url, BrokerOptions())
        await eventually(lambda: broker.depth("q") + broker.held_depth() == 0, 60)
    done = await _everything_in(broker, "done")
    broker.close()
    assert set(done) >= set(confirmed)
    assert set(done.values()) == {1}  # a settlement happens once, however often its message was delivered
    assert len(set(done) - set(confirmed)) <= _ROUNDS  # sent, but killed before saying so
    backend = SqliteResultBackend.from_url(url, ResultOptions())
    assert None not in backend.load(list(done))
    backend.close()


async def _everything_in(broker: SqliteBroker, queue: str) -> Counter[str]:
    found: Counter[str] = Counter()
    consumer = broker.consumer("counter", 60)
    await consumer.open()
    while batch := await consumer.fetch(FetchPlan((queue,)), 1000, 0):
        found.update(peek(delivery.payload).id for delivery in batch)
    await consumer.close()
    return found


def test_nobody_sees_a_locked_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/umbel.db"
    with ExitStack() as running:
        producers = [running.enter_context(Program("produce", url, f"p{number}")) for number in range(3)]
        workers = [running.enter_context(Program("work", url, f"w{number}")) for number in range(2)]
        for program in (*producers, *workers):
            assert program.first_line.wait(30)
        broker = SqliteBroker.from_url(url, BrokerOptions())
        publisher, slowest = broker.publisher(), 0.0
        for number in range(200):
            started = time.monotonic()
            publisher.send([message(broker, f"own-{number}")], timeout=10)
            slowest = max(slowest, time.monotonic() - started)
        broker.close()
        for program in (*producers, *workers):
            program.kill()  # fails if it had died by itself
    assert slowest < 5
