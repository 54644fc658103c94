"""What pool processes do that the other pools cannot: recycling, supervisors and templates that die, kills anywhere."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from umbel.errors import ImproperlyConfigured, WorkerLostError
from umbel.pools.forking import ForkLauncher
from umbel.pools.memory import private
from umbel.pools.prefork import PreforkPool
from umbel.pools.solo import SoloPool
from umbel.pools.threads import ThreadsPool
from umbel.testing.contracts.pool import Feeder, Seen, job
from umbel.testing.contracts.pool_jobs import ScriptedRunner, UnreadyRunner
from umbel.testing.contracts.support import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from umbel.pools.dispatch import ProcessPool

FACTORY = "umbel.testing.contracts.pool_jobs:ScriptedRunner"


@asynccontextmanager
async def running(pool: ProcessPool) -> AsyncIterator[Seen]:
    seen = Seen()
    await pool.start(seen)
    try:
        yield seen
    finally:
        await pool.stop(0.0)


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def switches(pid: int) -> int:
    """How often a process's threads have gone to sleep so far."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


async def run_all(pool: ProcessPool, payloads: list[str]) -> Feeder:
    """Run jobs to their end and stop the pool."""
    feeder = Feeder(pool, payloads)
    await pool.start(feeder)
    feeder.feed()
    await eventually(lambda: len(feeder.reports) + len(feeder.lost) == len(payloads))
    await pool.stop(PATIENCE)
    return feeder


@pytest.mark.parametrize("limit", [1, 7, 100])
async def test_no_process_runs_more_than_max_tasks_per_child(limit: int) -> None:
    count = 40 * limit if limit < 100 else 1500
    feeder = await run_all(PreforkPool(ScriptedRunner, 2, max_tasks_per_child=limit), ["pid"] * count)
    assert feeder.lost == {}
    runs = Counter(feeder.answer(seq) for seq in range(count))
    assert max(runs.values()) <= limit
    assert len(runs) >= count / limit


async def test_never_more_jobs_at_a_time_than_slots_while_processes_are_replaced(tmp_path: Path) -> None:
    log = tmp_path / "log"
    pool = PreforkPool(ScriptedRunner, 2, max_tasks_per_child=1)
    feeder = Feeder(pool, [f"mark {log} {number} busy 0.01" for number in range(30)], brief=False)
    await pool.start(feeder)
    feeder.feed()
    most = 0

    def finished() -> bool:
        nonlocal most
        begun = len(log.read_text().splitlines()) if log.exists() else 0
        most = max(most, begun - len(feeder.reports))
        return len(feeder.reports) == 30

    # The reports are counted before the marks, so a job may be seen as begun only while its report is on its way.
    await eventually(finished)
    await pool.stop(PATIENCE)
    assert most <= 4


async def test_a_process_that_leaks_is_replaced_and_one_that_is_born_big_is_not() -> None:
    ballast = b"\1" * (64 * 1024 * 1024)
    pool = PreforkPool(ScriptedRunner, 1, max_memory_per_child=48 * 1024)
    async with running(pool) as seen:
        (first,) = pool.pids()
        for seq in range(20):
            pool.submit([job(seq, "busy 0.01")])
            await seen.reported(seq)
        assert pool.pids() == [first]
        pool.submit([job(100, "keep 64")])
        await seen.reported(100)
        for seq in range(101, 200):
            if first not in pool.pids():
                break
            await eventually(lambda: pool.free() == 1)
            pool.submit([job(seq, "busy 0.02")])
            await seen.reported(seq)
        assert first not in pool.pids()
        assert seen.lost == {}
    assert len(ballast) == 64 * 1024 * 1024


@pytest.mark.parametrize("method", ["fork", "spawn"])
async def test_a_pool_whose_processes_cannot_start_says_why(method: str) -> None:
    pool = (
        PreforkPool(UnreadyRunner, 2)
        if method == "fork"
        else PreforkPool("umbel.testing.contracts.pool_jobs:UnreadyRunner", 2, start_method="spawn")
    )
    with pytest.raises(WorkerLostError, match="no database today"):
        await pool.start(Seen())
    assert pool.pids() == []


