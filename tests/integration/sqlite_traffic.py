"""Programs that use one SQLite broker at once, to be killed: ``python sqlite_traffic.py ROLE URL NAME``.

``produce`` sends numbered messages for ever and prints the number of each that is confirmed. ``work`` acknowledges
messages for ever, publishing one message to ``done`` and storing one result in the same step.
"""

from __future__ import annotations

import asyncio
import sys
from itertools import count

from umbel.brokers.base import Disposition, FetchPlan
from umbel.brokers.options import BrokerOptions
from umbel.brokers.sqlite import SqliteBroker
from umbel.core.protocol import peek
from umbel.testing.contracts.results import record
from umbel.testing.contracts.support import message

#: Seconds; short, so that the test sees a dead worker's messages return.
LEASE = 0.5


def produce(broker: SqliteBroker, name: str) -> None:
    publisher = broker.publisher()
    for number in count():
        task_id = f"{name}-{number}"
        publisher.send([message(broker, task_id)], timeout=20)
        print(task_id, flush=True)


async def work(broker: SqliteBroker, name: str) -> None:
    consumer = broker.consumer(name, LEASE)
    await consumer.open()
    print("ready", flush=True)
    while True:
        await consumer.renew()
        await consumer.reclaim()
        batch = []
        for delivery in await consumer.fetch(FetchPlan(("q",)), 20, LEASE / 3):
            task_id = peek(delivery.payload).id
            follow = message(broker, task_id, "done")
            batch.append(Disposition(delivery.tag, publish=[follow], result=record(task_id)))
        await consumer.settle(batch)


if __name__ == "__main__":
    role, url, own_name = sys.argv[1:]
    opened = SqliteBroker.from_url(url, BrokerOptions())
    if role == "produce":
        produce(opened, own_name)
    else:
        asyncio.run(work(opened, own_name))
