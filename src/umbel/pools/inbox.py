"""The pool process's end of the wire: what comes in, one job at a time, and what goes out, at once."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from umbel.core.clock import boot_seconds
from umbel.pools import frames
from umbel.pools.base import NOT_BEGUN, Report, Work
from umbel.pools.frames import Cancel, Deadline, Frame, FrameReader, FrameWriter, Started

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.pools.permits import Permits

_RECEIVE_BYTES = 128 * 1024
_URGENT = (frames.SLOTS, frames.CANCEL)


class LinkClosed(Exception):
    """Nobody listens any more: the supervisor has gone, or has given this thread up."""


class Outbox:
    """Writes frames, each with one call and none kept back: what is in the kernel survives this process."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._writer = FrameWriter()
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def send(self, kind: int, body: object) -> None:
        """Write one frame; blocks while the supervisor is behind."""
        with self._lock:
            rest = memoryview(self._writer.frame(kind, body))
            try:
                while rest:
                    rest = rest[self._write(rest) :]
            except ConnectionError:
                raise LinkClosed from None
            finally:
                rest.release()

    def _write(self, data: memoryview) -> int:
        try:
            return self._link.send(data)
        except BlockingIOError:
            # An event loop that reads from it has made it so.
            poll = select.poll()
            poll.register(self._link, select.POLLOUT)
            poll.poll()
            return 0

    def report(self, report: Report) -> None:
        """Say how a job ended."""
        self.end_copy()
        self.send(frames.REPORT, report)

    def end_copy(self) -> None:
        """End here if this is a copy of the process that a task has forked, and that has come back from the task.

        The original says how the job ended, and goes on to the next.
        """
        if os.getpid() != self._pid:
            os._exit(0)

    def begin(self, work: Work) -> None:
        """Say that a job begins, to those who asked, and when it must have ended."""
        if work.announce:
            self.send(frames.STARTED, Started(work.seq, time.time()))
        if work.time_limit is not None:
            self.send(frames.DEADLINE, Deadline(work.seq, work.time_limit))


class Inbox:
    """Takes jobs from the supervisor in the order it sent them.

    A job is begun with a permit. When there is none the supervisor has taken back this job and all that follow, up
    to its ``RESET`` frame; it sends nothing new before that has been acknowledged.
    """

    def __init__(
        self, link: socket.socket, permits: Permits, outbox: Outbox, on_slots: Callable[[int], None]
    ) -> None:
        self._link = link
        self._permits = permits
        self._outbox = outbox
        self._on_slots = on_slots
        self._reader = FrameReader()
        self._decoder = msgspec.msgpack.Decoder(list[Work])
        self._frames: deque[Frame] = deque()
        self._works: deque[Work] = deque()
        self._recalled = False
        #: Told to leave, or nobody listens any more.
        self.told_to_leave = False
        #: Called at once with what the supervisor wants cancelled, by processes that can.
        self.on_cancel: Callable[[Cancel], None] | None = None
        self._buffer = bytearray(_RECEIVE_BYTES)
        self._view = memoryview(self._buffer)

    def next(self) -> Work | None:
        """The next job, with its permit taken; waits for one. None when the process is to leave."""
        while True:
            work = self.take()
            if work is not None:
                return work
            if self.told_to_leave or not self._receive():
                return None

    def take(self) -> Work | None:
        """The next job of those that are here, with its permit taken; waits for none."""
        while not self.told_to_leave:
            if self._works:
                if self._permits.take():
                    work = self._works.popleft()
                    if work.begin_by and boot_seconds() > work.begin_by:
                        self._outbox.report(Report(work.seq, NOT_BEGUN, "requeue", 0.0))
                        continue
                    return work
                self._works.clear()
                self._recalled = True
            elif self._frames:
                self.told_to_leave = not self._open(*self._frames.popleft())
            else:
                break
        return None

    def receive(self) -> bool:
        """Wait for something to read, and read it; false when nobody listens any more."""
        return self._receive()

    def receive_now(self) -> bool:
        """Read what is there and wait for nothing; false when nobody listens any more."""
        try:
            return self._receive(socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True

    @property
    def waiting(self) -> bool:
        """Whether something that has been read waits to be done."""
        return bool(self._works or self._frames)

    def fileno(self) -> int:
        """What becomes readable when there is something to receive."""
        return self._link.fileno()

    def close(self) -> None:
        """Wake whoever waits in ``next``, with None."""
        self._link.shutdown(socket.SHUT_RD)

    def _receive(self, flags: int = 0) -> bool:
        try:
            # Into a buffer that stays: recv() would map so much memory each time and give most of it back.
            count = self._link.recv_into(self._buffer, 0, flags)
        except ConnectionError:
            return False
        # The frames are views of this very bytes object, so they may be kept.
        received = self._reader.feed(bytes(self._view[:count]))
        for frame in received:
            if frame[0] not in _URGENT:
                self._frames.append(frame)
            else:
                self._obey(*frame)
        return count > 0

    def _obey(self, kind: int, body: memoryview) -> None:
        """Do what does not wait behind jobs that wait for a slot."""
        if kind == frames.SLOTS:
            self._on_slots(int(msgspec.msgpack.decode(body, type=int)))
        elif self.on_cancel is not None:
            self.on_cancel(msgspec.msgpack.decode(body, type=Cancel))

    def _open(self, kind: int, body: memoryview) -> bool:
        """Act on a frame; false when it says to leave."""
        if kind == frames.JOBS:
            if not self._recalled:
                self._works.extend(self._decoder.decode(body))
        elif kind == frames.RESET:
            self._recalled = False
            self._outbox.send(frames.WAS_RESET, None)
        else:
            return False
        return True
