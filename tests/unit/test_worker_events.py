"""The worker's events: heartbeats come in time however much else is told."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.unit.app_support import make_app
from umbel.core.events import read_events
from umbel.worker.events import Events


async def test_a_busy_worker_beats_too() -> None:
    with make_app() as app:
        subscription = app.broker.subscriber("celeryev", "#", "broadcast")
        await subscription.open()
        events = Events(
            hostname="w@here",
            broker=app.broker,
            exchange="celeryev",
            serializer="json",
            tasks=True,
            interval=0.05,
            busy=lambda: (1, 2),
            tick=app.clock.forward,
        )
        running = asyncio.create_task(events.run())
        heard: list[dict[str, Any]] = []
        async with asyncio.timeout(10):
            while sum(event["type"] == "worker-heartbeat" for event in heard) < 3:
                # The next comes as soon as one was heard, so that there is never a pause of an interval.
                events.task("task-started", "id")
                heard += read_events(await subscription.get(), app.accept)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await events.close()
        await subscription.close()
    assert "worker-online" in {event["type"] for event in heard}
