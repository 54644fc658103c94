"""An event loop in a thread of its own, for blocking callers of what is asynchronous."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any, TypeVar

from umbel.errors import OperationalError

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["LoopThread"]

_T = TypeVar("_T")


class LoopThread:
    """Runs coroutines for other threads, beginning with the first. Of no use in a child process: make another there."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopped: asyncio.Event | None = None

    def call(self, coroutine: Coroutine[Any, Any, _T], timeout: float, overdue: str) -> _T:
        """What a coroutine returns or raises; OperationalError that says ``overdue`` after ``timeout`` seconds."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._running())
        try:
            return future.result(timeout)
        except FutureTimeoutError:
            future.cancel()
            raise OperationalError(f"{overdue} within {timeout:g} seconds") from None

    def close(self) -> None:
        """End the loop, and what still runs in it. Safe twice; the next call begins another."""
        with self._lock:
            loop, stopped, thread = self._loop, self._stopped, self._thread
            self._loop = None
        if loop is not None and stopped is not None and thread is not None:
            loop.call_soon_threadsafe(stopped.set)
            thread.join()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                begun = threading.Event()
                self._thread = threading.Thread(
                    target=lambda: asyncio.run(self._serve(begun)), name=self._name, daemon=True
                )
                self._thread.start()
                begun.wait()
            assert self._loop is not None
            return self._loop

    async def _serve(self, begun: threading.Event) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        stopped = self._stopped
        begun.set()
        await stopped.wait()
