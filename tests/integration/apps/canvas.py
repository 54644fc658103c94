"""The application of the canvas tests; the same file runs under real Celery.

Environment: ``BROKER`` and ``BACKEND`` (URLs), ``STAGE`` (a directory), ``SETTINGS`` (JSON), ``LIBRARY`` (the module).
"""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

STAGE = Path(os.environ["STAGE"])
_library = importlib.import_module(os.environ.get("LIBRARY", "umbel"))

app: Any = _library.Celery("canvas", broker=os.environ["BROKER"], backend=os.environ["BACKEND"])
app.conf.update(json.loads(os.environ.get("SETTINGS", "{}")))


def write(*words: object) -> None:
    """Add a line to the journal: one write, so that lines of several processes do not mix."""
    with open(STAGE / "journal", "ab", buffering=0) as file:
        file.write((" ".join(str(word) for word in words) + "\n").encode())


@app.task(name="canvas.add")
def add(x: Any, y: Any) -> Any:
    return x + y


@app.task(name="canvas.total")
def total(numbers: list[Any]) -> int:
    return sum(sum(number) if isinstance(number, list) else number for number in numbers)


@app.task(name="canvas.ident")
def ident(value: Any) -> Any:
    return value


@app.task(name="canvas.fail")
def fail(*args: Any) -> None:
    raise ValueError("no")


@app.task(name="canvas.note")
def note(*words: Any) -> None:
    write(*words)


@app.task(name="canvas.where", bind=True)
def where(self: Any, *args: Any) -> list[Any]:
    """Which library ran it, and its place in the workflow."""
    request = self.request
    return [_library.__name__, request.root_id, request.parent_id, request.group_index, request.stamps]


@app.task(name="canvas.told")
def told(request: Any, exc: Any, traceback: Any) -> None:
    """An error callback of the new kind."""
    write("told", request.id, type(exc).__name__)


@app.task(name="canvas.replaced", bind=True)
def replaced(self: Any, kind: str, x: int) -> Any:
    """Has other tasks take its place."""
    signatures = {
        "task": lambda: add.s(x, 1),
        "chain": lambda: _library.chain(add.s(x, 1), add.s(2)),
        "group": lambda: _library.group(add.s(x, 1), add.s(x, 2)),
        "chord": lambda: _library.chord([add.s(x, 1), add.s(x, 2)], total.s()),
    }
    return self.replace(signatures[kind]())


@app.task(name="canvas.grow", bind=True)
def grow(self: Any, more: list[int]) -> int:
    """Adds tasks to the chord that it is a part of."""
    for number in more:
        self.add_to_chord(ident.si(number))
    return 0


@app.task(name="canvas.send_chord")
def send_chord(numbers: list[int]) -> str:
    """Sends a chord from its body, and tells the id of its result."""
    chord = _library.chord([add.si(number, 1) for number in numbers], total.s())
    return str(chord.apply_async().id)
