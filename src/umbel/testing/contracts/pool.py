"""The suite that judges a pool.

Subclass ``PoolContract`` in a test module, say how to make the pool and what it can do::

    class TestMyPool(PoolContract):
        can_kill = True

        def make_pool(self, size):
            return MyPool(ScriptedRunner, size)

``ScriptedRunner`` (``pool_jobs``) runs what payloads say. The tests are coroutines: pytest-asyncio in its ``auto``
mode runs them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from abc import ABC, abstractmethod
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from umbel.core.clock import boot_seconds
from umbel.pools.base import NOT_BEGUN, Lost, Report, Work
from umbel.testing.contracts.support import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from umbel.pools.base import Pool

#: Jobs in the tests that look at traffic.
MANY = 3000


class Seen:
    """A listener that keeps what it is told, and checks that no job is told of twice."""

    def __init__(self) -> None:
        self.started: dict[int, tuple[int, float]] = {}
        self.reports: dict[int, Report] = {}
        self.before: dict[int, list[Report]] = {}  #: reports after which another job went on under the number
        self.lost: dict[int, Lost] = {}
        self.returned: list[int] = []

    def on_started(self, started: Sequence[tuple[int, int, float]]) -> None:
        """Keep them; a start is told before its end."""
        for seq, pid, at in started:
            assert seq not in self.reports
            self.started[seq] = pid, at

    def on_reports(self, reports: Sequence[Report]) -> None:
        """Keep them."""
        for report in reports:
            assert report.seq not in self.reports
            assert report.seq not in self.lost
            if report.goes_on:
                self.before.setdefault(report.seq, []).append(report)
            else:
                self.reports[report.seq] = report

    def on_lost(self, lost: Sequence[Lost]) -> None:
        """Keep them."""
        for loss in lost:
            assert loss.seq not in self.reports
            assert loss.seq not in self.lost
            self.lost[loss.seq] = loss

    def on_returned(self, seqs: Sequence[int]) -> None:
        """Keep them."""
        for seq in seqs:
            assert seq not in self.reports
            assert seq not in self.started
        self.returned.extend(seqs)

    def ended(self) -> int:
        """Jobs that are no longer the pool's business."""
        return len(self.reports) + len(self.lost) + len(self.returned)

    def answer(self, seq: int) -> str:
        """What a job gave back."""
        payload = self.reports[seq].payload
        return payload.decode() if payload is not None else ""

    async def all_ended(self, count: int) -> None:
        """Wait until so many jobs have ended, one way or another."""
        await eventually(lambda: self.ended() >= count)
        assert self.ended() == count

    async def reported(self, *seqs: int) -> None:
        """Wait for the reports of these jobs."""
        await eventually(lambda: all(seq in self.reports for seq in seqs))


class Feeder(Seen):
    """A listener that keeps a pool busy, as the worker's dispatcher does."""

    def __init__(self, pool: Pool, payloads: Sequence[str], *, brief: bool = True) -> None:
        super().__init__()
        self._pool = pool
        self._waiting = [job(seq, payload, brief=brief) for seq, payload in enumerate(payloads)][::-1]
        self._all = {work.seq: work for work in self._waiting}
        self.returns = 0

    def feed(self) -> None:
        """Submit what the pool takes."""
        room = self._pool.free() + self._pool.depth()
        if batch := [self._waiting.pop() for _ in range(min(room, len(self._waiting)))]:
            self._pool.submit(batch)

    def on_reports(self, reports: Sequence[Report]) -> None:
        """And feed."""
        super().on_reports(reports)
        self.feed()

    def on_lost(self, lost: Sequence[Lost]) -> None:
        """And feed."""
        super().on_lost(lost)
        self.feed()

    def on_returned(self, seqs: Sequence[int]) -> None:
        """First in line again."""
        self.returns += len(seqs)
        self._waiting.extend(self._all[seq] for seq in reversed(seqs))
        self.feed()


def job(
    seq: int,
    payload: str,
    *,
    announce: bool = False,
    brief: bool = False,
    time_limit: float | None = None,
    soft_time_limit: float | None = None,
    runs_on: bool = False,
    begin_by: float = 0.0,
) -> Work:
    """One job for a ``ScriptedRunner``."""
    return Work(
        seq,
        payload.encode(),
        "q",
        announce=announce,
        brief=brief,
        time_limit=time_limit,
        soft_time_limit=soft_time_limit,
        runs_on=runs_on,
        begin_by=begin_by,
    )


