"""What a worker costs that has nothing to do, and how long it takes to begin."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.report import Figure

if TYPE_CHECKING:
    from benchmarks.options import Options
    from benchmarks.rig import Rig

_SETTLE = 3.0  #: seconds after the first tasks before a worker counts as idle
_WARM_TASKS = 20
_IMPORTS = 5


class Footprint:
    """A worker of two processes runs a few tasks and then has none.

    Memory is the process tree's PSS. "start" is from starting the process to the first task's run, with the task
    waiting in the queue. "import" is the library's import in a fresh process, the fastest of five.
    """

    def __init__(self, options: Options) -> None:
        self._idle_seconds = options.idle_seconds

    def calibrate(self, rig: Rig) -> None:
        """Start once, so that the caches of files are warm for all."""
        self._start(rig)

    def measure(self, rig: Rig) -> list[Figure]:
        """Start, run some tasks, be idle."""
        imports = [rig.drive("import", library=rig.system.import_name)["ms"] for _ in range(_IMPORTS)]
        return [*self._start(rig), *self._idle(rig), Figure("import", "ms", min(imports))]

    @staticmethod
    def _start(rig: Rig) -> list[Figure]:
        stamps = rig.prepare(1)
        rig.drive("preload", first=0, tasks=1)
        with rig.worker() as worker:
            worker.wait_count(1)
            seconds = stamps.first() - worker.started
            rig.verify(stamps, 1)
        return [Figure("start to first task", "s", seconds)]

    def _idle(self, rig: Rig) -> list[Figure]:
        stamps = rig.prepare(_WARM_TASKS)
        rig.drive("preload", first=0, tasks=_WARM_TASKS)
        with rig.worker() as worker:
            worker.wait_count(_WARM_TASKS)
            time.sleep(_SETTLE)
            memory = worker.pss_bytes()
            began, cpu = time.monotonic(), worker.cpu_seconds()
            commands = rig.store.commands(self._idle_seconds)
            elapsed = time.monotonic() - began
            cpu = worker.cpu_seconds() - cpu
            rig.verify(stamps, _WARM_TASKS)
        figures = [
            Figure("idle memory", "MB", memory / 1e6),
            Figure("idle CPU", "% of a core", cpu / elapsed * 100),
        ]
        if commands is not None:
            figures.append(Figure("idle commands", "commands/s", commands / elapsed))
        return figures
