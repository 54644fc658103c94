"""What differs between systems."""

from __future__ import annotations

import os


def get_fdmax(default: int | None = None) -> int | None:
    """The most files that may be open."""
    found = os.sysconf("SC_OPEN_MAX")
    return found if found > 0 else default


def close_open_fds(keep: list[int] | None = None) -> None:
    """Close all files but these."""
    kept = sorted(keep or ())
    low = 0
    for number in (*kept, get_fdmax(2048) or 2048):
        os.closerange(low, number)
        low = number + 1
