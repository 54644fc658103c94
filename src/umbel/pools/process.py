"""One pool process as the supervisor's start methods see it: its link, its permits, its id and its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import TYPE_CHECKING, Protocol

from umbel.pools.permits import Permits

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.pools.frames import ProcessSettings


class PoolProcess:
    """The supervisor's hold on one pool process, from before its birth until after its death.

    ``on_exit`` is called once, in the event loop's thread, with text such as ``signal 9 (SIGKILL)`` or
    ``exitcode 3``; nothing more comes through the link by then but what the kernel still holds.
    """

    def __init__(self, settings: ProcessSettings, on_exit: Callable[[str], None]) -> None:
        self.settings = settings
        self.link, self.child_link = socket.socketpair()
        self.link.setblocking(False)
        self.permits = Permits.create()
        self.pid = 0  #: 0 until it is born
        self.can_kill = True  #: false for a thread of this very process
        #: Has a thread of this very process look at its link though all its slots are busy.
        self.on_ring: Callable[[], None] | None = None
        self._pidfd = -1
        self._on_exit = on_exit
        self._signal_at_birth: int | None = None
        self._exited = False

    def born(self, pid: int) -> None:
        """The process exists. What it was to be sent before that is sent now."""
        self.pid = pid
        if hasattr(os, "pidfd_open"):
            try:
                self._pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                return  # gone already; its end is on the way
        if self._signal_at_birth is not None:
            self.send_signal(self._signal_at_birth)

    def kill(self) -> None:
        """End it now. A thread is given up instead: it is left to itself, and counts as ended."""
        if self.can_kill:
            self.send_signal(signal.SIGKILL)
        else:
            self.exited("its thread did not end in time and was given up")

    def ring(self) -> None:
        """Have a process whose slots are threads look at its link though all of them are busy."""
        if self.can_kill:
            self.send_signal(signal.SIGUSR1)
        elif self.on_ring is not None:
            self.on_ring()

    def send_signal(self, signum: int) -> None:
        """Send a signal; nothing happens when the process has ended."""
        if self._exited or not self.can_kill:
            return
        if not self.pid:
            self._signal_at_birth = signum
            return
        try:
            if self._pidfd >= 0:
                # Not the pid: that may belong to another process by now.
                signal.pidfd_send_signal(self._pidfd, signum)
            else:
                os.kill(self.pid, signum)
        except ProcessLookupError:
            return

    def exited(self, why: str) -> None:
        """The start method says that the process has ended."""
        if not self._exited:
            self._exited = True
            self._on_exit(why)

    def end_surely(self, why: str) -> None:
        """Kill it, and say that it has exited once it has."""
        if self._pidfd < 0:
            self.exited(why)
            return
        self.send_signal(signal.SIGKILL)
        loop, pidfd = asyncio.get_running_loop(), self._pidfd

        def on_end() -> None:
            loop.remove_reader(pidfd)
            self.exited(why)

        loop.add_reader(pidfd, on_end)

    def give_child_ends(self) -> None:
        """The process has its ends of the wire; close ours of them, so that its end is seen on the link."""
        self.child_link.close()

    def close(self) -> None:
        """Release what the system keeps for it."""
        self.link.close()
        self.child_link.close()
        self.permits.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


class Launcher(Protocol):
    """A way to start pool processes."""

    #: Whether a job that overruns its hard limit can be ended, by ending its process.
    can_kill: bool

    def prepare(self) -> None:
        """What is best done before the event loop runs. Safe to call twice."""

    def start(self) -> None:
        """Called once in the event loop before the first ``launch``."""

    def launch(self, process: PoolProcess) -> None:
        """Start it. Never blocks; failing to is reported by its ``exited``."""

    def close(self) -> None:
        """Called when every process has ended."""


def describe_status(status: int) -> str:
    """A wait status in Celery's words."""
    code = os.waitstatus_to_exitcode(status)
    return describe_exitcode(code)


def describe_exitcode(code: int) -> str:
    """An exit code, negative for a signal, in Celery's words."""
    if code >= 0:
        return f"exitcode {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"
