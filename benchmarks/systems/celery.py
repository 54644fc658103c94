"""Celery and Umbel: the same application, and only the library's name differs."""

from __future__ import annotations

import asyncio
import http.client
import importlib
import os
import threading

from benchmarks.systems.common import (
    BROKER_URL,
    RESULT_URL,
    STORES_RESULTS,
    Loop,
    count_keys,
    count_rows,
    stamp,
    timed,
)

library = importlib.import_module(os.environ["BENCH_LIB"])
Celery = library.Celery

app = Celery("bench", broker=BROKER_URL, backend=RESULT_URL)
app.conf.update(
    worker_hijack_root_logger=True,
    worker_prefetch_multiplier=int(os.environ.get("BENCH_PREFETCH", "4")),
    broker_connection_retry_on_startup=True,
)

#: A batch of the bulk interface: large enough to be fast, small enough for the memory of both sides.
BATCH = 5000
#: Threads, or coroutines, that send at the same time.
SENDERS = 50

loop = Loop()


def _add(number, one):
    stamp(number)
    return number + one


async def _add_on_a_loop(number, one):
    stamp(number)
    return number + one


add = app.task(name="bench.add", ignore_result=not STORES_RESULTS)(
    _add_on_a_loop if os.environ.get("BENCH_POOL") == "asyncio" else _add
)


@app.task(name="bench.fetch", ignore_result=True)
def fetch(number, requests):
    """Ask the server of ``benchmarks.slow_server``; begin and end are stamped."""
    stamp(number)
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["BENCH_HTTP_PORT"]))
    try:
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"ok"
    finally:
        connection.close()
    stamp(requests + number)


@app.task(name="bench.step")
def step(before, number):
    stamp(number)
    return before + 1


async def wait(number):
    stamp(number)
    await asyncio.sleep(0.1)


if app.__class__.__module__.startswith("umbel"):
    wait = app.task(name="bench.wait", ignore_result=True)(wait)

#: What big applications import: some 50 MB of objects.
ballast = {str(n): (n, str(-n)) for n in range(int(os.environ.get("BENCH_BALLAST", "0")))}


@app.task(name="bench.total")
def total(values):
    return sum(values)


def send(first: int, count: int) -> None:
    for number in range(first, first + count):
        add.delay(number, 1)


def send_bulk(first: int, count: int) -> None:
    for start in range(first, first + count, BATCH):
        add.delay_many((number, 1) for number in range(start, min(start + BATCH, first + count)))


if not hasattr(add, "delay_many"):
    del send_bulk


def send_by_threads(first: int, count: int) -> None:
    def work(sender: int) -> None:
        for number in range(first + sender, first + count, SENDERS):
            add.delay(number, 1)

    threads = [threading.Thread(target=work, args=(sender,)) for sender in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def send_by_coroutines(first: int, count: int) -> None:
    async def work(sender: int) -> None:
        for number in range(first + sender, first + count, SENDERS):
            await add.adelay(number, 1)

    async def work_all() -> None:
        await asyncio.gather(*map(work, range(SENDERS)))

    loop.run(work_all())


if not hasattr(add, "adelay"):
    del send_by_coroutines


def send_waits(first: int, count: int) -> None:
    wait.delay_many((number,) for number in range(first, first + count))


def send_fetches(first: int, count: int) -> None:
    for number in range(first, first + count):
        fetch.delay(number, count)


def send_delayed(first: int, count: int, seconds: float) -> None:
    if hasattr(add, "delay_many"):
        for start in range(first, first + count, BATCH):
            numbers = range(start, min(start + BATCH, first + count))
            add.delay_many([(number, 1) for number in numbers], countdown=seconds)
        return
    for number in range(first, first + count):
        add.apply_async((number, 1), countdown=seconds)


def round_trips(first: int, count: int) -> list[float]:
    return timed(lambda number: add.delay(number, 1).get(timeout=60), first, count)


def workflow(name: str, first: int, count: int) -> None:
    """Make a workflow, send it, wait for its value and check that."""
    numbers = range(first, first + count)
    if name == "group":
        value = library.group(add.s(number, 1) for number in numbers).apply_async().get(timeout=600)
        expected = [number + 1 for number in numbers]
    elif name == "chord":
        value = library.chord([add.s(number, 1) for number in numbers], total.s())().get(timeout=600)
        expected = sum(number + 1 for number in numbers)
    else:
        steps = [step.s(number) for number in numbers[1:]]
        value = library.chain(step.s(0, first), *steps).apply_async().get(timeout=600)
        expected = count
    assert value == expected, f"{name}: wrong value {str(value)[:200]}"


def stored_results() -> int:
    if RESULT_URL.startswith("sqlite:"):
        return count_rows("SELECT count(*) FROM results WHERE state = 'SUCCESS'")
    return count_keys("celery-task-meta-*", b'"SUCCESS"')
