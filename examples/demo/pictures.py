"""Just enough of PNG for the demo: 8-bit RGB pictures, written and read with the standard library."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """Rows of RGB bytes."""

    width: int
    height: int
    rows: list[bytes]


def draw(seed: int, width: int = 160, height: int = 120) -> Picture:
    """A pattern of its own for every seed."""
    rows = [
        bytes(
            channel
            for x in range(width)
            for channel in ((x * seed) & 255, (y * (seed + 3)) & 255, ((x ^ y) + seed) & 255)
        )
        for y in range(height)
    ]
    return Picture(width, height, rows)


def shrink(picture: Picture, width: int) -> Picture:
    """The picture at ``width`` pixels, each the mean of the box it stands for."""
    factor = max(1, picture.width // width)
    height = picture.height // factor
    rows = [_shrink_row(picture.rows[y * factor : (y + 1) * factor], width, factor) for y in range(height)]
    return Picture(width, height, rows)


def _shrink_row(rows: list[bytes], width: int, factor: int) -> bytes:
    area = factor * factor
    return bytes(
        sum(row[3 * (x * factor + dx) + channel] for row in rows for dx in range(factor)) // area
        for x in range(width)
        for channel in range(3)
    )


def write_png(path: Path, picture: Picture) -> None:
    """Write a picture; no filtering, so every row starts with a zero."""
    header = struct.pack("!IIBBBBB", picture.width, picture.height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in picture.rows))
    path.write_bytes(_SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b""))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))


def read_png(path: Path) -> Picture:
    """Read what ``write_png`` wrote."""
    content = path.read_bytes()
    width, height = struct.unpack("!II", content[16:24])
    start = content.index(b"IDAT") + 4
    (length,) = struct.unpack("!I", content[start - 8 : start - 4])
    raw = zlib.decompress(content[start : start + length])
    stride = 1 + 3 * width
    return Picture(width, height, [raw[y * stride + 1 : (y + 1) * stride] for y in range(height)])
