"""ArdiQ, whose worker loop and Redis client are written in Rust."""

from __future__ import annotations

from ardiq import Ardiq

from benchmarks.systems.common import BROKER_URL, SLOTS, Loop, stamp, timed_async

app = Ardiq(redis_url=BROKER_URL, queue_name="bench", **({"concurrency": SLOTS} if SLOTS else {}))
loop = Loop()
BATCH = 5000
_jobs = []


@app.task()
async def add(number: int, one: int) -> int:
    stamp(number)
    return number + one


def send(first: int, count: int) -> None:
    async def work() -> None:
        for number in range(first, first + count):
            await add.enqueue(number, 1)

    loop.run(work())


def send_bulk(first: int, count: int) -> None:
    async def work() -> None:
        for start in range(first, first + count, BATCH):
            numbers = range(start, min(start + BATCH, first + count))
            await app.enqueue_many([add.prepare(number, 1) for number in numbers])

    loop.run(work())


def send_delayed(first: int, count: int, seconds: float) -> None:
    later = add.options(delay_ms=int(seconds * 1000))

    async def work() -> None:
        for start in range(first, first + count, BATCH):
            numbers = range(start, min(start + BATCH, first + count))
            await app.enqueue_many([later.prepare(number, 1) for number in numbers])

    loop.run(work())


def round_trips(first: int, count: int) -> list[float]:
    async def once(number: int) -> None:
        job = await add.enqueue(number, 1)
        await job.result(timeout=60)

    return loop.run(timed_async(once, first, count))
