"""The application of the chord tests. What a task does it writes to a journal; the same file runs under real Celery.

Environment: ``BROKER`` and ``BACKEND`` (URLs), ``STAGE`` (a directory), ``SETTINGS`` (JSON), ``LIBRARY`` (the module).
"""

from __future__ import annotations

import importlib
import json
import os
import time
from pathlib import Path
from typing import Any

STAGE = Path(os.environ["STAGE"])
_library = importlib.import_module(os.environ.get("LIBRARY", "umbel"))
_make = getattr(_library, "Umbel", None) or _library.Celery

app: Any = _make("chords", broker=os.environ["BROKER"], backend=os.environ["BACKEND"])
app.conf.update(json.loads(os.environ.get("SETTINGS", "{}")))


def write(*words: object) -> None:
    """Add a line to the journal: one write, so that lines of several processes do not mix."""
    with open(STAGE / "journal", "ab", buffering=0) as file:
        file.write((" ".join(str(word) for word in words) + "\n").encode())


@app.task
def double(number: int) -> int:
    return 2 * number


@app.task(ignore_result=True)
def double_quietly(number: int) -> int:
    return 2 * number


@app.task(acks_late=True)
def late(number: int, seconds: float = 0.0) -> int:
    time.sleep(seconds)
    return number


@app.task
def held(number: int, gate: str) -> int:
    write("begun", number, os.getpid())
    while not (STAGE / gate).exists():
        time.sleep(0.005)
    return number


@app.task
def fail(text: str) -> None:
    raise ValueError(text)


@app.task
def total(numbers: list[int]) -> int:
    write("total", sum(numbers))
    return sum(numbers)


@app.task(acks_late=True)
def total_late(numbers: list[int]) -> int:
    return total(numbers)


@app.task
def collect(values: list[Any]) -> list[Any]:
    write("collect", len(values))
    return values


@app.task
def told_id(task_id: str) -> None:
    write("told", task_id)


@app.task
def told_error(request: Any, error: BaseException, traceback: str) -> None:
    write("told_error", request.id, type(error).__name__)