async def test_a_factory_that_fails_says_why() -> None:
    def broken() -> ScriptedRunner:
        raise LookupError("no such app")

    with pytest.raises(WorkerLostError, match="no such app"):
        await PreforkPool(broken, 1).start(Seen())
    with pytest.raises(WorkerLostError, match="no_such_name"):
        await PreforkPool(f"{FACTORY}.no_such_name", 1, start_method="spawn").start(Seen())


class OnceReady(ScriptedRunner):
    """Starts while there is no file."""

    def __init__(self, forbidden: Path) -> None:
        super().__init__()
        self.forbidden = forbidden

    def process_init(self) -> None:
        if self.forbidden.exists():
            raise RuntimeError("forbidden")


async def test_later_starts_are_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    forbidden = tmp_path / "forbidden"
    pool = PreforkPool(lambda: OnceReady(forbidden), 1)
    async with running(pool) as seen:
        forbidden.touch()
        pool.submit([job(1, "gone 1")])
        await eventually(lambda: caplog.text.count("RuntimeError: forbidden") >= 2)
        assert 1 in seen.lost
        forbidden.unlink()
        await eventually(lambda: pool.free() == 1)


class Hanging(ScriptedRunner):
    """Hangs while there is a file: at its start, or at its end."""

    def __init__(self, at_start: Path, at_end: Path) -> None:
        super().__init__()
        self.at_start, self.at_end = at_start, at_end

    def process_init(self) -> None:
        while self.at_start.exists():
            threading.Event().wait(0.01)

    def process_exit(self, exitcode: int) -> None:
        while self.at_end.exists():
            threading.Event().wait(0.01)


async def test_processes_that_hang_when_they_start_are_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start, end = tmp_path / "start", tmp_path / "end"
    start.touch()
    pool, seen = PreforkPool(lambda: Hanging(start, end), 2, start_timeout=0.2), Seen()
    starting = asyncio.create_task(pool.start(seen))
    await eventually(lambda: "did not come up in time" in caplog.text)
    start.unlink()
    await starting
    assert pool.free() == 2
    # One of those at work: so is its replacement.
    start.touch()
    caplog.clear()
    pool.submit([job(1, "gone 1")])
    await eventually(lambda: "did not come up in time" in caplog.text)
    assert pool.free() == 1
    start.unlink()
    await eventually(lambda: pool.free() == 2)
    await pool.stop(PATIENCE)


