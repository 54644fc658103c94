"""How fast tasks get into RabbitMQ: one by one beside the bare client library, in bulk, and by many senders at once.

    .venv/bin/python -m benchmarks.amqp_publishing amqp://guest:guest@localhost:5672//

Everything is confirmed by the broker, except where it says otherwise. The two columns are messages a second, which the
server on the same machine has its share in, and CPU microseconds of this process for each.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import amqp

from benchmarks.amqp_clients import BODY, HEADERS, PROPERTIES, Meter, address
from umbel import Umbel

QUEUE = "umbel-publishing"
ROUNDS = 5


def main(url: str) -> None:
    """Measure, and leave nothing behind."""
    app = Umbel("publishing", broker=url, task_default_queue=QUEUE)
    hasty = Umbel(
        "hasty", broker=url, task_default_queue=QUEUE, broker_transport_options={"confirm_publish": False}
    )
    add, quick = (each.task(name="add", ignore_result=True)(_add) for each in (app, hasty))
    at = address(url)
    bare = amqp.Connection(
        f"{at['host']}:{at['port']}",
        at["user"],
        at["password"],
        virtual_host=at["vhost"],
        confirm_publish=True,
    )
    bare.connect()
    channel = bare.channel()
    for task in (add, quick):
        task.delay(2, 3)

    def publish() -> None:
        message = amqp.Message(BODY, application_headers=HEADERS, **PROPERTIES)
        channel.basic_publish(message, "", QUEUE, mandatory=True)

    for _ in range(ROUNDS):
        _repeat("bare py-amqp, one by one", publish, 400)
        _repeat("delay(), one by one", lambda: add.delay(2, 3), 400)
    for senders in (10, 50):
        _in_threads(senders, lambda: add.delay(2, 3), 6000)
    for senders in (1, 50):
        asyncio.run(_in_tasks(senders, lambda: add.adelay(2, 3), 6000))
    with Meter("delay_many() of 20,000", 20000):
        add.delay_many([(2, 3)] * 20000)
    _repeat("delay(), unconfirmed", lambda: quick.delay(2, 3), 20000)
    channel.queue_delete(QUEUE)
    channel.exchange_delete(QUEUE)
    bare.close()
    app.close()
    hasty.close()


def _add(x: int, y: int) -> int:
    return x + y


def _repeat(name: str, act: Callable[[], Any], count: int) -> None:
    with Meter(name, count):
        for _ in range(count):
            act()


def _in_threads(senders: int, act: Callable[[], Any], count: int) -> None:
    def work() -> None:
        for _ in range(count // senders):
            act()

    threads = [threading.Thread(target=work) for _ in range(senders)]
    with Meter(f"delay(), {senders} threads", count):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


async def _in_tasks(senders: int, act: Callable[[], Awaitable[Any]], count: int) -> None:
    async def work() -> None:
        for _ in range(count // senders):
            await act()

    await act()
    with Meter(f"adelay(), {senders} coroutines", count):
        await asyncio.gather(*(work() for _ in range(senders)))


if __name__ == "__main__":
    main(sys.argv[1])
