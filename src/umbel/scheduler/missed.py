"""What becomes of ticks that nobody sent when they were due: ``skip``, ``once`` or ``all``. No clock is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

from datetime import timedelta

__all__ = ["GRACE", "POLICIES", "Tick", "decide"]

POLICIES: Final = ("skip", "once", "all")
#: A tick that is sent no later than this is not a missed one: the time in which another beat takes over.
GRACE: Final = timedelta(seconds=15)


class Tick(NamedTuple):
    """One tick of an entry.

    Attributes:
        due: the instant for which its task is sent.
        ran_at: the instant from which the next tick counts.
        send: whether its task is sent.
    """

    due: datetime
    ran_at: datetime
    send: bool


def decide(policy: str, due: datetime, now: datetime, following: Callable[[datetime], datetime]) -> Tick:
    """The tick of an entry that is due since ``due``; ``following`` gives the first tick after an instant.

    ``once``: one task for all that were missed, and the next tick counts from now. ``all``: a task for each, one after
    the other. ``skip``: only what is due since ``GRACE`` or less is sent.
    """
    if policy == "all":
        return Tick(due, due, send=True)
    if policy == "skip" and now - due > GRACE:
        latest = following(now - GRACE)
        return Tick(latest, now, send=True) if latest <= now else Tick(due, now, send=False)
    return Tick(due, now, send=True)
