"""A slot inside the worker's own process: a thread at the other end of the same wire.

For ``--pool solo``, debuggers and embedded workers. A thread cannot be ended: a hard limit raises TimeLimitExceeded
in the body, which a body blocked in C does not see, and a body that never ends keeps its thread until the program
exits.
"""

from __future__ import annotations

import asyncio
import os
import threading
import traceback
from typing import TYPE_CHECKING

from umbel.pools import frames
from umbel.pools.child import Station, ThreadSlots
from umbel.pools.ends import report_crash
from umbel.pools.inbox import Outbox
from umbel.pools.permits import Permits
from umbel.pools.process import describe_exitcode

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from umbel.pools.base import JobRunner
    from umbel.pools.process import PoolProcess


class InlineLauncher:
    """Starts threads that are pool processes in all but name."""

    can_kill = False

    def __init__(self, make_runner: Callable[[], JobRunner]) -> None:
        self._make_runner = make_runner
        self._loop: asyncio.AbstractEventLoop | None = None

    def prepare(self) -> None:
        """Nothing."""

    def start(self) -> None:
        """Remember the loop."""
        self._loop = asyncio.get_running_loop()

    def launch(self, process: PoolProcess) -> None:
        """Start a thread."""
        # Descriptors of its own: a thread that had to be given up must not read another's through old numbers.
        link, permits = process.child_link.dup(), Permits(os.dup(process.permits.read_fd))
        process.give_child_ends()
        process.can_kill = False
        process.pid = os.getpid()
        name = process.settings.name
        thread = threading.Thread(target=self._run, args=(process, link, permits), name=name, daemon=True)
        thread.start()

    def close(self) -> None:
        """Nothing is left when every thread has ended."""

    def _run(self, process: PoolProcess, link: socket.socket, permits: Permits) -> None:
        code = 1
        try:
            code = self._serve(process, link, permits)
        except Exception as error:
            report_crash(error)
        finally:
            link.close()
            permits.close()
            self._tell_end(process, code)

    def _serve(self, process: PoolProcess, link: socket.socket, permits: Permits) -> int:
        try:
            runner = self._make_runner()
        except Exception as error:
            Outbox(link).send(frames.FAILED, "".join(traceback.format_exception(error)))
            return 1
        codes: list[int] = []
        slots = ThreadSlots(Station(link, permits, process.settings, runner), codes.append, inline=True)
        process.on_ring = slots.bell.ring
        try:
            code = slots.serve()
        finally:
            process.on_ring = None
            slots.bell.close()
        runner.process_exit(codes[0] if codes else code)
        return codes[0] if codes else code

    def _tell_end(self, process: PoolProcess, code: int) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(process.exited, describe_exitcode(code))
        except RuntimeError:
            # The loop was closed without this thread: its pool had given it up.
            return
