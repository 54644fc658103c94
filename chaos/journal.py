"""What happened, line by line: each process appends to a file of its own, which survives its death.

Times are the machine's monotonic clock, which all processes share and no change of the time of day moves.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path


def now() -> float:
    """The time of every line, in seconds."""
    return time.monotonic()


def write(directory: Path, *lines: str) -> None:
    """Append lines to this process's file, in one system call: what a killed process wrote is whole."""
    os.write(_file(directory, os.getpid()), "".join(f"{line}\n" for line in lines).encode())


@lru_cache(maxsize=8)
def _file(directory: Path, pid: int) -> int:
    return os.open(directory / f"{pid}.journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def began(directory: Path, mark: int, attempt: int, host: str, redelivered: bool) -> None:
    """An attempt at a task has begun in this process."""
    write(directory, f"began {mark} {attempt} {now():.6f} {host} {int(redelivered)}")


def ended(directory: Path, mark: int, attempt: int) -> None:
    """It has come to its end."""
    write(directory, f"ended {mark} {attempt} {now():.6f}")


def confirmed(directory: Path, mark: int, task_id: str) -> None:
    """The broker has confirmed what is sent under this mark."""
    write(directory, f"confirmed {mark} {task_id} {now():.6f}")


@dataclass
class Run:
    """One attempt at one task in one process; ``ended`` is None where it never came to its end."""

    mark: int
    attempt: int
    pid: int
    began: float
    host: str
    redelivered: bool
    ended: float | None = None


@dataclass
class Records:
    """Everything the journals say."""

    tried: dict[int, str] = field(default_factory=dict)  #: kind by mark, of all that was sent or tried to be
    confirmed: dict[int, str] = field(
        default_factory=dict
    )  #: task id by mark, of all that the broker confirmed
    confirmed_at: dict[int, float] = field(default_factory=dict)  #: by mark, where the journal says when
    #: By mark, of those whose result a program waits for: the process, and what it got ("waits" while it waits).
    awaited: dict[int, tuple[int, str]] = field(default_factory=dict)
    runs: dict[int, list[Run]] = field(default_factory=lambda: defaultdict(list))  #: by mark, oldest first
    hosts: set[str] = field(default_factory=set)  #: workers that have been ready
    counts: Counter[str] = field(default_factory=Counter)  #: of what was only counted

    def open_runs(self) -> list[Run]:
        """What has begun and has not ended."""
        return [run for runs in self.runs.values() for run in runs if run.ended is None]


class Reader:
    """Reads the journals of a directory again and again while they grow, each time only what is new."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen = Records()
        self._journals: dict[Path, _Journal] = {}

    def records(self) -> Records:
        """Everything that the journals say by now; what is read later changes nothing in it but the end of runs."""
        for path in self._directory.glob("*.journal"):
            journal = self._journals.setdefault(path, _Journal(path))
            for words in journal.new_lines():
                _enter(self._seen, journal.current, int(path.stem), words)
        return self._copy()

    def _copy(self) -> Records:
        seen = self._seen
        runs = {mark: sorted(each, key=lambda run: run.began) for mark, each in seen.runs.items()}
        return Records(
            dict(seen.tried),
            dict(seen.confirmed),
            dict(seen.confirmed_at),
            dict(seen.awaited),
            defaultdict(list, runs),
            set(seen.hosts),
            Counter(seen.counts),
        )


class _Journal:
    """One process's file, and how far it has been read."""

    def __init__(self, path: Path) -> None:
        self.current: dict[tuple[int, int], Run] = {}
        self._path = path
        self._offset = 0

    def new_lines(self) -> Iterator[list[str]]:
        if self._path.stat().st_size == self._offset:
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):  # half written at this moment
                    break
                self._offset += len(line)
                yield line.decode().split()


def read(directory: Path) -> Records:
    """Read every journal of a directory."""
    return Reader(directory).records()


def size(directory: Path) -> int:
    """How many bytes there are by now: cheaper than reading, to see whether anything goes on."""
    return sum(path.stat().st_size for path in directory.glob("*.journal"))


def _enter(records: Records, current: dict[tuple[int, int], Run], pid: int, words: list[str]) -> None:
    match words:
        case ["began", mark, attempt, at, host, redelivered]:
            run = Run(int(mark), int(attempt), pid, float(at), host, redelivered == "1")
            current[run.mark, run.attempt] = run
            records.runs[run.mark].append(run)
        case ["ended", mark, attempt, at]:
            current[int(mark), int(attempt)].ended = float(at)
        case ["tried", mark, kind]:
            records.tried[int(mark)] = kind
        case ["confirmed", mark, task_id, *at]:
            records.confirmed[int(mark)] = task_id
            records.confirmed_at |= {int(mark): float(word) for word in at}
        case ["waits", mark]:
            records.awaited[int(mark)] = (pid, "waits")
        case ["awaited", mark, *answer]:
            records.awaited[int(mark)] = (pid, " ".join(answer))
        case ["ready", host]:
            records.hosts.add(host)
        case ["counted", *what]:
            records.counts[" ".join(what)] += 1
        case ["idle"]:  # a producer has sent all it was to send
            return
        case _:
            raise ValueError(f"a line of the journal of process {pid} makes no sense: {words}")
