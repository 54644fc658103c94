"""The machine."""

from __future__ import annotations

import os
from functools import cached_property
from math import ceil
from typing import Any, NamedTuple

from umbel.worker.options import available_cpus as available_cpu_count
from umbel.worker.options import cgroup_cpus as cgroup_cpu_quota

__all__ = (
    "AUTO_CONCURRENCY",
    "CpuBudget",
    "available_cpu_count",
    "cgroup_cpu_quota",
    "cpu_budget",
    "df",
    "is_auto_concurrency",
    "load_average",
)

AUTO_CONCURRENCY = "auto"


class CpuBudget(NamedTuple):
    """How many processors this process may use, and what says so."""

    count: int  # type: ignore[assignment]  # Celery's name, which a tuple has too; to be used
    available: int  #: by affinity
    quota: float | None  #: of the control group


def is_auto_concurrency(value: Any) -> bool:
    """Whether a number of slots is to be taken from the machine."""
    return isinstance(value, str) and value.strip().lower() == AUTO_CONCURRENCY


def cpu_budget(use_cgroup_quota: bool = True) -> CpuBudget:
    """The processors that this process may use."""
    affinity = len(os.sched_getaffinity(0))
    quota = cgroup_cpu_quota() if use_cgroup_quota else None
    return CpuBudget(max(1, min(affinity, ceil(quota)) if quota else affinity), affinity, quota)


def load_average() -> tuple[float, ...]:
    """The system's load over 1, 5 and 15 minutes."""
    return tuple(ceil(value * 1e2) / 1e2 for value in os.getloadavg())


class df:
    """The space of the file system that a path is on."""

    def __init__(self, path: Any) -> None:
        self.path = path

    @cached_property
    def stat(self) -> os.statvfs_result:
        """What the system says."""
        return os.statvfs(os.path.realpath(self.path))

    @property
    def total_blocks(self) -> float:
        """Its size in KiB."""
        return self.stat.f_blocks * self.stat.f_frsize / 1024

    @property
    def available(self) -> float:
        """Its free space in KiB."""
        return self.stat.f_bavail * self.stat.f_frsize / 1024

    @property
    def capacity(self) -> int:
        """Percent in use."""
        used = self.stat.f_blocks - self.stat.f_bfree
        return ceil(used * 100.0 / (used + self.stat.f_bavail) + 0.5)
