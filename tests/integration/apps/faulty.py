"""The application of the fault rounds: tasks that do to their process what tasks should not, and some that behave.

Environment: ``BROKER`` and ``BACKEND`` (URLs).
"""

from __future__ import annotations

import ctypes
import itertools
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from umbel import Umbel

app = Umbel("faulty", broker=os.environ["BROKER"], backend=os.environ["BACKEND"])
app.conf.worker_prefetch_multiplier = 4
#: Seconds: of a hard limit, and after which what goes on for ever gives up, should nobody end it.
LIMIT, FOR_EVER = 1.0, 60.0


# One that was beside a bad one in a process of many slots is lost with it, and runs again.
@app.task(acks_late=True, reject_on_worker_lost=True)
def good(mark: int) -> int:
    time.sleep(0.01)
    return mark


@app.task(acks_late=True, reject_on_worker_lost=True)
def where() -> str:
    return str(Path.cwd())


@app.task
def segfault() -> None:
    ctypes.string_at(0)


@app.task
def leave() -> None:
    os._exit(3)


@app.task(time_limit=LIMIT)
def spin() -> None:
    until = time.monotonic() + FOR_EVER
    while time.monotonic() < until:
        pass


@app.task(time_limit=LIMIT)
def hold_the_gil() -> None:
    sum(itertools.repeat(0, 10**11))  # one call, which does not let go of it


@app.task
def bomb() -> str:
    """Take all memory there is, up to a limit."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, before[1]))
    try:
        return str(len([bytearray(512 << 20) for _ in range(100)]))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


class OddError(BaseException):
    """No Exception."""


@app.task
def raise_what_nobody_catches() -> None:
    raise OddError("odd")


@app.task
def close_descriptors() -> None:
    os.closerange(3, 1024)


@app.task
def change_directory() -> str:
    os.chdir("/")
    return str(Path.cwd())


@app.task
def spawn_children() -> int:
    """Leave some behind."""
    return len([subprocess.Popen(["sleep", "1"]) for _ in range(3)])


@app.task
def print_megabytes() -> str:
    for _ in range(30):
        print("x" * 100_000)
        sys.stderr.write("y" * 10_000 + "\n")
    return "printed"


@app.task
def fork() -> str:
    """The copy too goes on, as if it were the process that was given the task."""
    os.fork()
    return "forked"


@app.task(time_limit=LIMIT)
def ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.kill(os.getpid(), signal.SIGTERM)
    until = time.monotonic() + FOR_EVER
    while time.monotonic() < until:
        time.sleep(0.01)
