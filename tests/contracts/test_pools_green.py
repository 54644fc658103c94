"""The pool suite over greenlets, and what only they do. Needs gevent or eventlet, which are optional."""

from __future__ import annotations

import signal
import time
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from umbel.pools.green_pools import EventletPool, GeventPool
from umbel.testing.contracts.pool import PoolContract, Seen, job
from umbel.testing.contracts.support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FACTORY = "umbel.testing.contracts.pool_jobs:ScriptedRunner"


@pytest.mark.skipif(find_spec("gevent") is None, reason="gevent is not installed")
class TestGevent(PoolContract):
    process_per_slot = False
    endless = "doze"
    crash_every = 100

    def make_pool(self, size: int) -> GeventPool:
        return GeventPool(FACTORY, size)


@pytest.mark.skipif(find_spec("eventlet") is None, reason="eventlet is not installed")
class TestEventlet(PoolContract):
    process_per_slot = False
    endless = "doze"
    crash_every = 100

    def make_pool(self, size: int) -> EventletPool:
        return EventletPool(FACTORY, size)


GreenPool = type[GeventPool] | type[EventletPool]


@pytest.fixture(params=[GeventPool, EventletPool])
def kind(request: pytest.FixtureRequest) -> GreenPool:
    # To import it here would be to have its hooks in every process that the tests fork.
    if find_spec(request.param.library) is None:
        pytest.skip(f"{request.param.library} is not installed")
    return request.param


@asynccontextmanager
async def running(pool: GeventPool | EventletPool) -> AsyncIterator[Seen]:
    seen = Seen()
    await pool.start(seen)
    try:
        yield seen
    finally:
        await pool.stop(0.0)


async def test_a_thousand_blocking_waits_take_place_together(kind: GreenPool) -> None:
    async with running(pool := kind(FACTORY, 1000)) as seen:
        begun = time.monotonic()
        pool.submit([job(seq, "nap 0.5") for seq in range(1000)])
        await seen.all_ended(1000)
        assert len(seen.reports) == 1000
        assert time.monotonic() - begun < 5.0


async def test_several_processes_share_evenly(kind: GreenPool, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running(pool := kind(FACTORY, 10, processes=2)) as seen:
        assert pool.size == pool.free() == 20
        pool.submit([job(seq, f"wait {gate}", announce=True) for seq in range(8)])
        await eventually(lambda: len(seen.started) == 8)
        pids = [pid for pid, _ in seen.started.values()]
        assert sorted(pids.count(pid) for pid in pool.pids()) == [4, 4]
        gate.touch()
        await seen.reported(*range(8))


async def test_a_job_is_ended_alone(kind: GreenPool, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running(pool := kind(FACTORY, 2)) as seen:
        pids = pool.pids()
        pool.submit(
            [job(1, f"wait {tmp_path / 'never'}", announce=True), job(2, f"wait {gate}", announce=True)]
        )
        await eventually(lambda: len(seen.started) == 2)
        assert pool.terminate_job(1, signal.SIGTERM)
        await eventually(lambda: 1 in seen.lost)
        assert (seen.lost[1].cause, seen.lost[1].why) == ("terminated", "cancelled")
        await eventually(lambda: pool.free() == 1)
        gate.touch()
        await seen.reported(2)
        assert pool.pids() == pids


async def test_sigusr1_is_a_soft_limit(kind: GreenPool) -> None:
    async with running(pool := kind(FACTORY, 2)) as seen:
        pool.submit([job(1, "doze", announce=True)])
        await eventually(lambda: 1 in seen.started)
        await eventually(lambda: not pool.terminate_job(1, signal.SIGUSR1))
        assert seen.reports[1].error == "SoftTimeLimitExceeded"
