"""A TCP proxy between a client and a private server: the network that fails when a test says so."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Literal, Self

from tests.support.servers import HOST, free_port

if TYPE_CHECKING:
    from types import TracebackType

Side = Literal["client", "server"]

_CHUNK = 65536
#: Closing a socket with this sends a reset instead of a polite end.
_RESET = struct.pack("ii", 1, 0)


class TcpProxy:
    """Passes bytes between its own port and a server's, until told otherwise.

    ``freeze`` holds everything back while connections stay open, ``cut`` resets them, ``cut_after`` does so in the
    middle of what is being sent, ``refuse`` takes no new ones, and ``slow_down`` makes the way long or narrow. All are
    safe from any thread.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self._listener: socket.socket | None = None
        self._pairs: list[_Pair] = []
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._budget: dict[Side, int | None] = {"client": None, "server": None}
        self._was_cut = threading.Event()
        self._marker = b""
        self._latency = 0.0
        self._rate = 0.0
        self.accepted = 0  #: how many connections it has taken so far

    def start(self) -> Self:
        """Listen on a free port."""
        self.port = free_port()
        self.accept()
        return self

    def stop(self) -> None:
        """Take no more connections and end those there are. Safe twice."""
        self.refuse()
        self._flowing.set()
        self.cut()

    def url(self, scheme: str = "amqp", path: str = "/") -> str:
        """The address of the server by way of this proxy."""
        user = "guest:guest@" if scheme.startswith("amqp") else ""
        return f"{scheme}://{user}{HOST}:{self.port}/{path.removeprefix('/') or ('%2F' if user else '0')}"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        with self._lock:
            return len(self._pairs)

    def freeze(self) -> None:
        """Pass nothing on; connections stay open, and new ones are taken and hang."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Pass on what was held back, and go on."""
        self._flowing.set()

    def slow_down(self, latency: float = 0.0, rate: float = 0.0) -> None:
        """Pass each portion on ``latency`` seconds late, and ``rate`` bytes a second of a direction at the most.

        0 is no limit. Without arguments the way is as fast as it was.
        """
        self._latency, self._rate = latency, rate

    def abandon(self) -> None:
        """Swallow what comes on the connections there are, for ever; new ones work. Nobody is told."""
        with self._lock:
            for pair in self._pairs:
                pair.abandoned = True

    def swallow(self, marker: bytes) -> None:
        """From now on swallow for ever what comes on a connection on which a client sends these bytes; b"": on none."""
        self._marker = marker

    def refuse(self) -> None:
        """Refuse new connections; those there are stay."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            listener.close()

    def accept(self) -> None:
        """Take new connections again, on the same port."""
        if self._listener is None:
            self._listener = socket.create_server((HOST, self.port), reuse_port=False)
            threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def cut(self) -> int:
        """Reset every connection; how many there were."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            pair.reset()
        return len(pairs)

    def cut_after(self, count: int, *, towards: Side) -> None:
        """Pass ``count`` more bytes in one direction, then reset every connection: ``wait_cut`` tells when."""
        self._was_cut.clear()
        with self._lock:
            self._budget[towards] = count

    def wait_cut(self, timeout: float = 20.0) -> None:
        """Wait until ``cut_after`` has cut. Raises AssertionError when so much was never sent."""
        assert self._was_cut.wait(timeout), f"waited {timeout:g} s for enough bytes to cut: {self._budget}"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # refuse() has closed it
            try:
                server = socket.create_connection((HOST, self.target_port))
            except OSError:
                _close_with_reset(client)  # the server is away: its clients see that at once
                continue
            pair = _Pair(client, server)
            with self._lock:
                self._pairs.append(pair)
                self.accepted += 1
            for source, target, towards in ((client, server, "server"), (server, client, "client")):
                arguments = (pair, source, target, towards)
                threading.Thread(target=self._pump, args=arguments, daemon=True).start()

    def _pump(self, pair: _Pair, source: socket.socket, target: socket.socket, towards: Side) -> None:
        try:
            while data := source.recv(_CHUNK):
                self._flowing.wait()
                if self._marker and towards == "server" and self._marker in data:
                    pair.abandoned = True
                if pair.abandoned:
                    continue
                if pause := self._latency + (len(data) / self._rate if self._rate else 0.0):
                    time.sleep(pause)
                allowed = self._allowed(len(data), towards)
                target.sendall(data[:allowed])
                if allowed < len(data):
                    self.cut()
                    self._was_cut.set()
                    return
        except OSError:
            pass  # the other direction, or a test, has ended the pair
        finally:
            self._end(pair)

    def _allowed(self, size: int, towards: Side) -> int:
        """How many of ``size`` bytes may pass. What is left of a budget is less than what comes when it is used up."""
        with self._lock:
            left = self._budget[towards]
            if left is None:
                return size
            if left >= size:
                self._budget[towards] = left - size
                return size
            self._budget[towards] = None
            return left

    def _end(self, pair: _Pair) -> None:
        with self._lock:
            if pair in self._pairs:
                self._pairs.remove(pair)
        pair.close()


class _Pair:
    """The two connections that a client's is made of."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._sockets = (client, server)
        self.abandoned = False

    def reset(self) -> None:
        for each in self._sockets:
            _close_with_reset(each)

    def close(self) -> None:
        for each in self._sockets:
            _wake(each)
            each.close()


def _close_with_reset(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        # A close alone would wait for the thread that reads from it; this half ends the read and keeps the reset.
        each.shutdown(socket.SHUT_RD)
    each.close()


def _wake(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
