"""Whether a pool process has grown too big."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

#: Times its limit from which on a process is given no more jobs, though nobody can take its place yet.
TOO_HEAVY = 2
#: A look costs some tens of microseconds, so it is taken no more often than this, in seconds.
_LOOK_EVERY = 0.005
_PROC = Path("/proc")
_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


class MemoryWatch:
    """Compares a process's own memory with its limit, in KiB.

    Its own: pages that it shares with the process it was forked from are not counted where the system tells them
    apart, so that a new process is never over its limit because the application is big.
    """

    def __init__(self, limit: int, *, first: bool = True, shared: int = 0) -> None:
        self._limit = limit
        self._first = first
        #: What it shares with others, as far as is known: that takes a hundred times as long to find out, so that it
        #: is looked at anew only where it matters.
        self._shared = shared
        self._next_look = 0.0

    def next(self, used: int) -> MemoryWatch | None:
        """What to compare with after ``used`` was too much: where it is too heavy to go on; None if it is already."""
        most = self._limit * TOO_HEAVY
        return MemoryWatch(most, first=False, shared=self._shared) if self._first and used <= most else None

    def excess(self) -> int | None:
        """The memory in use, when it is over the limit; None when it is not, or it is too early to look again."""
        now = time.monotonic()
        if now < self._next_look:
            return None
        everything = resident()
        used = everything - self._shared
        if used > self._limit:
            used = private()
            self._shared = max(0, everything - used)
        done = time.monotonic()
        # At most a fiftieth of the time goes into looking, however big the process.
        self._next_look = done + max(_LOOK_EVERY, 50 * (done - now))
        return used if used > self._limit else None


def resident(pid: int | None = None) -> int:
    """KiB that a process has in memory, shared pages included; 0 when it is gone. None: this one.

    Where the system tells only the highest so far, of this process, it is that.
    """
    if sys.platform == "linux":
        try:
            return int((_PROC / _name(pid) / "statm").read_bytes().split()[1]) * _PAGE_KIB
        except (FileNotFoundError, ProcessLookupError):
            return 0
    if pid is not None:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def private(pid: int | None = None) -> int:
    """KiB that only this process uses; as ``resident`` where the system does not tell. None: this one."""
    if sys.platform != "linux":
        return resident(pid)
    try:
        lines = (_PROC / _name(pid) / "smaps_rollup").read_bytes().splitlines()
    except OSError:  # kernels before 4.14, and containers that hide it
        return resident(pid)
    return sum(
        int(line.split()[1]) for line in lines if line.startswith((b"Private_Clean:", b"Private_Dirty:"))
    )


def _name(pid: int | None) -> str:
    return "self" if pid is None else str(pid)
