"""A runner whose jobs are written in their payloads: what the pool suite and pool benchmarks run.

A payload is a command and its arguments, separated by spaces; an empty one echoes. Importable, so that processes that
start from nothing can make it.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import logging
import os
import signal
import socket
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from umbel.errors import SoftTimeLimitExceeded, TimeLimitExceeded
from umbel.pools.base import Report, Work
from umbel.testing.contracts.support import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.pools.base import AsyncSlot


#: Between a command and the one that follows it.
_THEN = " then "


def _no_limit(seconds: float | None) -> AbstractContextManager[None]:
    return nullcontext()


def _no_hard_limit(seconds: float) -> None:
    """For a runner that no pool has."""


class ScriptedRunner:
    """Does what payloads say and reports it; files are how a test sees inside."""

    def __init__(self) -> None:
        self.soft_limit: Callable[[float | None], AbstractContextManager[None]] = _no_limit
        self.hard_limit: Callable[[float], None] = _no_hard_limit
        self.kept: list[bytes] = []

    def process_init(self) -> None:
        """Nothing to prepare."""

    def slot_init(self) -> None:
        """Nothing to prepare."""

    def slot_exit(self) -> None:
        """Nothing to close."""

    def run(self, work: Work) -> Report:
        """Run the command of the payload."""
        started = time.perf_counter()
        command, *arguments = work.payload.decode().partition(_THEN)[0].split(" ")
        state, error = "SUCCESS", ""
        if command == "hard":
            self.hard_limit(float(arguments.pop(0)))
            command = arguments.pop(0)
        try:
            with self.soft_limit(work.soft_time_limit):
                answer = getattr(self, f"do_{command}")(*arguments) if command else "echo"
        except (SoftTimeLimitExceeded, TimeLimitExceeded, RecursionError) as exception:
            state, error, answer = "FAILURE", type(exception).__name__, ""
        runtime = time.perf_counter() - started
        return Report(work.seq, state, "ack", runtime, payload=str(answer).encode(), error=error)

    def follow(self, work: Work, report: Report) -> Work | None:
        """What the payload says after ``then``."""
        following = work.payload.decode().partition(_THEN)[2]
        return Work(work.seq, following.encode(), work.queue, runs_on=True) if following else None

    def process_exit(self, exitcode: int) -> None:
        """Nothing to close."""

    async def aopen(self) -> None:
        """Nothing to open."""

    async def aclose(self) -> None:
        """Nothing to close."""

    async def arun(self, work: Work, slot: AsyncSlot) -> Report:
        """Run ``async def`` commands on the loop, the others in a thread."""
        command, *arguments = work.payload.decode().split(" ")
        coroutine = getattr(self, f"ado_{command}", None)
        if coroutine is None:
            return await slot.in_thread(lambda: self.run(work))
        slot.title = command
        started = time.perf_counter()
        state, error, answer = "SUCCESS", "", ""
        try:
            answer = await slot.run(coroutine(*arguments), work.soft_time_limit)
        except SoftTimeLimitExceeded as exception:
            state, error = "FAILURE", type(exception).__name__
        runtime = time.perf_counter() - started
        return Report(work.seq, state, "ack", runtime, payload=str(answer).encode(), error=error)

    async def ado_await(self, path: str) -> str:
        """Await a file."""
        deadline = time.monotonic() + 6 * PATIENCE
        while not Path(path).exists():  # noqa: ASYNC240 - it takes no time
            if time.monotonic() > deadline:
                raise SystemExit(99)
            await asyncio.sleep(0.001)
        return "awaited"

    async def ado_sleep(self, seconds: str) -> str:
        """Await a time."""
        await asyncio.sleep(float(seconds))
        return "slept"

    async def ado_atidy(self, path: str) -> str:
        """Await what never comes, and leave behind what ended it."""
        try:
            await asyncio.get_running_loop().create_future()
        except BaseException as error:
            Path(path).write_text(type(error).__name__)  # noqa: ASYNC240 - it takes no time
            raise
        return "never"

    async def ado_stubborn(self, path: str) -> str:
        """Await a time, and again when a limit interrupts it."""
        try:
            await asyncio.sleep(6 * PATIENCE)
        except SoftTimeLimitExceeded:
            await asyncio.sleep(0.05)
        return f"went on, {Path(path).name}"

    async def ado_block(self, seconds: str) -> str:
        """Hold up the loop."""
        time.sleep(float(seconds))  # noqa: ASYNC251 - that is the point
        return "blocked"

    async def ado_aexit(self, code: str) -> str:
        """Leave in the middle of the job."""
        sys.exit(int(code))

    async def ado_group(self, path: str) -> str:
        """Await two things of a task group; both are cancelled with the job."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.ado_atidy(f"{path}.1"))
            group.create_task(self.ado_atidy(f"{path}.2"))
        return "never"

    def do_echo(self, *words: str) -> str:
        """The words."""
        return " ".join(words)

    def do_mark(self, path: str, name: str, *rest: str) -> str:
        """Add ``name`` as a line to a file with one write, then run the rest."""
        with Path(path).open("ab", buffering=0) as file:
            file.write(f"{name}\n".encode())
        return self._then(*rest)

    def do_wait(self, path: str) -> str:
        """Run until the file exists."""
        deadline = time.monotonic() + 6 * PATIENCE
        while not Path(path).exists():
            if time.monotonic() > deadline:
                raise SystemExit(99)
            time.sleep(0.001)
        return "waited"

    def do_tidy(self, path: str) -> str:
        """Run until ended by SystemExit or a limit, and leave a file behind."""
        try:
            return self.do_spin()
        finally:
            Path(path).touch()

    def do_spin(self) -> str:
        """Python code that never waits."""
        deadline = time.monotonic() + 6 * PATIENCE
        while time.monotonic() < deadline:
            pass
        raise SystemExit(99)

    def do_doze(self) -> str:
        """Waits, and waits again."""
        deadline = time.monotonic() + 6 * PATIENCE
        while time.monotonic() < deadline:
            time.sleep(0.001)
        raise SystemExit(99)

    def do_nap(self, seconds: str) -> str:
        """Wait for a time, as blocking code does."""
        time.sleep(float(seconds))
        return "napped"

    def do_busy(self, seconds: str) -> str:
        """Python code for a time."""
        deadline = time.perf_counter() + float(seconds)
        while time.perf_counter() < deadline:
            pass
        return "done"

    def do_signal(self, number: str) -> str:
        """Send a signal to this very process."""
        os.kill(os.getpid(), int(number))
        return "survived"

    def do_segfault(self) -> str:
        """Crash as C code does; quietly, where a test runner would have the stacks written out."""
        faulthandler.disable()
        ctypes.string_at(0)
        return "survived"

    def do_exit(self, code: str) -> str:
        """Leave in the middle of the job."""
        sys.exit(int(code))

    def do_gone(self, code: str) -> str:
        """Leave at once in the middle of the job."""
        os._exit(int(code))

    def do_interrupt(self) -> str:
        """KeyboardInterrupt, as code may raise it."""
        raise KeyboardInterrupt

    def do_recurse(self) -> str:
        """Python's recursion limit."""
        return self.do_recurse()

    def do_keep(self, mebibytes: str, seconds: str = "0") -> str:
        """Leak memory, and take some time."""
        self.kept.append(b"\1" * (int(mebibytes) * 1024 * 1024))
        time.sleep(float(seconds))
        return "kept"

    def do_swell(self, mebibytes: str, path: str) -> str:
        """Use memory until the file exists."""
        swollen = b"\1" * (int(mebibytes) * 1024 * 1024)
        return self.do_wait(path) if swollen else ""

    def do_answer(self, count: str) -> str:
        """A long answer."""
        return "x" * int(count)

    def do_pid(self) -> str:
        """Where the job runs."""
        return str(os.getpid())

    def do_names(self) -> str:
        """What log lines call this process."""
        return str(
            logging.makeLogRecord({}).processName or logging.LogRecord("", 0, "", 0, "", (), None).processName
        )

    def do_close(self) -> str:
        """Close every descriptor, as a daemonizing library does."""
        os.closerange(3, 256)
        return "closed"

    def do_scribble(self) -> str:
        """Write to every unix socket that is open."""
        for fd in range(3, 64):
            try:
                with socket.socket(fileno=os.dup(fd)) as link:
                    if link.family == socket.AF_UNIX:
                        link.sendall(b"\0\0\0\5\x77what?" * 3)
            except OSError:
                continue
        return self.do_spin()

    def do_alarm(self, seconds: str) -> str:
        """Use SIGALRM as tasks do that know nothing of the pool."""

        def ring(*_: object) -> None:
            raise SoftTimeLimitExceeded

        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, float(seconds))
        return self.do_spin()

    def _then(self, command: str = "", *arguments: str) -> str:
        return str(getattr(self, f"do_{command}")(*arguments)) if command else ""


class UnreadyRunner(ScriptedRunner):
    """A runner whose processes cannot start."""

    def process_init(self) -> None:
        """As a broken worker_process_init handler."""
        raise RuntimeError("no database today")
