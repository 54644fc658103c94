"""A thread that takes replies from a server, and makes its connection again when it is lost."""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from umbel.errors import OperationalError

if TYPE_CHECKING:
    from umbel.stores.replies import ReplyReceiver

__all__ = ["PATIENCE", "CollectorThread"]

#: Seconds without a connection after which those who wait are told.
PATIENCE: Final = 30.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
#: Seconds that the thread may take to end; it keeps no program from ending after that.
_GOODBYE: Final = 5.0


class CollectorThread(ABC):
    """One such thread; it runs from ``start`` until it is closed, or the receiver gives up."""

    def __init__(self, receiver: ReplyReceiver) -> None:
        self._receiver = receiver
        self._closing = threading.Event()
        self._ended = threading.Event()
        self._pid = os.getpid()
        self._failing_since: float | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="umbel results", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """Whether it goes on."""
        return self._pid == os.getpid() and not self._ended.is_set() and not self._closing.is_set()

    @abstractmethod
    def collect(self) -> None:
        """Connect, call ``working``, and take replies until ``close``. Raises OperationalError when that fails."""

    @abstractmethod
    def interrupt(self) -> None:
        """Have ``collect`` return soon; called from other threads, once ``closing`` is set."""

    def working(self) -> None:
        """There is a connection."""
        self._failing_since = self._error = None

    @property
    def closing(self) -> bool:
        """Whether ``collect`` is to return."""
        return self._closing.is_set()

    def close(self) -> None:
        """Stop, and wait for that. Safe twice, and in a child process."""
        self._closing.set()
        if self._pid != os.getpid() or self._ended.is_set():
            return
        self.interrupt()
        if threading.current_thread() is not self._thread:
            self._thread.join(_GOODBYE)

    def wait_for(self, event: threading.Event, what: str) -> None:
        """Wait for what the thread does. Raises OperationalError after ``PATIENCE`` seconds, or when it has ended."""
        deadline = time.monotonic() + PATIENCE
        while not event.wait(0.1):
            if self._ended.is_set() or self.closing or time.monotonic() > deadline:
                why = f": {self._error}" if self._error else ""
                raise OperationalError(f"{what} within {PATIENCE:g} seconds{why}")

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        try:
            while not self.closing:
                try:
                    self.collect()
                    pause = _FIRST_PAUSE
                except OperationalError as error:
                    if self._failing_since is None:
                        pause = _FIRST_PAUSE
                    if not self._bears(error):
                        return
                self._closing.wait(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
        finally:
            self._ended.set()

    def _bears(self, error: OperationalError) -> bool:
        """Whether to try again."""
        now = time.monotonic()
        self._error = error
        self._failing_since = self._failing_since or now
        if now - self._failing_since < PATIENCE:
            return True
        # Those who begin to wait from now on find it ended, and start another.
        self._ended.set()
        self._receiver.failed(error)
        return False
