"""Starting pool processes from nothing: a new interpreter that imports what it needs.

For supervisors that must not fork: embedded in a program with threads of its own, or on systems where forking is not
safe. The runner's factory has to be importable.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from umbel.pools import frames
from umbel.pools.process import describe_exitcode

if TYPE_CHECKING:
    from umbel.pools.process import PoolProcess


class SpawnLauncher:
    """Starts ``python -m umbel.pools.child_main`` with the ends of the wire as inherited descriptors."""

    can_kill = True

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def prepare(self) -> None:
        """Nothing: what is open here is not inherited."""

    def start(self) -> None:
        """Remember the loop."""
        self._loop = asyncio.get_running_loop()

    def launch(self, process: PoolProcess) -> None:
        """Start an interpreter and tell it what to be."""
        assert self._loop is not None
        fds = (process.child_link.fileno(), process.permits.read_fd)
        command = [sys.executable, "-m", "umbel.pools.child_main", *map(str, fds), str(os.getpid())]
        try:
            child = subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL)
        except OSError as error:
            self._loop.call_soon(process.exited, f"cannot start {sys.executable}: {error}")
            return
        process.give_child_ends()
        process.born(child.pid)
        # Small, and the first thing on an empty socket: it fits.
        process.link.send(frames.FrameWriter().frame(frames.SETTINGS, process.settings))
        self._watch(child, process)

    def close(self) -> None:
        """Nothing is left when every process has ended."""

    def _watch(self, child: subprocess.Popen[bytes], process: PoolProcess) -> None:
        """Notice its end: from the loop where the system can say it there, else with a thread."""
        assert self._loop is not None
        loop = self._loop
        if hasattr(os, "pidfd_open"):
            pidfd = os.pidfd_open(child.pid)

            def on_end() -> None:
                loop.remove_reader(pidfd)
                os.close(pidfd)
                process.exited(describe_exitcode(child.wait()))

            loop.add_reader(pidfd, on_end)
            return

        def wait() -> None:
            why = describe_exitcode(child.wait())
            loop.call_soon_threadsafe(process.exited, why)

        threading.Thread(target=wait, name=f"umbel-wait-{child.pid}", daemon=True).start()
