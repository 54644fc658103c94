"""Watches an event loop that tasks share: one that does not await holds up all of them, and says nothing of it."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from umbel.pools.frames import ProcessSettings

logger = logging.getLogger("celery.worker.loop")


class LoopWatch:
    """Says so, with the stack, when the loop of this thread does not turn for ``settings.block_timeout`` seconds.

    Its thread starts with the first job and sleeps when there are none. 0 seconds: no watch.

    Args:
        loop: the loop, of the thread that makes the watch.
        settings: of the process.
        describe: what runs now, in words.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, settings: ProcessSettings, describe: Callable[[], str]
    ) -> None:
        self._loop = loop
        self._name = settings.name
        self._timeout = settings.block_timeout
        self._describe = describe
        self._thread_id = threading.get_ident()
        self._thread: threading.Thread | None = None
        self._woken = threading.Event()
        self._ending = threading.Event()
        self._rounds = 0  #: turns of the watch since a job began
        #: Whether ``wake`` has to be called when a job begins.
        self.asleep = self._timeout > 0

    def wake(self) -> None:
        """A job has begun."""
        self.asleep = False
        self._rounds = 0
        self._woken.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="umbel-loop-watch", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Watch no more."""
        self._ending.set()
        self._woken.set()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._woken.wait()
            self._woken.clear()
            # Two quiet rounds after the last call: then somebody has to wake it again.
            while not self._ending.wait(self._timeout / 2):
                self._look()
                self._rounds += 1
                if self._rounds >= 3:
                    self.asleep = True
                    break

    def _look(self) -> None:
        turned = threading.Event()
        began = time.monotonic()
        try:
            self._loop.call_soon_threadsafe(turned.set)
        except RuntimeError:
            self._ending.set()  # closed
            return
        if turned.wait(self._timeout):
            return
        logger.warning(
            "The event loop of %s has not turned for %g seconds, because of %s: it does not await. Code that blocks "
            "belongs in a task that is a plain def, which runs in a thread. It is here:\n%s",
            self._name,
            self._timeout,
            self._describe(),
            self._stack(),
        )
        while not turned.wait(1.0) and not self._ending.is_set():
            pass
        logger.warning(
            "The event loop of %s turns again after %.1f seconds", self._name, time.monotonic() - began
        )

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._thread_id)
        return "".join(traceback.format_stack(frame)) if frame is not None else ""
