"""Stamps that tasks leave in shared memory, so that measuring costs every system the same small amount.

The file named by BENCH_STAMPS holds a byte per task, which counts its runs, after a table of slots, one for each
thread that runs tasks: how many it ran, when it ran its first and its last (nanoseconds of the monotonic clock, which
all processes of a machine share). Nobody writes where another does, so nothing is locked while tasks run.

Imported by the tasks of every system, in environments of their own: standard library only.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
import threading
from pathlib import Path
from time import monotonic_ns

VARIABLE = "BENCH_STAMPS"
SLOTS = 4096  #: threads that may run tasks in one measurement
_WORDS = 8  #: per slot: runs, first, last; a cache line each, so that writers do not disturb one another
_HEADER = 64  #: its first word: slots taken
_TABLE = _HEADER + SLOTS * _WORDS * 8


class Stamps:
    """The shared memory of one measurement: written by tasks, read by the benchmark."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR)
        self._memory = memoryview(mmap.mmap(self._file, 0))
        self._words = self._memory[:_TABLE].cast("Q")
        self._runs = self._memory[_TABLE:]

    @classmethod
    def create(cls, path: Path, tasks: int) -> Stamps:
        """Make the file for tasks numbered from 0."""
        with path.open("wb") as file:
            file.truncate(_TABLE + max(tasks, 1))
        return cls(path)

    def close(self) -> None:
        """Give the memory back; a reader does, tasks never."""
        for view in (self._words, self._runs, self._memory):
            view.release()
        os.close(self._file)

    def take_slot(self) -> int:
        """A slot of its own for a thread; gives the index of its first word."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            taken = self._words[0]
            assert taken < SLOTS, "more threads than slots"
            self._words[0] = taken + 1
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        return _HEADER // 8 + taken * _WORDS

    def stamp(self, slot: int, task: int) -> None:
        """Note that this thread ran the task now."""
        words = self._words
        self._runs[task] += 1
        now = monotonic_ns()
        if not words[slot]:
            words[slot + 1] = now
        words[slot + 2] = now
        words[slot] += 1

    def count(self) -> int:
        """How many runs there were so far."""
        return sum(self._words[slot] for slot in self._slots())

    def first(self) -> float:
        """When the first task ran, in seconds of the monotonic clock."""
        return min(self._words[slot + 1] for slot in self._slots() if self._words[slot]) / 1e9

    def last(self) -> float:
        """When the last task ran."""
        return max(self._words[slot + 2] for slot in self._slots()) / 1e9

    def wrong(self, first: int, count: int) -> list[int]:
        """The tasks of the range that did not run exactly once."""
        runs = bytes(self._runs[first : first + count])
        if runs.count(1) == count:
            return []
        return [first + index for index, times in enumerate(runs) if times != 1]

    def _slots(self) -> range:
        start = _HEADER // 8
        return range(start, start + self._words[0] * _WORDS, _WORDS)


class _Mine(threading.local):
    """The slot of this thread."""

    slot: int | None = None


class _Shared:
    """The slot of the one real thread that all greenlets share: they take turns only where they wait."""

    slot: int | None = None


def _greenlets_are_threads() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched("threading")


class Recorder:
    """What a task calls: ``Recorder()(number)``. Opens the shared memory on the first stamp of each process."""

    def __init__(self) -> None:
        self._forget()
        # A slot belongs to a thread of one process: a forked child takes its own.
        os.register_at_fork(after_in_child=self._forget)

    def __call__(self, task: int) -> None:
        slot = self._mine.slot
        if slot is None:
            slot = self._open()
        self._stamps.stamp(slot, task)

    def _forget(self) -> None:
        self._mine = _Shared() if _greenlets_are_threads() else _Mine()

    def _open(self) -> int:
        # Opened anew in each process: the lock that guards the slots belongs to an open file, which forks share.
        self._stamps = Stamps(Path(os.environ[VARIABLE]))
        slot = self._mine.slot = self._stamps.take_slot()
        return slot
