"""Blocking connections, and the pool of them that threads share.

What is written and read goes straight through the socket and hiredis, because redis-py's command path costs several
times the work that is done here.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import struct
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import hiredis
from msgspec.structs import replace

from umbel.errors import BrokerConnectionError
from umbel.stores.redis.commands import pack_command
from umbel.stores.redis.connecting import (
    connect_socket,
    connecting,
    login_commands,
    login_timeout,
    tls_connection,
)
from umbel.stores.redis.replies import ReplyError, check, is_unknown_script, is_wrong_server
from umbel.stores.redis.scripts import pack_script

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from ssl import SSLSocket

    from umbel.stores.redis.address import Address
    from umbel.stores.redis.scripts import Script

_READ_SIZE = 65536
#: A connection that was used within these seconds is used again without looking whether the server closed it.
_FRESH = 0.02


class NothingSentError(Exception):
    """The connection was found dead before one byte of the request left, so the request may be repeated."""


class BlockingLink:
    """One connection, for one thread at a time."""

    def __init__(self, address: Address, protocol: int = 2) -> None:
        """Connect and log in. Raises BrokerConnectionError when that fails."""
        self._tls: Any = None
        with connecting(address):
            if address.tls is not None:
                self._tls = tls_connection(address, protocol)
                self._tls.connect()
            # redis-py has no public way to its socket; the private attribute is touched here and nowhere else.
            self._socket: socket.socket = connect_socket(address) if self._tls is None else self._tls._sock
        self._reader = hiredis.Reader()
        # A blocking socket with the kernel's own timeouts needs half the system calls of one with Python's.
        # Sockets of gevent, eventlet and TLS are classes of their own and keep Python's.
        self._plain = type(self._socket) is socket.socket
        if self._plain:
            self._socket.settimeout(None)
        self._timeout = 0.0
        self.generation = 0  #: which life of its pool it belongs to
        self._used_at = time.monotonic()
        self._poll = select.poll() if hasattr(select, "poll") else None
        if self._poll is not None:
            self._poll.register(self._socket, select.POLLIN)
        if self._tls is None:
            self._log_in(address, protocol)

    def _log_in(self, address: Address, protocol: int) -> None:
        packed, replies = login_commands(address, protocol)
        if not replies:
            return
        try:
            with connecting(address):
                for reply in self.call(packed, replies, login_timeout(address)):
                    check(reply)
        except BaseException:
            self.close()
            raise

    @property
    def connected_by(self) -> socket.socket:
        """Its socket."""
        return self._socket

    def call(self, packed: bytes, replies: int, timeout: float) -> list[Any]:
        """Write packed commands and read their replies, errors among them.

        Raises NothingSentError, TimeoutError after ``timeout`` seconds, or BrokerConnectionError; the
        link is of no use after any of them.
        """
        begun = time.monotonic()
        if begun - self._used_at > _FRESH and self._is_stale():
            raise NothingSentError
        self.write(packed, timeout)
        reader = self._reader
        answers: list[Any] = []
        while True:
            reply = reader.gets()
            if reply is False:
                if answers and time.monotonic() - begun > timeout:
                    raise TimeoutError
                reader.feed(self._receive())
            else:
                answers.append(reply)
                if len(answers) == replies:
                    self._used_at = time.monotonic()
                    return answers

    def write(self, packed: bytes, timeout: float) -> None:
        """Write packed commands and leave their replies to be read. Raises as ``call``."""
        if timeout != self._timeout:
            self._set_timeout(timeout)
        try:
            sent = self._socket.send(packed)
        except (BlockingIOError, TimeoutError) as error:
            raise TimeoutError from error
        except OSError as error:
            raise NothingSentError from error
        if sent < len(packed):
            self._send_rest(memoryview(packed)[sent:])

    def is_readable(self, timeout: float) -> bool:
        """Whether there is something to read, waiting ``timeout`` seconds for it. One thread at a time may ask."""
        if self._poll is None:  # Windows
            return bool(select.select([self._socket], [], [], timeout)[0])
        return self._has_decrypted() or bool(self._poll.poll(math.ceil(timeout * 1000)))

    def read(self) -> list[Any]:
        """What has arrived, replies and pushes; may be nothing yet. Call it when ``is_readable``."""
        reader = self._reader
        reader.feed(self._receive())
        arrived: list[Any] = []
        while (reply := reader.gets()) is not False:
            arrived.append(reply)
        return arrived

    def _has_decrypted(self) -> bool:
        """TLS may have decrypted more than was read; the kernel then has nothing to tell."""
        return self._tls is not None and cast("SSLSocket", self._socket).pending() > 0

    def _send_rest(self, rest: memoryview) -> None:
        try:
            self._socket.sendall(rest)
        except (BlockingIOError, TimeoutError) as error:
            raise TimeoutError from error
        except OSError as error:
            raise BrokerConnectionError(f"the connection to Redis is lost: {error}") from error

    def _receive(self) -> bytes:
        try:
            data = self._socket.recv(_READ_SIZE)
        except (BlockingIOError, TimeoutError) as error:
            raise TimeoutError from error
        except OSError as error:
            raise BrokerConnectionError(f"the connection to Redis is lost: {error}") from error
        if not data:
            raise BrokerConnectionError("the connection to Redis is lost: closed by the server")
        return data

    def _is_stale(self) -> bool:
        """Whether an idle connection has something to read: the server said goodbye, or something unasked for."""
        try:
            return bool(self._poll.poll(0)) if self._poll is not None else False
        except OSError:
            return True

    def _set_timeout(self, timeout: float) -> None:
        self._timeout = timeout
        if not self._plain:
            self._socket.settimeout(timeout)
            return
        seconds = max(int(timeout * 1_000_000), 1)  # zero would mean for ever
        value = struct.pack("@ll", *divmod(seconds, 1_000_000))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def shut(self) -> None:
        """End the conversation; who reads in another thread finds the connection closed."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection. Safe twice."""
        if self._tls is None:
            self._socket.close()
        else:
            self._tls.disconnect()

    def __del__(self) -> None:
        # Programs need not close their applications, and a forked one forgets its parent's connections.
        if self._tls is None and hasattr(self, "_socket"):
            self._socket.close()


