"""A terminal in which a program runs: what it shows is read, keys are pressed, and its size changes."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from typing import TYPE_CHECKING, Any, Self

import pyte

from tests.support.processes import end_session, spawn
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

#: Makes standard output the terminal that rules its session, and standard input the same, then becomes the program.
_LOGIN = (
    "import fcntl, os, sys, termios; fcntl.ioctl(1, termios.TIOCSCTTY, 0); os.dup2(1, 0);"
    "os.execv(sys.argv[1], sys.argv[1:])"
)
#: As pyte numbers a private mode: the other screen, on which programs draw that leave nothing behind.
_OTHER_SCREEN = 1049 << 5


class Terminal:
    """A program and the terminal it has to itself."""

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        cwd: Path,
        env: Mapping[str, str],
        rows: int = 40,
        columns: int = 120,
    ) -> None:
        self._argv = [str(part) for part in argv]
        self._cwd = cwd
        self._env = {**os.environ, "TERM": "xterm-256color", **env}
        for name in ("LINES", "COLUMNS", "NO_COLOR"):
            self._env.pop(name, None)
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self._ours, self._its = pty.openpty()
        self._process: subprocess.Popen[bytes] | None = None
        self._reader = threading.Thread(target=self._read, name="terminal", daemon=True)
        self.resize(rows, columns)

    def __enter__(self) -> Self:
        argv = [sys.executable, "-c", _LOGIN, *self._argv]
        self.before = self.settings()
        self._process = spawn(argv, cwd=self._cwd, output=self._its, env=self._env)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        end_session(self._process)
        os.close(self._its)
        self._reader.join(timeout=10)
        os.close(self._ours)

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._ours, 65536)
            except OSError:
                return  # nobody has the other side any more
            with self._lock:
                self._stream.feed(data)

    def resize(self, rows: int, columns: int) -> None:
        """Change its size, as by dragging a window's corner."""
        with self._lock:
            self._screen.resize(rows, columns)
            fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: str) -> None:
        """Press some keys."""
        os.write(self._ours, keys.encode())

    @property
    def pid(self) -> int:
        """The program's process."""
        assert self._process is not None
        return self._process.pid

    def lines(self) -> list[str]:
        """What it shows."""
        with self._lock:
            return [line.rstrip() for line in self._screen.display]

    def text(self) -> str:
        """What it shows, as one text."""
        return "\n".join(self.lines())

    def reversed(self) -> str:
        """The line that stands out."""
        with self._lock:
            for row, line in enumerate(self._screen.display):
                if any(character.reverse for character in self._screen.buffer[row].values()):
                    return line.rstrip()
        return ""

    def wait_for(self, pattern: str, *, timeout: float = 30.0) -> re.Match[str]:
        """Wait until it shows something."""
        found = wait_until(
            lambda: re.search(pattern, self.text(), re.MULTILINE),
            timeout=timeout,
            what=lambda: f"{pattern!r}; the terminal shows:\n{self.text()}",
        )
        assert found is not None
        return found

    def wait_gone(self, pattern: str) -> None:
        """Wait until it shows something no more."""
        wait_until(
            lambda: re.search(pattern, self.text(), re.MULTILINE) is None,
            what=lambda: f"the end of {pattern!r}; the terminal shows:\n{self.text()}",
        )

    def wait(self, timeout: float = 20.0) -> int:
        """Wait for the program's end; its exit status."""
        assert self._process is not None
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end; the terminal shows:\n{self.text()}") from None

    def settings(self) -> list[Any]:
        """Whether it echoes, and the like."""
        return termios.tcgetattr(self._its)

    @property
    def on_other_screen(self) -> bool:
        """Whether what it shows hides what was there before."""
        with self._lock:
            return _OTHER_SCREEN in self._screen.mode

    @property
    def shows_cursor(self) -> bool:
        """Whether there is a cursor."""
        with self._lock:
            return not self._screen.cursor.hidden
