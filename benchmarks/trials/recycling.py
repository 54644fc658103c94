"""Begin delays of a load below capacity, with and without recycling: no replacement may keep a task waiting.

The ways to recycle take turns with none at all, so that whatever else the machine does falls on each of them.
"""

from __future__ import annotations

import os
import time
from typing import Any, Final

from benchmarks.trials.journal import RECORD
from benchmarks.trials.stand import Stand, stand

PROCESSES = 2
RATE = 60.0  #: tasks a second; each takes 2 ms
BOUND = 0.05  #: seconds that a recycle may add
_PATIENCE = 60.0

#: The worker's options, and whether the tasks leak. Age is a setting.
WAYS: Final[dict[str, tuple[tuple[str, ...], bool]]] = {
    "none": ((), False),
    "tasks": (("--max-tasks-per-child=10",), False),
    "memory": ((f"--max-memory-per-child={12 * 1024}",), True),
    "age": ((), False),
}
_AGE = 0.5  #: seconds that a process lives in the way of that name


def run(rounds: int, seconds: float) -> dict[str, Any]:
    """So many rounds of all ways, each for so many seconds."""
    delays: dict[str, list[float]] = {way: [] for way in WAYS}
    recycles = dict.fromkeys(WAYS, 0)
    each = int(seconds * RATE)
    with stand(rounds * len(WAYS) * each) as ground:
        for number in range(rounds * len(WAYS)):
            way = list(WAYS)[number % len(WAYS)]
            found, processes = _once(ground, way, number * each, each)
            delays[way] += found
            recycles[way] += max(0, processes - PROCESSES)
        wrong = len(ground.stamps.wrong(0, rounds * len(WAYS) * each))
    figures = {way: _figures(delays[way]) | {"recycles": recycles[way]} for way in WAYS}
    base = figures["none"]
    added = {way: round(figures[way]["ms_99.5"] - base["ms_99.5"], 1) for way in WAYS if way != "none"}
    return {
        "ways": figures,
        "added_ms_99.5": added,
        "not_run_exactly_once": wrong,
        "passed": not wrong and all(extra <= BOUND * 1000 for extra in added.values()),
    }


def _once(ground: Stand, way: str, first: int, tasks: int) -> tuple[list[float], int]:
    """Begin delays, and how many processes ran tasks."""
    options, leaks = WAYS[way]
    os.truncate(ground.journal, 0)
    age = _AGE if way == "age" else 0.0
    with ground.worker("-c", str(PROCESSES), *options, age=age):
        note, begun = ground.tasks().note, time.monotonic()
        for number in range(tasks):
            time.sleep(max(0.0, begun + number / RATE - time.monotonic()))
            note.delay(first + number, time.monotonic(), leaks)
        ground.wait_count(first + tasks, _PATIENCE)
        records = list(RECORD.iter_unpack(ground.journal.read_bytes()))
    return [begun - sent for sent, begun, _ in records], len({pid for _, _, pid in records})


def _figures(delays: list[float]) -> dict[str, float]:
    ordered = sorted(delays)

    def at(part: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * part))] * 1000, 2)

    late = sum(delay > BOUND for delay in ordered)
    return {
        "tasks": len(ordered),
        "ms_50": at(0.5),
        "ms_99": at(0.99),
        "ms_99.5": at(0.995),
        "ms_most": at(1.0),
        "late": late,
    }
