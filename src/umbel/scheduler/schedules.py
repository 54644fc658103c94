"""When a periodic task is due: at intervals, by a cron expression, or by the sun (``scheduler.sun``).

A schedule answers ``is_due(last_run_at)`` with whether it is due and after how many seconds to ask again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property
from typing import Any, Final, NamedTuple, TypeAlias

from umbel.core.times import seconds
from umbel.scheduler.cron import CronFields, ParseException, crontab_parser, next_run
from umbel.scheduler.timing import aware, ffwd, humanize, interval_end, to_timezone
from umbel.state import get_current_app

__all__ = [
    "BaseSchedule",
    "Cronspec",
    "ParseException",
    "cronfield",
    "crontab",
    "crontab_parser",
    "maybe_schedule",
    "schedstate",
    "schedule",
]

#: What one field of a crontab may be given as.
Cronspec: TypeAlias = int | str | Iterable[int]

#: Days of each month in the longest year.
_DAYS_IN_MONTH: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class schedstate(NamedTuple):  # noqa: N801 - Celery's name
    """Whether a task is due, and in how many seconds to ask again."""

    is_due: bool
    next: float


class BaseSchedule:
    """What every schedule has: a clock and a time zone.

    Args:
        nowfun: tells the present instant; None: the application's clock.
        app: whose time zone and settings count; None: the current one.
    """

    def __init__(self, nowfun: Callable[[], datetime] | None = None, app: Any = None) -> None:
        self.nowfun = nowfun
        self._app = app

    def now(self) -> datetime:
        """The present instant."""
        instant: datetime = (self.nowfun or self.app.now)()
        return instant

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """How long until the next run; less than nothing when it is overdue."""
        raise NotImplementedError(f"{type(self).__qualname__} must say how long it is until the next run")

    def run_after(self, last_run_at: datetime) -> datetime:
        """The instant of the next run after ``last_run_at``, however long ago that is by now; in UTC."""
        now = self.maybe_make_aware(self.now()).astimezone(UTC)
        return now + self.remaining_estimate(last_run_at)

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """Whether it is due, and in how many seconds to ask again."""
        raise NotImplementedError(f"{type(self).__qualname__} must say whether it is due")

    def maybe_make_aware(self, dt: datetime, naive_as_utc: bool = True) -> datetime:
        """The instant with a time zone: one without is UTC, or the schedule's own."""
        return aware(dt, self.tz, naive_as_utc)

    @property
    def app(self) -> Any:
        """The application."""
        return get_current_app() if self._app is None else self._app

    @app.setter
    def app(self, app: Any) -> None:
        self._app = app

    @cached_property
    def tz(self) -> Any:
        """The time zone in which the schedule is meant."""
        return self.app.timezone

    @cached_property
    def utc_enabled(self) -> bool:
        """The setting ``enable_utc``."""
        return bool(self.app.conf.enable_utc)

    def to_local(self, dt: datetime) -> datetime:
        """The instant as it is with ``enable_utc``, in the machine's time zone without."""
        return dt if self.utc_enabled else dt.astimezone()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, BaseSchedule):
            return other.nowfun == self.nowfun
        return NotImplemented


