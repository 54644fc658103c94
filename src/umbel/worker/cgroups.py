"""What the control group of this process still has: memory and CPU, as versions 2 and 1 of the kernel's files say.

A limit may stand at any level above the process: each is read, and the one that leaves least counts. Where there is
no control group, or none with a limit, the answer is None.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT: Final = Path("/sys/fs/cgroup")
MEMBERSHIP: Final = Path("/proc/self/cgroup")

#: Version 1 says "no limit" with a number of about this size.
_UNLIMITED: Final = 1 << 60


class Memory(NamedTuple):
    """Bytes: what the group may use, and what it uses and could not give back at once."""

    limit: int
    used: int

    @property
    def room(self) -> int:
        """What is left."""
        return max(0, self.limit - self.used)


class CpuShare(NamedTuple):
    """CPUs that the group may use at a time, and the CPU seconds that it has used so far."""

    limit: float
    used: float


def memory(root: Path = ROOT, membership: Path = MEMBERSHIP) -> Memory | None:
    """The memory of the level that has least left; None where no level has a limit."""
    levels = _levels("memory", root, membership)
    found = [group for level in levels if (group := _memory_2(level) or _memory_1(level)) is not None]
    return min(found, key=lambda group: group.room, default=None)


def cpu(root: Path = ROOT, membership: Path = MEMBERSHIP) -> CpuShare | None:
    """The CPU of the level with the lowest quota; None where no level has one."""
    levels = _levels("cpu", root, membership)
    found = [group for level in levels if (group := _cpu_2(level) or _cpu_1(level)) is not None]
    return min(found, key=lambda group: group.limit, default=None)


class CpuMeter:
    """How much of its CPU quota the group uses, between one question and the next."""

    def __init__(
        self, read: Callable[[], CpuShare | None] = cpu, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._now = now
        self._before: tuple[float, float] | None = None

    def usage(self) -> float:
        """A part of one; 0 the first time, and where there is no quota."""
        share, now = self._read(), self._now()
        if share is None:
            return 0.0
        before, self._before = self._before, (now, share.used)
        if before is None or now <= before[0]:
            return 0.0
        return (share.used - before[1]) / (now - before[0]) / share.limit


def _levels(controller: str, root: Path, membership: Path) -> Iterator[Path]:
    """The directories of this process's group and of those above it, as far as they can be seen from here.

    In a container the path may be one of the host's, of which nothing is there: the root is the own group then.
    """
    for line in _read(membership).splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            base = root
        elif controller in controllers.split(","):
            base = root / controller
        else:
            continue
        own = base / path.lstrip("/")
        for directory in (own, *own.parents):
            if directory.is_dir():
                yield directory
            if directory == base:
                break


def _memory_2(directory: Path) -> Memory | None:
    limit, used = _read(directory / "memory.max"), _read(directory / "memory.current")
    if not limit.isdigit() or not used.isdigit():
        return None
    return Memory(int(limit), max(0, int(used) - _stat(directory / "memory.stat", "inactive_file")))


def _memory_1(directory: Path) -> Memory | None:
    limit = _read(directory / "memory.limit_in_bytes")
    used = _read(directory / "memory.usage_in_bytes")
    if not limit.isdigit() or not used.isdigit() or int(limit) >= _UNLIMITED:
        return None
    return Memory(int(limit), max(0, int(used) - _stat(directory / "memory.stat", "total_inactive_file")))


def _cpu_2(directory: Path) -> CpuShare | None:
    quota, _, period = _read(directory / "cpu.max").partition(" ")
    if not quota.isdigit() or not period.isdigit():
        return None
    return CpuShare(int(quota) / int(period), _stat(directory / "cpu.stat", "usage_usec") / 1e6)


def _cpu_1(directory: Path) -> CpuShare | None:
    quota, period = _read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us")
    used = _read(directory / "cpuacct.usage")
    if not (quota.isdigit() and period.isdigit() and used.isdigit()):
        return None  # a quota of -1 is none
    return CpuShare(int(quota) / int(period), int(used) / 1e9)


def _stat(path: Path, name: str) -> int:
    for line in _read(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
