"""The worker's events: heartbeats come in time however much else is told, and what cannot be sent waits in a bound."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from tests.support.proxy import TcpProxy
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until_async
from tests.unit.app_support import make_app
from umbel import Umbel
from umbel.core.events import read_events
from umbel.core.serializers import accept_set
from umbel.worker.backlog import Backlog
from umbel.worker.events import Events


def make_events(app: Umbel, *, interval: float) -> Events:
    return Events(
        hostname="w@here",
        broker=app.broker,
        exchange="celeryev",
        serializer=app.conf.event_serializer,
        tasks=True,
        interval=interval,
        busy=lambda: (1, 2),
        tick=app.clock.forward,
    )


async def test_a_busy_worker_beats_too() -> None:
    with make_app() as app:
        subscription = app.broker.subscriber("celeryev", "#", "broadcast")
        await subscription.open()
        events = make_events(app, interval=0.05)
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


def event(number: int, type_: str = "task-started", **fields: Any) -> dict[str, Any]:
    return {"type": type_, "uuid": str(number), **fields}


def numbers(batch: list[dict[str, Any]]) -> list[int]:
    return [int(each["uuid"]) for each in batch]


class TestBacklog:
    def test_events_of_tasks_are_taken_together_and_others_alone(self) -> None:
        backlog = Backlog()
        for number in range(3):
            backlog.add(event(number))
        backlog.add(event(3, "worker-heartbeat"))
        for number in range(4, 1006):
            backlog.add(event(number))
        taken = [numbers(backlog.take()) for _ in range(5)]
        assert taken == [
            [0, 1, 2],
            [3],
            list(range(4, 504)),
            list(range(504, 1004)),
            [1004, 1005],
        ]
        assert not backlog

    def test_the_newest_are_kept_and_the_others_counted(self) -> None:
        backlog = Backlog()
        for number in range(10_050):
            backlog.add(event(number))
        assert (len(backlog), backlog.dropped) == (10_000, 50)
        batch = backlog.take()
        assert numbers(batch)[0] == 50
        for number in range(10_050, 10_350):
            backlog.add(event(number))
        backlog.give_back(batch)
        assert (len(backlog), backlog.dropped) == (10_000, 350)
        assert numbers(backlog.take())[0] == 350

    def test_much_text_takes_the_room_of_many(self) -> None:
        backlog = Backlog()
        for number in range(100):
            backlog.add(event(number, "task-failed", traceback="x" * 1_000_000))
        assert len(backlog) == 33
        assert backlog.dropped == 67
        assert numbers(backlog.take()) == [67]

    def test_of_a_text_that_no_broker_would_take_both_ends_are_kept(self) -> None:
        backlog = Backlog()
        backlog.add(event(1, "task-failed", traceback=f"begin{'x' * 30_000_000}end", retries=0))
        [kept] = backlog.take()
        assert kept["traceback"].startswith("begin")
        assert kept["traceback"].endswith("end")
        assert len(kept["traceback"]) < 70_000
        assert (kept["uuid"], kept["retries"]) == ("1", 0)


@pytest.mark.redis
async def test_what_waits_is_sent_when_the_broker_is_back(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer() as server, TcpProxy(server.port) as proxy:
        app = make_app(broker=proxy.url("redis"), backend=server.url(1))
        proxy.refuse()
        events = make_events(app, interval=0)
        running = asyncio.create_task(events.run())
        for number in range(10_020):
            events.task("task-started", str(number))
        await wait_until_async(lambda: done("cannot be sent" in caplog.text), what="an attempt")
        # Each of these is an event loop's turn of its own, and none is an attempt.
        for number in range(10_020, 10_040):
            events.task("task-started", str(number))
            await asyncio.sleep(0.01)
        assert proxy.accepted == 0
        near = make_app(broker=server.url(), backend=server.url(1))
        subscription = near.broker.subscriber("celeryev", "#", "broadcast")
        await subscription.open()
        proxy.accept()
        heard: list[dict[str, Any]] = []
        sizes = []
        async with asyncio.timeout(20):
            while len(heard) < 10_000:
                batch = read_events(await subscription.get(), app.accept)
                sizes.append(len(batch))
                heard += batch
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await events.close()
        await subscription.close()
        assert numbers(heard) == list(range(40, 10_040))
        assert max(sizes) == 500
        assert events.dropped == 40
        told = [int(each) for each in re.findall(r"(\d+) events were dropped", caplog.text)]
        assert sum(told) == 40
        assert caplog.text.count("cannot be sent") == 1
        app.close()
        near.close()


async def test_an_event_that_cannot_be_written_takes_no_other_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with make_app(event_serializer="msgpack") as app:
        subscription = app.broker.subscriber("celeryev", "#", "broadcast")
        await subscription.open()
        events = make_events(app, interval=0)
        events.task("task-received", "1")
        events.task("task-received", "2", args="\udcff")
        events.task("task-received", "3")
        events.worker("worker-odd", what="\udcff")
        events.worker("worker-even")
        running = asyncio.create_task(events.run())
        accept = accept_set(["msgpack"])
        async with asyncio.timeout(10):
            heard = [read_events(await subscription.get(), accept) for _ in range(2)]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await events.close()
        await subscription.close()
    assert numbers(heard[0]) == [1, 3]
    assert [each["type"] for each in heard[1]] == ["worker-even"]
    assert events.dropped == 2
    assert caplog.text.count("An event cannot be written") == 2


async def done(value: bool) -> bool:
    return value
