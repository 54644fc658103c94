"""Applications on the memory broker, and what they sent."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from umbel import Umbel
from umbel.brokers.base import Disposition, FetchPlan
from umbel.core.ids import new_id
from umbel.core.protocol import decode_body, read_envelope

if TYPE_CHECKING:
    from umbel.brokers.base import Delivery


@dataclass
class Sent:
    """One message as a worker would read it."""

    queue: str
    headers: dict[str, Any]
    properties: dict[str, Any]
    args: Any
    kwargs: Any
    embed: Any


def make_app(**settings: Any) -> Umbel:
    name = new_id()
    settings.setdefault("backend", f"memory://{name}")
    settings.setdefault("broker", f"memory://{name}")
    main = settings.pop("main", "proj")
    settings.setdefault("set_as_current", False)
    return Umbel(main, **settings)


def sent(app: Umbel, *queues: str) -> list[Sent]:
    """Take every message from the queues, the oldest first; delayed ones are not waited for."""
    return [_read(app, delivery) for delivery in asyncio.run(_take(app, queues or ("celery",)))]


def sent_one(app: Umbel, *queues: str) -> Sent:
    (message,) = sent(app, *queues)
    return message


async def _take(app: Umbel, queues: tuple[str, ...]) -> list[Delivery]:
    consumer = app.broker.consumer(new_id(), 60.0)
    await consumer.open()
    found: list[Delivery] = []
    while batch := await consumer.fetch(FetchPlan(queues), 1000, 0.01):
        await consumer.settle([Disposition(delivery.tag) for delivery in batch])
        found += batch
    await consumer.close()
    return found


def _read(app: Umbel, delivery: Delivery) -> Sent:
    envelope = read_envelope(delivery.payload)
    args, kwargs, embed = decode_body(envelope, app.accept)
    return Sent(delivery.queue, envelope.headers, envelope.properties, args, kwargs, embed)
