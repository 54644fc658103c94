"""Whether a pool process has grown too big."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

#: A look costs some tens of microseconds, so it is taken no more often than this, in seconds.
_LOOK_EVERY = 0.05
_STATM, _SMAPS = Path("/proc/self/statm"), Path("/proc/self/smaps_rollup")
_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


class MemoryWatch:
    """Compares a process's own memory with its limit, in KiB.

    Its own: pages that it shares with the process it was forked from are not counted where the system tells them
    apart, so that a new process is never over its limit because the application is big.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._next_look = 0.0

    def excess(self) -> int | None:
        """The memory in use, when it is over the limit; None when it is not, or it is too early to look again."""
        now = time.monotonic()
        if now < self._next_look:
            return None
        used = resident()
        if used > self._limit:
            used = private()
        done = time.monotonic()
        # At most a fiftieth of the time goes into looking, however big the process.
        self._next_look = done + max(_LOOK_EVERY, 50 * (done - now))
        return used if used > self._limit else None


def resident() -> int:
    """KiB in memory now, shared pages included; the highest so far where the system tells only that."""
    if sys.platform == "linux":
        return int(_STATM.read_bytes().split()[1]) * _PAGE_KIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def private() -> int:
    """KiB that only this process uses; as ``resident`` where the system does not tell."""
    if sys.platform != "linux":
        return resident()
    try:
        lines = _SMAPS.read_bytes().splitlines()
    except OSError:  # kernels before 4.14, and containers that hide it
        return resident()
    return sum(
        int(line.split()[1]) for line in lines if line.startswith((b"Private_Clean:", b"Private_Dirty:"))
    )
