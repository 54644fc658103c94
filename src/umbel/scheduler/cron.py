"""Cron expressions, and when the clock next shows what one says. Arithmetic only: no clock is read.

Clock changes. An expression that names hours means times of day: each of them comes once a day. One that the change
skips comes as much later as the clock jumped, one that the change repeats comes the first time only. An expression
for every hour means a rhythm: it follows the clock through the repeated hour as through any other, and has nothing to
make up for a skipped one.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet
    from datetime import tzinfo

__all__ = ["CronFields", "ParseException", "crontab_parser", "next_run"]

#: The first three letters decide, as in Celery.
_MONTHS: Final = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_WEEKDAYS: Final = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
#: ``*``, ``5``, ``mon-fri``, each with or without ``/2``.
_PART: Final = re.compile(
    r"\s*(?:(?P<star>\*)|(?P<first>\w+)(?:-(?P<last>\w+))?)(?P<steps>/(?P<step>\w*))?\s*"
)
#: How far ahead a date is looked for: a 29 February that is a certain weekday may be 40 years away.
_HORIZON_MONTHS: Final = 50 * 12
_DAY: Final = timedelta(days=1)


class ParseException(Exception):
    """The text is not a cron expression."""


class crontab_parser:  # noqa: N801 - Celery's name
    """Parses one field of a cron expression.

    ``crontab_parser(60).parse("*/15")`` is {0, 15, 30, 45}; ``crontab_parser(12, 1)`` is for months, which begin with
    one. A field is parts with commas between them; a part is ``*``, a number, or a range that may run over the end
    (``22-4``), and ``*`` and ranges may have steps (``*/5``, ``8-18/2``). Names of months and weekdays are numbers.

    Args:
        max_: how many values the field has.
        min_: the first of them.
    """

    ParseException: ClassVar[type[ParseException]] = ParseException

    def __init__(self, max_: int = 60, min_: int = 0) -> None:
        self.max_ = max_
        self.min_ = min_

    def parse(self, spec: str) -> set[int]:
        """The numbers that a field means. Raises ParseException for its form, ValueError for a number or name."""
        found: set[int] = set()
        for part in spec.split(","):
            found |= set(self._parse_part(part))
        return found

    def _parse_part(self, part: str) -> list[int]:
        if not part.strip():
            raise self.ParseException("empty part")
        if part.lstrip().startswith("-"):
            raise self.ParseException(f"negative numbers not supported: {part!r}")
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"Invalid weekday literal {part!r}.")
        if match["star"]:
            values = list(range(self.min_, self.min_ + self.max_))
        else:
            values = self._expand_range([name for name in (match["first"], match["last"]) if name])
        if match["steps"] is None:
            return values
        if match["last"] is None and not match["star"]:
            raise ValueError(f"steps need a range or a *: {part!r}")
        return self._take_steps(values, match["step"])

    def _take_steps(self, values: list[int], step: str) -> list[int]:
        if not step:
            raise self.ParseException("empty filter")
        if not step.isdecimal() or int(step) == 0:
            raise ValueError(f"a step must be a number above 0, not {step!r}")
        return values[:: int(step)]

    def _range_steps(self, tokens: list[str]) -> list[int]:
        """A range with steps: its first and last value, and the step."""
        if len(tokens) != 3 or not tokens[2]:
            raise self.ParseException("empty filter")
        return self._take_steps(self._expand_range(tokens[:2]), tokens[2])

    def _expand_range(self, tokens: list[str]) -> list[int]:
        first = self._expand_number(tokens[0])
        if len(tokens) == 1:
            return [first]
        last = self._expand_number(tokens[1])
        if last < first:  # over the end: 22-4
            return [*range(first, self.min_ + self.max_), *range(self.min_, last + 1)]
        return list(range(first, last + 1))

    def _expand_number(self, text: str) -> int:
        number = int(text) if text.isdecimal() else _named(text)
        last = self.min_ + self.max_ - 1
        if number > last:
            raise ValueError(f"Invalid end range: {number} > {last}.")
        if number < self.min_:
            raise ValueError(f"Invalid beginning range: {number} < {self.min_}.")
        return number


def _named(name: str) -> int:
    start = name[:3].lower()
    if start in _MONTHS:
        return _MONTHS.index(start) + 1
    if start in _WEEKDAYS:
        return _WEEKDAYS.index(start)
    raise ValueError(f"Invalid weekday literal {name!r}.")


class CronFields(NamedTuple):
    """What a cron expression means: the numbers of each field. Sunday is 0."""

    minutes: AbstractSet[int]
    hours: AbstractSet[int]
    weekdays: AbstractSet[int]
    days: AbstractSet[int]
    months: AbstractSet[int]

    @property
    def every_hour(self) -> bool:
        """Whether it is a rhythm rather than times of day."""
        return len(self.hours) == 24


def next_run(fields: CronFields, after: datetime, timezone: tzinfo) -> datetime:
    """The first instant later than ``after`` that the expression means, in ``timezone``.

    Raises RuntimeError when there is none: the fields name a date that does not exist.
    """
    start = after.astimezone(UTC)
    # A day begins anew when the clock goes back over midnight, so the search begins a day early.
    today = start.astimezone(timezone).date()
    found, first = None, today
    for day in _days(fields, today - _DAY):
        if found is not None and day - first > _DAY:
            break
        later = [instant for instant in _instants(fields, day, start, timezone) if instant > start]
        if not later:
            continue
        if found is not None:
            found = min(found, *later)
            break
        found, first = min(later), day
        if _is_plain(day, timezone):
            break  # otherwise the day after may come in between
    if found is None:
        _never(fields)
    return found.astimezone(timezone)


def _never(fields: CronFields) -> NoReturn:
    raise RuntimeError(
        f"unable to rollover, time specification is probably invalid: days {sorted(fields.days)} of months "
        f"{sorted(fields.months)} on weekdays {sorted(fields.weekdays)} do not occur"
    )


def _days(fields: CronFields, first: date) -> Iterator[date]:
    """The dates from ``first`` on that the expression means."""
    year, month = first.year, first.month
    for _ in range(_HORIZON_MONTHS):
        if month in fields.months:
            yield from (day for day in _days_of(fields, year, month) if day >= first)
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)


def _days_of(fields: CronFields, year: int, month: int) -> Iterable[date]:
    for number in sorted(fields.days):
        try:
            day = date(year, month, number)
        except ValueError:
            continue  # 30 February
        if day.isoweekday() % 7 in fields.weekdays:
            yield day


def _instants(fields: CronFields, day: date, start: datetime, timezone: tzinfo) -> list[datetime]:
    """Instants of a day in UTC: the first after ``start`` of a plain day, all of a day on which the clock changes."""
    if not _is_plain(day, timezone):
        return _all_instants(fields, day, timezone)
    local = start.astimezone(timezone)
    if local.date() > day:
        return []
    earliest = (local.hour, local.minute) if local.date() == day else (-1, -1)
    for hour in sorted(fields.hours):
        if hour < earliest[0]:
            continue
        for minute in sorted(fields.minutes):
            if (hour, minute) > earliest:
                return [_at(day, hour, minute, timezone).astimezone(UTC)]
    return []


def _all_instants(fields: CronFields, day: date, timezone: tzinfo) -> list[datetime]:
    times = [_at(day, hour, minute, timezone) for hour in fields.hours for minute in fields.minutes]
    if not fields.every_hour:
        # Fold 0 is the first of a repeated time, and of a skipped one the instant that it would have been.
        return [time.astimezone(UTC) for time in times]
    both = [time.replace(fold=fold).astimezone(UTC) for time in times for fold in (0, 1)]
    shown = {time.replace(tzinfo=None) for time in times}
    return [instant for instant in both if instant.astimezone(timezone).replace(tzinfo=None, fold=0) in shown]


def _at(day: date, hour: int, minute: int, timezone: tzinfo) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=timezone)


def _is_plain(day: date, timezone: tzinfo) -> bool:
    """Whether the clock is not changed on a day: it is as far from UTC at its end as at its beginning."""
    begin, end = _at(day, 0, 0, timezone), _at(day + _DAY, 0, 0, timezone)
    offsets = {time.replace(fold=fold).utcoffset() for time in (begin, end) for fold in (0, 1)}
    return len(offsets) == 1
