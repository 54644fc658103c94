"""The application under fault, for either library: every task says in its journal when it began and when it ended.

Environment: ``CHAOS_LIBRARY`` ("umbel" or "celery"), ``BROKER`` and ``BACKEND`` (URLs), ``JOURNAL`` (a directory),
``SETTINGS`` (JSON).
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import select
import time
from pathlib import Path
from typing import Any

from chaos import journal
from chaos.workload import POISONS, answer

if "FAKETIME_TIMESTAMP_FILE" in os.environ:
    # libfaketime 0.9.10 answers clock_nanosleep, which this is made of, with EINVAL. It knows other ways to wait.
    time.sleep = lambda seconds: select.select([], [], [], max(0.0, float(seconds))) and None

DIRECTORY = Path(os.environ["JOURNAL"])
_HOARD = 64 * 1024 * 1024  #: bytes that a task may take on top of what its process has

library = importlib.import_module(os.environ["CHAOS_LIBRARY"])
signals = importlib.import_module(f"{os.environ['CHAOS_LIBRARY']}.signals")

app = library.Celery("chaos", broker=os.environ["BROKER"], backend=os.environ["BACKEND"])
app.conf.update(json.loads(os.environ.get("SETTINGS", "{}")))
app.conf.beat_schedule = {"tick": {"task": "chaos.tick", "schedule": 1.0}}


@signals.worker_ready.connect
def _ready(sender: Any, **_: Any) -> None:
    journal.write(DIRECTORY, f"ready {sender.hostname}")


def _began(task: Any, mark: int) -> None:
    request = task.request
    redelivered = bool((request.delivery_info or {}).get("redelivered"))
    journal.began(DIRECTORY, mark, request.retries, request.hostname, redelivered)


def _ended(task: Any, mark: int) -> None:
    journal.ended(DIRECTORY, mark, task.request.retries)


@app.task(bind=True, name="chaos.work")
def work(self: Any, mark: int, seconds: float = 0.0, failures: int = 0) -> int:
    """Take so many seconds, and fail so often before that."""
    _began(self, mark)
    if seconds:
        time.sleep(seconds)
    _ended(self, mark)
    if self.request.retries < failures:
        raise self.retry(countdown=0.5)
    return answer(mark)


@app.task(bind=True, name="chaos.step")
def step(self: Any, before: int, mark: int) -> int:
    """One step of a chain."""
    _began(self, mark)
    _ended(self, mark)
    return before + answer(mark)


@app.task(bind=True, name="chaos.total")
def total(self: Any, values: list[int], mark: int) -> int:
    """The body of a chord."""
    _began(self, mark)
    _ended(self, mark)
    return sum(values)


@app.task(name="chaos.tick")
def tick() -> None:
    """What beat sends."""
    journal.write(DIRECTORY, "counted tick")


@app.task(bind=True, name=POISONS["segfault"])
def segfault(self: Any, mark: int) -> None:
    """End the process as a broken extension does."""
    _began(self, mark)
    ctypes.string_at(0)


@app.task(bind=True, name=POISONS["spin"], time_limit=2)
def spin(self: Any, mark: int) -> None:
    """Never end."""
    _began(self, mark)
    while True:
        pass


@app.task(bind=True, name=POISONS["memory"])
def hoard(self: Any, mark: int) -> None:
    """Take more memory than there may be."""
    _began(self, mark)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _HOARD, hard))
    try:
        bytearray(4 * _HOARD)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
