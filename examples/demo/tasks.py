"""The demo's application: real work on real files, and tasks that fail, wait and lose their process."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path
from typing import TypedDict

from examples.demo.pictures import read_png, shrink, write_png
from umbel import Task, Umbel

app = Umbel("demo")
app.conf.update(worker_prefetch_multiplier=1, worker_lease_duration=3.0)


class Ran(TypedDict):
    """What every task of the demo returns: its answer, and where and how long it ran."""

    answer: str
    pid: int
    attempt: int
    seconds: float


def ran(answer: str, since: float, attempt: int = 1) -> Ran:
    """A task's return value."""
    return {"answer": answer, "pid": os.getpid(), "attempt": attempt, "seconds": time.perf_counter() - since}


@app.task
def checksum(path: str) -> Ran:
    """The SHA-256 of a file."""
    since = time.perf_counter()
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ran(digest, since)


@app.task
def thumbnail(path: str, width: int) -> Ran:
    """Shrink a picture to ``width`` pixels beside the original; answers with the new size."""
    since = time.perf_counter()
    small = shrink(read_png(Path(path)), width)
    write_png(Path(path).with_suffix(".thumb.png"), small)
    return ran(f"{small.width}x{small.height}", since)


@app.task(bind=True, autoretry_for=(ConnectionError,), retry_backoff=0.25, retry_jitter=False, max_retries=5)
def fetch_rate(self: Task[..., Ran], currency: str) -> Ran:
    """Ask a service that is away twice before it answers: retried, each time after a longer pause."""
    since = time.perf_counter()
    if self.request.retries < 2:
        raise ConnectionError(f"the rate of {currency} cannot be had right now")
    return ran(f"{currency} 1.0", since, self.request.retries + 1)


@app.task
def reminder(due: float) -> Ran:
    """Sent with a countdown; answers whether it came in time."""
    since = time.perf_counter()
    late = time.time() - due
    return ran("in time" if 0 <= late < 2 else f"{late:+.1f} s", since)


@app.task(acks_late=True, reject_on_worker_lost=True)
def survivor(marker: str) -> Ran:
    """Kill its own process the first time it runs, as an out-of-memory killer would."""
    since = time.perf_counter()
    try:
        Path(marker).touch(exist_ok=False)
    except FileExistsError:
        return ran("ran again", since, 2)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable: the process is gone")
