"""Instants on the wire, and what eta, expires and countdown mean."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.core import times
from umbel.core.clock import SystemClock
from umbel.core.retry import RetryPolicy, backoff
from umbel.errors import ImproperlyConfigured

OSLO = ZoneInfo("Europe/Oslo")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-02T03:04:05.000006+00:00", datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
        ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05+02:00", datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC)),
    ],
)
def test_text_on_the_wire_is_an_aware_instant(text: str, expected: datetime) -> None:
    assert times.parse_iso(text) == expected
    assert times.parse_timestamp(text) == expected.timestamp()


@pytest.mark.parametrize("text", ["", "5", "tomorrow", "2026-13-01", "\ud800"])
def test_text_that_is_no_instant_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        times.parse_iso(text)


@given(st.datetimes(timezones=st.sampled_from([UTC, OSLO, timezone(timedelta(hours=-7))])))
def test_what_is_formatted_parses_back(instant: datetime) -> None:
    assert times.parse_iso(times.format_iso(instant)).utctimetuple() == instant.utctimetuple()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (60, "2026-01-02T04:05:05+01:00"),
        (0.5, "2026-01-02T04:04:05.500000+01:00"),
        (timedelta(hours=-1), "2026-01-02T03:04:05+01:00"),
        (datetime.fromisoformat("2026-06-01T12:00"), "2026-06-01T12:00:00+02:00"),
        (datetime(2026, 6, 1, tzinfo=UTC), "2026-06-01T00:00:00+00:00"),
        ("2026-06-01T12:00:00", "2026-06-01T12:00:00+02:00"),
        ("2026-06-01T12:00:00Z", "2026-06-01T12:00:00+00:00"),
    ],
)
def test_an_option_means_an_instant(value: Any, expected: str) -> None:
    assert times.instant(value, NOW, OSLO, "eta").isoformat() == expected


@pytest.mark.parametrize(
    ("value", "error"),
    [([], TypeError), (True, TypeError), ("soon", ValueError), (1e20, ValueError), (-1e20, ValueError),
     (1e999, ValueError), (float("nan"), ValueError)],
)  # fmt: skip
def test_an_option_that_is_no_instant_is_named(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"expires|epoch"):
        times.instant(value, NOW, UTC, "expires")


def test_a_time_that_a_clock_change_skips_or_repeats() -> None:
    skipped = times.as_aware(datetime.fromisoformat("2026-03-29T02:30"), OSLO)
    assert skipped.isoformat() == "2026-03-29T03:30:00+02:00"
    repeated = times.as_aware(datetime.fromisoformat("2026-10-25T02:30"), OSLO)
    assert repeated.isoformat() == "2026-10-25T02:30:00+02:00"


def test_results_carry_utc_text() -> None:
    assert times.utc_iso(NOW + 0.25) == "2026-01-02T03:04:05.250000+00:00"
    assert times.seconds_until(times.from_timestamp(NOW + 5, OSLO), NOW) == 5


def test_time_zones_by_name() -> None:
    assert times.zone("UTC") is UTC
    assert times.zone("Europe/Oslo") == OSLO
    for name in ("Europe/Olso", "../etc/passwd", "a\0b", ""):
        with pytest.raises(ImproperlyConfigured, match="unknown time zone"):
            times.zone(name)


def test_back_off_doubles_up_to_its_maximum() -> None:
    assert [backoff(retries, 3, 20) for retries in range(5)] == [3, 6, 12, 20, 20]
    assert backoff(10**9, 1, 600) == 600
    assert backoff(3, 0, 600) == backoff(3, -5, 600) == 0


@given(st.integers(0, 2000), st.integers(0, 100), st.integers(0, 1000), st.integers())
def test_jitter_stays_below_the_delay(retries: int, factor: int, maximum: int, seed: int) -> None:
    delay = backoff(retries, factor, maximum, Random(seed))
    assert 0 <= delay <= backoff(retries, factor, maximum) <= maximum
    assert delay == int(delay)


def test_a_publisher_s_retries_are_kombu_s() -> None:
    assert list(RetryPolicy().intervals()) == [0.0, 0.2, 0.2]
    policy = RetryPolicy.from_mapping(
        {"max_retries": 5, "interval_start": 0, "interval_step": 0.3, "interval_max": 0.5}
    )
    assert list(policy.intervals()) == [0, 0.3, 0.3, 0.3, 0.3]
    assert next(RetryPolicy.from_mapping({"max_retries": None, "interval_start": 9}).intervals()) == 0.2


@pytest.mark.parametrize(
    ("name", "value"), [("max_retries", "many"), ("interval_start", -1), ("interval_max", "x")]
)
def test_a_bad_policy_names_its_option(name: str, value: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=name):
        RetryPolicy.from_mapping({name: value})


def test_the_system_clock_tells_both_times() -> None:
    clock = SystemClock()
    assert clock.now() > NOW - 10**9
    assert clock.monotonic() <= clock.monotonic()
