"""Schedules as users meet them: when they are due, by whose clock, and how they are compared, shown and stored."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel import Umbel
from umbel.errors import ImproperlyConfigured
from umbel.scheduler import (
    BaseSchedule,
    ParseException,
    crontab,
    maybe_schedule,
    schedule,
    solar,
)
from umbel.scheduler.timing import aware, ffwd, humanize, interval_end

NEW_YORK = ZoneInfo("America/New_York")


@pytest.fixture
def app() -> Iterator[Umbel]:
    with Umbel("schedules", broker="memory://", set_as_current=False) as app:
        yield app


def at(text: str, zone=UTC) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone)


class TestIntervals:
    @pytest.mark.parametrize(
        ("elapsed", "state"),
        [(0, (False, 10)), (3.5, (False, 6.5)), (10, (True, 10)), (25, (True, 10))],
    )
    def test_an_interval_is_due_when_it_has_passed(self, app, elapsed, state) -> None:
        last = at("2026-01-01T12:00")
        every = schedule(10, nowfun=lambda: last + timedelta(seconds=elapsed), app=app)
        assert every.is_due(last) == state

    def test_a_clock_change_makes_no_interval_longer(self, app) -> None:
        last = at("2026-03-08T01:59:55", NEW_YORK)
        every = schedule(10, nowfun=lambda: at("2026-03-08T03:00:05", NEW_YORK), app=app)
        assert every.is_due(last) == (True, 10)

    @pytest.mark.parametrize(
        ("last", "interval", "end"),
        [
            ("2026-01-01T12:34:56", timedelta(seconds=30), "2026-01-01T12:35:26"),
            ("2026-01-01T12:34:56", timedelta(minutes=5), "2026-01-01T12:39"),
            ("2026-01-01T12:34:56", timedelta(hours=2), "2026-01-01T14:00"),
            ("2026-01-01T12:34:56", timedelta(days=1), "2026-01-02T00:00"),
            ("2026-03-08T01:30", timedelta(hours=1), "2026-03-08T03:00"),  # an hour is skipped
            ("2026-03-07T23:30", timedelta(days=1), "2026-03-08T00:00"),
            ("2026-11-01T00:30", timedelta(days=1), "2026-11-02T00:00"),  # a day of 25 hours
        ],
    )
    def test_a_relative_one_ends_with_the_clock(self, last, interval, end) -> None:
        assert interval_end(at(last, NEW_YORK), interval, relative=True) == at(end, NEW_YORK)

    def test_a_relative_one_that_ran_late_is_back_in_step(self, app) -> None:
        now = at("2026-01-01T10:59:30")
        hourly = schedule(timedelta(hours=1), relative=True, nowfun=lambda: now, app=app)
        assert hourly.is_due(at("2026-01-01T09:00")) == (True, 30)

    def test_comparing_showing_and_storing(self, app) -> None:
        every = schedule(90, relative=True, app=app)
        assert every == schedule(90) == timedelta(seconds=90)
        assert every != schedule(60)
        assert repr(every) == "<freq: 1.50 minutes>"
        again = pickle.loads(pickle.dumps(every))
        assert (again, again.relative) == (every, True)

    @pytest.mark.parametrize(
        ("seconds", "words"),
        [
            (0, "now"),
            (0.2, "now"),
            (1, "1.00 second"),
            (90, "1.50 minutes"),
            (7200, "2.00 hours"),
            (86400, "1.00 day"),
        ],
    )
    def test_durations_in_words(self, seconds, words) -> None:
        assert humanize(seconds) == words


class TestCrontabs:
    def test_a_run_that_was_missed_is_due_and_the_next_is_waited_for(self, app) -> None:
        daily = crontab(minute=30, hour=7, app=app, nowfun=lambda: at("2026-05-10T10:30"))
        assert daily.is_due(at("2026-05-09T07:30")) == (True, 21 * 3600)
        assert daily.is_due(at("2026-05-10T07:30")) == (False, 21 * 3600)

    @pytest.mark.parametrize(("late", "due"), [(3599, True), (3600, True), (3601, False)])
    def test_a_run_missed_by_more_than_the_deadline_is_left_out(self, app, late, due) -> None:
        app.conf.beat_cron_starting_deadline = 3600
        now = at("2026-05-10T07:30") + timedelta(seconds=late)
        daily = crontab(minute=30, hour=7, app=app, nowfun=lambda: now)
        assert daily.is_due(at("2026-05-08T07:30")) == (due, 86400 - late)

    def test_it_is_meant_in_the_time_zone_of_the_application(self, app) -> None:
        app.conf.timezone = "Asia/Tokyo"
        daily = crontab(minute=0, hour=9, app=app, nowfun=lambda: at("2026-05-10T00:00"))
        assert daily.is_due(at("2026-05-09T12:00")) == (True, 86400)

    def test_instants_without_a_zone_are_utc(self, app) -> None:
        app.conf.timezone = "Asia/Tokyo"
        last = datetime(2026, 5, 9, 12)  # noqa: DTZ001 - that is what is tried
        daily = crontab(minute=0, hour=9, app=app, nowfun=lambda: at("2026-05-10T00:00"))
        assert daily.is_due(last) == (True, 86400)
        assert daily.maybe_make_aware(last, naive_as_utc=False) == at(
            "2026-05-09T12:00", ZoneInfo("Asia/Tokyo")
        )

    def test_a_line_of_a_crontab(self) -> None:
        assert crontab.from_string("*/5  4 1,15 jan-mar mon") == crontab("*/5", "4", "mon", "1,15", "jan-mar")
        with pytest.raises(ValueError, match="five fields"):
            crontab.from_string("* * *")

    @pytest.mark.parametrize(
        ("fields", "error", "words"),
        [
            ({"minute": 60}, ValueError, "range is 0-59. '60'"),
            ({"hour": [1, 24]}, ValueError, "range is 0-23. '24'"),
            ({"day_of_week": 7}, ValueError, "range is 0-6. '7'"),
            ({"day_of_month": 0}, ValueError, "range is 1-31. '0'"),
            ({"month_of_year": "13"}, ValueError, "13 > 12"),
            ({"month_of_year": 2, "day_of_month": 30}, ValueError, "30 never occurs in month_of_year 2"),
            ({"minute": "1,"}, ParseException, "empty part"),
            ({"minute": 1.5}, TypeError, "float"),
        ],
    )
    def test_what_is_no_crontab(self, fields, error, words) -> None:
        with pytest.raises(error, match=words):
            crontab(**fields)

    def test_comparing_showing_and_storing(self) -> None:
        one, other = crontab(minute="*/30", hour=[1, 2]), crontab(minute="0,30", hour="1-2")
        assert one == other
        assert one != crontab(minute="*/30")
        assert one != schedule(30)
        assert repr(other) == "<crontab: 0,30 1-2 * * * (m/h/dM/MY/d)>"
        again = pickle.loads(pickle.dumps(crontab(minute=5, nowfun=_now)))
        assert (again, again.nowfun) == (crontab(minute=5, nowfun=_now), _now)

    def test_what_to_add_to_the_last_run(self, app) -> None:
        now = at("2026-05-10T08:00")
        last, delta, present = crontab(minute=30, hour=7, app=app, nowfun=lambda: now).remaining_delta(
            at("2026-05-10T07:30:15")
        )
        assert (last + delta, present) == (at("2026-05-11T07:30"), now)
        assert repr(ffwd(hour=7)) == "ffwd(hour=7)"


def _now() -> datetime:
    return at("2026-01-01T00:00")


class TestSun:
    @pytest.fixture(autouse=True)
    def _library(self) -> None:
        pytest.importorskip("ephem")

    def test_the_sun_rises(self, app) -> None:
        now = at("2026-06-20T12:00")
        sunrise = solar("sunrise", 51.48, 0.0, app=app, nowfun=lambda: now)
        due, wait = sunrise.is_due(now)
        assert not due
        assert at("2026-06-21T03:40") < now + timedelta(seconds=wait) < at("2026-06-21T03:46")
        assert sunrise.is_due(now - timedelta(days=1))[0]

    def test_where_it_does_not_rise_for_weeks(self, app) -> None:
        now = at("2026-12-15T00:00")
        sunrise = solar("sunrise", 69.65, 18.96, app=app, nowfun=lambda: now)
        assert at("2027-01-14T00:00") < now + sunrise.remaining_estimate(now) < at("2027-01-16T12:00")

    @pytest.mark.parametrize(
        ("event", "lat", "lon", "words"),
        [
            ("moonrise", 0, 0, '"moonrise" is invalid'),
            ("sunset", 91, 0, "latitude 91"),
            ("sunset", 0, -181, "-181"),
        ],
    )
    def test_what_is_no_place_or_event(self, event, lat, lon, words) -> None:
        with pytest.raises(ValueError, match=words):
            solar(event, lat, lon)

    def test_comparing_showing_and_storing(self) -> None:
        sunset = solar("sunset", 1, 2)
        assert pickle.loads(pickle.dumps(sunset)) == sunset != solar("sunset", 1, 3)
        assert repr(sunset) == "<solar: sunset at latitude 1, longitude: 2>"
        assert sunset != schedule(3)


def test_without_the_library_there_is_no_sun(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ephem", None)
    with pytest.raises(ImproperlyConfigured, match=r"umbel\[solar\]"):
        solar("sunset", 1, 2)


def test_what_a_schedule_may_be_given_as(app) -> None:
    assert maybe_schedule(10, app=app) == maybe_schedule(timedelta(seconds=10), app=app) == schedule(10)
    assert maybe_schedule(10, relative=True).relative
    assert maybe_schedule(None) is None
    own = crontab()
    assert maybe_schedule(own, app=app) is own
    assert own.app is app


def test_a_schedule_of_ones_own(app) -> None:
    class Never(BaseSchedule):
        pass

    with pytest.raises(NotImplementedError, match="Never must say"):
        Never(app=app).is_due(app.now())
    with pytest.raises(NotImplementedError, match="Never must say"):
        Never(app=app).remaining_estimate(app.now())
    assert Never(app=app) == Never()
    assert Never(app=app).to_local(_now()) == _now()
    app.conf.enable_utc = False
    assert Never(app=app).to_local(_now()) == _now()


def test_an_instant_with_a_zone_keeps_it() -> None:
    instant = at("2026-01-01T00:00", NEW_YORK)
    assert aware(instant, "Asia/Tokyo") is instant


ZONES = [
    ("America/New_York", "2026-03-06"),
    ("America/New_York", "2026-10-30"),
    ("Australia/Lord_Howe", "2026-04-03"),
    ("America/Havana", "2026-03-06"),
    ("America/Goose_Bay", "2000-10-26"),
    ("Pacific/Apia", "2011-12-27"),
]


@pytest.mark.parametrize(("zone", "first"), ZONES, ids=[" ".join(each) for each in ZONES])
@settings(max_examples=60, deadline=None)
@given(
    offset=st.integers(0, 5 * 86400),
    interval=st.sampled_from([1, 10, 59, 60, 90, 300, 3600, 5400, 7200, 86399]) | st.integers(1, 86399),
)
def test_a_relative_interval_ends_with_the_clock_and_never_late(zone, first, offset, interval) -> None:
    """Under a day: it ends after it began, no later than its length, on a full unit of the clock; or on the first one
    after that, where a change of the clock leaves none in between.
    """
    begin = (datetime.fromisoformat(first).replace(tzinfo=UTC) + timedelta(seconds=offset)).astimezone(
        ZoneInfo(zone)
    )
    end = interval_end(begin, timedelta(seconds=interval), relative=True)
    elapsed = (end - begin.astimezone(UTC)).total_seconds()
    assert elapsed > 0
    shown = end.astimezone(ZoneInfo(zone))
    if interval >= 3600:
        changed = begin.utcoffset() != shown.utcoffset()
        assert elapsed <= interval or (changed and elapsed <= 3 * 3600)
        assert (shown.minute, shown.second) == (0, 0) or changed
    else:
        assert elapsed <= interval
        assert shown.second == 0 or interval < 60


@pytest.mark.parametrize(("zone", "first"), ZONES, ids=[" ".join(each) for each in ZONES])
@settings(max_examples=40, deadline=None)
@given(offset=st.integers(0, 5 * 86400), days=st.integers(1, 4))
def test_days_end_at_midnight(zone, first, offset, days) -> None:
    begin = (datetime.fromisoformat(first).replace(tzinfo=UTC) + timedelta(seconds=offset)).astimezone(
        ZoneInfo(zone)
    )
    end = interval_end(begin, timedelta(days=days), relative=True).astimezone(ZoneInfo(zone))
    assert end.astimezone(UTC) > begin.astimezone(UTC)
    wanted = begin.date() + timedelta(days=days)
    # Where the day, or its midnight, is skipped, the next instant there is.
    assert (end.date(), end.hour) == (wanted, 0) or end.astimezone(UTC) - timedelta(seconds=1) < _midnight_of(
        wanted, zone
    )


def _midnight_of(day: date, zone: str) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)
