"""Instants on the wire and in arguments: ISO 8601 text, aware datetimes, and seconds.

``now`` is passed in, as epoch seconds; nothing here reads a clock.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Final

from umbel.errors import ImproperlyConfigured

#: The furthest instant that a datetime can hold, with room for any time zone.
_LATEST: Final = datetime.max.replace(tzinfo=UTC) - timedelta(days=2)
_LATEST_SECONDS: Final = _LATEST.timestamp()


def zone(name: str) -> tzinfo:
    """The time zone of a name such as ``Europe/Oslo``. Raises ImproperlyConfigured for an unknown one."""
    if name.upper() == "UTC":
        return UTC
    # Only other zones need it, and it reads the interpreter's build configuration when it is imported.
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ImproperlyConfigured(
            f"unknown time zone {name!r}; give a name such as Europe/Oslo or UTC"
        ) from None


def parse_iso(text: str) -> datetime:
    """The aware instant of ISO 8601 text. Text without an offset is UTC, as Celery's workers read it.

    Raises ValueError for anything else.
    """
    return as_aware(datetime.fromisoformat(text), UTC)


def parse_timestamp(text: str) -> float:
    """The epoch seconds of ISO 8601 text (see ``parse_iso``). Raises ValueError."""
    return parse_iso(text).timestamp()


def as_aware(instant: datetime, timezone: tzinfo) -> datetime:
    """The same instant with a time zone: an aware one as it is, a naive one taken as local to ``timezone``.

    Of a time that happens twice the earlier is meant; a time that a clock change skips is read with the offset before
    the change, and so falls after it.
    """
    if instant.tzinfo is not None and instant.utcoffset() is not None:
        return instant
    local = instant.replace(tzinfo=timezone)
    if timezone is UTC:
        return local
    # Through UTC and back: a skipped time becomes the real one that it stands for.
    return local.astimezone(UTC).astimezone(timezone)


def format_iso(instant: datetime, timezone: tzinfo = UTC) -> str:
    """The text of an instant as the wire has it, always with an offset."""
    return as_aware(instant, timezone).isoformat()


def from_timestamp(seconds: float, timezone: tzinfo = UTC) -> datetime:
    """The aware instant of epoch seconds. Raises ValueError when no datetime can hold it."""
    try:
        return datetime.fromtimestamp(seconds, timezone)
    except (OverflowError, OSError) as error:
        raise ValueError(f"{seconds!r} seconds since the epoch is beyond what a date can hold") from error


def utc_iso(now: float) -> str:
    """Epoch seconds as UTC text, as results carry ``date_done``."""
    if not 0 <= now < _LATEST_SECONDS:
        return datetime.fromtimestamp(now, UTC).isoformat()
    second = int(now)
    micros = round((now - second) * 1_000_000)
    if not 0 < micros < 1_000_000:
        return datetime.fromtimestamp(now, UTC).isoformat()
    return f"{_second_text(second)}.{micros:06d}+00:00"


@lru_cache(maxsize=2)
def _second_text(second: int) -> str:
    """The text of a whole second; remembered, for results end by the thousand within one."""
    return datetime.fromtimestamp(second, UTC).isoformat()[:19]


def seconds(value: float | timedelta, name: str) -> float:
    """A duration as seconds. Raises TypeError that names the option when it is neither a number nor a timedelta."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    raise TypeError(f"{name} must be seconds or a timedelta, not {type(value).__qualname__}")


def instant(value: float | timedelta | datetime | str, now: float, timezone: tzinfo, name: str) -> datetime:
    """The aware instant that ``eta``, ``expires`` or a countdown means.

    Numbers and timedeltas count from ``now``; naive datetimes are local to ``timezone``; text is ISO 8601. Raises
    TypeError or ValueError that names the option.
    """
    if isinstance(value, datetime):
        return as_aware(value, timezone)
    if isinstance(value, str):
        try:
            return as_aware(datetime.fromisoformat(value), timezone)
        except ValueError as error:
            raise ValueError(f"{name} must be ISO 8601 text: {error}") from None
    delay = seconds(value, name)
    if not now + delay < _LATEST.timestamp():
        raise ValueError(f"{name} of {delay} seconds is beyond the year 9999")
    return from_timestamp(now + delay, timezone)


def seconds_until(moment: datetime, now: float) -> float:
    """Seconds from ``now`` to an aware instant; negative when it has passed."""
    return moment.timestamp() - now
