"""Permits: the supervisor and a pool process agree on which jobs have begun, whatever kills either of them.

Problem: jobs travel many to a frame, and those a process has not begun must be taken back while it is busy with the
first, or when it dies. Asking it is no use: it may be stopped, spinning or dead.

Solution: one permit for each job sent, in a counter that the kernel keeps. The process takes one before it begins a
job; the supervisor takes those that are left. Taking is atomic, so each job is either begun or taken back, and
``begun = sent - left`` holds after a SIGKILL at any instruction. Jobs are begun in the order they were sent, so the
count says which. A counting eventfd serves where there is one, a pipe of single bytes elsewhere.
"""

from __future__ import annotations

import fcntl
import os
import sys
import termios

#: The system's own: what eventlet puts in its place waits until there is something to read.
_read = os.read


class Permits:
    """One end of the counter; the process that begins jobs needs only ``read_fd``."""

    def __init__(
        self, read_fd: int, write_fd: int | None = None, *, eventfd: bool = hasattr(os, "eventfd")
    ) -> None:
        self.read_fd = read_fd
        self._write_fd = write_fd
        # An eventfd is read and written eight bytes at a time, through one descriptor; a pipe gives single bytes.
        self._width = 8 if eventfd else 1

    @classmethod
    def create(cls, *, eventfd: bool = hasattr(os, "eventfd")) -> Permits:
        """A new counter at zero, both ends in one hand."""
        if eventfd:
            fd = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            return cls(fd, fd)
        read_fd, write_fd = os.pipe()
        os.set_blocking(read_fd, False)
        return cls(read_fd, write_fd, eventfd=False)

    def give(self, count: int) -> None:
        """Permit ``count`` more jobs."""
        assert self._write_fd is not None
        os.write(self._write_fd, count.to_bytes(8, sys.byteorder) if self._width == 8 else bytes(count))

    def take(self) -> bool:
        """Take one permit; false when none is left."""
        try:
            _read(self.read_fd, self._width)
        except BlockingIOError:
            return False
        return True

    def take_all(self) -> int:
        """Take what is left; how many that was."""
        count = 0
        while self.take():
            count += 1
        return count

    def left(self) -> int:
        """How many have not been taken; takes none."""
        if self._width == 1:
            waiting = bytearray(4)
            fcntl.ioctl(self.read_fd, termios.FIONREAD, waiting)
            return int.from_bytes(waiting, sys.byteorder)
        # Asked a hundred times a second while short jobs run, so without the layers of open().
        info = os.open(f"/proc/self/fdinfo/{self.read_fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(info, 4096)
        finally:
            os.close(info)
        for line in text.splitlines():
            if line.startswith(b"eventfd-count:"):
                return int(line.split()[1], 16)
        raise RuntimeError("the kernel does not say how many permits are left: no eventfd-count in fdinfo")

    def close(self) -> None:
        """Close both ends that are here. Safe to call twice."""
        for fd in {self.read_fd, -1 if self._write_fd is None else self._write_fd} - {-1}:
            os.close(fd)
        self.read_fd, self._write_fd = -1, None