class PoolContract(ABC):
    """Every sentence of ``pools.base``, as tests."""

    #: Jobs can be ended by ending their process.
    can_kill = True
    #: Each slot is a process of its own.
    process_per_slot = True
    #: A job that goes on until a limit reaches it: ``spin`` never waits, ``doze`` does.
    endless = "spin"
    #: Of the jobs of a crowd every so-manieth ends its process: fewer where processes take long to come up.
    crash_every = 25

    @abstractmethod
    def make_pool(self, size: int) -> Pool:
        """A new pool of ``ScriptedRunner`` with so many slots."""

    @asynccontextmanager
    async def running(self, size: int = 2) -> AsyncIterator[tuple[Pool, Seen]]:
        """A started pool and what it says; stopped at the end, with nothing left behind."""
        pool, seen = self.make_pool(size), Seen()
        await pool.start(seen)
        try:
            yield pool, seen
        finally:
            await pool.stop(0.0)
            if self.can_kill:
                assert pool.pids() == []

    async def test_runs_a_job_and_reports_it(self) -> None:
        async with self.running() as (pool, seen):
            pool.submit([job(7, "echo hello")])
            await seen.reported(7)
            assert seen.answer(7) == "hello"
            assert seen.reports[7].state == "SUCCESS"
            assert seen.started == {}

    async def test_every_job_of_many_is_reported_once(self) -> None:
        pool = self.make_pool(2)
        feeder = Feeder(pool, [f"echo {number}" for number in range(MANY)])
        await pool.start(feeder)
        feeder.feed()
        await eventually(lambda: len(feeder.reports) == MANY)
        assert all(feeder.answer(seq) == str(seq) for seq in range(MANY))
        await pool.stop(PATIENCE)
        assert feeder.lost == {}

    async def test_says_when_an_announced_job_begins(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        async with self.running() as (pool, seen):
            before = time.time()
            pool.submit([job(1, f"wait {gate}", announce=True)])
            await eventually(lambda: 1 in seen.started)
            pid, at = seen.started[1]
            assert pid in pool.pids()
            assert before - 1 <= at <= time.time() + 1
            assert seen.reports == {}
            gate.touch()
            await seen.reported(1)

    async def test_a_job_that_comes_too_late_is_not_begun(self, tmp_path: Path) -> None:
        """As when the supervisor, or the process, stood still for longer than the lease."""
        marks = tmp_path / "marks"
        async with self.running() as (pool, seen):
            pool.submit([job(1, f"mark {marks} late", begin_by=boot_seconds() - 1.0)])
            await seen.reported(1)
            pool.submit([job(2, f"mark {marks} timely", begin_by=boot_seconds() + 60.0)])
            await seen.reported(2)
        report = seen.reports[1]
        assert (report.state, report.action) == (NOT_BEGUN, "requeue")
        assert marks.read_text().split() == ["timely"]

    async def test_says_which_jobs_have_begun(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        async with self.running() as (pool, seen):
            assert pool.begun() == []
            pool.submit([job(1, f"wait {gate}"), job(2, f"wait {gate}")])
            await eventually(lambda: [seq for seq, _ in pool.begun()] == [1, 2])
            pool.submit([job(3, "echo", brief=True)])
            assert {seq for seq, _ in pool.begun()} == {1, 2}
            assert {pid for _, pid in pool.begun()} <= set(pool.pids())
            gate.touch()
            await seen.reported(1, 2)
            await eventually(lambda: pool.begun() == [])

    async def test_free_counts_slots(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        async with self.running() as (pool, seen):
            assert pool.size == pool.free() == 2
            pool.submit([job(1, f"wait {gate}")])
            assert pool.free() == 1
            pool.submit([job(2, f"wait {gate}")])
            assert pool.free() == 0
            gate.touch()
            await seen.reported(1, 2)
            assert pool.free() == 2

    async def test_what_follows_a_job_runs_in_its_slot_under_its_number(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        async with self.running() as (pool, seen):
            if not pool.runs_on:
                pytest.skip("these processes leave everything to the dispatcher")
            pool.submit([job(1, f"echo one then echo two then wait {gate}", runs_on=True)])
            await eventually(lambda: len(seen.before.get(1, ())) == 2)
            assert [report.payload for report in seen.before[1]] == [b"one", b"two"]
            assert (pool.free(), [seq for seq, _ in pool.begun()]) == (1, [1])
            gate.touch()
            await seen.reported(1)
            assert (pool.free(), pool.begun()) == (2, [])

    async def test_a_job_that_may_not_run_on_is_followed_by_nothing(self) -> None:
        async with self.running() as (pool, seen):
            pool.submit([job(1, "echo one then echo two")])
            await seen.reported(1)
            assert (seen.answer(1), seen.before) == ("one", {})

    async def test_of_what_follows_a_job_exactly_the_running_one_is_lost(self) -> None:
        async with self.running() as (pool, seen):
            if not pool.runs_on:
                pytest.skip("these processes leave everything to the dispatcher")
            pool.submit([job(1, "echo one then gone 3", runs_on=True)])
            await seen.all_ended(1)
            assert [report.payload for report in seen.before[1]] == [b"one"]
            assert (seen.lost[1].cause, seen.lost[1].why) == ("worker_lost", "exitcode 3")

    async def test_depth_is_for_brief_jobs(self) -> None:
        async with self.running() as (pool, seen):
            assert pool.depth() == 0
            for seq in range(100):
                pool.submit([job(seq, "echo", brief=True)])
                await seen.reported(seq)
            assert pool.depth() > 0

    @pytest.mark.parametrize("size", [0, 1, 4091, 300_000, 8 * 1024 * 1024])
    async def test_payloads_and_answers_of_any_size(self, size: int) -> None:
        async with self.running() as (pool, seen):
            pool.submit([job(1, "echo " + "p" * size), job(2, f"answer {size}")])
            await seen.reported(1, 2)
            assert seen.answer(1) == "p" * size
            assert seen.answer(2) == "x" * size

    async def test_nothing_waits_behind_a_long_job(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        async with self.running() as (pool, seen):
            pool.submit([job(0, f"wait {gate}", announce=True)])
            await eventually(lambda: 0 in seen.started)
            pool.submit([job(seq, f"echo {seq}", brief=True) for seq in range(1, 21)])
            # Those that were sent behind the long job come back; the other slot runs the rest.
            await seen.all_ended(20)
            assert 0 not in seen.reports
            assert not set(seen.returned) & set(seen.reports)
            pool.submit([job(100 + seq, "echo") for seq in range(min(1, pool.free()))])
            gate.touch()
            await seen.reported(0)
            await eventually(lambda: pool.free() == 2)
            pool.submit([job(200, "echo again"), job(201, "echo again")])
            await seen.reported(200, 201)

    async def test_a_feeder_sees_every_job_done_though_brief_ones_turn_out_long(self) -> None:
        pool = self.make_pool(2)
        payloads = ["busy 0.05" if number % 97 == 50 else "echo" for number in range(500)]
        feeder = Feeder(pool, payloads)
        await pool.start(feeder)
        feeder.feed()
        await eventually(lambda: len(feeder.reports) == len(payloads))
        await pool.stop(PATIENCE)
        assert feeder.lost == {}

    async def test_drain_finishes_what_has_begun_and_returns_the_rest(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        async with self.running() as (pool, seen):
            pool.submit([job(seq, f"wait {gate}", announce=True) for seq in range(2)])
            await eventually(lambda: len(seen.started) == 2)
            pool.submit([job(seq, "echo", brief=True) for seq in range(2, 6)])
            draining = asyncio.create_task(pool.drain())
            await eventually(lambda: len(seen.returned) == 4)
            assert not draining.done()
            gate.touch()
            await draining
            assert set(seen.started) == set(seen.reports)
            assert set(seen.reports) | set(seen.returned) == set(range(6))

    async def test_drain_of_an_idle_pool_returns_at_once(self) -> None:
        async with self.running() as (pool, _):
            await asyncio.wait_for(pool.drain(), PATIENCE)

    async def test_stop_loses_what_does_not_end_in_time(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        pool, seen = self.make_pool(2), Seen()
        await pool.start(seen)
        try:
            pool.submit([job(1, f"wait {gate}", announce=True)])
            await eventually(lambda: 1 in seen.started)
            await pool.stop(0.05)
            assert [loss.cause for loss in seen.lost.values()] == ["worker_lost"]
            assert pool.pids() == []
        finally:
            gate.touch()

    async def test_stop_waits_for_what_ends_in_time(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        pool, seen = self.make_pool(2), Seen()
        await pool.start(seen)
        pool.submit([job(seq, f"wait {gate}", announce=True) for seq in (1, 2)])
        await eventually(lambda: len(seen.started) == 2)
        pool.submit([job(seq, "echo", brief=True) for seq in (3, 4)])
        stopping = asyncio.create_task(pool.stop(PATIENCE))
        await eventually(lambda: len(seen.returned) == 2)
        gate.touch()
        await stopping
        assert set(seen.reports) == {1, 2}
        assert seen.lost == {}

    async def test_stop_twice_and_unstarted(self) -> None:
        pool = self.make_pool(1)
        await pool.stop(1.0)
        pool, seen = self.make_pool(1), Seen()
        await pool.start(seen)
        await pool.stop(1.0)
        await pool.stop(1.0)

    async def test_resize(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        async with self.running(1) as (pool, seen):
            await pool.resize(3)
            await eventually(lambda: pool.free() == 3)
            pool.submit([job(seq, f"wait {gate}", announce=True) for seq in range(3)])
            await eventually(lambda: len(seen.started) == 3)
            await pool.resize(1)
            assert pool.free() == 0
            gate.touch()
            await seen.reported(0, 1, 2)
            await eventually(lambda: pool.free() == 1)
            if self.process_per_slot:
                await eventually(lambda: len(pool.pids()) == 1)
            pool.submit([job(9, "echo nine")])
            await seen.reported(9)

    async def test_a_pool_grows_while_every_slot_is_busy(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        async with self.running(1) as (pool, seen):
            pool.submit([job(0, f"wait {gate}", announce=True)])
            await eventually(lambda: 0 in seen.started)
            await pool.resize(3)
            await eventually(lambda: pool.free() == 2)
            pool.submit([job(seq, f"wait {gate}", announce=True) for seq in (1, 2)])
            await eventually(lambda: len(seen.started) == 3)
            gate.touch()
            await seen.reported(0, 1, 2)

    # Limits

    async def test_a_soft_limit_is_raised_in_the_body_only(self) -> None:
        async with self.running() as (pool, seen):
            pool.submit(
                [job(1, self.endless, soft_time_limit=0.05), job(2, "busy 0.1", soft_time_limit=60.0)]
            )
            await seen.reported(1, 2)
            assert seen.reports[1].error == "SoftTimeLimitExceeded"
            assert 0.04 < seen.reports[1].runtime < PATIENCE
            assert seen.reports[2].state == "SUCCESS"

    async def test_a_soft_limit_never_leaks_into_the_next_job(self) -> None:
        """Limits as long as the bodies, so that they ring at every instruction around their end."""
        async with self.running(1) as (pool, seen):
            count = 300
            for seq in range(0, count, 2):
                pool.submit([job(seq, "busy 0.001", brief=True, soft_time_limit=0.00094 + seq * 4e-7)])
                pool.submit([job(seq + 1, "busy 0.0005", brief=True)])
                await eventually(lambda seq=seq: {seq, seq + 1} <= set(seen.reports) | set(seen.returned))  # type: ignore[misc]
            assert seen.lost == {}
            errors = Counter(report.error for seq, report in seen.reports.items() if seq % 2)
            assert set(errors) == {""}
            assert {report.error for report in seen.reports.values()} <= {"", "SoftTimeLimitExceeded"}

    async def test_a_hard_limit(self) -> None:
        async with self.running() as (pool, seen):
            pool.submit([job(1, "spin", time_limit=0.1), job(2, "hard 0.1 spin")])
            await seen.all_ended(2)
            if self.can_kill:
                assert {seen.lost[seq].cause for seq in seen.lost} <= {"time_limit", "bystander"}
                assert "time_limit" in {loss.cause for loss in seen.lost.values()}
                assert {loss.why for loss in seen.lost.values()} == {"signal 9 (SIGKILL)"}
            else:
                assert {report.error for report in seen.reports.values()} == {"TimeLimitExceeded"}
            await eventually(lambda: pool.free() == 2)
            pool.submit([job(3, "echo on", time_limit=60.0)])
            await seen.reported(3)

    # Ends of processes

    @pytest.mark.parametrize(
        ("payload", "why"),
        [
            ("exit 3", "exitcode 3"),
            ("exit 0", "exitcode 0"),
            ("gone 4", "exitcode 4"),
            ("interrupt", "exitcode 1"),
            (f"signal {signal.SIGKILL:d}", "signal 9 (SIGKILL)"),
            ("segfault", "signal 11 (SIGSEGV)"),
        ],
    )
    async def test_the_running_job_is_lost_with_its_process(self, payload: str, why: str) -> None:
        if not self.can_kill:
            pytest.skip("the process is the worker's own")
        async with self.running() as (pool, seen):
            pool.submit([job(1, payload)])
            await seen.all_ended(1)
            assert (seen.lost[1].why, seen.lost[1].cause) == (why, "worker_lost")
            assert seen.lost[1].pid > 0
            await eventually(lambda: pool.free() == 2)
            pool.submit([job(2, "echo"), job(3, "echo")])
            await seen.reported(2, 3)

    async def test_what_a_dead_process_had_not_begun_is_returned(self, tmp_path: Path) -> None:
        if not self.can_kill:
            pytest.skip("the process is the worker's own")
        async with self.running(1) as (pool, seen):
            works = [job(seq, "echo", brief=True) for seq in range(5)]
            works.append(job(5, f"mark {tmp_path / 'log'} 5 gone 9", brief=True))
            works += [job(seq, f"mark {tmp_path / 'log'} {seq}", brief=True) for seq in range(6, 40)]
            pool.submit(works)
            await seen.all_ended(40)
            # On a machine that is slow just now, even the first of them may have been taken back.
            begun = len(seen.reports) + len(seen.lost)
            assert list(seen.reports) == list(range(min(begun, 5)))
            assert list(seen.lost) == [5][: len(seen.lost)]
            assert seen.returned == list(range(begun, 40))
            if seen.lost:
                assert (tmp_path / "log").read_text() == "5\n"

    async def test_a_crowd_of_crashes_is_accounted_for(self, tmp_path: Path) -> None:
        if not self.can_kill:
            pytest.skip("the process is the worker's own")
        log = tmp_path / "log"
        bad = {number for number in range(200) if number % self.crash_every == 7}
        payloads = [f"mark {log} {number}" + (" gone 1" if number in bad else "") for number in range(200)]
        pool = self.make_pool(2)
        feeder = Feeder(pool, payloads)
        await pool.start(feeder)
        feeder.feed()
        await eventually(lambda: len(feeder.reports) + len(feeder.lost) == len(payloads), 3 * PATIENCE)
        await pool.stop(PATIENCE)
        begun = Counter(map(int, log.read_text().split()))
        # Each job ran once, but for what it shared a process with: that is lost, and not run again either.
        assert set(begun.values()) == {1}
        assert bad <= set(feeder.lost)
        if self.process_per_slot:
            assert set(feeder.lost) == bad

    # Termination

    async def test_terminate_lets_the_body_tidy_up(self, tmp_path: Path) -> None:
        if not (self.can_kill and self.process_per_slot):
            pytest.skip("signals reach no single job here")
        traces = tmp_path / "traces"
        async with self.running() as (pool, seen):
            pool.submit([job(1, f"tidy {traces}", announce=True)])
            await eventually(lambda: 1 in seen.started)
            assert pool.terminate_job(1, signal.SIGTERM)
            await seen.all_ended(1)
            assert (seen.lost[1].cause, seen.lost[1].why) == ("terminated", "exitcode 15")
            assert traces.exists()
            await eventually(lambda: pool.free() == 2)

    async def test_terminate_with_sigkill(self) -> None:
        if not self.can_kill:
            pytest.skip("the process is the worker's own")
        async with self.running() as (pool, seen):
            pool.submit([job(1, "spin", announce=True)])
            await eventually(lambda: 1 in seen.started)
            assert pool.terminate_job(1, signal.SIGKILL)
            await seen.all_ended(1)
            assert seen.lost[1].cause == "terminated"
            await eventually(lambda: pool.free() == 2)

    async def test_sigusr1_is_a_soft_limit(self) -> None:
        if not (self.can_kill and self.process_per_slot):
            pytest.skip("signals reach no single job here")
        async with self.running() as (pool, seen):
            pool.submit([job(1, "spin", announce=True)])
            await eventually(lambda: 1 in seen.started)
            # It may come before the body has been entered: then it is ignored.
            await eventually(lambda: not pool.terminate_job(1, signal.SIGUSR1))
            assert seen.reports[1].error == "SoftTimeLimitExceeded"
            pool.submit([job(2, "echo"), job(3, "echo")])
            await seen.reported(2, 3)
            assert seen.lost == {}

    async def test_terminate_of_what_does_not_run_here(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        async with self.running(1) as (pool, seen):
            pool.submit([job(1, f"wait {gate}", announce=True)])
            await eventually(lambda: 1 in seen.started)
            pool.submit([job(2, "echo", brief=True)])
            assert not pool.terminate_job(77, signal.SIGKILL)
            assert not pool.terminate_job(2, signal.SIGKILL)
            await eventually(lambda: seen.returned == [2])
            gate.touch()
            await seen.reported(1)
            assert not pool.terminate_job(1, signal.SIGKILL)

    async def test_a_stopped_process_does_not_keep_what_it_has_not_begun(self) -> None:
        if not (self.can_kill and self.process_per_slot):
            pytest.skip("no process of its own")
        async with self.running(1) as (pool, seen):
            (pid,) = pool.pids()
            os.kill(pid, signal.SIGSTOP)
            pool.submit([job(seq, "echo", brief=True) for seq in range(10)])
            await eventually(lambda: len(seen.returned) == 10)
            os.kill(pid, signal.SIGCONT)
            await eventually(lambda: pool.free() == 1)
            pool.submit([job(50, "echo")])
            await seen.reported(50)
            assert seen.lost == {}
