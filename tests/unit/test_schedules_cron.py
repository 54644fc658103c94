"""Cron expressions against a reference that walks through every minute, over all the ways in which clocks change."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel import Umbel
from umbel.scheduler import crontab
from umbel.scheduler.cron import CronFields, crontab_parser, next_run

MINUTE = timedelta(minutes=1)
DAYS = 6

#: Zones and days around which something happens.
WINDOWS = [
    ("UTC", "2023-12-29"),  # the turn of the year
    ("UTC", "2024-02-26"),  # a leap day
    ("UTC", "2100-02-25"),  # none, in spite of the four
    ("Europe/Paris", "2024-03-29"),
    ("Europe/Paris", "2024-10-25"),
    ("America/New_York", "2026-03-06"),
    ("America/New_York", "2026-10-30"),
    ("Australia/Lord_Howe", "2026-10-02"),  # by half an hour
    ("Australia/Lord_Howe", "2026-04-03"),
    ("America/Havana", "2026-03-06"),  # midnight is skipped
    ("America/Havana", "2026-10-30"),  # midnight is repeated
    ("Africa/Cairo", "2026-04-22"),
    ("America/Goose_Bay", "2000-10-26"),  # back over midnight, at a minute past it
    ("Pacific/Chatham", "2026-04-03"),  # a quarter past
    ("Pacific/Apia", "2011-12-27"),  # a whole day is skipped
    ("Pacific/Kwajalein", "1969-09-28"),  # and repeated
    ("Asia/Kathmandu", "1985-12-29"),
    ("Antarctica/Casey", "2010-03-02"),  # by three hours
    ("Pacific/Nauru", "1942-08-27"),
]


@cache
def minutes_of(zone: str, first: str) -> list[tuple[datetime, datetime]]:
    """Every minute of a window: the instant, and what a clock on the wall shows then."""
    begin = datetime.fromisoformat(first).replace(tzinfo=UTC) - timedelta(days=2)
    instants = (begin + number * MINUTE for number in range((DAYS + 4) * 24 * 60))
    return [
        (instant, instant.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0)) for instant in instants
    ]


@cache
def times_of_day(zone: str, first: str) -> list[tuple[datetime, datetime]]:
    """Every time on the wall once: the instant that it stands for, the first or when it would have come."""
    meaning: dict[datetime, datetime] = {}
    before = None
    for instant, shown in minutes_of(zone, first):
        if before is not None and shown - before[1] > MINUTE:
            skipped = before[1] + MINUTE
            while skipped < shown:
                meaning.setdefault(skipped, before[0] + (skipped - before[1]))
                skipped += MINUTE
        meaning.setdefault(shown, instant)
        before = instant, shown
    return sorted((instant, shown) for shown, instant in meaning.items())


def expected(fields: CronFields, zone: str, first: str, after: datetime) -> Iterator[datetime]:
    """The reference: the instants of the window, from ``after`` on, at which the expression is due."""
    known = minutes_of(zone, first) if len(fields.hours) == 24 else times_of_day(zone, first)
    last = after
    for number in range(bisect_right(known, after, key=lambda pair: pair[0]), len(known)):
        instant, shown = known[number]
        if instant > last and (
            shown.minute in fields.minutes
            and shown.hour in fields.hours
            and shown.isoweekday() % 7 in fields.weekdays
            and shown.day in fields.days
            and shown.month in fields.months
        ):
            last = instant  # a skipped and a real time may stand for one instant
            yield instant


def some(first: int, last: int) -> st.SearchStrategy[set[int]]:
    every = st.just(set(range(first, last + 1)))
    return every | st.sets(st.integers(first, last), min_size=1, max_size=4)


fields_of_all_kinds = st.builds(
    CronFields,
    minutes=some(0, 59),
    hours=some(0, 23) | st.sets(st.integers(0, 3) | st.integers(21, 23), min_size=1),
    weekdays=some(0, 6),
    days=st.just(set(range(1, 32))) | st.sets(st.integers(1, 31), min_size=10),
    months=st.just(set(range(1, 13))) | st.sets(st.integers(1, 12), min_size=9),
)


@pytest.mark.parametrize(("zone", "first"), WINDOWS, ids=[" ".join(window) for window in WINDOWS])
@settings(max_examples=60, deadline=None)
@given(
    fields=fields_of_all_kinds, starts=st.lists(st.integers(0, DAYS * 24 * 3600 - 1), min_size=1, max_size=12)
)
def test_the_next_run_is_that_of_the_reference(zone, first, fields, starts) -> None:
    begin = datetime.fromisoformat(first).replace(tzinfo=UTC)
    for start in starts:
        after = begin + timedelta(seconds=start)
        for run in islice(expected(fields, zone, first, after), 1):
            assert next_run(fields, after, ZoneInfo(zone)).astimezone(UTC) == run, after


@pytest.mark.parametrize(("zone", "first"), WINDOWS, ids=[" ".join(window) for window in WINDOWS])
@settings(max_examples=15, deadline=None)
@given(
    fields=fields_of_all_kinds,
    start=st.integers(0, (DAYS - 2) * 24 * 3600 - 1),
    elapsed=st.integers(0, 36 * 3600),
    shown_in=st.sampled_from(["UTC", "zone"]),
)
def test_what_beat_asks_is_answered_as_the_reference_has_it(
    zone, first, fields, start, elapsed, shown_in
) -> None:
    """Whether it is due, and in how many seconds the next run is, by the schedule's own clock."""
    begin = datetime.fromisoformat(first).replace(tzinfo=UTC)
    last, now = begin + timedelta(seconds=start), begin + timedelta(seconds=start + elapsed)
    clock = now.astimezone(ZoneInfo(zone)) if shown_in == "zone" else now
    with Umbel("cron", broker="memory://", set_as_current=False) as app:
        app.conf.timezone = zone
        cron = crontab(*fields[:2], *fields[2:], nowfun=lambda: clock, app=app)
        state = cron.is_due(last.astimezone(ZoneInfo(zone)))
    next_after_last = next(expected(fields, zone, first, last), None)
    if next_after_last is None:
        return  # beyond the window
    assert state.is_due == (next_after_last <= now)
    waited = next_after_last if not state.is_due else next(expected(fields, zone, first, now), None)
    if waited is not None:
        assert state.next == pytest.approx((waited - now).total_seconds(), abs=0.001)


