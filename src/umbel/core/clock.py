"""The clock as a value, so that whoever decides by the time can be given another one."""

from __future__ import annotations

import time
from typing import Protocol


def boot_seconds() -> float:
    """Seconds on a clock that all processes of a machine share and that never jumps.

    It goes on while the machine is suspended, where there is such a clock.
    """
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> float:
        """Seconds since the epoch: comparable between machines, may jump."""

    def monotonic(self) -> float:
        """Seconds since some instant of this process: never runs backwards."""


class SystemClock:
    """The machine's clock."""

    __slots__ = ()

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some instant of this process."""
        return time.monotonic()
