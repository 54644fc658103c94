"""RQ, whose worker forks a process for every task."""

from __future__ import annotations

from datetime import timedelta

import redis
from rq import Queue
from rq.registry import FinishedJobRegistry

from benchmarks.systems.common import BROKER_URL, stamp, timed

connection = redis.Redis.from_url(BROKER_URL)
queue = Queue("bench", connection=connection)
BATCH = 1000


def add(number, one):
    stamp(number)
    return number + one


def send(first: int, count: int) -> None:
    for number in range(first, first + count):
        queue.enqueue(add, number, 1, result_ttl=3600)


def send_bulk(first: int, count: int) -> None:
    for start in range(first, first + count, BATCH):
        numbers = range(start, min(start + BATCH, first + count))
        queue.enqueue_many([Queue.prepare_data(add, (number, 1), result_ttl=3600) for number in numbers])


def send_delayed(first: int, count: int, seconds: float) -> None:
    for number in range(first, first + count):
        queue.enqueue_in(timedelta(seconds=seconds), add, number, 1)


def round_trips(first: int, count: int) -> list[float]:
    return timed(lambda number: queue.enqueue(add, number, 1).latest_result(timeout=60), first, count)


def stored_results() -> int:
    return FinishedJobRegistry(queue=queue).count
