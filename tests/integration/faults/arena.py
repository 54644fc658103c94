"""Workers, a producer and a broker that things are done to, with a record of what was done when."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Self

import msgspec

from chaos import journal
from chaos.excuses import Fault
from chaos.journal import Records
from scripts.environments import ROOT
from tests.integration.faults.verdict import Judge, Verdict
from tests.support.processes import is_alive, tree, wait_gone
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess, umbel_worker
from umbel import Umbel

APP = Path(__file__).with_name("app.py")
QUEUE = "celery"


def chosen_seed() -> int:
    """A new seed, or that of ``FAULTS_SEED`` to repeat a run."""
    return int(os.environ.get("FAULTS_SEED", random.randrange(1_000_000)))


class Arena:
    """One broker, its workers and its producer; everything ends with it.

    Args:
        directory: for journals.
        broker: URL of the broker.
        backend: URL of where results are kept; empty: where messages are.
        seed: of everything random here.
        settings: of the application.
    """

    def __init__(
        self,
        directory: Path,
        broker: str,
        seed: int,
        *,
        app_file: Path = APP,
        backend: str = "",
        **settings: Any,
    ) -> None:
        self._app_file = app_file
        self.directory = directory
        self.url = broker
        self.dice = random.Random(seed)
        self.seed = seed
        self.faults: list[Fault] = []
        self.workers: list[WorkerProcess] = []
        self.app = Umbel("judge", broker=broker, backend=backend or broker, set_as_current=False)
        self._environment = {
            "BROKER": broker,
            "BACKEND": backend or broker,
            "JOURNAL": str(directory),
            # Messages are lost with their workers here all the time, and that is not the messages' fault.
            "SETTINGS": json.dumps({"task_publish_retry": False, "task_quarantine_after": 0, **settings}),
        }
        self._journals = journal.Reader(directory)
        self._numbers = count(1)
        self._running = ExitStack()
        self._producer: WorkerProcess | None = None

    def worker(self, *options: str) -> WorkerProcess:
        """Start a worker of two processes; it takes tasks when this returns."""
        name = f"w{next(self._numbers)}"
        options = ("-c2", "-n", f"{name}@arena", "--loglevel=WARNING", *options)
        worker = umbel_worker(self._app_file, *options, env=self._environment)
        worker.name = f"{name}@arena"
        self._running.enter_context(worker)
        wait_until(
            lambda: worker.name in self.records().hosts or not worker.alive,
            timeout=30,
            what=lambda: f"a worker that is ready:\n{worker.output}",
        )
        assert worker.alive, worker.output
        self.workers.append(worker)
        return worker

    def produce(self, rate: float) -> None:
        """Start a load of so many tasks a second."""
        argv = [sys.executable, "-m", f"{__package__}.producer", str(rate), str(self.seed)]
        environment = self._environment | {"PYTHONPATH": str(ROOT)}
        self._producer = WorkerProcess(argv, cwd=self.directory, env=environment, name="producer")
        self._running.enter_context(self._producer)
        wait_until(
            lambda: self.records().confirmed or not self._producer_runs(),
            timeout=20,
            what=lambda: f"a confirmed task: {self._producer and self._producer.output}",
        )
        assert self._producer_runs(), self._producer.output

    def _producer_runs(self) -> bool:
        return self._producer is not None and self._producer.alive

    def records(self) -> Records:
        """What the journals say so far."""
        return self._journals.records()

    def pause(self, least: float, most: float) -> None:
        """Let the load go on for a random while: the moment of the next fault."""
        time.sleep(self.dice.uniform(least, most))

    @contextmanager
    def fault(self, name: str, worker: WorkerProcess | None = None, **more: Any) -> Iterator[None]:
        """Record what is done inside."""
        host = worker.name if worker else ""
        since = journal.now()
        yield
        self.faults.append(Fault(name, since, journal.now(), host=host, **more))

    def kill_pool_process(self) -> None:
        """kill -9 of one pool process of one worker."""
        worker = self.dice.choice(self.workers)
        children = worker.children()
        if children:
            victim = self.dice.choice(children)
            members = tree(victim)  # the one that they are forked from takes them along
            with self.fault("pool process", worker, pids=frozenset(members)):
                os.kill(victim, signal.SIGKILL)
                wait_gone(members)

    def kill_supervisor(self) -> None:
        """kill -9 of one worker's supervisor alone; its pool processes must end by themselves."""
        worker = self.dice.choice(self.workers)
        self.workers.remove(worker)
        members = worker.members()
        with self.fault("supervisor", worker, pids=frozenset(members)):
            os.kill(worker.pid, signal.SIGKILL)
            wait_gone(members, timeout=5)
        worker.close()

    def kill_tree(self) -> None:
        """kill -9 of one worker, all its processes at one instant."""
        self.kill_worker(self.dice.choice(self.workers))

    def kill_worker(self, worker: WorkerProcess) -> None:
        """kill -9 of this worker, all its processes at one instant."""
        self.workers.remove(worker)
        with self.fault("worker", worker, pids=frozenset(worker.members())):
            worker.kill9()

    def freeze_supervisor(self, seconds: float) -> None:
        """Stop one worker's supervisor for so long (SIGSTOP): it is out of touch, and its pool processes go on."""
        worker = self.dice.choice(self.workers)
        with self.fault("frozen supervisor", worker, ends_pool=False):
            os.kill(worker.pid, signal.SIGSTOP)
            time.sleep(seconds)  # how long it is out of touch is what is tested
            os.kill(worker.pid, signal.SIGCONT)

    @contextmanager
    def cut_off(self, name: str, **more: Any) -> Iterator[None]:
        """Record something that keeps every worker from the broker, while their processes go on."""
        since = journal.now()
        yield
        self.faults += [
            Fault(name, since, journal.now(), host=worker.name, ends_pool=False, **more)
            for worker in self.workers
        ]

    def depths(self) -> tuple[int, int, int]:
        """Messages that wait, are delayed, are held."""
        broker = self.app.broker
        return broker.depth(QUEUE), broker.delayed_depth(QUEUE), broker.held_depth()

    def stop_producer(self) -> None:
        """End the load; what was confirmed is in the journal then."""
        assert self._producer is not None
        assert self._producer.terminate() == 0, self._producer.output

    def drain(self, *, timeout: float = 40.0) -> None:
        """Wait until nothing is left to be done, seen twice."""
        for _ in range(2):
            wait_until(self._is_drained, timeout=timeout, what=lambda: f"an empty broker: {self._story()}")
            time.sleep(
                0.2
            )  # between the end of an acknowledged job and its settlement it is nowhere to be seen

    def _is_drained(self) -> bool:
        return self.depths() == (0, 0, 0) and not any(is_alive(r.pid) for r in self.records().open_runs())

    def _story(self) -> str:
        outputs = "\n".join(f"--- {worker.name}\n{worker.output[-3000:]}" for worker in self.workers)
        return f"waiting, delayed, held: {self.depths()}\n{outputs}"

    def finish(self) -> Verdict:
        """End the load, let everything be done, end the workers as usual, and judge."""
        self.stop_producer()
        self.drain()
        for worker in self.workers:
            assert worker.terminate() == 0, worker.output
        assert self.depths() == (0, 0, 0)
        assert not (letters := self.app.broker.dead_letters(QUEUE, 10)), letters
        records = self.records()
        return Judge(records, self.faults, self._documents(records.confirmed)).judge()

    def wait_for_fresh_runs(self, *, timeout: float) -> float:
        """Wait until something runs that is sent from now on; how many seconds that took."""
        began = journal.now()
        known = set(self.records().confirmed)

        def is_fresh() -> bool:
            records = self.records()
            return any(mark in records.runs for mark in records.confirmed.keys() - known)

        wait_until(is_fresh, timeout=timeout, what=lambda: f"tasks that run again: {self._story()}")
        return journal.now() - began

    def _documents(self, ids: Mapping[int, str]) -> dict[int, Any]:
        marks, documents = list(ids), []
        for start in range(0, len(marks), 500):
            documents += self.app.backend.load([ids[mark] for mark in marks[start : start + 500]])
        return {
            mark: msgspec.json.decode(document)
            for mark, document in zip(marks, documents, strict=True)
            if document is not None
        }

    def rounds(self, number: int, fault: Callable[[], None], least: float, most: float) -> None:
        """Do something so many times, after random whiles under load."""
        for _ in range(number):
            self.pause(least, most)
            fault()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()
        self.app.close()
