"""Intervals and instants: how much is left of one, in whose time zone, and in words. No clock is read."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any, Final

from umbel.core.times import as_aware, zone

__all__ = ["aware", "ffwd", "humanize", "interval_end", "to_timezone"]

_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
_UNITS: Final = (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0))
#: Farther than any clock was ever changed, in hours.
_WIDEST_CHANGE: Final = 26


def to_timezone(timezone: str | tzinfo) -> tzinfo:
    """The time zone of a name; a time zone as it is."""
    return zone(timezone) if isinstance(timezone, str) else timezone


def aware(instant: datetime, timezone: str | tzinfo, naive_as_utc: bool = True) -> datetime:
    """The instant with a time zone: its own, or else UTC, shown in ``timezone``, or else ``timezone`` itself."""
    if instant.tzinfo is not None and instant.utcoffset() is not None:
        return instant
    local = to_timezone(timezone)
    return instant.replace(tzinfo=UTC).astimezone(local) if naive_as_utc else as_aware(instant, local)


def humanize(seconds: float, prefix: str = "", now: str = "now") -> str:
    """A duration in words, in its largest unit: 60 is ``1.00 minute``, less than a second ``now``."""
    for unit, length in _UNITS:
        if seconds >= length:
            amount = format(seconds / length, ".2f")
            return f"{prefix}{amount} {unit}{'' if amount == '1.00' else 's'}"
    return now


def interval_end(start: datetime, interval: timedelta, relative: bool) -> datetime:
    """When an interval that began at ``start`` ends, in UTC.

    Relative ones end with a day, hour, minute or second of the clock of ``start``'s time zone: with the last of them
    that begins within the interval. Days are those of the calendar; a clock change makes some longer than others.
    """
    begin = start.astimezone(UTC)
    end = begin + interval
    if not relative or interval < timedelta(seconds=1):
        return end
    if interval >= _DAY:
        return _midnight(start, interval)
    if interval >= _HOUR:
        return _full_hour(begin, end, start.tzinfo or UTC)
    rounded = end.replace(microsecond=0)
    if interval >= timedelta(minutes=1):
        rounded = rounded.replace(second=0)
    return rounded


def _midnight(start: datetime, interval: timedelta) -> datetime:
    """The first midnight after ``start`` of the day on which the interval ends."""
    last = start + interval  # by the calendar, whatever the clock does in between
    midnight = datetime(last.year, last.month, last.day, tzinfo=start.tzinfo)
    begin = start.astimezone(UTC)
    later = [instant for instant in _occurrences(midnight) if instant > begin]
    return min(later, default=last.astimezone(UTC))


def _full_hour(begin: datetime, end: datetime, timezone: tzinfo) -> datetime:
    """The last full hour in (begin, end]; the first one after it when the clock shows none between them."""
    hours = set()
    for instant in (begin, end):
        local = instant.astimezone(timezone).replace(minute=0, second=0, microsecond=0, tzinfo=None)
        for distance in range(-_WIDEST_CHANGE, _WIDEST_CHANGE + 1):
            full = (local + distance * _HOUR).replace(tzinfo=timezone)
            hours |= {hour for hour in _occurrences(full) if hour > begin}
    within = [hour for hour in hours if hour <= end]
    return max(within) if within else min(hours)


def _occurrences(local: datetime) -> list[datetime]:
    """The instants, in UTC, at which clocks show a local time; one that is skipped counts when it would have been."""
    first, second = (local.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    if first <= second:
        return [first, second]
    # It is skipped: the offset before the change makes it later than the change, that after the change earlier.
    return [first]


class ffwd:  # noqa: N801 - Celery's name
    """A date with some parts replaced: ``datetime + ffwd(hour=7, minute=0)``; what dateutil calls a relative delta."""

    def __init__(self, **fields: int) -> None:
        self.__dict__.update(fields)
        self._given = fields

    def __radd__(self, other: Any) -> Any:
        return other.replace(**self._given) if isinstance(other, date) else NotImplemented

    def __repr__(self) -> str:
        return f"ffwd({', '.join(f'{name}={value}' for name, value in self._given.items())})"

    def _fields(self) -> dict[str, int]:
        return self._given
