"""Dramatiq with its Redis or RabbitMQ broker, and results in Redis.

On RabbitMQ it does not wait until the server has confirmed a message, and neither does Celery by default;
``BENCH_DRAMATIQ_CONFIRMS=1`` has it do so, as Umbel does.
"""

from __future__ import annotations

import os

import dramatiq
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.systems.common import BROKER_URL, RESULT_URL, STORES_RESULTS, count_keys, stamp, timed

results = RedisBackend(url=RESULT_URL, use_namespace_prefix_keys=True)
if BROKER_URL.startswith("amqp"):
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    broker = RabbitmqBroker(url=BROKER_URL, confirm_delivery=bool(os.environ.get("BENCH_DRAMATIQ_CONFIRMS")))
else:
    from dramatiq.brokers.redis import RedisBroker

    broker = RedisBroker(url=BROKER_URL)
broker.add_middleware(Results(backend=results))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=STORES_RESULTS, max_retries=0)
def add(number, one):
    stamp(number)
    return number + one


def send(first: int, count: int) -> None:
    for number in range(first, first + count):
        add.send(number, 1)


def send_delayed(first: int, count: int, seconds: float) -> None:
    for number in range(first, first + count):
        add.send_with_options(args=(number, 1), delay=int(seconds * 1000))


def round_trips(first: int, count: int) -> list[float]:
    return timed(lambda number: add.send(number, 1).get_result(block=True, timeout=60_000), first, count)


def stored_results() -> int:
    return count_keys("dramatiq-results:*")
