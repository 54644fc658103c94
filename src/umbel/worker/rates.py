"""Celery's rate limits: so many jobs of a task a second in this worker, as arithmetic on the next free instant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_PER: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}

#: Seconds over which jobs that are parked in the broker spread their returns. Longer would keep them from workers that
#: come later and have instants to spare; shorter would have a long queue travel to and fro.
_SPREAD: Final = 60.0


def parse_rate(value: str | float | None) -> float:
    """Tasks a second for ``"10/s"``, ``"100/m"``, ``"5/h"`` or a number of seconds⁻¹; 0 means no limit.

    Raises ValueError that says what is accepted.
    """
    if not value:
        return 0.0
    if isinstance(value, (int, float)):
        return float(value)
    count, _, unit = value.partition("/")
    try:
        return float(count) / _PER[unit or "s"]
    except (KeyError, ValueError):
        raise ValueError(
            f'rate limit: expected a number or text like "10/s", "100/m", "5/h", got {value!r}'
        ) from None


class TokenBucket:
    """Lets ``rate`` jobs a second through, one at a time, as Celery's bucket of capacity one does.

    A job that has to wait a little is given an instant of its own, so that it asks once. One that would wait longer
    than ``most`` seconds is given none and comes back from the broker; such jobs are told different times, so that
    they do not come back all at once.
    """

    __slots__ = ("_at", "_next", "_returns", "rate")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._at = 0.0
        self._next = 0.0
        self._returns = 0.0

    def delay(self, now: float, most: float = 0.0) -> float:
        """Zero to run now; up to ``most``, the seconds until the instant that is this job's; more: ask again then."""
        if now < self._at:
            # The clock was set back: nobody is to wait until it has caught up.
            self._next -= self._at - now
            self._returns = 0.0
        self._at = now
        at = max(self._next, now)
        if at - now > most:
            return self._park(at, now)
        self._next = at + 1 / self.rate
        return at - now

    def _park(self, at: float, now: float) -> float:
        self._returns = max(self._returns + 1 / self.rate, at)
        if self._returns > at + _SPREAD:
            self._returns = at
        return self._returns - now


class RateLimits:
    """The buckets of a worker's tasks."""

    def __init__(
        self, tasks: Mapping[str, Any], default: str | float | None, *, disabled: bool = False
    ) -> None:
        self._buckets: dict[str, TokenBucket] = {}
        self._disabled = disabled
        for name, task in tasks.items():
            self.set(name, task.rate_limit if task.rate_limit is not None else default)

    def set(self, task: str, rate: str | float | None) -> None:
        """Change a task's limit; none or 0 takes it away. Without effect where limits are disabled."""
        self._buckets.pop(task, None)
        if not self._disabled and (per_second := parse_rate(rate)):
            self._buckets[task] = TokenBucket(per_second)

    def __bool__(self) -> bool:
        return bool(self._buckets)

    def delay(self, task: str, now: float, most: float) -> float:
        """Seconds a job of this task has to wait, as TokenBucket.delay says."""
        bucket = self._buckets.get(task)
        return bucket.delay(now, most) if bucket is not None else 0.0
