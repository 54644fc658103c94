"""streaQ: asyncio processes, here on uvloop."""

from __future__ import annotations

from streaq import Worker

from benchmarks.systems.common import BROKER_URL, SLOTS, Loop, count_keys, stamp, timed_async

worker = Worker(
    redis_url=BROKER_URL, queue_name="bench", concurrency=SLOTS or 16, anyio_kwargs={"use_uvloop": True}
)
loop = Loop()
BATCH = 1000


@worker.task(ttl=3600, silent=True)
async def add(number: int, one: int) -> int:
    stamp(number)
    return number + one


def send(first: int, count: int) -> None:
    async def work() -> None:
        async with worker:
            for number in range(first, first + count):
                await add.enqueue(number, 1)

    loop.run(work())


def send_bulk(first: int, count: int) -> None:
    async def work() -> None:
        async with worker:
            for start in range(first, first + count, BATCH):
                numbers = range(start, min(start + BATCH, first + count))
                await worker.enqueue_many([add.enqueue(number, 1) for number in numbers])

    loop.run(work())


def round_trips(first: int, count: int) -> list[float]:
    async def once(number: int) -> None:
        task = await add.enqueue(number, 1)
        await task.result(60)

    async def work() -> list[float]:
        async with worker:
            return await timed_async(once, first, count)

    return loop.run(work())


def stored_results() -> int:
    return count_keys("streaq:bench:task:results:*")