def open_blocking(address: Address, protocol: int = 2, deadline: float | None = None) -> BlockingLink:
    """Connect to the server of an address, which may have to be found first.

    No single wait goes on for longer than is left until ``deadline``, on the monotonic clock. Raises
    BrokerConnectionError when no connection can be made.
    """
    if address.way is None:
        return BlockingLink(_hurried(address, deadline), protocol)
    search = address.way.search()
    for place in search:
        try:
            link = BlockingLink(_hurried(place.address, deadline), protocol)
            try:
                answers = link.call(place.question, place.replies, login_timeout(place.address))
                accepted = search.accepts(place, answers)
            except BaseException:
                link.close()
                raise
        except (BrokerConnectionError, NothingSentError, TimeoutError) as error:
            search.failed(place, error)
            continue
        if accepted:
            return link
        link.close()
    raise search.error()


def _hurried(address: Address, deadline: float | None) -> Address:
    """The address with no longer a time to connect than is left."""
    if deadline is None:
        return address
    left = max(deadline - time.monotonic(), 0.001)
    limit = address.connect_timeout
    return address if limit is not None and limit <= left else replace(address, connect_timeout=left)


class LinkPool:
    """Up to ``limit`` connections that threads take turns with; makes new ones after a fork.

    The last connection given back is the first taken, so that as few as possible stay warm. ``gives_up`` says which
    error replies mean that another server is the one to talk to.
    """

    def __init__(
        self,
        address: Address,
        limit: int | None,
        gives_up: Callable[[ReplyError], bool] = is_wrong_server,
    ) -> None:
        self._address = address
        self._gives_up = gives_up
        self._limit = limit or 1 << 30
        self._idle: deque[BlockingLink] = deque()
        self._generation = 0
        self._start_afresh()

    @property
    def store(self) -> str:
        """The identity of the database."""
        return self._address.identity

    def call(self, packed: bytes, replies: int, timeout: float) -> list[Any]:
        """Write packed commands and read their replies, errors among them.

        When a connection turns out to be dead before anything was sent, the others are taken for dead too and the
        request goes out on a new one. Raises TimeoutError when ``timeout`` seconds pass, BrokerConnectionError when the
        connection is lost or cannot be made.
        """
        try:
            return self._call_once(packed, replies, timeout)
        except NothingSentError:
            self.close()
        try:
            return self._call_once(packed, replies, timeout)
        except NothingSentError as error:
            raise BrokerConnectionError(f"the connection to Redis is lost: {error.__cause__}") from error

    def _call_once(self, packed: bytes, replies: int, timeout: float) -> list[Any]:
        link = self._take()
        if link is None:
            deadline = time.monotonic() + timeout
            link = self._take_slowly(deadline)
            timeout = max(deadline - time.monotonic(), 0.001)
        try:
            answers = link.call(packed, replies, timeout)
        except BaseException:
            # Also when a signal handler raised: replies that are still to come must not meet another request.
            self._drop(link)
            raise
        for answer in answers:
            if type(answer) is ReplyError and self._gives_up(answer):
                # Another server is the one to talk to by now: the next request looks for it.
                self._drop(link)
                self.close()
                return answers
        self._give_back(link)
        return answers

    def links(self) -> list[BlockingLink]:
        """The connections that nobody uses just now."""
        return list(self._idle)

    def command(self, *command: bytes | str | float, timeout: float) -> Any:
        """The reply to one command. Raises BrokerError when it is an error."""
        return check(self.call(pack_command(command), 1, timeout)[0])

    def run(
        self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | str | float], timeout: float
    ) -> Any:
        """Run a script, loading it first where the server does not know it."""
        packed = pack_script(script, keys, arguments)
        reply = self.call(packed, 1, timeout)[0]
        if is_unknown_script(reply):
            _, reply = self.call(pack_command((b"SCRIPT", b"LOAD", script.text)) + packed, 2, timeout)
        return check(reply)

    def close(self) -> None:
        """Close the connections that nobody uses; the others are closed when they are given back. Safe twice.

        The pool may be used again: it then makes new connections.
        """
        with self._changed:
            idle, self._idle = self._idle, deque()
            self._generation += 1
            self._open = 0
            self._changed.notify_all()
        for link in idle:
            link.close()

    def _take(self) -> BlockingLink | None:
        """A connection that nobody uses, if there is one."""
        if os.getpid() != self._pid:
            # The parent goes on using the inherited connections: they are forgotten here, not closed.
            self._start_afresh()
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _take_slowly(self, deadline: float) -> BlockingLink:
        with self._changed:
            while True:
                if self._idle:
                    return self._idle.pop()
                if self._open < self._limit:
                    self._open += 1
                    break
                self._waiting += 1
                try:
                    # Looked at again: one may have been given back before it could be seen that someone waits.
                    if not self._idle and not self._changed.wait(max(deadline - time.monotonic(), 0)):
                        raise TimeoutError(f"all {self._limit} connections to Redis are in use")
                finally:
                    self._waiting -= 1
        return self._connect(deadline)

    def _connect(self, deadline: float) -> BlockingLink:
        generation = self._generation
        try:
            link = open_blocking(self._address, deadline=deadline)
        except BaseException:
            self._one_less(generation)
            raise
        link.generation = generation
        return link

    def _give_back(self, link: BlockingLink) -> None:
        if link.generation != self._generation:
            link.close()
            return
        self._idle.append(link)
        if self._waiting:
            with self._changed:
                self._changed.notify()

    def _drop(self, link: BlockingLink) -> None:
        link.close()
        self._one_less(link.generation)

    def _one_less(self, generation: int) -> None:
        with self._changed:
            if generation == self._generation:
                self._open -= 1
                self._changed.notify()

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._idle = deque()
        self._open = 0
        self._waiting = 0
        self._generation += 1
