"""How fast a backlog of tasks is worked off, and what it costs."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.report import Figure
from benchmarks.rig import MeasurementError, Rig
from scripts.environments import say

if TYPE_CHECKING:
    from benchmarks.options import Options
    from benchmarks.rig import RunningWorker

_FIRST_GUESS = 100  #: tasks of the run that finds out how fast a system is
_LONG_ENOUGH = 0.4  #: seconds that such a run must take to be believed
_MOST = 400_000
_PATIENCE = 60.0  #: seconds from the last task's run to its result


class Throughput:
    """A backlog is sent, then a worker is started: tasks per second from the first task to the last.

    "with results" counts until every result is in the store. CPU is taken from the first task on, so that starting
    is left out. The tasks are as many as take ``seconds`` at the system's own speed.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._tasks: dict[str, int] = {}

    def calibrate(self, rig: Rig) -> None:
        """Find out how many tasks a run takes; the run itself warms the caches of files."""
        self._tasks[rig.system.name] = tasks_of_a_run(rig, self._options)

    def measure(self, rig: Rig) -> list[Figure]:
        """One run at WARNING, one at INFO for systems with Celery's log, and one without results if that is asked."""
        tasks = self._tasks[rig.system.name]
        figures = []
        for loglevel in self._options.loglevels if rig.system.celery_like else ["WARNING"]:
            figures += work_off(rig, tasks, loglevel)
        if self._options.without_results and rig.system.drops_results:
            with rig.without_results():
                bare = work_off(rig, tasks, "WARNING")
            figures += [replace(figure, metric=f"{figure.metric} without results") for figure in bare]
        return figures


def tasks_of_a_run(rig: Rig, options: Options) -> int:
    """As many as ``--tasks`` says, or as take ``--seconds``."""
    tasks = options.tasks or _FIRST_GUESS
    while not options.tasks:
        speed = work_off(rig, tasks, "WARNING")[0].value
        if tasks / speed > _LONG_ENOUGH or tasks * 8 > _MOST:
            tasks = min(_MOST, max(200, int(speed * options.seconds)))
            break
        tasks *= 8
    say(f"{rig.system.name}, {rig.pool}: {tasks} tasks a run")
    return tasks


def work_off(rig: Rig, tasks: int, loglevel: str) -> list[Figure]:
    """Send so many, start a worker, and measure it until all are done."""
    stamps = rig.prepare(tasks)
    rig.drive("preload", first=0, tasks=tasks)
    with rig.worker(loglevel) as worker:
        begun = worker.wait_count(1)
        cpu, server_cpu = worker.cpu_seconds(), rig.store.cpu_seconds()
        worker.wait_count(tasks)
        complete = _wait_results(rig, tasks) if rig.system.results_are_keys and rig.stores_results else None
        cpu, server_cpu = worker.cpu_seconds() - cpu, rig.store.cpu_seconds() - server_cpu
        rig.verify(stamps, tasks)
    log = _task_lines(worker)
    if loglevel == "INFO" and log != 2 * tasks:
        raise MeasurementError(
            f"{rig.system.name}: {log} lines in the log at INFO, not two for each of {tasks} tasks"
        )
    suffix = "" if loglevel == "WARNING" else f" at {loglevel}"
    rest = max(1, tasks - begun)
    figures = [
        Figure(f"throughput{suffix}", "tasks/s", (tasks - 1) / (stamps.last() - stamps.first())),
        Figure(f"worker CPU{suffix}", "us/task", cpu / rest * 1e6),
    ]
    if complete is not None:
        figures.append(
            Figure(f"throughput with results{suffix}", "tasks/s", tasks / (complete - stamps.first()))
        )
    if server_cpu:
        figures.append(Figure(f"server CPU{suffix}", "us/task", server_cpu / rest * 1e6))
    return figures


def _wait_results(rig: Rig, tasks: int) -> float:
    """When the store holds as many results as there were tasks."""
    deadline = time.monotonic() + _PATIENCE
    while (stored := rig.store.results()) < tasks:
        if time.monotonic() > deadline:
            raise MeasurementError(f"{rig.system.name}: {stored} results of {tasks} after {_PATIENCE:g} s")
        time.sleep(rig.store.look)
    return time.monotonic()


def _task_lines(worker: RunningWorker) -> int:
    """Lines that tell of a task's arrival or success."""
    if worker.logfile is None:
        return 0
    with worker.logfile.open(errors="replace") as log:
        return sum(" received" in line or " succeeded in " in line for line in log)