class schedule(BaseSchedule):  # noqa: N801 - Celery's name
    """Every so many seconds.

    Args:
        run_every: the interval, in seconds or as a timedelta.
        relative: whether it ends with the clock: an hourly schedule with the full hour, a daily one at midnight.
        nowfun, app: see BaseSchedule.
    """

    relative: bool = False

    def __init__(
        self,
        run_every: float | timedelta | None = None,
        relative: bool = False,
        nowfun: Callable[[], datetime] | None = None,
        app: Any = None,
    ) -> None:
        self.run_every: Any = (
            None if run_every is None else timedelta(seconds=seconds(run_every, "run_every"))
        )
        self.relative = relative
        super().__init__(nowfun=nowfun, app=app)

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """How long until the interval has passed."""
        return schedule.run_after(self, last_run_at) - self.maybe_make_aware(self.now()).astimezone(UTC)

    def run_after(self, last_run_at: datetime) -> datetime:
        """As BaseSchedule.run_after, to the microsecond."""
        return interval_end(self.maybe_make_aware(last_run_at), self.run_every, self.relative)

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """As BaseSchedule.is_due."""
        last_run_at = self.maybe_make_aware(last_run_at)
        left = self.remaining_estimate(last_run_at).total_seconds()
        if left > 0:
            return schedstate(is_due=False, next=left)
        return schedstate(is_due=True, next=self._next_check(last_run_at))

    def _next_check(self, last_run_at: datetime) -> float:
        """Seconds from now, when it is due, to the next time it is."""
        if not self.relative:
            return self.seconds
        now = self.maybe_make_aware(self.now()).astimezone(last_run_at.tzinfo)
        left = self.remaining_estimate(now).total_seconds()
        return left if left > 0 else self.seconds

    def __repr__(self) -> str:
        return f"<freq: {self.human_seconds}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, schedule):
            return bool(self.run_every == other.run_every)
        return bool(self.run_every == other)

    def __reduce__(self) -> Any:
        return self.__class__, (self.run_every, self.relative, self.nowfun)

    @property
    def seconds(self) -> float:
        """The interval, never less than nothing."""
        return max(float(self.run_every.total_seconds()), 0)

    @property
    def human_seconds(self) -> str:
        """The interval in words."""
        return humanize(self.seconds)


