"""How many slots a pool should have, what the control group has room for, and Celery's interface for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from umbel.errors import ImproperlyConfigured
from umbel.worker import cgroups
from umbel.worker.autoscale import Autoscaler, Load, Room, autoscaler_class, desired_size
from umbel.worker.cgroups import CpuMeter, CpuShare, Memory
from umbel.worker.options import scale_bounds


@pytest.mark.parametrize(
    ("size", "load", "peak", "wanted"),
    [
        (1, Load(running=1), 1, 1),
        (1, Load(running=1, waiting=3, waited=0.4), 4, 1),  # it may be over in a moment
        (1, Load(running=1, waiting=2, waited=0.5), 3, 3),
        (1, Load(running=1, waiting=30, waited=0.5), 31, 16),
        (4, Load(running=4, backlog=2), 6, 6),  # every slot was taken at two looks
        (8, Load(running=2), 8, 8),  # eight were needed not long ago
        (8, Load(running=2), 5, 5),
        (8, Load(), 0, 1),
        (8, Load(running=8, waiting=1, waited=0.1), 9, 8),
        (20, Load(running=20), 20, 16),
    ],
)
def test_desired_size(size: int, load: Load, peak: int, wanted: int):
    assert desired_size(size, load, peak, (1, 16)) == wanted


class ScriptedPool:
    """The pool as an autoscaler sees it."""

    def __init__(self, size: int) -> None:
        self.load = Load()
        self.num_processes = size

    def grow(self, n: int) -> None:
        self.num_processes += n

    def shrink(self, n: int) -> None:
        self.num_processes -= n

    def maintain_pool(self) -> None:
        """Nothing."""


def drive(scaler: Autoscaler, pool: ScriptedPool, script: list[tuple[float, int]]) -> list[int]:
    """The size after each look: at a time, with so many jobs, those beyond the slots waiting for a second."""
    sizes = []
    for at, jobs in script:
        running = min(jobs, pool.num_processes)
        pool.load = Load(running, jobs - running, 0, 1.0 if jobs > running else 0.0, at)
        scaler.maybe_scale()
        sizes.append(pool.num_processes)
    return sizes


def test_it_grows_at_once_and_shrinks_to_what_the_keepalive_time_needed():
    pool = ScriptedPool(1)
    scaler = Autoscaler(pool, 8, 1, keepalive=30)
    script = [(0, 1), (1, 5), (2, 20), (3, 3), (32, 6), (33, 0), (62, 0), (63, 2), (64, 0), (95, 0)]
    assert drive(scaler, pool, script) == [1, 5, 8, 8, 8, 6, 6, 2, 2, 1]
    assert scaler.info() == {"max": 8, "min": 1, "current": 1, "qty": 0}


def test_pauses_shorter_than_the_keepalive_time_send_nobody_home():
    pool = ScriptedPool(1)
    scaler = Autoscaler(pool, 4, 1, keepalive=30)
    assert drive(scaler, pool, [(20 * n, 4 * ((n + 1) % 2)) for n in range(20)]) == [4] * 20


def test_bounds_are_changed_with_the_pool():
    pool = ScriptedPool(4)
    scaler = Autoscaler(pool, 8, 1)
    assert scaler.update(3) == (3, 1)
    assert pool.num_processes == 3
    assert scaler.update(max=9, min=5) == (9, 5)
    assert pool.num_processes == 5
    with pytest.raises(ValueError, match="min <= max, got max=4 min=5"):
        scaler.update(max=4)
    assert (scaler.max_concurrency, scaler.min_concurrency) == (9, 5)


def test_a_class_written_for_celery_decides_in_its_own_way():
    class ByNight(Autoscaler):
        def _maybe_scale(self, req=None):
            if self.qty > self.processes:
                self.scale_up(min(self.qty, self.max_concurrency) - self.processes)
            else:
                self.scale_down(self.processes - self.min_concurrency)

    pool = ScriptedPool(2)
    scaler = ByNight(pool, 10, 2, worker=object(), keepalive=10, mutex=None)
    # It asks for less at every look; slots go when they have been idle for the keepalive time.
    assert drive(scaler, pool, [(0, 7), (1, 3), (9, 3), (12, 0), (23, 0)]) == [7, 7, 7, 3, 2]


def test_classes_by_path():
    assert autoscaler_class("celery.worker.autoscale:Autoscaler") is Autoscaler
    assert autoscaler_class("umbel.worker.autoscale:Autoscaler") is Autoscaler
    assert autoscaler_class(ScriptedPool) is ScriptedPool
    with pytest.raises(ImproperlyConfigured, match="give it as module:Class"):
        autoscaler_class("nowhere:Autoscaler")


@pytest.mark.parametrize(
    ("given", "bounds"),
    [
        ("10,3", (10, 3)),
        ((3, 10), (10, 3)),
        ("10", (10, 1)),
        ((10, 0), (10, 1)),
        ("", None),
        (None, None),
    ],
)
def test_bounds_as_they_are_given(given, bounds):
    assert scale_bounds(given) == bounds


@pytest.mark.parametrize("given", ["x", "1,2,3", "-1,4", "0"])
def test_bounds_that_cannot_be(given: str):
    with pytest.raises(ValueError, match="autoscale: expected MAX or MAX,MIN"):
        scale_bounds(given)


# Control groups


def files(root: Path, contents: dict[str, str]) -> Path:
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def test_memory_and_cpu_of_version_2_at_the_level_that_has_least_left(tmp_path: Path):
    root = files(
        tmp_path / "cgroup",
        {
            "memory.max": "max",
            "slice/memory.max": "1000000",
            "slice/memory.current": "900000",
            "slice/memory.stat": "anon 5\ninactive_file 50000",
            "slice/cpu.max": "150000 100000",
            "slice/cpu.stat": "usage_usec 2500000\nuser_usec 1",
            "slice/own/memory.max": "5000000",
            "slice/own/memory.current": "600000",
            "slice/own/cpu.max": "max 100000",
        },
    )
    membership = files(tmp_path, {"membership": "0::/slice/own"}) / "membership"
    assert cgroups.memory(root, membership) == Memory(1_000_000, 850_000)
    assert cgroups.memory(root, membership).room == 150_000
    assert cgroups.cpu(root, membership) == CpuShare(1.5, 2.5)


def test_memory_and_cpu_of_version_1(tmp_path: Path):
    root = files(
        tmp_path / "cgroup",
        {
            "memory/job/memory.limit_in_bytes": "1000000",
            "memory/job/memory.usage_in_bytes": "400000",
            "memory/job/memory.stat": "cache 5\ntotal_inactive_file 100000",
            "memory/memory.limit_in_bytes": "9223372036854771712",
            "memory/memory.usage_in_bytes": "7",
            "cpu/job/cpu.cfs_quota_us": "50000",
            "cpu/job/cpu.cfs_period_us": "100000",
            "cpu/job/cpuacct.usage": "3000000000",
            "cpu/cpu.cfs_quota_us": "-1",
        },
    )
    text = "5:memory:/job\n4:cpu,cpuacct:/job\n0::/"
    membership = files(tmp_path, {"membership": text}) / "membership"
    assert cgroups.memory(root, membership) == Memory(1_000_000, 300_000)
    assert cgroups.cpu(root, membership) == CpuShare(0.5, 3.0)


def test_a_group_whose_path_is_the_hosts_is_the_root_that_is_seen(tmp_path: Path):
    root = files(tmp_path / "cgroup", {"memory.max": "100", "memory.current": "60"})
    membership = files(tmp_path, {"membership": "0::/docker/4711"}) / "membership"
    assert cgroups.memory(root, membership) == Memory(100, 60)
    assert cgroups.cpu(root, membership) is None
    assert cgroups.memory(tmp_path / "none", tmp_path / "none") is None


def test_the_meter_tells_the_part_of_the_quota_that_was_used():
    shares = iter([CpuShare(2.0, 10.0), CpuShare(2.0, 11.0), CpuShare(2.0, 15.0), None])
    times = iter([0.0, 1.0, 3.0, 4.0])
    meter = CpuMeter(lambda: next(shares), lambda: next(times))
    assert [meter.usage() for _ in range(4)] == [0.0, 0.5, 1.0, 0.0]


def test_room_is_what_memory_and_cpu_leave(caplog: pytest.LogCaptureFixture):
    mebibyte = 1 << 20
    memory = Memory(1000 * mebibyte, 820 * mebibyte)
    room = Room(list, lambda: memory)
    assert room.for_more(3) == 3
    # A tenth stays free, and a process counts for 16 MiB at the least.
    assert room.for_more(10) == 5
    assert room.for_more(10) == 5
    assert caplog.text.count("180 MiB of 1000 are left") == 1
    assert Room(None, lambda: memory).for_more(10) == 10
    assert Room(list, lambda: None).for_more(10) == 10
    shares = iter([CpuShare(2.0, 10.0), CpuShare(2.0, 12.0)])
    times = iter([0.0, 1.0])
    used_up = Room(None, lambda: None, CpuMeter(lambda: next(shares), lambda: next(times)))
    used_up.look()
    assert used_up.for_more(2) == 2
    used_up.look()
    assert used_up.for_more(2) == 0
    assert "its CPU quota is used up (100%)" in caplog.text
