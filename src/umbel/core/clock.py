"""The clock as a value, so that whoever decides by the time can be given another one.

A broker's time is told as so many seconds ahead of a clock that never jumps, ``boot_seconds``, which all processes of a
machine share. Whoever has been told it goes on from there, whatever becomes of the machine's time of day.
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple, Protocol

#: Seconds after which a step of the machine's clock is taken for the truth.
FOLLOW_AFTER: Final = 600.0
#: Seconds by which the machine's clock may differ without having been set.
_SLEW: Final = 1.0
#: The same, not worth being told.
_SAME: Final = 0.05


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


class BrokerClock:
    """A broker's clock as a process knows it: the machine's, or what it is given, until it is told better.

    ``ahead`` is how many seconds it is ahead of ``boot_seconds``; None while nobody has told.
    """

    __slots__ = ("_source", "ahead")

    def __init__(self, source: Clock | None = None) -> None:
        self._source = source or SystemClock()
        self.ahead: float | None = None

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._source.now() if self.ahead is None else boot_seconds() + self.ahead

    def monotonic(self) -> float:
        """Seconds since some instant of this process."""
        return self._source.monotonic()

    def tell(self, now: float) -> None:
        """It is ``now``."""
        self.ahead = now - boot_seconds()


class Anchor(NamedTuple):
    """Where a steady clock stands, in seconds ahead of ``boot_seconds``.

    ``seen`` is where the machine's stood at the last look, and ``since`` the instant (of ``boot_seconds``) from which
    on it stands there and not at ``ahead``; None: the two agree.
    """

    ahead: float
    seen: float
    since: float | None = None


def look(anchor: Anchor | None, seen: float, at: float) -> Anchor:
    """Where a steady clock stands after one more look at the machine's.

    It goes with the machine's, but not with its jumps: a step is followed when it has lasted for ``FOLLOW_AFTER``.
    Until then nobody can know whether it makes a wrong clock right or a right one wrong.
    """
    if anchor is None or _SAME < abs(seen - anchor.ahead) <= _SLEW:
        return Anchor(seen, seen)
    if abs(seen - anchor.ahead) <= _SAME:
        return anchor if anchor.since is None else Anchor(anchor.ahead, seen)
    if anchor.since is None or abs(seen - anchor.seen) > _SLEW:
        return Anchor(anchor.ahead, seen, at)
    return Anchor(seen, seen) if at - anchor.since >= FOLLOW_AFTER else anchor


class SteadyClock(BrokerClock):
    """A process' own steady clock, for a broker that tells no time. Before the first look it is the machine's."""

    __slots__ = ("_anchor",)

    def __init__(self, source: Clock | None = None) -> None:
        super().__init__(source)
        self._anchor: Anchor | None = None

    def look(self) -> None:
        """Look at the machine's clock."""
        at = boot_seconds()
        self._anchor = look(self._anchor, self._source.now() - at, at)
        self.ahead = self._anchor.ahead