async def test_a_pool_whose_processes_all_hang_gives_up(tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.touch()
    pool = PreforkPool(lambda: Hanging(start, tmp_path / "end"), 2, start_timeout=0.05)
    with pytest.raises(WorkerLostError, match=r"within 0\.05 seconds, again and again"):
        await pool.start(Seen())
    assert pool.pids() == []


async def test_processes_that_hang_when_they_leave_are_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("umbel.pools.staff._LEAVE_TIMEOUT", 0.1)
    start, end = tmp_path / "start", tmp_path / "end"
    end.touch()
    pool = PreforkPool(lambda: Hanging(start, end), 1, max_tasks_per_child=1, start_timeout=0.1)
    async with running(pool) as seen:
        (first,) = pool.pids()
        pool.submit([job(1, "pid")])
        await eventually(lambda: pool.free() == 1)
        pool.submit([job(2, "pid")])
        await seen.reported(1, 2)
        assert (int(seen.answer(1)) == first) != (int(seen.answer(2)) == first)
        await eventually(lambda: "did not leave in time" in caplog.text)
        assert not alive(first)
        assert seen.lost == {}


async def test_names_are_celerys() -> None:
    async with running(PreforkPool(ScriptedRunner, 1)) as seen:
        pass
    for pool, name in (
        (PreforkPool(ScriptedRunner, 1), "ForkPoolWorker-1"),
        (PreforkPool(FACTORY, 1, start_method="spawn"), "SpawnPoolWorker-1"),
    ):
        async with running(pool) as seen:
            pool.submit([job(1, "names")])
            await seen.reported(1)
            assert seen.answer(1) == name


async def test_a_task_that_closes_every_descriptor_is_lost_and_the_pool_goes_on() -> None:
    async with running(pool := PreforkPool(ScriptedRunner, 1)) as seen:
        pool.submit([job(1, "close")])
        await seen.all_ended(1)
        assert 1 in seen.lost
        await eventually(lambda: pool.free() == 1)


async def test_a_task_may_use_sigalrm_itself() -> None:
    async with running(pool := PreforkPool(ScriptedRunner, 1)) as seen:
        pool.submit([job(1, "alarm 0.02")])
        await seen.reported(1)
        pool.submit([job(2, "spin", soft_time_limit=0.02)])
        await seen.reported(2)
        pool.submit([job(3, "recurse")])
        await seen.reported(3)
        assert [seen.reports[seq].error for seq in (1, 2, 3)] == [
            "SoftTimeLimitExceeded",
            "SoftTimeLimitExceeded",
            "RecursionError",
        ]


async def test_bystanders_of_a_hard_limit(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running(pool := ThreadsPool(ScriptedRunner, 2)) as seen:
        pool.submit([job(1, f"wait {gate}", announce=True), job(2, "spin", time_limit=0.1)])
        await seen.all_ended(2)
        assert (seen.lost[1].cause, seen.lost[2].cause) == ("bystander", "time_limit")


async def test_the_death_of_the_template_loses_its_processes_and_no_more() -> None:
    pool = PreforkPool(ScriptedRunner, 2)
    async with running(pool) as seen:
        launcher = pool._launcher
        assert isinstance(launcher, ForkLauncher)
        before, template = set(pool.pids()), launcher.template_pid
        pool.submit([job(1, "spin", announce=True)])
        await eventually(lambda: 1 in seen.started)
        pool.submit([job(seq, "echo", brief=True) for seq in range(2, 6)])
        os.kill(template, signal.SIGKILL)
        await seen.all_ended(5)
        assert list(seen.lost) == [1]
        assert "template" in seen.lost[1].why
        await eventually(lambda: pool.free() == 2)
        assert not before & set(pool.pids())
        assert not any(map(alive, before))
        pool.submit([job(7, "echo"), job(8, "echo")])
        await seen.reported(7, 8)


def test_a_second_template_is_free_of_the_loop_that_was_running_when_it_was_forked() -> None:
    pool = PreforkPool(ScriptedRunner, 2)
    pool.prepare()  # before the loop, as a worker does: the second template is to have nothing of the loop's

    async def lose_the_template() -> None:
        async with running(pool) as seen:
            launcher = pool._launcher
            assert isinstance(launcher, ForkLauncher)
            os.kill(launcher.template_pid, signal.SIGKILL)
            await eventually(lambda: len(pool.pids()) == 0)
            await eventually(lambda: pool.free() == 2)
            pool.submit([job(1, "echo"), job(2, "echo")])
            await seen.reported(1, 2)

    uvloop.run(lose_the_template())


SUPERVISOR = """
import asyncio, sys
from umbel.pools.prefork import PreforkPool
from umbel.pools.threads import ThreadsPool
from umbel.testing.contracts.pool import Seen, job
from umbel.testing.contracts.pool_jobs import ScriptedRunner

async def main():
    pool = {pool}
    seen = Seen()
    await pool.start(seen)
    pool.submit([job(seq, "spin", announce=True) for seq in range(2)])
    while len(seen.started) < 2:
        await asyncio.sleep(0.001)
    print(*pool.pids(), getattr(pool._launcher, "template_pid", ""), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "pool",
    [
        "PreforkPool(ScriptedRunner, 2)",
        f"PreforkPool({FACTORY!r}, 2, start_method='spawn')",
        "ThreadsPool(ScriptedRunner, 2)",
    ],
)
async def test_nothing_outlives_a_supervisor_that_is_killed(pool: str) -> None:
    command = [sys.executable, "-c", SUPERVISOR.format(pool=pool)]
    # Its first line is all that is read, in a thread; nothing else here would be held up by it.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as supervisor:  # noqa: ASYNC220
        assert supervisor.stdout is not None
        line = await asyncio.to_thread(supervisor.stdout.readline)
        pids = [int(word) for word in line.split()]
        assert pids
        assert all(map(alive, pids))
        supervisor.kill()
    await eventually(lambda: not any(map(alive, pids)))


async def test_an_idle_pool_sleeps() -> None:
    pool = PreforkPool(ScriptedRunner, 2)
    async with running(pool) as seen:
        pool.submit([job(1, "echo", brief=True), job(2, "echo", brief=True)])
        pool.submit([job(3, "echo", brief=True)])
        await seen.all_ended(3)
        launcher = pool._launcher
        assert isinstance(launcher, ForkLauncher)
        processes = [*pool.pids(), launcher.template_pid]
        await eventually(lambda: pool._look is None)
        before = [switches(pid) for pid in processes]
        await asyncio.sleep(0.3)  # the silence that is measured
        assert [switches(pid) for pid in processes] == before


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), size=st.integers(1, 3))
async def test_kills_at_any_instruction_leave_the_accounts_exact(
    tmp_path: Path, seed: int, size: int
) -> None:
    """Each job runs at most once unless it was returned; what is lost had begun; the rest all ran."""
    chance = random.Random(seed)
    log = tmp_path / f"log-{seed}-{size}"
    log.touch()
    count = 400
    pool = PreforkPool(ScriptedRunner, size)
    feeder = Feeder(pool, [f"mark {log} {number}" for number in range(count)])
    await pool.start(feeder)
    feeder.feed()

    def done() -> bool:
        return len(feeder.reports) + len(feeder.lost) == count

    for _ in range(6):
        await asyncio.sleep(chance.random() * 0.004)  # the instruction that is hit
        for pid in chance.sample(pool.pids(), min(len(pool.pids()), chance.randint(0, 2))):
            try:
                os.kill(pid, chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)))
            except ProcessLookupError:
                continue
    await eventually(done)
    await pool.stop(PATIENCE)
    ran = Counter(map(int, log.read_text().split()))
    assert max(ran.values()) == 1
    assert set(feeder.reports) <= set(ran)
    assert set(feeder.reports) | set(feeder.lost) == set(range(count))


def test_a_pool_runs_in_a_thread_of_a_program_that_has_others() -> None:
    """As an embedded worker does."""
    answers: list[str] = []

    async def work(pool: ProcessPool) -> None:
        async with running(pool) as seen:
            pool.submit([job(1, "echo embedded", soft_time_limit=60.0)])
            await seen.reported(1)
            answers.append(seen.answer(1))

    pools = (
        PreforkPool(ScriptedRunner, 1),
        PreforkPool(FACTORY, 1, start_method="spawn"),
        ThreadsPool(ScriptedRunner, 1),
        SoloPool(ScriptedRunner),
    )
    for pool in pools:
        thread = threading.Thread(target=lambda pool=pool: asyncio.run(work(pool)))  # type: ignore[misc]
        thread.start()
        thread.join(PATIENCE)
    assert answers == ["embedded"] * 4


async def test_a_task_that_writes_to_the_link_is_lost_and_the_pool_goes_on() -> None:
    async with running(pool := PreforkPool(ScriptedRunner, 1)) as seen:
        pool.submit([job(1, "scribble")])
        await seen.all_ended(1)
        assert seen.lost[1].why == "signal 9 (SIGKILL)"
        await eventually(lambda: pool.free() == 1)


async def test_threads_are_relieved_while_their_last_jobs_run(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    pool = ThreadsPool(ScriptedRunner, 3, max_tasks_per_child=9)
    async with running(pool) as seen:
        pool.submit([job(1, f"wait {gate}")])
        for seq in range(2, 10):
            pool.submit([job(seq, "pid")])
            await seen.reported(seq)
        # The process has had its nine jobs, one of which runs: its relief has the other two slots.
        await eventually(lambda: pool.free() == 2)
        pool.submit([job(15, "pid"), job(16, "pid")])
        await seen.reported(15, 16)
        assert seen.answer(15) != seen.answer(2)
        gate.touch()
        await seen.reported(1)
        await eventually(lambda: pool.free() == 3)


async def test_a_job_in_a_thread_is_ended_alone_by_an_exception(tmp_path: Path) -> None:
    gate, traces = tmp_path / "gate", tmp_path / "traces"
    async with running(pool := ThreadsPool(ScriptedRunner, 2)) as seen:
        pids = pool.pids()
        pool.submit([job(1, f"tidy {traces}", announce=True), job(2, f"wait {gate}", announce=True)])
        await eventually(lambda: len(seen.started) == 2)
        # Both slots are busy, and nobody reads the link; the word is heard all the same.
        assert pool.terminate_job(1, signal.SIGTERM)
        await eventually(lambda: 1 in seen.lost)
        assert (seen.lost[1].cause, seen.lost[1].why) == ("terminated", "cancelled")
        assert traces.exists()
        pool.submit([job(3, "spin", announce=True)])
        await eventually(lambda: 3 in seen.started)
        await eventually(lambda: not pool.terminate_job(3, signal.SIGUSR1))
        assert seen.reports[3].error == "SoftTimeLimitExceeded"
        gate.touch()
        await seen.reported(2)
        assert pool.pids() == pids
        assert set(seen.lost) == {1}


async def test_sigkill_ends_the_process_of_a_thread(tmp_path: Path) -> None:
    async with running(pool := ThreadsPool(ScriptedRunner, 2)) as seen:
        pool.submit([job(seq, f"wait {tmp_path / 'never'}", announce=True) for seq in (1, 2)])
        await eventually(lambda: len(seen.started) == 2)
        assert pool.terminate_job(1, signal.SIGKILL)
        await seen.all_ended(2)
        assert {seq: loss.cause for seq, loss in seen.lost.items()} == {1: "terminated", 2: "bystander"}


async def test_a_job_in_a_thread_is_ended_at_any_moment_of_its_life() -> None:
    async with running(pool := ThreadsPool(ScriptedRunner, 2)) as seen:
        pids = pool.pids()
        count = 300
        for seq in range(count):
            # A limit rings about when the word comes: only one of them is raised, and none in the next job.
            pool.submit([job(seq, "busy 0.002", announce=seq % 2 == 0, soft_time_limit=0.001 + seq * 5e-6)])
            for _ in range(seq % 20):
                await asyncio.sleep(0.0001)
            while seq not in seen.reports and not pool.terminate_job(seq, signal.SIGTERM):
                if seq in seen.returned:
                    break
                await asyncio.sleep(0)
        await eventually(lambda: seen.ended() == count)
        await eventually(lambda: pool.free() == 2)
        assert {loss.why for loss in seen.lost.values()} == {"cancelled"}
        assert pool.pids() == pids
        for seq in range(count, count + 20):
            pool.submit([job(seq, "busy 0.001")])
            await seen.reported(seq)
        assert {seen.reports[seq].error for seq in range(count, count + 20)} == {""}


@pytest.mark.parametrize(("payload", "why"), [("exit 3", "exitcode 3"), ("interrupt", "exitcode 1")])
@pytest.mark.parametrize("size", [1, 3])
async def test_leaving_in_a_thread_of_the_worker_ends_its_slots_only(
    payload: str, why: str, size: int
) -> None:
    async with running(pool := SoloPool(ScriptedRunner, size)) as seen:
        pool.submit([job(1, payload)])
        await seen.all_ended(1)
        assert seen.lost[1].why == why
        await eventually(lambda: pool.free() == size)
        pool.submit([job(2, "echo")])
        await seen.reported(2)


async def test_start_methods_and_factories_that_do_not_fit() -> None:
    with pytest.raises(ImproperlyConfigured, match="module:name"):
        PreforkPool(ScriptedRunner, 1, start_method="spawn")
    with pytest.raises(ImproperlyConfigured, match="can be called"):
        PreforkPool(FACTORY, 1)


async def test_processes_are_replaced_when_they_are_old(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    pool = PreforkPool(ScriptedRunner, 2, max_age_per_child=0.2, age_jitter=0.5)
    async with running(pool) as seen:
        first = set(pool.pids())
        pool.submit([job(0, f"wait {gate}", announce=True)])
        await eventually(lambda: 0 in seen.started)
        # The idle one goes as soon as it is old; the busy one takes no more jobs and goes on to its end.
        await eventually(lambda: len(first & set(pool.pids())) == 1)
        assert seen.lost == {}
        gate.touch()
        await seen.reported(0)
        await eventually(lambda: not first & set(pool.pids()))
        assert seen.started[0][0] in first


async def test_a_process_that_grows_while_its_job_runs_has_its_replacement_up_before_that_ends(
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    async with running(pool := ThreadsPool(ScriptedRunner, 2, max_memory_per_child=64 * 1024)) as seen:
        (first,) = pool.pids()
        pool.submit([job(1, f"swell 96 {gate}", announce=True)])
        await eventually(lambda: len(pool.pids()) == 2)
        # What it runs goes on; what comes is run by its relief as soon as that is up.
        for number in count(2):
            pool.submit([job(number, "pid")])
            await seen.reported(number)
            if int(seen.answer(number)) != first:
                break
        assert 1 not in seen.reports
        gate.touch()
        await seen.reported(1)
        await eventually(lambda: first not in pool.pids())
        assert seen.lost == {}


@pytest.mark.parametrize("kind", [PreforkPool, ThreadsPool])
async def test_no_slot_is_missing_while_processes_are_replaced(kind: type[ProcessPool]) -> None:
    """Whenever a job has ended another begins at once: what replaces a process that takes no more is up by then."""
    pool = kind(ScriptedRunner, 2, max_tasks_per_child=15)  # type: ignore[arg-type, call-arg]
    seen = Seen()
    await pool.start(seen)
    waits = []
    for seq in range(100):
        begun = time.perf_counter()
        await eventually(lambda: pool.free() > 0)
        waits.append(time.perf_counter() - begun)
        pool.submit([job(seq, "busy 0.004")])
        await seen.reported(seq)
    await pool.stop(PATIENCE)
    assert seen.lost == {}
    # Some processes were replaced meanwhile, and at most a few jobs found no slot on a machine that was busy.
    assert sum(wait > 0.05 for wait in waits) <= 3


async def test_tasks_that_leak_a_mebibyte_a_run_keep_within_bounds() -> None:
    limit = 40 * 1024
    pool = PreforkPool(ScriptedRunner, 2, max_memory_per_child=limit)
    feeder = Feeder(pool, ["mark /dev/null x keep 1 0.01"] * 400, brief=False)
    await pool.start(feeder)
    feeder.feed()
    most = 0

    def finished() -> bool:
        nonlocal most
        most = max(most, sum(private(pid) for pid in pool.pids()))
        return len(feeder.reports) == 400

    await eventually(finished, 60.0)
    await pool.stop(PATIENCE)
    assert feeder.lost == {}
    # Two at their limit and their reliefs, which grow too; what 400 runs leak is ten times as much as two may have.
    assert most < 4 * limit + 100 * 1024


class HeldBack(ScriptedRunner):
    """Its processes do not come up while there is a file."""

    gate = Path()

    def process_init(self) -> None:
        while self.gate.exists():
            time.sleep(0.01)


async def test_a_process_that_grows_on_while_nobody_can_relieve_it_gets_no_more_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HeldBack, "gate", tmp_path / "gate")
    limit = 30 * 1024
    pool = PreforkPool(HeldBack, 1, max_memory_per_child=limit)
    feeder = Feeder(pool, ["keep 1 0.005"] * 300, brief=False)
    await pool.start(feeder)
    (first,) = pool.pids()
    HeldBack.gate.touch()
    feeder.feed()
    seen, since = 0, time.monotonic()

    def stands_still() -> bool:
        nonlocal seen, since
        if len(feeder.reports) != seen:
            seen, since = len(feeder.reports), time.monotonic()
        return seen > 0 and time.monotonic() - since > 1.0

    await eventually(stands_still, 60.0)
    assert first not in pool.pids() or private(first) < 4 * limit
    assert 60 - 5 <= seen < 200
    HeldBack.gate.unlink()
    await eventually(lambda: len(feeder.reports) == 300, 60.0)
    assert feeder.lost == {}
    await pool.stop(PATIENCE)
