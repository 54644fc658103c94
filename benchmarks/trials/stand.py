"""What every trial stands on: a private Redis server, one worker, stamps, and somebody who sends."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.stamps import VARIABLE, Stamps
from scripts.environments import ROOT
from tests.support.servers import RedisServer
from tests.support.workers import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_READY_PATIENCE = 60.0
_POLL = 0.05


class Stand:
    """A server and a directory; ``tasks`` are numbered from 0."""

    def __init__(self, url: str, directory: Path, tasks: int) -> None:
        self.directory = directory
        self.stamps = Stamps.create(directory / "stamps", tasks)
        self.journal = directory / "journal"
        self.journal.touch()
        self._variables = {
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src"))),
            "BENCH_BROKER_URL": url,
            "BENCH_RESULT_URL": url,
            "TRIAL_JOURNAL": str(self.journal),
            VARIABLE: str(directory / "stamps"),
        }

    def tasks(self) -> Any:
        """The module of the tasks, for whoever sends them. There is one stand in a process."""
        os.environ.update(self._variables)
        return importlib.import_module("benchmarks.trials.app")

    @contextlib.contextmanager
    def worker(self, *options: str, age: float = 0.0) -> Iterator[WorkerProcess]:
        """A worker that is ready, asked to finish at the end; its processes grow so old, in seconds (0: for ever)."""
        command = [sys.executable, "-m", "umbel", "-A", "benchmarks.trials.app", "worker", "--loglevel=INFO"]
        with WorkerProcess(
            [*command, *options], cwd=self.directory, env={**self._variables, "TRIAL_AGE": str(age)}
        ) as process:
            process.ready(timeout=_READY_PATIENCE)
            yield process
            process.terminate(timeout=_READY_PATIENCE)

    def wait_count(self, count: int, patience: float, look: Callable[[], object] = lambda: None) -> None:
        """Wait until so many tasks have run, and look meanwhile; AssertionError when ``patience`` passes idly."""
        seen, moved = -1, time.monotonic()
        while (done := self.stamps.count()) < count:
            if done != seen:
                seen, moved = done, time.monotonic()
            assert time.monotonic() - moved < patience, f"stopped at {done} of {count}"
            look()
            time.sleep(_POLL)


@contextlib.contextmanager
def stand(tasks: int) -> Iterator[Stand]:
    """A fresh one for so many tasks."""
    with tempfile.TemporaryDirectory(prefix="trial-") as directory, RedisServer() as server:
        yield Stand(server.url(), Path(directory), tasks)
