"""Beat: what sends periodic tasks, and the schedules that say when."""

from umbel.scheduler.cron import ParseException, crontab_parser
from umbel.scheduler.embedded import EmbeddedService
from umbel.scheduler.entries import BeatLazyFunc, ScheduleEntry
from umbel.scheduler.persistent import PersistentScheduler
from umbel.scheduler.pidbox import BeatPidbox
from umbel.scheduler.program import Beat
from umbel.scheduler.scheduler import DEFAULT_MAX_INTERVAL, Scheduler, SchedulingError, event_t
from umbel.scheduler.schedules import (
    BaseSchedule,
    cronfield,
    crontab,
    maybe_schedule,
    schedstate,
    schedule,
)
from umbel.scheduler.service import Service
from umbel.scheduler.sun import solar

__all__ = [
    "DEFAULT_MAX_INTERVAL",
    "BaseSchedule",
    "Beat",
    "BeatLazyFunc",
    "BeatPidbox",
    "EmbeddedService",
    "ParseException",
    "PersistentScheduler",
    "ScheduleEntry",
    "Scheduler",
    "SchedulingError",
    "Service",
    "cronfield",
    "crontab",
    "crontab_parser",
    "event_t",
    "maybe_schedule",
    "schedstate",
    "schedule",
    "solar",
]
