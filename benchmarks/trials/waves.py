"""A square wave of load on ``--autoscale=16,4``: how soon there are 16 processes, and 4 again, and is any task lost."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.trials.stand import Stand, stand
from tests.support.processes import tree

if TYPE_CHECKING:
    from tests.support.workers import WorkerProcess

MOST, FEWEST = 16, 4
TO_MOST, TO_FEWEST = 5.0, 60.0  #: seconds that may pass
_RUN = 0.5  #: seconds of a task
_AT_A_TIME = 24  #: tasks that would run together if there were processes for all
_PATIENCE = 120.0
_POLL = 0.05


@dataclass
class Wave:
    """Seconds from the wave's first task to 16 processes, and from its last task's end to four; None: never."""

    to_most: float | None = None
    to_fewest: float | None = None


def run(waves: int, seconds: float) -> dict[str, Any]:
    """So many waves of so many seconds."""
    each = int(seconds * _AT_A_TIME / _RUN)
    with stand(waves * each) as ground, ground.worker(f"--autoscale={MOST},{FEWEST}") as worker:
        others = len(tree(worker.pid)) - FEWEST
        found = [_wave(ground, worker, number * each, each, others) for number in range(waves)]
        wrong = ground.stamps.wrong(0, waves * each)
        ended = [line for line in worker.output.splitlines() if "exited with" in line or "WorkerLost" in line]
    late = [wave for wave in found if not _in_time(wave)]
    return {
        "waves": [vars(wave) for wave in found],
        "tasks": waves * each,
        "not_run_exactly_once": len(wrong),
        "killed": len(ended),
        "passed": not (late or wrong or ended),
    }


def _wave(ground: Stand, worker: WorkerProcess, first: int, count: int, others: int) -> Wave:
    hold = ground.tasks().hold
    wave, begun = Wave(), time.monotonic()

    def look() -> None:
        if wave.to_most is None and len(tree(worker.pid)) - others >= MOST:
            wave.to_most = round(time.monotonic() - begun, 2)

    for number in range(count):
        due = begun + number * _RUN / _AT_A_TIME
        while time.monotonic() < due:
            look()
            time.sleep(min(_POLL, max(0.0, due - time.monotonic())))
        hold.delay(first + number, _RUN)
    ground.wait_count(first + count, _PATIENCE, look)
    ended = time.monotonic()
    while time.monotonic() - ended < _PATIENCE:
        if len(tree(worker.pid)) - others <= FEWEST:
            wave.to_fewest = round(time.monotonic() - ended, 2)
            break
        time.sleep(_POLL)
    return wave


def _in_time(wave: Wave) -> bool:
    return (
        wave.to_most is not None
        and wave.to_most <= TO_MOST
        and wave.to_fewest is not None
        and wave.to_fewest <= TO_FEWEST
    )
