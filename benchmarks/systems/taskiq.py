"""Taskiq on Redis streams, its recommended broker, with its Redis result backend."""

from __future__ import annotations

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.systems.common import BROKER_URL, Loop, count_keys, stamp, timed_async

broker = RedisStreamBroker(url=BROKER_URL).with_result_backend(
    RedisAsyncResultBackend(redis_url=BROKER_URL, prefix_str="bench-result", result_ex_time=3600)
)
loop = Loop(broker.startup)


@broker.task
async def add(number: int, one: int) -> int:
    stamp(number)
    return number + one


def send(first: int, count: int) -> None:
    async def work() -> None:
        for number in range(first, first + count):
            await add.kiq(number, 1)

    loop.run(work())


def round_trips(first: int, count: int) -> list[float]:
    async def once(number: int) -> None:
        task = await add.kiq(number, 1)
        # Its results are polled for; the default of 0.2 s between polls would be all that is measured.
        await task.wait_result(check_interval=0.001, timeout=60)

    return loop.run(timed_async(once, first, count))


def stored_results() -> int:
    return count_keys("bench-result:*")
