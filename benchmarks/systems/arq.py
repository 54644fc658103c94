"""arq: one asyncio process a worker."""

from __future__ import annotations

from datetime import timedelta

from arq import create_pool
from arq.connections import RedisSettings

from benchmarks.systems.common import BROKER_URL, SLOTS, Loop, count_keys, stamp, timed_async

SETTINGS = RedisSettings.from_dsn(BROKER_URL)


class Pool:
    """Opened by the loop of the sending process."""

    redis = None

    @classmethod
    async def open(cls) -> None:
        cls.redis = await create_pool(SETTINGS)


loop = Loop(Pool.open)


async def add(_context, number: int, one: int) -> int:
    stamp(number)
    return number + one


class WorkerSettings:
    """What `arq` is told on its command line."""

    functions = (add,)
    redis_settings = SETTINGS
    keep_result = 3600
    max_jobs = SLOTS or 100
    poll_delay = 0.01


def send(first: int, count: int) -> None:
    async def work() -> None:
        for number in range(first, first + count):
            await Pool.redis.enqueue_job("add", number, 1)

    loop.run(work())


def send_delayed(first: int, count: int, seconds: float) -> None:
    async def work() -> None:
        for number in range(first, first + count):
            await Pool.redis.enqueue_job("add", number, 1, _defer_by=timedelta(seconds=seconds))

    loop.run(work())


def round_trips(first: int, count: int) -> list[float]:
    async def once(number: int) -> None:
        job = await Pool.redis.enqueue_job("add", number, 1)
        await job.result(timeout=60, poll_delay=0.001)

    return loop.run(timed_async(once, first, count))


def stored_results() -> int:
    return count_keys("arq:result:*")
