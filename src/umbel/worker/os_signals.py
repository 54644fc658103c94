"""Signals of the operating system, as Celery's worker answers them.

=====  ==========================================================================
TERM   warm shutdown; again: cold. With ``REMAP_SIGTERM=SIGQUIT`` in the environment, cold
INT    warm shutdown; again: cold
QUIT   cold shutdown (soft first, if a soft timeout is set; again: without)
HUP    the program is started anew, when it has no terminal
USR1   the stacks of all threads go to the log
=====  ==========================================================================
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

logger = logging.getLogger("celery.worker")

Shutdown = Literal["warm", "cold"]


class OsSignals:
    """Turns signals into calls in the worker's loop; only in the main thread, where Python can receive them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_shutdown: Callable[[str, Shutdown], None]) -> None:
        self._loop = loop
        self._on_shutdown = on_shutdown
        self._installed: list[int] = []
        self._asked: set[str] = set()
        self.restart_wanted = False

    def install(self) -> None:
        """Take the signals over; does nothing outside the main thread (a worker inside another program)."""
        if threading.current_thread() is not threading.main_thread():
            return
        term: Shutdown = "cold" if os.environ.get("REMAP_SIGTERM") == "SIGQUIT" else "warm"
        self._add(signal.SIGTERM, lambda: self._on_asked("SIGTERM", term))
        self._add(signal.SIGINT, lambda: self._on_asked("SIGINT", "warm"))
        self._add(signal.SIGQUIT, lambda: self._on_asked("SIGQUIT", "cold"))
        self._add(signal.SIGUSR1, log_stacks)
        if not sys.stdin or not sys.stdin.isatty():
            self._add(signal.SIGHUP, self._on_hangup)

    def remove(self) -> None:
        """Give the signals back."""
        for number in self._installed:
            self._loop.remove_signal_handler(number)
        self._installed.clear()

    def _add(self, number: signal.Signals, call: Callable[[], None]) -> None:
        self._loop.add_signal_handler(number, call)
        self._installed.append(number)

    def _on_asked(self, name: str, how: Shutdown) -> None:
        again = name in self._asked
        self._asked.add(name)
        self._on_shutdown(name, "cold" if again else how)

    def _on_hangup(self) -> None:
        logger.warning("Restarting worker (%s)", " ".join(sys.argv))
        self.restart_wanted = True
        self._on_shutdown("SIGHUP", "warm")


def log_stacks() -> None:
    """Write what every thread is doing to the log."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        stack = "".join(traceback.format_stack(frame))
        logger.warning("Thread %s\n%s", names.get(ident, ident), stack)
