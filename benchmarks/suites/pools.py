"""What the pools are for: async tasks, greenlets and threads against the peers that have them, and memory shared."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from benchmarks.catalogue import CannotMeasureError
from benchmarks.report import Figure
from benchmarks.rig import MeasurementError
from benchmarks.suites.throughput import tasks_of_a_run, work_off
from scripts.environments import ROOT
from umbel.pools.memory import private, resident

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.options import Options
    from benchmarks.rig import Rig

_WAITS, _SLOTS, _SECONDS = 10_000, 1_000, 0.1
_REQUESTS, _ANSWER_SECONDS = 1_000, 5.0
_GREEN_TASKS = 10_000
_BALLAST = "180000"  #: entries; about 50 MB
_SETTLE = 3.0
_MORE = 4

#: The pools whose no-op tasks are counted, by system; those of other systems are their only one, of async tasks.
_POOLS: Final = {"umbel": ("asyncio", "gevent", "threads"), "celery": ("gevent", "threads")}
_ASYNC_PEERS: Final = frozenset({"ardiq", "arq", "saq", "streaq", "taskiq"})


class Pools:
    """No-op tasks in the pools that peers have too, waits on one event loop, HTTP requests by greenlets, and memory.

    "asyncio", "gevent" and "threads" are as in the suite "throughput", of two processes of a loop, of one process of
    10 greenlets and one of two threads. "waits" is the part of the ideal: with n tasks of 0.1 s, 1,000 at a time in one
    process, the last begins (n / 1,000 - 1) tenths of a second after the first. "HTTP waits" likewise: 1,000 requests
    at once that are answered after five seconds. "process memory" is the unique memory (USS) that each prefork process
    beyond the first adds to an idle worker of an application of 50 MB.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._tasks: dict[tuple[str, str], int] = {}
        self._waiting_tasks = max(2 * _SLOTS, options.tasks or _WAITS) // _SLOTS * _SLOTS

    def calibrate(self, rig: Rig) -> None:
        """Find out how many tasks a run takes in each pool; refuse the systems that have none of them."""
        if rig.system.name not in _ASYNC_PEERS and rig.system.name not in _POOLS:
            raise CannotMeasureError("it has no pool of event loops, greenlets or threads")
        for pool in _pools(rig):
            options = replace(self._options, tasks=_GREEN_TASKS) if pool == "gevent" else self._options
            with rig.with_pool(pool):
                self._tasks[rig.system.name, pool] = tasks_of_a_run(rig, options)

    def measure(self, rig: Rig) -> list[Figure]:
        """A worker for each figure; two for the memory."""
        figures = []
        for pool in _pools(rig):
            figures += self._no_ops(rig, pool)
        if rig.system.name == "umbel":
            figures += self._waits(rig)
            figures += self._requests(rig)
            one, several = self._memory(rig, 1), self._memory(rig, 1 + _MORE)
            figures.append(Figure("process memory", "MB", (several - one) / _MORE / 1e6))
        return figures

    def _no_ops(self, rig: Rig, pool: str) -> list[Figure]:
        name = pool if rig.system.celery_like else ""
        with rig.with_pool(pool):
            figures = work_off(rig, self._tasks[rig.system.name, pool], "WARNING")
        return [replace(figure, metric=f"{pool}, {figure.metric}", pool=name) for figure in figures]

    def _waits(self, rig: Rig) -> list[Figure]:
        tasks = self._waiting_tasks
        with rig.with_pool("asyncio"):
            stamps = rig.prepare(tasks)
            rig.drive("waits", tasks=tasks)
            with rig.worker("WARNING", "--concurrency", "1", "--slots", str(_SLOTS)) as worker:
                worker.wait_count(1)
                cpu = worker.cpu_seconds()
                worker.wait_count(tasks)
                cpu = worker.cpu_seconds() - cpu
                rig.verify(stamps, tasks, stored=False)
        ideal = (tasks / _SLOTS - 1) * _SECONDS
        return [
            Figure("waits", "% of the ideal", ideal / (stamps.last() - stamps.first()) * 100, "asyncio"),
            Figure("CPU of a wait", "us/task", cpu / tasks * 1e6, "asyncio"),
        ]

    @staticmethod
    def _requests(rig: Rig) -> list[Figure]:
        """From the begin of the first request's task to the end of the last one's, both of which are stamped."""
        with rig.with_pool("gevent"), _slow_server(_ANSWER_SECONDS):
            stamps = rig.prepare(2 * _REQUESTS)
            rig.drive("fetches", tasks=_REQUESTS)
            with rig.worker("WARNING", "--concurrency", str(_REQUESTS)) as worker:
                worker.wait_count(2 * _REQUESTS)
                rig.verify(stamps, 2 * _REQUESTS, stored=False)
        part = _ANSWER_SECONDS / (stamps.last() - stamps.first())
        return [Figure("HTTP waits", "% of the ideal", part * 100, "gevent")]

    @staticmethod
    def _memory(rig: Rig, processes: int) -> float:
        """Bytes that the processes of an idle worker have for themselves."""
        with rig.with_pool("prefork"), _environment("BENCH_BALLAST", _BALLAST):
            stamps = rig.prepare(20)
            rig.drive("preload", first=0, tasks=20)
            with rig.worker("WARNING", "--concurrency", str(processes)) as worker:
                worker.wait_count(20)
                time.sleep(_SETTLE)
                rig.verify(stamps, 20)
                assert all(resident(pid) for pid in worker.pids())
                return 1024.0 * sum(private(pid) for pid in worker.pids())


def _pools(rig: Rig) -> tuple[str, ...]:
    return _POOLS.get(rig.system.name, ("asyncio",))


@contextlib.contextmanager
def _slow_server(seconds: float) -> Iterator[None]:
    """A server that answers after so long; its port is in the environment of what is started meanwhile."""
    command = [sys.executable, "-m", "benchmarks.slow_server", str(seconds)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            if not port:
                raise MeasurementError("the slow server did not start")
            with _environment("BENCH_HTTP_PORT", port):
                yield
        finally:
            server.terminate()


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
