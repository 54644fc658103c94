"""Waking the processes that wait on a database file.

SQLite cannot tell another process that something changed. So who waits binds a datagram socket in a directory beside
the database, and who commits a change rings it. The name of the socket says what its owner waits for: a letter for
the kind and 64 bits, one for each topic (a queue's name, a task's id) hashed to 0…63. So ringing needs one look at a
directory, no registry, and wakes hardly anyone in vain. A ring that comes while nobody listens is not needed: who
waits binds first and looks afterwards.

A socket whose owner was killed refuses the ring; the ringer removes it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import select
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self
from zlib import crc32

from umbel.core.ids import new_id

if TYPE_CHECKING:
    from collections.abc import Iterable

logger: Final = logging.getLogger(__name__)

#: Kinds of waiters.
MESSAGES: Final = "m"
RESULTS: Final = "r"
BROADCASTS: Final = "b"

#: Who waits looks by himself after this many seconds, should a ring have been lost; and where there are no doorbells.
LOOK_EVERY: Final = 1.0
POLL_EVERY: Final = 0.015

#: The name of a doorbell: kind, topics, and what tells it from others.
_NAME: Final = re.compile(r"[a-z][0-9a-f]{24}")

#: The longest path that every system takes as the name of a socket, without the names of doorbells.
_LONGEST_DIRECTORY: Final = 103 - 26


def topic_bits(topics: Iterable[str]) -> int:
    """The mask of some topics."""
    bits = 0
    for topic in topics:
        bits |= 1 << (crc32(topic.encode()) & 63)
    return bits


def wake_directory(database: str) -> str | None:
    """Where the doorbells of a database are; None where there can be none, and waiters must look again and again.

    Beside the database; where that path is too long for a socket's name, in the directory of temporary files.
    """
    if not hasattr(socket, "AF_UNIX"):
        return None
    directory = f"{database}-wake"
    if len(os.fsencode(directory)) <= _LONGEST_DIRECTORY:
        return directory
    digest = hashlib.blake2b(os.fsencode(directory), digest_size=8).hexdigest()
    return f"{tempfile.gettempdir()}/umbel-{digest}"


class Doorbell:
    """One waiter's socket, bound for as long as it waits; use as a context manager."""

    def __init__(self, directory: str, kind: str, topics: Iterable[str]) -> None:
        self._path = f"{directory}/{kind}{topic_bits(topics):016x}{new_id()[:8]}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.bind(self._path)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """The descriptor that becomes readable when someone rings."""
        return self._socket.fileno()

    def wait(self, timeout: float | None) -> None:
        """Block until someone rings, or ``timeout`` seconds pass; either way look at the store again."""
        select.select([self._socket], [], [], timeout)
        self.silence()

    def silence(self) -> None:
        """Forget the rings so far. They say no more than that something changed."""
        try:
            while True:
                self._socket.recv(16)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Take the doorbell down."""
        self._socket.close()
        Path(self._path).unlink(missing_ok=True)  # a ringer that met it closed may have removed it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Ringer:
    """Rings the doorbells of one database. Several threads may ring, and a forked child may ring on."""

    def __init__(self, directory: str | None) -> None:
        self.directory = directory
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Make the socket to ring with."""
        if self.directory is None:
            return
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    def doorbell(self, kind: str, topics: Iterable[str]) -> Doorbell | None:
        """A doorbell of one's own; None where the system has none to give, and one must look again and again."""
        if self.directory is None:
            return None
        try:
            return _bind(self.directory, kind, topics)
        except OSError as error:
            logger.warning("no doorbell in %s (%s): looking every few milliseconds", self.directory, error)
            return None

    def ring(self, kind: str, bits: int) -> None:
        """Wake those who wait for one of the topics in ``bits``. What cannot be rung looks by itself every second."""
        ringing = self._socket
        if self.directory is None or ringing is None or not bits:
            return
        try:
            names = os.listdir(self.directory)  # noqa: PTH208 - for every send: a Path for each name costs more
        except OSError:
            return  # nobody has waited since the directory was removed
        for name in names:
            if name[0] == kind and _NAME.fullmatch(name) and int(name[1:17], 16) & bits:
                _ring(ringing, f"{self.directory}/{name}")

    def close(self) -> None:
        """Give the socket back until ``open`` makes another, and remove the directory if nobody waits there."""
        if self.directory is None or self._socket is None:
            return
        self._socket.close()
        self._socket = None
        with suppress(OSError):  # somebody waits, or removed it first
            Path(self.directory).rmdir()


def _bind(directory: str, kind: str, topics: Iterable[str]) -> Doorbell:
    """A doorbell in a directory that others may be removing as they leave."""
    for _ in range(5):
        Path(directory).mkdir(exist_ok=True)
        try:
            return Doorbell(directory, kind, topics)
        except FileNotFoundError:
            continue
    return Doorbell(directory, kind, topics)


def _ring(ringing: socket.socket, path: str) -> None:
    try:
        ringing.sendto(b"!", path)
    except ConnectionRefusedError:
        Path(path).unlink(missing_ok=True)  # its owner was killed
    except OSError as error:
        # It rings already (EAGAIN), has just been taken down, or is another user's. The commit stands in any case.
        logger.debug("cannot ring %s: %s", path, error)


async def rung(bell: Doorbell | None, timeout: float) -> None:
    """Return when someone rings, or after ``timeout`` seconds; a little later where there are no doorbells."""
    if bell is None:
        await asyncio.sleep(min(timeout, POLL_EVERY))
        return
    loop = asyncio.get_running_loop()
    ringing = asyncio.Event()
    loop.add_reader(bell.fileno(), ringing.set)
    try:
        async with asyncio.timeout(timeout):
            await ringing.wait()
    except TimeoutError:
        return
    finally:
        loop.remove_reader(bell.fileno())
        bell.silence()


def wait_rung(bell: Doorbell | None, timeout: float) -> None:
    """As ``rung``, blocking."""
    if bell is None:
        time.sleep(min(timeout, POLL_EVERY))
    else:
        bell.wait(timeout)
