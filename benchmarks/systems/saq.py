"""SAQ on Redis. Its results are waited for in steps of a second, so its round trips are not measured."""

from __future__ import annotations

from saq import Queue

from benchmarks.systems.common import BROKER_URL, SLOTS, Loop, count_keys, stamp

queue = Queue.from_url(BROKER_URL, name="bench")
loop = Loop(queue.connect)


async def add(_context, *, number: int, one: int) -> int:
    stamp(number)
    return number + one


async def no_sweep(_context) -> None:
    # A worker that starts sweeps jobs which another has taken and not yet marked, and aborts them: tasks are lost.
    await queue.redis.set(queue._sweep, 1, ex=3600)


settings = {"queue": queue, "functions": [add], "concurrency": SLOTS or 10, "startup": no_sweep}


def send(first: int, count: int) -> None:
    async def work() -> None:
        for number in range(first, first + count):
            await queue.enqueue("add", number=number, one=1, ttl=3600)

    loop.run(work())


def send_delayed(first: int, count: int, seconds: float) -> None:
    import time

    async def work() -> None:
        due = time.time() + seconds
        for number in range(first, first + count):
            await queue.enqueue("add", number=number, one=1, scheduled=due)

    loop.run(work())


def stored_results() -> int:
    return count_keys("saq:job:bench:*", b'"status":"complete"') or count_keys(
        "saq:job:bench:*", b'"status": "complete"'
    )