class crontab(BaseSchedule):  # noqa: N801 - Celery's name
    """At the times that a cron expression names, in the application's time zone.

    ``crontab(minute=0, hour="*/3")``, ``crontab(minute="0,30", hour="8-17", day_of_week="mon-fri")``. A run is due
    when all five fields agree. What clock changes do is told in ``scheduler.cron``.

    Args:
        minute, hour, day_of_week, day_of_month, month_of_year: a number, a cron expression (see ``crontab_parser``),
            or several numbers. Sunday is 0.
        kwargs: ``nowfun`` and ``app``, see BaseSchedule.

    Raises:
        ParseException: a field is no cron expression.
        ValueError: a number is out of its range, or no such day exists in any such month.
        TypeError: a field is none of these.
    """

    def __init__(
        self,
        minute: Cronspec = "*",
        hour: Cronspec = "*",
        day_of_week: Cronspec = "*",
        day_of_month: Cronspec = "*",
        month_of_year: Cronspec = "*",
        **kwargs: Any,
    ) -> None:
        self._orig_minute = cronfield(minute)
        self._orig_hour = cronfield(hour)
        self._orig_day_of_week = cronfield(day_of_week)
        self._orig_day_of_month = cronfield(day_of_month)
        self._orig_month_of_year = cronfield(month_of_year)
        self._orig_kwargs = kwargs
        self.hour = self._expand_cronspec(hour, 24)
        self.minute = self._expand_cronspec(minute, 60)
        self.day_of_week = self._expand_cronspec(day_of_week, 7)
        self.day_of_month = self._expand_cronspec(day_of_month, 31, 1)
        self.month_of_year = self._expand_cronspec(month_of_year, 12, 1)
        if not any(
            day <= _DAYS_IN_MONTH[month - 1] for month in self.month_of_year for day in self.day_of_month
        ):
            raise ValueError(
                f"Invalid crontab: day_of_month {self._orig_day_of_month!r} never occurs in "
                f"month_of_year {self._orig_month_of_year!r}."
            )
        super().__init__(**kwargs)

    @classmethod
    def from_string(cls, crontab: str) -> crontab:
        """The schedule of a line such as ``30 4 * * mon-fri``: minute, hour, day of month, month, day of week."""
        fields = crontab.split()
        if len(fields) != 5:
            raise ValueError(
                f"expected five fields (minute hour day-of-month month day-of-week), got {crontab!r}"
            )
        minute, hour, day_of_month, month_of_year, day_of_week = fields
        return cls(minute, hour, day_of_week, day_of_month, month_of_year)

    @staticmethod
    def _expand_cronspec(cronspec: Cronspec | None, max_: int, min_: int = 0) -> set[int]:
        """The numbers that a field means; ``max_`` values from ``min_`` on are allowed."""
        if isinstance(cronspec, int):
            result = {cronspec}
        elif isinstance(cronspec, str):
            result = crontab_parser(max_, min_).parse(cronspec)
        elif isinstance(cronspec, Iterable):
            result = set(cronspec)
        else:
            raise TypeError(
                "Argument cronspec needs to be of any of the following types: "
                f"int, str, or an iterable type. {type(cronspec)!r} was given."
            )
        for number in result:
            if not min_ <= number < min_ + max_:
                raise ValueError(
                    f"Invalid crontab pattern.  Valid range is {min_}-{max_ - 1 + min_}. '{number}' was found."
                )
        return result

    def _next(self, last_run_at: datetime, timezone: tzinfo) -> datetime:
        fields = CronFields(self.minute, self.hour, self.day_of_week, self.day_of_month, self.month_of_year)
        return next_run(fields, last_run_at, timezone)

    def remaining_delta(
        self, last_run_at: datetime, tz: str | tzinfo | None = None, ffwd: Any = ffwd
    ) -> tuple[datetime, Any, datetime]:
        """The last run, what to add to it to get the next one, and the present, all in the schedule's time zone."""
        timezone = to_timezone(tz or self.tz)
        last_run_at = self.maybe_make_aware(last_run_at).astimezone(timezone)
        run = self._next(last_run_at, timezone)
        delta = ffwd(
            year=run.year,
            month=run.month,
            day=run.day,
            hour=run.hour,
            minute=run.minute,
            second=0,
            microsecond=0,
        )
        return last_run_at, delta, self.maybe_make_aware(self.now()).astimezone(timezone)

    def remaining_estimate(self, last_run_at: datetime, ffwd: Any = ffwd) -> timedelta:
        """How long until the next run after ``last_run_at``; less than nothing when it was missed."""
        return crontab.run_after(self, last_run_at) - self.maybe_make_aware(self.now()).astimezone(UTC)

    def run_after(self, last_run_at: datetime) -> datetime:
        """As BaseSchedule.run_after, to the minute."""
        return self._next(self.maybe_make_aware(last_run_at), to_timezone(self.tz)).astimezone(UTC)

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """As BaseSchedule.is_due.

        With ``beat_cron_starting_deadline``, runs that were missed longer ago than that are left out.
        """
        left = self.remaining_estimate(last_run_at).total_seconds()
        if left > 0:
            return schedstate(is_due=False, next=left)
        due = left == 0 or not self._is_too_late()
        return schedstate(due, max(self.remaining_estimate(self.now()).total_seconds(), 0))

    def _is_too_late(self) -> bool:
        """Whether every run that was missed is longer ago than the deadline."""
        deadline = self.app.conf.beat_cron_starting_deadline
        if deadline is None:
            return False
        now = self.maybe_make_aware(self.now()).astimezone(UTC)
        # A microsecond more, for a run exactly at the deadline is in time.
        since = now - timedelta(seconds=deadline, microseconds=1)
        return self.remaining_estimate(since).total_seconds() > 0

    def __repr__(self) -> str:
        fields = (
            self._orig_minute,
            self._orig_hour,
            self._orig_day_of_month,
            self._orig_month_of_year,
            self._orig_day_of_week,
        )
        return f"<crontab: {' '.join(map(str, fields))} (m/h/dM/MY/d)>"

    def __reduce__(self) -> Any:
        arguments = (
            self._orig_minute,
            self._orig_hour,
            self._orig_day_of_week,
            self._orig_day_of_month,
            self._orig_month_of_year,
        )
        return self.__class__, arguments, self._orig_kwargs

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        super().__init__(**state)
        self._orig_kwargs = dict(state)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, crontab):
            return NotImplemented
        return (
            other.month_of_year == self.month_of_year
            and other.day_of_month == self.day_of_month
            and other.day_of_week == self.day_of_week
            and other.hour == self.hour
            and other.minute == self.minute
            and bool(super().__eq__(other))
        )


def cronfield(spec: Cronspec | None) -> Cronspec:
    """A field as it was given; None is ``*``."""
    return "*" if spec is None else spec


def maybe_schedule(value: Any, relative: bool = False, app: Any = None) -> Any:
    """The schedule of a number of seconds or a timedelta; a schedule, told its application, and None as they are."""
    if value is None:
        return None
    if isinstance(value, (int, float, timedelta)):
        return schedule(value, relative, app=app)
    value.app = app
    return value
