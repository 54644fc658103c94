"""May a job run now, later, or never? A pure decision: what is known goes in, a value comes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from umbel.core.times import parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from umbel.core.protocol import Header
    from umbel.worker.revoked import RevokedStamps


@dataclass(slots=True, frozen=True)
class Run:
    """It may run as soon as a slot is free."""


@dataclass(slots=True, frozen=True)
class Hold:
    """Not before ``until`` (epoch seconds); ``paced`` when a rate limit says so, and has given it that instant."""

    until: float
    paced: bool = field(default=False, compare=False)


@dataclass(slots=True, frozen=True)
class Drop:
    """It must not run: ``reason`` is ``revoked``, ``expired`` or ``invalid``, ``detail`` says more."""

    reason: str
    detail: str = ""


Admission = Run | Hold | Drop

_RUN = Run()


def admit(
    header: Header,
    now: float,
    revoked: Container[str],
    rate_delay: Callable[[str, float], float] | None = None,
    revoked_stamps: RevokedStamps | None = None,
    due: float | None = None,
) -> Admission:
    """Decide about one job whose task is known here.

    ``rate_delay(task, now)`` answers how many seconds the task's rate limit asks to wait; None when no task here has
    a limit, or the job has waited already. ``due`` is what the broker says in place of the message's eta
    (``Delivery.due``).
    """
    if header.id in revoked or (revoked_stamps and revoked_stamps.matching(header.stamps)):
        return Drop("revoked")
    if header.eta is None and header.expires is None:
        return _within_rate(header, now, rate_delay)
    try:
        if header.expires is not None and parse_timestamp(header.expires) < now:
            return Drop("expired")
        if header.eta is not None and (until := _due(header.eta, due)) > now:
            return Hold(until)
    except ValueError as error:
        return Drop("invalid", f"eta {header.eta!r} or expires {header.expires!r}: {error}")
    return _within_rate(header, now, rate_delay)


def _due(eta: str, told: float | None) -> float:
    """The instant that an eta comes to, which the broker may have ``told`` (``Delivery.due``). Raises ValueError."""
    return parse_timestamp(eta) if told is None else told


def _within_rate(header: Header, now: float, rate_delay: Callable[[str, float], float] | None) -> Admission:
    if rate_delay is None:
        return _RUN
    delay = rate_delay(header.task, now)
    return Hold(now + delay, paced=True) if delay > 0 else _RUN
