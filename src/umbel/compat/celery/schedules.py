"""Schedules of periodic tasks."""

from __future__ import annotations

from umbel.compat.lazily import lazily as _lazily

__all__ = ("ParseException", "crontab", "crontab_parser", "maybe_schedule", "schedule", "solar")

__getattr__ = _lazily(
    __name__,
    {
        name: f"umbel.scheduler:{name}"
        for name in (
            "BaseSchedule",
            "ParseException",
            "cronfield",
            "crontab",
            "crontab_parser",
            "maybe_schedule",
            "schedstate",
            "schedule",
            "solar",
        )
    },
)
