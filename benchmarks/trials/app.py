"""The tasks of the trials."""

from __future__ import annotations

import os
import time

from benchmarks.systems.common import BROKER_URL, RESULT_URL, stamp
from benchmarks.trials.journal import RECORD
from umbel import Umbel

app = Umbel("trials", broker=BROKER_URL, backend=RESULT_URL)
app.conf.update(
    task_ignore_result=True, worker_max_age_per_child=float(os.environ.get("TRIAL_AGE", "0")) or None
)

MEBIBYTE = 1 << 20

_kept: list[bytes] = []
_journal = (
    os.open(os.environ["TRIAL_JOURNAL"], os.O_WRONLY | os.O_APPEND) if "TRIAL_JOURNAL" in os.environ else -1
)


@app.task(name="trials.hold")
def hold(number: int, seconds: float) -> None:
    """Take a slot for a while."""
    stamp(number)
    time.sleep(seconds)


@app.task(name="trials.leak")
def leak(number: int) -> None:
    """Keep a megabyte for ever."""
    stamp(number)
    _kept.append(b"x" * MEBIBYTE)


@app.task(name="trials.note")
def note(number: int, sent: float, leaks: bool) -> None:
    """Say when it began; it may leak a megabyte too."""
    begun = time.monotonic()
    stamp(number)
    os.write(_journal, RECORD.pack(sent, begun, os.getpid()))
    if leaks:
        _kept.append(b"x" * MEBIBYTE)
    time.sleep(0.002)
