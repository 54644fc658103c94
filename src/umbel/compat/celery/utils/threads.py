"""Threads and what belongs to one."""

from __future__ import annotations

import os
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

__all__ = (
    "Local",
    "LocalManager",
    "LocalStack",
    "bgThread",
    "bound_open_broker_sockets",
    "default_socket_timeout",
    "get_ident",
)

USE_FAST_LOCALS = os.environ.get("USE_FAST_LOCALS")


@contextmanager
def default_socket_timeout(timeout: float | None) -> Iterator[None]:
    """Sockets that are made inside have this timeout."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def bound_open_broker_sockets(connection: Any, timeout: float | None) -> Iterator[None]:
    """Accepted; Umbel's connections have timeouts of their own."""
    yield


class bgThread(threading.Thread):
    """A thread that calls ``body`` until it is stopped."""

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name or self.__class__.__name__, daemon=True)
        self.__is_shutdown = threading.Event()
        self.__is_stopped = threading.Event()

    def body(self) -> None:
        """What is called again and again. Subclasses define it."""
        raise NotImplementedError("a subclass says what the thread does")

    def on_crash(self, msg: str, *fmt: Any, **kwargs: Any) -> None:
        """Tell that ``body`` raised."""
        print(msg.format(*fmt), file=sys.stderr)  # noqa: T201 - there may be no log any more
        traceback.print_exc(file=sys.stderr)

    def run(self) -> None:
        """Call ``body`` until ``stop``; the process ends when it raises."""
        try:
            while not self.__is_shutdown.is_set():
                try:
                    self.body()
                except Exception as error:  # nobody else is left who could hear of it
                    self.on_crash("{0!r} crashed: {1!r}", self.name, error)
                    sys.stderr.flush()
                    os._exit(1)
        finally:
            self.__is_stopped.set()

    def stop(self) -> None:
        """Have it end, and wait for that."""
        self.__is_shutdown.set()
        self.__is_stopped.wait()
        if self.is_alive():
            self.join(threading.TIMEOUT_MAX)


class Local(threading.local):
    """Attributes of this thread."""

    def __release_local__(self) -> None:
        vars(self).clear()


class LocalStack(threading.local):
    """A stack of this thread."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.push = self.stack.append

    def pop(self) -> Any:
        """The last thing put on it, taken off; None when it is empty."""
        return self.stack.pop() if self.stack else None

    def __len__(self) -> int:
        return len(self.stack)

    @property
    def top(self) -> Any:
        """The last thing put on it; None when it is empty."""
        return self.stack[-1] if self.stack else None

    def __release_local__(self) -> None:
        self.stack.clear()


_LocalStack = _FastLocalStack = LocalStack


def release_local(local: Any) -> None:
    """Forget what this thread keeps there."""
    local.__release_local__()


class LocalManager:
    """Several locals, released together."""

    def __init__(self, locals: Any = None, ident_func: Any = None) -> None:
        self.locals = [] if locals is None else [locals] if isinstance(locals, Local) else list(locals)
        self.ident_func = ident_func or get_ident

    def get_ident(self) -> Any:
        """The number of this thread."""
        return self.ident_func()

    def cleanup(self) -> None:
        """Release all of them for this thread."""
        for local in self.locals:
            release_local(local)

    def __repr__(self) -> str:
        return f"<{self.__class__.__name__} storages: {len(self.locals)}>"
