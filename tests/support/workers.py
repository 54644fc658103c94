"""Worker processes for tests: real Celery's and Umbel's, started and ended the same way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from scripts.environments import ROOT
from tests.support.processes import end_session, kill_tree, spawn, tree, wait_gone

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

#: What both kinds of worker log at INFO when they take tasks.
READY = r"@\S+ ready\."


class WorkerProcess:
    """A program whose output is read line by line, and which can be killed at any moment, alone or with its tree."""

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        name: str = "worker",
    ) -> None:
        self.name = name
        self._argv = [str(part) for part in argv]
        self._cwd = cwd
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._lines: list[str] = []
        self._grew = threading.Condition()
        self._ended = False
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    def start(self) -> Self:
        """Start it; ``wait_for_line`` or ``ready`` waits until it works."""
        assert self._process is None, f"{self.name} was started before"
        read_end, write_end = os.pipe()
        try:
            self._process = spawn(self._argv, cwd=self._cwd, output=write_end, env=self._env)
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        self._reader = threading.Thread(
            target=self._read, args=(read_end,), name=f"{self.name} output", daemon=True
        )
        self._reader.start()
        return self

    @property
    def pid(self) -> int:
        """The process id of what was started: a worker's supervisor."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    def children(self) -> list[int]:
        """The process ids of its direct and indirect children that run."""
        return [pid for pid in self.members() if pid != self.pid]

    def members(self) -> list[int]:
        """Its process id and its children's, those that run."""
        return tree(self.pid)

    @property
    def alive(self) -> bool:
        """Whether the started process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def output(self) -> str:
        """What it has printed so far."""
        with self._grew:
            return "\n".join(self._lines)

    @property
    def line_count(self) -> int:
        """How many lines it has printed: a place from which ``wait_for_line`` can look on."""
        with self._grew:
            return len(self._lines)

    def wait_for_line(self, pattern: str, *, timeout: float = 40.0, since: int = 0) -> re.Match[str]:
        """Wait until a line, the ``since``-th or later, matches somewhere; AssertionError with the output otherwise."""
        wanted = re.compile(pattern)
        deadline = time.monotonic() + timeout
        with self._grew:
            while True:
                for line in self._lines[since:]:
                    found = wanted.search(line)
                    if found:
                        return found
                since = max(since, len(self._lines))
                if self._ended or not self._grew.wait(max(0.0, deadline - time.monotonic())):
                    break
        story = "it ended" if self._ended else f"waited {timeout:g} s"
        raise AssertionError(f"{self.name} never printed {pattern!r} ({story}). Its output:\n{self.output}")

    def ready(self, *, timeout: float = 40.0) -> Self:
        """Wait for the line that says that it takes tasks (it must log at INFO)."""
        self.wait_for_line(READY, timeout=timeout)
        return self

    def signal(self, number: int) -> None:
        """Send a signal to the started process alone."""
        os.kill(self.pid, number)

    def wait(self, *, timeout: float = 40.0) -> int:
        """Wait for its end; its exit status, negative for the signal that ended it."""
        assert self._process is not None, f"{self.name} was not started"
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} ran on for {timeout:g} s. Its output:\n{self.output}"
            ) from None
        return status

    def terminate(self, *, timeout: float = 40.0) -> int:
        """Ask it to finish (SIGTERM), wait for its end and its children's; its exit status."""
        members = self.members()
        if self.alive:
            self.signal(signal.SIGTERM)
        status = self.wait(timeout=timeout)
        wait_gone(members, timeout=timeout)
        self.close()
        return status

    def kill9(self, *, whole_tree: bool = True) -> None:
        """Kill it with SIGKILL: the whole tree at one instant, or the started process alone."""
        kill_tree(self.members() if whole_tree else [self.pid])
        self.wait()
        if whole_tree:
            self.close()

    def close(self) -> None:
        """Leave nothing running, orphans included, whatever has happened to it. Safe twice."""
        if self._process is not None and self._reader is not None:
            end_session(self._process)
            self._reader.join(timeout=10)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, descriptor: int) -> None:
        with open(descriptor, encoding="utf-8", errors="replace") as stream:
            for line in stream:
                with self._grew:
                    self._lines.append(line.rstrip("\n"))
                    self._grew.notify_all()
        with self._grew:
            self._ended = True
            self._grew.notify_all()


class PeerProcess(WorkerProcess):
    """A process of real Celery's: a peer of what is tested, and not itself judged."""

    def terminate(self, *, timeout: float = 20.0) -> int:
        """As WorkerProcess.terminate; one that does not end is killed, and that too counts as its end (0).

        Celery's worker now and then stays in its warm shutdown for ever when a pool process ends at the same moment.
        """
        members = self.members()
        if self.alive:
            self.signal(signal.SIGTERM)
        try:
            status = self.wait(timeout=timeout)
        except AssertionError:
            kill_tree(self.members())
            self.wait()
            status = 0
        wait_gone(members, timeout=timeout)
        self.close()
        return status


def celery_worker(
    python: Path, app_file: Path, *options: str, env: Mapping[str, str] | None = None
) -> WorkerProcess:
    """A real Celery worker, not yet started, for the app in ``app_file``; ``python`` has Celery installed."""
    return _worker("celery", python, app_file, options, env, kind=PeerProcess)


def umbel_worker(app_file: Path, *options: str, env: Mapping[str, str] | None = None) -> WorkerProcess:
    """An Umbel worker, not yet started, for the app in ``app_file``; the options are Celery's."""
    return _worker("umbel", Path(sys.executable), app_file, options, env)


def _worker(
    library: str,
    python: Path,
    app_file: Path,
    options: Sequence[str],
    env: Mapping[str, str] | None,
    *,
    kind: type[WorkerProcess] = WorkerProcess,
) -> WorkerProcess:
    argv: list[str | Path] = [python, "-m", library, "-A", app_file.stem, "worker", *options]
    if not any(option == "-l" or option.startswith(("--loglevel", "-l=")) for option in options):
        argv.append("--loglevel=INFO")
    # A run as root is what containers do; Celery warns about it on every start.
    quiet = {"C_FORCE_ROOT": "true", "PYTHONPATH": os.pathsep.join([str(app_file.parent), str(ROOT)])}
    return kind(argv, cwd=app_file.parent, env=quiet | {**(env or {})}, name=f"{library} worker")
