"""``celery.utils.time`` under its own name: zones, gaps and texts."""

from __future__ import annotations

from tests.unit.test_compat_alias import output

BEFORE = (
    "import umbel; umbel.install_as_celery()\n"
    "from datetime import UTC, datetime, timezone\n"
    "from zoneinfo import ZoneInfo\n"
    "from celery.utils import time\n"
    "new_york = ZoneInfo('America/New_York')\n"
)


def test_an_instant_of_utc_is_put_into_another_zone_however_utc_is_named():
    assert (
        output(
            BEFORE + "for utc in (UTC, timezone.utc, ZoneInfo('UTC')):\n"
            "    print(time.localize(datetime(2026, 11, 1, 6, 55, tzinfo=utc), new_york))"
        )
        == ["2026-11-01 01:55:00-05:00"] * 3
    )


def test_times_that_the_clocks_leave_out_or_go_through_twice():
    assert output(
        BEFORE + "print(time.make_aware(datetime(2024, 3, 10, 2, 30), new_york))\n"
        "print(time.make_aware(datetime(2024, 11, 3, 1, 30, fold=1), new_york))"
    ) == ["2024-03-10 03:30:00-04:00", "2024-11-03 01:30:00-04:00"]


def test_a_text_without_a_zone_is_a_naive_instant():
    assert output(
        BEFORE
        + "print(time.maybe_iso8601('2011-11-04T00:05:23'), time.maybe_iso8601('2011-11-04T00:05:23Z'))"
    ) == ["2011-11-04 00:05:23 2011-11-04 00:05:23+00:00"]
