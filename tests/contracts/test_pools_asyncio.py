"""What a pool of event loops does that the others cannot: thousands at once, and each of them ended alone."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from umbel.pools.async_pool import AsyncioPool
from umbel.testing.contracts.pool import Feeder, Seen, job
from umbel.testing.contracts.pool_jobs import ScriptedRunner
from umbel.testing.contracts.support import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FACTORY = "umbel.testing.contracts.pool_jobs:ScriptedRunner"


@asynccontextmanager
async def running(pool: AsyncioPool) -> AsyncIterator[Seen]:
    seen = Seen()
    await pool.start(seen)
    try:
        yield seen
    finally:
        await pool.stop(0.0)


@pytest.mark.parametrize("method", ["fork", "spawn"])
async def test_waits_take_place_together(method: str) -> None:
    pool = (
        AsyncioPool(ScriptedRunner, 1, slots=500)
        if method == "fork"
        else AsyncioPool(FACTORY, 1, slots=500, start_method="spawn")
    )
    async with running(pool) as seen:
        begun = time.monotonic()
        pool.submit([job(seq, "sleep 0.3") for seq in range(500)])
        await seen.all_ended(500)
        assert len(seen.reports) == 500
        assert time.monotonic() - begun < 3.0


async def test_plain_jobs_never_hold_up_the_loop(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running(pool := AsyncioPool(ScriptedRunner, 1, slots=8)) as seen:
        pool.submit([job(seq, f"wait {gate}", announce=True) for seq in range(4)])
        await eventually(lambda: len(seen.started) == 4)
        for seq in range(10, 30):
            pool.submit([job(seq, "sleep 0")])
            await seen.reported(seq)
        gate.touch()
        await seen.reported(0, 1, 2, 3)


async def test_several_processes_share_evenly(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running(pool := AsyncioPool(ScriptedRunner, 3, slots=10)) as seen:
        assert pool.size == pool.free() == 30
        pool.submit([job(seq, f"await {gate}", announce=True) for seq in range(12)])
        await eventually(lambda: len(seen.started) == 12)
        pids = [pid for pid, _ in seen.started.values()]
        assert sorted(pids.count(pid) for pid in pool.pids()) == [4, 4, 4]
        assert pool.free() == 18
        pool.submit([job(seq, f"await {gate}", announce=True) for seq in range(12, 30)])
        await eventually(lambda: len(seen.started) == 30)
        assert pool.free() == 0
        gate.touch()
        await seen.reported(*range(30))


async def test_a_soft_limit_is_raised_where_the_body_awaits(tmp_path: Path) -> None:
    async with running(pool := AsyncioPool(ScriptedRunner, 1, slots=8)) as seen:
        pool.submit(
            [
                job(1, "sleep 60", soft_time_limit=0.1),
                job(2, f"atidy {tmp_path / 'left'}", soft_time_limit=0.1),
                job(3, "stubborn name", soft_time_limit=0.1),
                job(4, "sleep 0.2", soft_time_limit=30.0),
                job(5, f"group {tmp_path / 'member'}", soft_time_limit=0.1),
            ]
        )
        await seen.reported(1, 2, 3, 4, 5)
        errors = {seq: report.error for seq, report in seen.reports.items()}
        limit = "SoftTimeLimitExceeded"
        assert errors == {1: limit, 2: limit, 3: "", 4: "", 5: limit}
        assert (tmp_path / "left").read_text() == "SoftCancelled"
        assert seen.answer(3) == "went on, name"
        # What the body had started was cancelled with it.
        assert (tmp_path / "member.1").read_text() == (tmp_path / "member.2").read_text() == "CancelledError"
        assert seen.lost == {}


async def test_a_job_is_cancelled_alone(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running(pool := AsyncioPool(ScriptedRunner, 1, slots=3)) as seen:
        pids = pool.pids()
        pool.submit([job(1, f"atidy {tmp_path / 'left'}", announce=True, time_limit=60.0)])
        pool.submit([job(seq, f"await {gate}", announce=True) for seq in (2, 3)])
        await eventually(lambda: len(seen.started) == 3)
        # All slots are taken: the word overtakes the jobs that wait.
        assert pool.terminate_job(1, signal.SIGTERM)
        await eventually(lambda: 1 in seen.lost)
        assert (seen.lost[1].cause, seen.lost[1].pid) == ("terminated", pids[0])
        assert (tmp_path / "left").read_text() == "CancelledError"
        assert pool.pids() == pids
        await eventually(lambda: pool.free() == 1)
        gate.touch()
        await seen.reported(2, 3)
        assert set(seen.lost) == {1}


async def test_a_job_is_cancelled_at_any_moment_of_its_life(tmp_path: Path) -> None:
    async with running(pool := AsyncioPool(ScriptedRunner, 1, slots=1)) as seen:
        pids = pool.pids()
        for seq in range(200):
            pool.submit([job(seq, "sleep 0.002", announce=seq % 2 == 0)])
            for _ in range(seq % 20):
                await asyncio.sleep(0.0001)
            while seq not in seen.reports and not pool.terminate_job(seq, signal.SIGTERM):
                if seq in seen.returned:
                    break
                await asyncio.sleep(0)
            await eventually(lambda: pool.free() == 1)
        assert seen.ended() == 200
        assert {loss.why for loss in seen.lost.values()} == {"cancelled"}
        assert pool.pids() == pids


async def test_a_plain_job_is_ended_with_its_process_and_neighbours_are_bystanders(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running(pool := AsyncioPool(ScriptedRunner, 1, slots=3)) as seen:
        pool.submit([job(1, f"wait {gate}", announce=True), job(2, f"await {gate}", announce=True)])
        await eventually(lambda: len(seen.started) == 2)
        assert pool.terminate_job(1, signal.SIGTERM)
        await seen.all_ended(2)
        assert {seq: loss.cause for seq, loss in seen.lost.items()} == {1: "terminated", 2: "bystander"}
        await eventually(lambda: pool.free() == 3)


async def test_sigusr1_is_a_soft_limit(tmp_path: Path) -> None:
    async with running(pool := AsyncioPool(ScriptedRunner, 1, slots=2)) as seen:
        pool.submit([job(1, f"atidy {tmp_path / 'left'}", announce=True), job(2, "sleep 0.1", announce=True)])
        await eventually(lambda: len(seen.started) == 2)
        await eventually(lambda: not pool.terminate_job(1, signal.SIGUSR1))
        await seen.reported(1, 2)
        assert seen.reports[1].error == "SoftTimeLimitExceeded"


async def test_a_hard_limit_ends_the_process_even_if_the_loop_is_held_up(tmp_path: Path) -> None:
    async with running(pool := AsyncioPool(ScriptedRunner, 1, slots=3)) as seen:
        pool.submit([job(1, "block 60", time_limit=0.2), job(2, f"await {tmp_path / 'gate'}")])
        await seen.all_ended(2)
        assert seen.lost[1].cause == "time_limit"
        # The other had begun, or had not: it is not charged with anything.
        assert seen.returned == [2] or seen.lost[2].cause == "bystander"
        await eventually(lambda: pool.free() == 3)
        pool.submit([job(9, "sleep 0")])
        await seen.reported(9)


async def test_systemexit_ends_the_process(tmp_path: Path) -> None:
    async with running(pool := AsyncioPool(ScriptedRunner, 1, slots=3)) as seen:
        pool.submit([job(1, "aexit 7")])
        await seen.all_ended(1)
        assert seen.lost[1].why == "exitcode 7"
        await eventually(lambda: pool.free() == 3)


async def test_a_loop_that_is_held_up_is_reported_with_the_stack(caplog: pytest.LogCaptureFixture) -> None:
    pool = AsyncioPool(ScriptedRunner, 1, slots=3, block_timeout=0.1, log_level=10)
    async with running(pool) as seen:
        pool.submit([job(1, "sleep 0.3")])
        await seen.reported(1)
        assert caplog.text == ""
        pool.submit([job(2, "block 0.6")])
        await seen.reported(2)
        await eventually(lambda: "turns again" in caplog.text)
    first, second = (record for record in caplog.records if record.name == "celery.worker.loop")
    text = first.getMessage()
    assert "AsyncPoolWorker-1 has not turned for 0.1 seconds, because of block" in text
    assert "time.sleep(float(seconds))" in text
    assert 0.1 < float(second.getMessage().split()[-2]) < PATIENCE


async def test_recycling_loses_nothing() -> None:
    pool = AsyncioPool(ScriptedRunner, 2, slots=5, max_tasks_per_child=20)
    feeder = Feeder(pool, ["sleep 0.002" if number % 2 else "pid" for number in range(400)])
    await pool.start(feeder)
    feeder.feed()
    await eventually(lambda: len(feeder.reports) == 400)
    await pool.stop(PATIENCE)
    assert feeder.lost == {}
    pids = [feeder.answer(seq) for seq in range(0, 400, 2)]
    assert max(pids.count(pid) for pid in set(pids)) <= 20


async def test_it_leaves_when_its_jobs_have_ended(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    pool, seen = AsyncioPool(ScriptedRunner, 1, slots=5), Seen()
    await pool.start(seen)
    pool.submit([job(seq, f"await {gate}", announce=True) for seq in range(3)])
    await eventually(lambda: len(seen.started) == 3)
    stopping = asyncio.create_task(pool.stop(PATIENCE))
    gate.touch()
    await stopping
    assert len(seen.reports) == 3
    assert seen.lost == {}


async def test_what_waits_for_one_of_many_slots_waits_for_the_first_that_is_free() -> None:
    async with running(pool := AsyncioPool(ScriptedRunner, 1, slots=200)) as seen:
        pool.submit([job(seq, "sleep 0.2", brief=True) for seq in range(200)])
        await seen.all_ended(200)
        # As many as end in twenty milliseconds, though each of them takes longer.
        assert 1 <= pool.depth() <= 20


async def test_what_waits_behind_a_full_loop_stays_there_for_a_while(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running(pool := AsyncioPool(ScriptedRunner, 1, slots=4)) as seen:
        pool.submit([job(seq, "sleep 0", brief=True) for seq in range(4)])
        await seen.all_ended(4)
        begun = time.monotonic()
        pool.submit([job(seq, f"await {gate}", brief=True) for seq in range(10, 16)])
        await eventually(lambda: seen.returned == [14, 15])
        assert time.monotonic() - begun > 0.2
        gate.touch()
        await seen.reported(10, 11, 12, 13)


async def test_what_waits_behind_a_full_loop_goes_to_one_with_room(tmp_path: Path) -> None:
    gates = [tmp_path / "first", tmp_path / "second"]
    pool = AsyncioPool(ScriptedRunner, 2, slots=2)
    feeder = Feeder(pool, [f"await {gates[seq % 2]}" for seq in range(4)] + ["pid"] * 2)
    await pool.start(feeder)
    try:
        # Their ends feed the rest.
        pool.submit([job(seq, "sleep 0", brief=True) for seq in range(100, 104)])
        await feeder.reported(*range(100, 104))
        await eventually(lambda: len(pool.begun()) >= 4)
        gates[0].touch()
        # The other two go on to hold half of the slots; nothing waits behind them.
        await feeder.reported(0, 2, 4, 5)
        assert not {1, 3} & set(feeder.reports)
        gates[1].touch()
        await feeder.reported(1, 3)
    finally:
        await pool.stop(0.0)
