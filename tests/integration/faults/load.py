"""The kinds of tasks that the load is mixed of."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """A task and how it is called; ``weight`` is its share of the load."""

    task: str
    late: bool
    weight: int
    countdown: float | None = None
    attempts: int = 1


KINDS = {
    "noop_early": Kind("noop_early", late=False, weight=30),
    "noop_late": Kind("noop_late", late=True, weight=30),
    "short_early": Kind("short_early", late=False, weight=8),
    "short_late": Kind("short_late", late=True, weight=8),
    "long_early": Kind("long_early", late=False, weight=2),
    "long_late": Kind("long_late", late=True, weight=2),
    "retry_early": Kind("retry_early", late=False, weight=4, attempts=2),
    "retry_late": Kind("retry_late", late=True, weight=4, attempts=2),
    "later_early": Kind("noop_early", late=False, weight=4, countdown=0.3),
    "later_late": Kind("noop_late", late=True, weight=4, countdown=0.3),
}


def answer(mark: int) -> int:
    """What every task returns."""
    return mark * 7 + 3
