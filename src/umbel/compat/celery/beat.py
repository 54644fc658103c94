"""The scheduler of periodic tasks."""

from __future__ import annotations

from umbel.compat.lazily import lazily as _lazily

from .utils.nodenames import default_nodename, host_format

__all__ = (
    "BeatPidbox",
    "EmbeddedService",
    "PersistentScheduler",
    "ScheduleEntry",
    "Scheduler",
    "SchedulingError",
    "Service",
)

NODENAME_DEFAULT = "celerybeat"


def beat_nodename(hostname: str | None = None) -> str:
    """The name under which a beat answers remote control."""
    return host_format(default_nodename(hostname, NODENAME_DEFAULT))


__getattr__ = _lazily(
    __name__,
    {
        name: f"umbel.scheduler:{name}"
        for name in (
            *__all__,
            "BeatLazyFunc",
            "DEFAULT_MAX_INTERVAL",
            "event_t",
        )
    },
)
