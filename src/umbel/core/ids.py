"""Identifiers of tasks, groups and deliveries."""

from __future__ import annotations

import os
from os import urandom
from struct import iter_unpack
from typing import Final

#: The kernel's randomness, if possible without letting other threads run meanwhile: among fifty that send, each would
#: wait for its turn twice. Up to 256 bytes come whole.
_draw: Final = getattr(os, "getrandom", urandom)
#: The third group of a version 4 UUID begins with 4, the fourth with one of these.
_VARIANTS: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
#: The same of whole bytes: what the seventh and the ninth of the sixteen become.
_VERSION_BYTES: Final = bytes(0x40 | byte & 0x0F for byte in range(256))
_VARIANT_BYTES: Final = bytes(0x80 | byte & 0x3F for byte in range(256))


def new_id() -> str:
    """A fresh version 4 UUID as text, as Celery makes task ids.

    Every call asks the kernel for its own randomness, so that a fork never repeats an id.
    """
    digits: str = _draw(16).hex()
    return (
        f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANTS[digits[16]]}{digits[17:20]}-{digits[20:]}"
    )


def new_ids(count: int) -> list[str]:
    """As many ids as asked for, made at once for a third of the time; none are kept for later."""
    drawn = bytearray(urandom(16 * count))
    drawn[6::16] = drawn[6::16].translate(_VERSION_BYTES)
    drawn[8::16] = drawn[8::16].translate(_VARIANT_BYTES)
    return [
        f"{a.hex()}-{b.hex()}-{c.hex()}-{d.hex()}-{e.hex()}"
        for a, b, c, d, e in iter_unpack("4s2s2s2s6s", drawn)
    ]


def sibling_id(task_id: str, number: int) -> str:
    """An id that differs from another in its last digits only: many of them are compressed to next to nothing.

    Any text will do as the first; what is no hexadecimal number at its end gets one.
    """
    head, tail = task_id[:-6], task_id[-6:]
    try:
        return f"{head}{(int(tail, 16) + number) & 0xFFFFFF:06x}"
    except ValueError:
        return f"{task_id}-{number:06x}"
