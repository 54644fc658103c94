"""Huey with its Redis storage and process workers."""

from __future__ import annotations

from huey import RedisHuey

from benchmarks.systems.common import BROKER_URL, stamp, timed

huey = RedisHuey("bench", url=BROKER_URL)


@huey.task()
def add(number, one):
    stamp(number)
    return number + one


def send(first: int, count: int) -> None:
    for number in range(first, first + count):
        add(number, 1)


def send_delayed(first: int, count: int, seconds: float) -> None:
    for number in range(first, first + count):
        add.schedule((number, 1), delay=seconds)


def round_trips(first: int, count: int) -> list[float]:
    # Its results are polled for; the default of 0.1 s between polls would be all that is measured.
    return timed(
        lambda number: add(number, 1)(blocking=True, timeout=60, backoff=1, max_delay=0.001), first, count
    )


def stored_results() -> int:
    return huey.result_count()
