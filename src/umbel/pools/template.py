"""The template: a clean, single-threaded copy of the worker that pool processes are forked from.

Problem: a pool process that is forked from the running supervisor inherits its loop, its connections, its threads'
locks and its garbage; one that starts from nothing imports the application again.

Solution: the supervisor forks one template before it has any of these. The template has the application and the
runner, frozen for the garbage collector so that pages stay shared, and does nothing but fork on demand: at start, for
recycling, for resizing, after a crash. It tells births and deaths.
"""

from __future__ import annotations

import gc
import multiprocessing.process
import os
import select
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from umbel.pools.child import run_process
from umbel.pools.ends import report_crash
from umbel.pools.frames import ProcessSettings
from umbel.pools.guard import die_with_parent
from umbel.pools.permits import Permits

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import NoReturn

    from umbel.pools.base import JobRunner

#: The biggest command or notice, in bytes.
_NOTICE_BYTES = 64 * 1024


class Born(msgspec.Struct, array_like=True, tag="born"):
    """A pool process was forked."""

    number: int
    pid: int


class Unborn(msgspec.Struct, array_like=True, tag="unborn"):
    """A pool process could not be forked."""

    number: int
    why: str


class Died(msgspec.Struct, array_like=True, tag="died"):
    """A pool process ended, with this wait status."""

    pid: int
    status: int


Notice = Born | Unborn | Died


class Template:
    """The template's own side: it runs in the forked process and never returns."""

    def __init__(self, control: socket.socket, make_runner: Callable[[], JobRunner]) -> None:
        self._control = control
        self._make_runner = make_runner
        self._encoder = msgspec.msgpack.Encoder()
        self._wake_read, self._wake_write = -1, -1

    def run(self, supervisor: int) -> NoReturn:
        """Fork what is asked for until the supervisor is gone."""
        code = 1
        try:
            self._come_clean(supervisor)
            self._make_runner = made_once(self._make_runner)
            gc.freeze()
            self._serve()
            code = 0
        except BaseException as error:
            report_crash(error)
        finally:
            os._exit(code)

    def _come_clean(self, supervisor: int) -> None:
        """Undo what belongs to the supervisor: signals and their wake-up channel first, they are blocked until then."""
        signal.set_wakeup_fd(-1)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        for signum in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
            signal.signal(signum, signal.SIG_DFL)
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _nothing)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        die_with_parent(supervisor, self._control)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._wake_read:
                    os.read(fd, 512)
                    self._reap()
                elif not self._obey():
                    return

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._tell(Died(pid, status))

    def _obey(self) -> bool:
        """Carry out one command; false when the supervisor has gone."""
        data, fds, _, _ = socket.recv_fds(self._control, _NOTICE_BYTES, 2)
        if not data:
            return False
        settings = msgspec.msgpack.decode(data, type=ProcessSettings)
        link_fd, permits_fd = fds
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(Unborn(settings.number, f"cannot fork: {error}"))
        else:
            if pid == 0:
                self._become(settings, socket.socket(fileno=link_fd), Permits(permits_fd))
            self._tell(Born(settings.number, pid))
        os.close(link_fd)
        os.close(permits_fd)
        return True

    def _become(self, settings: ProcessSettings, link: socket.socket, permits: Permits) -> NoReturn:
        """In the new process: be a pool process."""
        template = os.getppid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for signum in (signal.SIGCHLD, signal.SIGQUIT, signal.SIGHUP):
            signal.signal(signum, signal.SIG_DFL)
        for fd in (self._wake_read, self._wake_write):
            os.close(fd)
        self._control.close()
        die_with_parent(template, link)
        multiprocessing.process.current_process().name = settings.name
        run_process(link, permits, settings, self._make_runner)

    def _tell(self, notice: Notice) -> None:
        self._control.sendall(self._encoder.encode(notice))


def _nothing(signum: int, frame: FrameType | None) -> None:
    """A handler, so that the signal reaches the wake-up channel."""


def made_once(make_runner: Callable[[], JobRunner]) -> Callable[[], JobRunner]:
    """Make the runner here, so that its memory is shared. A failure is for the pool processes to report."""
    try:
        runner = make_runner()
    except Exception as error:
        return partial(_raise, error)
    return lambda: runner


def _raise(error: Exception) -> NoReturn:
    raise error


def fork_template(make_runner: Callable[[], JobRunner], keep: set[int] | None) -> tuple[int, socket.socket]:
    """Fork a template of this process; its pid and the control link to it.

    ``keep`` is the set of descriptors that the template may keep, None for all.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    supervisor = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    # No signal may reach the copy while it still has our handlers.
    before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            if keep is not None:
                blank_others(keep | {theirs.fileno()})
            else:
                ours.close()
            Template(theirs, make_runner).run(supervisor)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    ours.setblocking(False)
    return pid, ours


def open_descriptors() -> set[int]:
    """The descriptors that are open in this process."""
    return {int(path.name) for path in Path("/proc/self/fd").iterdir()}


def blank_others(keep: set[int]) -> None:
    """Exchange every descriptor but those of ``keep`` for an empty file.

    Their numbers stay taken. Objects that were copied from the supervisor still have them and may use them once more:
    uvloop, in every process that is forked from this one, closes what it believes to be its own descriptors. That must
    not be a link that this process was sent meanwhile.
    """
    null = os.open(os.devnull, os.O_RDWR)
    # The listing's own descriptor is among them, and closed by now; it too becomes an empty file.
    for fd in open_descriptors() - keep - {null}:
        os.dup2(null, fd, inheritable=False)
    os.close(null)
