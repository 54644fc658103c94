"""A socket that one thread reads and another writes, each with a time limit of its own."""

from __future__ import annotations

import math
import select
import socket
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from umbel.stores.amqp.address import Address

__all__ = ["SharedSocket", "prepare_socket"]

_READ_SIZE = 65536
#: Seconds that the kernel lets a reader sleep at most. Who has less time left asks first whether there is something.
_SLEEP = 0.5


class SharedSocket:
    """A connected socket. Raises OSError where it is broken.

    A plain one blocks, with the kernel's own time limit: reading is one system call. Those of gevent and eventlet, and
    all where the system has no call that does not block, are asked first whether there is something to read.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._plain = type(connected) is socket.socket and hasattr(socket, "MSG_DONTWAIT")
        self._flags = socket.MSG_DONTWAIT if self._plain else 0
        if self._plain:
            connected.settimeout(None)
            limit = struct.pack("@ll", 0, int(_SLEEP * 1_000_000))
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        else:
            connected.settimeout(0.0)
        self._input = _poll(connected, write=False)
        self._output = _poll(connected, write=True)

    def send(self, data: bytearray) -> int:
        """How many bytes the kernel took; 0 when it takes none now."""
        try:
            return self._socket.send(data, self._flags)
        except (BlockingIOError, InterruptedError):
            return 0

    def receive(self, seconds: float) -> bytes | None:
        """What has come, waiting some seconds for it; None: nothing yet. Empty when the other side has closed."""
        if (not self._plain or seconds < _SLEEP) and not self.is_readable(seconds):
            return None
        try:
            return self._socket.recv(_READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return None

    def is_readable(self, seconds: float) -> bool:
        """Whether there is something to read, the end included, waiting some seconds for it."""
        return _wait(self._input, self._socket, seconds, write=False)

    def is_writable(self, seconds: float) -> bool:
        """Whether the kernel takes more, waiting some seconds for it."""
        return _wait(self._output, self._socket, seconds, write=True)

    def shut(self) -> None:
        """End the conversation; who reads in another thread finds the connection closed. Raises OSError."""
        self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give it back. Safe twice."""
        self._socket.close()


def _poll(watched: socket.socket, *, write: bool) -> Any:
    if not hasattr(select, "poll"):
        return None
    made = select.poll()
    made.register(watched, select.POLLOUT if write else select.POLLIN)
    return made


def _wait(poll: Any, watched: socket.socket, seconds: float, *, write: bool) -> bool:
    seconds = max(seconds, 0.0)
    if poll is not None:
        return bool(poll.poll(math.ceil(seconds * 1000)))
    read, written = ([], [watched]) if write else ([watched], [])
    return any(select.select(read, written, [], seconds))


def prepare_socket(connected: Any, address: Address) -> None:
    """Have the kernel look after a connection that is silent."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, value in address.socket_settings.items():
        connected.setsockopt(socket.IPPROTO_TCP, option, value)
