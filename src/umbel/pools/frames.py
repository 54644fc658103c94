"""The wire between the supervisor and a pool process: length-prefixed frames on a socket pair.

A frame is four bytes of length (big-endian, of all that follows them), one byte that says what it is, and a
msgpack body. Jobs travel many to a frame; every report is a frame of its own, written as its job ends, so that a
process killed at any instruction has said all that it finished.
"""

from __future__ import annotations

import struct

import msgspec

#: Supervisor to pool process.
SETTINGS, JOBS, RESET, LEAVE, SLOTS, CANCEL = 1, 2, 3, 4, 5, 6
#: Pool process to supervisor.
UP, FAILED, STARTED, DEADLINE, REPORT, WAS_RESET, HEAVY, LOG = 16, 17, 18, 19, 20, 21, 22, 23
#: The same, of jobs that were to be cancelled: it is, or it cannot be.
CANCELLED, CANNOT = 24, 25

_HEADER = struct.Struct("!IB")
_LENGTH_BYTES = 4

#: One frame as it was read: its kind and its body.
Frame = tuple[int, memoryview]


class Started(msgspec.Struct, array_like=True):
    """An announced job begins, at an epoch time in seconds."""

    seq: int
    at: float


class Deadline(msgspec.Struct, array_like=True):
    """A job is to be ended ``seconds`` from now."""

    seq: int
    seconds: float


class Cancel(msgspec.Struct, array_like=True):
    """A job is to be ended as if by this signal, in a process whose jobs can be ended one by one."""

    seq: int
    signal: int


class ProcessSettings(msgspec.Struct, array_like=True):
    """What a pool process is to be.

    ``threads``: its slots are threads, or with ``loop`` tasks of an event loop; else it has one, its main thread.
    ``patch``: the library whose greenlets they are instead, ``gevent`` or ``eventlet``. ``block_timeout``: seconds
    after which a loop that does not turn is reported; 0: never. ``max_memory`` is in KiB. ``log_level``: its log
    records from this level on are handled by the supervisor; None: by itself. ``factory`` (``module:name`` of what
    makes the runner), its ``argument`` if it takes one, and ``path`` (``sys.path``) are for processes that start from
    nothing.
    """

    number: int
    name: str
    slots: int = 1
    threads: bool = False
    loop: bool = False
    patch: str = ""
    block_timeout: float = 0.0
    max_memory: int | None = None
    log_level: int | None = None
    factory: str = ""
    argument: bytes = b""
    path: list[str] = []


class FrameWriter:
    """Encodes frames; the buffer it returns is valid until the next call."""

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._buffer = bytearray(4096)

    def frame(self, kind: int, body: object) -> bytearray:
        """One frame, in a buffer that is used again."""
        buffer = self._buffer
        self._encoder.encode_into(body, buffer, _HEADER.size)
        _HEADER.pack_into(buffer, 0, len(buffer) - _LENGTH_BYTES, kind)
        return buffer


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """The frames that are complete with ``data``; their bodies are views, valid as long as ``data`` is."""
        view = memoryview(data)
        if self._rest:
            self._rest += view
            if not _holds_a_frame(self._rest):
                return []
            view, self._rest = memoryview(self._rest), bytearray()
        frames: list[Frame] = []
        at, end = 0, len(view)
        while end - at >= _HEADER.size:
            length, kind = _HEADER.unpack_from(view, at)
            until = at + _LENGTH_BYTES + length
            if until > end:
                break
            frames.append((kind, view[at + _HEADER.size : until]))
            at = until
        if at < end:
            self._rest += view[at:]
        return frames


def _holds_a_frame(data: bytearray) -> bool:
    if len(data) < _HEADER.size:
        return False
    return len(data) >= _LENGTH_BYTES + int(_HEADER.unpack_from(data)[0])