@pytest.mark.parametrize(("zone", "first"), WINDOWS, ids=[" ".join(window) for window in WINDOWS])
@pytest.mark.parametrize("hours", [set(range(24)), {0, 1, 2, 3, 23}, {2}, {0}])
def test_run_after_run_none_is_missed_and_none_comes_twice(zone, first, hours) -> None:
    fields = CronFields({0, 15, 59}, hours, set(range(7)), set(range(1, 32)), set(range(1, 13)))
    begin = datetime.fromisoformat(first).replace(tzinfo=UTC)
    end = begin + timedelta(days=DAYS)
    runs, now = [], begin
    while (now := next_run(fields, now, ZoneInfo(zone))) <= end:
        assert now.tzinfo == ZoneInfo(zone)
        runs.append(now.astimezone(UTC))
    assert runs == [run for run in expected(fields, zone, first, begin) if run <= end]


ALL = {
    "minutes": {30},
    "hours": {2},
    "weekdays": set(range(7)),
    "days": set(range(1, 32)),
    "months": set(range(1, 13)),
}


@pytest.mark.parametrize(
    ("changes", "after", "found"),
    [
        ({"days": {29}, "months": {2}}, "2024-02-29T02:30", "2028-02-29T02:30"),
        ({"days": {29}, "months": {2}}, "2096-02-29T02:30", "2104-02-29T02:30"),
        ({"days": {29}, "months": {2}, "weekdays": {0}}, "2072-03-01T00:00", "2088-02-29T02:30"),
        ({"days": {31}}, "2026-03-31T02:30", "2026-05-31T02:30"),
        ({"days": {1}, "months": {1}}, "2025-12-31T23:59:59", "2026-01-01T02:30"),
        ({"days": {13}, "weekdays": {5}}, "2026-03-14T00:00", "2026-11-13T02:30"),
    ],
)
def test_dates_far_away(changes, after, found) -> None:
    fields = CronFields(**{**ALL, **changes})
    start = datetime.fromisoformat(after).replace(tzinfo=UTC)
    assert next_run(fields, start, UTC) == datetime.fromisoformat(found).replace(tzinfo=UTC)


def test_a_date_that_does_not_exist_is_given_up() -> None:
    with pytest.raises(RuntimeError, match=r"days \[30\] of months \[2\]"):
        next_run(CronFields(**{**ALL, "days": {30}, "months": {2}}), datetime(2026, 1, 1, tzinfo=UTC), UTC)


def test_a_fixed_time_comes_once_a_day_and_a_rhythm_goes_on() -> None:
    """What a reader of the documentation expects of the two nights of the year."""
    paris = ZoneInfo("Europe/Paris")

    def runs(hours: set[int], now: datetime) -> list[str]:
        fields, found, end = CronFields(**{**ALL, "hours": hours}), [], now.replace(hour=5)
        while (now := next_run(fields, now, paris)) < end:
            found.append(now.isoformat()[11:16])
        return found

    spring, autumn = datetime(2024, 3, 31, tzinfo=paris), datetime(2024, 10, 27, tzinfo=paris)
    assert runs({2}, spring) == ["03:30"]
    assert runs({2}, autumn) == ["02:30"]
    assert runs(set(range(24)), spring) == ["00:30", "01:30", "03:30", "04:30"]
    assert runs(set(range(24)), autumn) == ["00:30", "01:30", "02:30", "02:30", "03:30", "04:30"]


@pytest.mark.parametrize(
    ("size", "first", "text", "numbers"),
    [
        (60, 0, "*/15", {0, 15, 30, 45}),
        (60, 0, " 1 , 2-4 ", {1, 2, 3, 4}),
        (24, 0, "22-4/2", {22, 0, 2, 4}),
        (12, 1, "nov-Feb", {11, 12, 1, 2}),
        (7, 0, "sat-monday", {6, 0, 1}),
        (31, 1, "*/10", {1, 11, 21, 31}),
    ],
)
def test_parsing(size, first, text, numbers) -> None:
    assert crontab_parser(size, first).parse(text) == numbers


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("", crontab_parser.ParseException, "empty part"),
        ("1,,2", crontab_parser.ParseException, "empty part"),
        ("*/", crontab_parser.ParseException, "empty filter"),
        ("-5", crontab_parser.ParseException, "negative"),
        ("*/0", ValueError, "above 0"),
        ("*/x", ValueError, "above 0"),
        ("5/2", ValueError, "need a range"),
        ("99", ValueError, "99 > 59"),
        ("x", ValueError, "'x'"),
        ("1-2-3", ValueError, "'1-2-3'"),
    ],
)
def test_what_is_no_cron_expression(text, error, words) -> None:
    with pytest.raises(error, match=words):
        crontab_parser().parse(text)
