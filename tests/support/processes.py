"""Real processes and their trees, read from /proc and ended by process id."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_PR_SET_PDEATHSIG = 1
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
_libc = ctypes.CDLL(None, use_errno=True)
_sessions: set[int] = (
    set()
)  #: what ``spawn`` began and ``end_session`` has not ended; for the exit of this interpreter


def spawn(
    argv: Sequence[str], *, cwd: Path, output: Path | int, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process that does not outlive this one.

    It leads a session of its own, so that Ctrl-C at the terminal reaches this process alone and everything it started
    can be found. The kernel kills it when the thread that called this ends, however that ends; what it started itself
    is ended at exit of this interpreter. Standard output and error go to ``output``.
    """
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(output.open("ab")) if isinstance(output, Path) else output
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=dict(env) if env is not None else None,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
    _sessions.add(process.pid)
    return process


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # A shell has programs ignore these that it starts in the background, and they would be ignored here as well.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def session(pid: int) -> list[int]:
    """What runs of the session that ``spawn`` began, whoever its parents are by now."""
    return [
        member
        for member in _processes()
        if (fields := _stat(member)) and fields[0] != "Z" and int(fields[3]) == pid
    ]


def end_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a spawned process and everything that it started, and wait for their end. Safe twice."""
    if process.pid in _sessions:
        members = session(process.pid)
        kill_tree(members)
        process.wait()
        wait_gone(members)
        _sessions.discard(process.pid)


_owner = os.getpid()


@atexit.register
def _end_sessions() -> None:
    if os.getpid() != _owner:
        return  # a child that a test forked, and that ends as programs do: these are not its processes
    for pid in _sessions:
        kill_tree(session(pid))


def kill(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def kill_tree(pids: Iterable[int]) -> None:
    """Kill every process of the list at once: none of them can react to the end of another."""
    members = list(pids)
    for pid in members:
        kill(pid, signal.SIGSTOP)
    for pid in members:
        kill(pid, signal.SIGKILL)


def tree(pid: int) -> list[int]:
    """The process and all its descendants, parents first; those that have ended are left out."""
    parents: dict[int, list[int]] = {}
    for member in _processes():
        fields = _stat(member)
        if fields and fields[0] != "Z":
            parents.setdefault(int(fields[1]), []).append(member)
    found = [pid] if is_alive(pid) else []
    for parent in found:
        found += parents.get(parent, [])
    return found


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that ended and waits for its parent to read its status does not."""
    fields = _stat(pid)
    return bool(fields) and fields[0] != "Z"


def wait_gone(pids: Iterable[int], *, timeout: float = 30.0) -> None:
    """Wait until none of the processes runs."""
    members = list(pids)
    wait_until(
        lambda: not any(is_alive(pid) for pid in members),
        timeout=timeout,
        what=lambda: f"the end of the processes {[pid for pid in members if is_alive(pid)]}",
    )


def cpu_seconds(pids: Iterable[int]) -> float:
    """User plus system time of the processes and of the children whose end they have waited for."""
    ticks = 0
    for pid in pids:
        fields = _stat(pid)
        if fields:
            ticks += sum(int(fields[index]) for index in (11, 12, 13, 14))
    return ticks / _CLOCK_TICKS


def pss_bytes(pids: Iterable[int]) -> int:
    """Memory of the processes with each shared page divided among those that share it (PSS), in bytes."""
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on: state, parent, group, session …; empty when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()
