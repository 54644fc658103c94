"""Instants, durations and rates."""

from __future__ import annotations

import calendar
import numbers
import random
import time as _time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo
from datetime import timezone as datetime_timezone
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

from umbel.compat.helpers.functional import dictfilter
from umbel.core.times import zone

from .text import pluralize

__all__ = (
    "LocalTimezone",
    "add_seconds_to_datetime",
    "adjust_timestamp",
    "delta_resolution",
    "ffwd",
    "get_exponential_backoff_interval",
    "humanize_seconds",
    "is_naive",
    "localize",
    "make_aware",
    "maybe_iso8601",
    "maybe_make_aware",
    "maybe_timedelta",
    "rate",
    "remaining",
    "subtract_datetimes",
    "timezone",
    "to_utc",
    "utcoffset",
    "weekday",
)

DAYNAMES = "sun", "mon", "tue", "wed", "thu", "fri", "sat"
WEEKDAYS = {name: number for number, name in enumerate(DAYNAMES)}
MONTHNAMES = "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"
YEARMONTHS = {name: number for number, name in enumerate(MONTHNAMES, 1)}
ZERO = timedelta(0)

_PER = {"s": 1.0, "m": 60.0, "h": 3600.0}
_UNITS = (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0))


class LocalTimezone(tzinfo):
    """The machine's zone, as the C library knows it."""

    _offset_cache: dict[int, tzinfo] = {}

    def __init__(self) -> None:
        self.STDOFFSET = timedelta(seconds=-_time.timezone)
        self.DSTOFFSET = timedelta(seconds=-_time.altzone) if _time.daylight else self.STDOFFSET
        self.DSTDIFF = self.DSTOFFSET - self.STDOFFSET

    def __repr__(self) -> str:
        return f"<LocalTimezone: UTC{int(self.DSTOFFSET.total_seconds() / 3600):+03d}>"

    def utcoffset(self, dt: datetime | None) -> timedelta:
        """The offset at an instant."""
        return self.DSTOFFSET if self._isdst(dt) else self.STDOFFSET

    def dst(self, dt: datetime | None) -> timedelta:
        """The summer time at an instant."""
        return self.DSTDIFF if self._isdst(dt) else ZERO

    def tzname(self, dt: datetime | None) -> str:
        """The zone's name at an instant."""
        return _time.tzname[self._isdst(dt)]

    def fromutc(self, dt: datetime) -> datetime:
        """An instant of UTC in this zone."""
        offset = int(self.utcoffset(dt).total_seconds() // 60)
        fixed = self._offset_cache.get(offset)
        if fixed is None:
            fixed = self._offset_cache[offset] = datetime_timezone(timedelta(minutes=offset))
        return fixed.fromutc(dt.replace(tzinfo=fixed))

    def _isdst(self, dt: datetime | None) -> bool:
        assert dt is not None
        parts = (dt.year, dt.month, dt.day, dt.hour, dt.minute, dt.second, dt.weekday(), 0, 0)
        return _time.localtime(_time.mktime(parts)).tm_isdst > 0


class _Zone:
    """Conversions between zones; ``timezone`` is the one instance."""

    def tz_or_local(self, tzinfo: Any = None) -> tzinfo:
        """The zone given, or the machine's."""
        return self.local if tzinfo is None else self.get_timezone(tzinfo)

    def to_local(self, dt: datetime, local: Any = None, orig: Any = None) -> datetime:
        """An instant in a zone; a naive one is of ``orig``, else UTC."""
        return localize(make_aware(dt, orig or self.utc) if is_naive(dt) else dt, self.tz_or_local(local))

    def to_system(self, dt: datetime) -> datetime:
        """An instant in the machine's zone."""
        return dt.astimezone(tz=None)

    def to_local_fallback(self, dt: datetime) -> datetime:
        """An instant in the machine's zone; a naive one is of that zone."""
        return make_aware(dt, self.local) if is_naive(dt) else localize(dt, self.local)

    def get_timezone(self, zone: Any) -> Any:
        """A zone by its name; a zone as it is."""
        return ZoneInfo(zone) if isinstance(zone, str) else zone

    @cached_property
    def local(self) -> tzinfo:
        """The machine's zone."""
        return LocalTimezone()

    @cached_property
    def utc(self) -> tzinfo:
        """UTC."""
        return zone("UTC")


timezone = _Zone()


def maybe_timedelta(delta: Any) -> Any:
    """A number of seconds as a ``timedelta``; anything else as it is."""
    return timedelta(seconds=float(delta)) if isinstance(delta, numbers.Real) else delta


def delta_resolution(dt: datetime, delta: timedelta) -> datetime:
    """An instant cut down to the day, hour or minute, whichever ``delta`` is at least one of."""
    seconds = max(delta.total_seconds(), 0)
    for parts, unit in ((3, 86400), (4, 3600), (5, 60)):
        if seconds >= unit:
            kept = (dt.year, dt.month, dt.day, dt.hour, dt.minute)[:parts]
            return datetime(*kept, tzinfo=dt.tzinfo, fold=dt.fold)  # type: ignore[arg-type,misc]
    return dt


def rate(r: Any) -> float:
    """A rate as tasks a second: ``"100/m"``, ``"2/h"``, ``"0.5/s"``, a number, or nothing."""
    if not r:
        return 0
    if isinstance(r, str):
        amount, _, per = r.partition("/")
        return float(amount) / _PER[per or "s"] or 0
    return float(r) if not isinstance(r, int) else r


def weekday(name: str) -> int:
    """The number of a day of the week by its name, 0 for Sunday. Raises KeyError."""
    try:
        return WEEKDAYS[name[:3].lower()]
    except KeyError:
        raise KeyError(name) from None


def yearmonth(name: str) -> int:
    """The number of a month by its name, 1 for January. Raises KeyError."""
    try:
        return YEARMONTHS[name[:3].lower()]
    except KeyError:
        raise KeyError(name) from None


def humanize_seconds(
    secs: float, prefix: str = "", sep: str = "", now: str = "now", microseconds: bool = False
) -> str:
    """A duration in words: ``2.00 hours``; ``now`` where there is none."""
    secs = float(format(float(secs), ".2f"))
    for unit, length in _UNITS:
        if secs >= length:
            many = secs / length
            return f"{prefix}{sep}{many:.2f} {pluralize(many, unit)}"
    if microseconds and secs > 0.0:
        return f"{prefix}{sep}{secs:.2f} seconds"
    return now


def maybe_iso8601(dt: Any) -> datetime | None:
    """An instant from its text, naive where the text names no zone; an instant as it is; None for nothing."""
    if not dt:
        return None
    return dt if isinstance(dt, datetime) else datetime.fromisoformat(dt)


def is_naive(dt: datetime) -> bool:
    """Whether an instant has no zone."""
    return dt.tzinfo is None or dt.tzinfo.utcoffset(dt) is None


def add_seconds_to_datetime(dt: datetime, seconds: float) -> datetime:
    """An instant some seconds later, in real time; a naive one by the clock."""
    delta = timedelta(seconds=seconds)
    return dt + delta if is_naive(dt) else (dt.astimezone(UTC) + delta).astimezone(dt.tzinfo)


def subtract_datetimes(end: datetime, start: datetime) -> timedelta:
    """The real time between two instants; naive ones are UTC."""
    return maybe_make_aware(end).astimezone(UTC) - maybe_make_aware(start).astimezone(UTC)


def make_aware(dt: datetime, tz: Any) -> datetime:
    """An instant with a zone put on it.

    A time that the clocks go through twice is the first of the two; one that they leave out comes as much later as
    they jump.
    """
    there = dt.replace(tzinfo=tz, fold=0)
    return there.astimezone(UTC).astimezone(tz) if _is_imaginary(there, tz) else there


def _is_imaginary(dt: datetime, tz: tzinfo) -> bool:
    """Whether the clocks of a zone leave this time out."""
    there = dt.replace(tzinfo=tz)
    if is_naive(there):  # the zone does not say
        return False
    return there.astimezone(UTC).astimezone(tz).replace(tzinfo=None) != dt.replace(tzinfo=None)


def localize(dt: datetime, tz: tzinfo) -> datetime:
    """An instant of UTC in another zone; a naive one is of that zone; any other stays as it is."""
    if is_naive(dt):
        dt = make_aware(dt, tz)
    return dt.astimezone(tz) if dt.tzinfo in {timezone.utc, UTC, ZoneInfo("UTC")} else dt


def to_utc(dt: datetime) -> datetime:
    """A naive instant as one of UTC."""
    return make_aware(dt, timezone.utc)


def maybe_make_aware(dt: datetime, tz: Any = None, naive_as_utc: bool = True) -> datetime:
    """An instant with a zone: its own, or that of ``tz`` when it is naive."""
    if not is_naive(dt):
        return dt
    if naive_as_utc:
        dt = to_utc(dt)
    return localize(dt, timezone.utc if tz is None else timezone.tz_or_local(tz))


class ffwd:
    """The next time that these parts of the clock and calendar read so; for adding to an instant."""

    def __init__(
        self,
        year: int | None = None,
        month: int | None = None,
        weeks: int = 0,
        weekday: int | None = None,
        day: int | None = None,
        hour: int | None = None,
        minute: int | None = None,
        second: int | None = None,
        microsecond: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.year = year
        self.month = month
        self.weeks = weeks
        self.weekday = weekday
        self.day = day
        self.hour = hour
        self.minute = minute
        self.second = second
        self.microsecond = microsecond
        self.days = weeks * 7
        self._has_time = hour is not None or minute is not None

    def __repr__(self) -> str:
        parts = self._fields(weeks=self.weeks, weekday=self.weekday)
        return f"ffwd({', '.join(f'{name}={value!r}' for name, value in parts.items())})"

    def __radd__(self, other: Any) -> Any:
        if not isinstance(other, date):
            return NotImplemented
        year, month = self.year or other.year, self.month or other.month
        day = min(calendar.monthrange(year, month)[1], self.day or other.day)
        found = other.replace(**{**self._fields(), "year": year, "month": month, "day": day})
        if self.weekday is not None:
            found += timedelta(days=(7 - found.weekday() + self.weekday) % 7)
        return found + timedelta(days=self.days)

    def _fields(self, **extra: Any) -> dict[str, Any]:
        names = ("year", "month", "day", "hour", "minute", "second", "microsecond")
        return dictfilter({name: vars(self)[name] for name in names}, **extra)


def utcoffset(time: Any = _time, localtime: Callable[..., Any] = _time.localtime) -> float:
    """How many hours UTC is ahead of this machine now."""
    return float((time.altzone if localtime().tm_isdst else time.timezone) / 3600)


def adjust_timestamp(ts: float, offset: float, here: Callable[..., float] = utcoffset) -> float:
    """An instant of another machine on this one's clock, from its ``utcoffset``."""
    return ts - (offset - here()) * 3600


def get_exponential_backoff_interval(
    factor: int, retries: int, maximum: int, full_jitter: bool = False
) -> int:
    """Seconds until the next attempt."""
    pause = min(maximum, factor * 2**retries)
    if full_jitter:
        pause = random.randrange(pause + 1)
    return int(max(0, pause))


def remaining(
    start: datetime, ends_in: Any, now: datetime | None = None, relative: bool = False
) -> timedelta:
    """The real time left from ``now`` until ``ends_in`` after ``start``.

    ``relative`` rounds the end down to the resolution of ``ends_in``, but never to ``start`` or before.
    """
    now = now or datetime.now(UTC)
    end = _rounded_end(start, ends_in) if relative else _end(start, ends_in)
    return end.astimezone(UTC) - now.astimezone(UTC)


def _end(start: datetime, ends_in: Any) -> datetime:
    if isinstance(ends_in, timedelta):
        return add_seconds_to_datetime(start, ends_in.total_seconds())
    end: datetime = start + ends_in
    return end


def _rounded_end(start: datetime, ends_in: timedelta) -> datetime:
    by_days = ends_in >= timedelta(days=1)
    # Days are those of the calendar; shorter units are real time.
    end = start + ends_in if by_days else _end(start, ends_in)
    first = start.astimezone(UTC)
    candidates = [each for each in _occurrences(end, ends_in) if each > first]
    if by_days:
        return min(candidates, default=end.astimezone(UTC))
    last = first + ends_in
    in_time = [each for each in candidates if each <= last]
    return max(in_time, default=min(candidates, default=last))


def _occurrences(end: datetime, ends_in: timedelta) -> list[datetime]:
    """Both times that the rounded local end may stand for, where the clocks are put back."""
    rounded = delta_resolution(end, ends_in).replace(microsecond=0)
    return [rounded.replace(fold=fold).astimezone(UTC) for fold in (0, 1)]
