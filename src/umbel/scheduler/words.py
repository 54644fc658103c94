"""Schedules as text, for the command line and for what is kept of entries."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, Final

from umbel.scheduler.schedules import crontab, schedule
from umbel.scheduler.sun import solar

__all__ = ["schedule_from_words", "schedule_in_words"]

_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_INTERVAL: Final = re.compile(r"(?P<relative>relative\s+)?(?P<number>\d+(\.\d+)?)\s*(?P<unit>[smhd]?)")
_EXPECTED: Final = (
    'expected seconds ("30", "30s", "5m", "2h", "1d"), "relative 1h", five fields of cron ("0 4 * * mon-fri") or '
    '"solar EVENT LATITUDE LONGITUDE"'
)


def schedule_from_words(text: str, app: Any = None) -> Any:
    """The schedule that a text means: ``30s``, ``relative 1h``, ``0 4 * * mon-fri``, ``solar sunset 52.5 13.4``.

    Raises ValueError for one that means none.
    """
    words = text.split()
    interval = _INTERVAL.fullmatch(text.strip())
    try:
        if interval is not None and float(interval["number"]) > 0:
            length = timedelta(seconds=float(interval["number"]) * _UNITS[interval["unit"]])
            return schedule(length, relative=bool(interval["relative"]), app=app)
        if len(words) == 4 and words[0] == "solar":
            return solar(words[1], float(words[2]), float(words[3]), app=app)
        if len(words) == 5:
            minute, hour, day_of_month, month_of_year, day_of_week = words
            return crontab(minute, hour, day_of_week, day_of_month, month_of_year, app=app)
    except Exception as error:
        raise ValueError(f"{text!r} is no schedule: {error}; {_EXPECTED}") from error
    raise ValueError(f"{text!r} is no schedule; {_EXPECTED}")


def schedule_in_words(value: Any) -> str:
    """The text that means a schedule; seconds and timedeltas are intervals.

    Raises ValueError for a schedule that has none: one with a clock or of a class of its own.
    """
    if isinstance(value, str):
        return schedule_in_words(schedule_from_words(value))
    if isinstance(value, (int, float, timedelta)):
        value = schedule(value)
    if type(value) is schedule and value.nowfun is None:
        return f"{'relative ' if value.relative else ''}{value.seconds:.15g}"
    if type(value) is solar and value.nowfun is None:
        return f"solar {value.event} {value.lat} {value.lon}"
    if type(value) is crontab and value.nowfun is None:
        fields = (
            value._orig_minute,
            value._orig_hour,
            value._orig_day_of_month,
            value._orig_month_of_year,
            value._orig_day_of_week,
        )
        return " ".join(_field(field) for field in fields)
    raise ValueError(
        f"{value!r} cannot be kept: expected an interval, a crontab or a solar schedule without nowfun"
    )


def _field(field: Any) -> str:
    if isinstance(field, (int, str)):
        return str(field).replace(" ", "")
    return ",".join(str(number) for number in sorted(field))
