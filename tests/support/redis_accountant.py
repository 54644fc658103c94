"""A consumer process for tests that kill: moves each message of queue ``q`` to queue ``done``, exactly once.

Run as ``python -m tests.support.redis_accountant URL IDENTITY LEASE``; ends when killed.
"""

from __future__ import annotations

import asyncio
import sys

from umbel.brokers.base import Disposition, FetchPlan
from umbel.brokers.options import BrokerOptions
from umbel.brokers.redis import RedisBroker
from umbel.core.destination import Destination
from umbel.core.records import Publication
from umbel.errors import BrokerConnectionError

_DONE = Destination("", "done", "done")


async def main(url: str, identity: str, lease: float) -> None:
    consumer = RedisBroker(url, BrokerOptions()).consumer(identity, lease)
    while True:
        try:
            await consumer.open()
            await consumer.reconcile([])
            print("open", flush=True)
            await _work(consumer, lease)
        except BrokerConnectionError:
            await asyncio.sleep(0.02)


async def _work(consumer, lease: float) -> None:  # type: ignore[no-untyped-def]
    loop = asyncio.get_running_loop()
    renew_at = 0.0
    while True:
        if loop.time() >= renew_at:
            await consumer.renew()
            await consumer.reclaim()
            renew_at = loop.time() + lease / 3
        batch = await consumer.fetch(FetchPlan(("q",)), 37, lease / 10)
        await consumer.settle(
            [Disposition(delivery.tag, publish=[Publication(_DONE, delivery.payload)]) for delivery in batch]
        )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
