"""Events of real workers: many to a message, and of no concern to tasks when the broker does not take them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import amqp
import pytest
import redis

from tests.integration.apps.stage import Stage
from tests.support.processes import pss_bytes
from tests.support.proxy import TcpProxy
from tests.support.rabbitmq import RabbitMqServer
from tests.support.servers import RedisServer
from umbel.core.events import group_of

pytestmark = [pytest.mark.redis, pytest.mark.processes]

#: In the text of a key or channel under which events of tasks are sent, and of nothing else.
OF_TASKS = b"task.multi"
#: A task that takes so long waits for events; a worker waits twice as long for the broker to take them.
LONG = 2.5
#: What a worker keeps of events that cannot be sent.
ROOM = 10_000


class Place:
    """A broker whose workers, and nobody else, reach it by way of a proxy."""

    def __init__(self, stage: Stage, proxy: TcpProxy, running: ExitStack) -> None:
        self.stage = stage
        self.proxy = proxy
        self._running = running
        near = stage.broker_url
        stage.broker_url = near.replace(f":{proxy.target_port}/", f":{proxy.port}/")
        assert stage.broker_url != near

    def refuse_events(self) -> None:
        """Have the broker take all that a worker sends, but not its events; before it is started."""
        raise NotImplementedError

    def hear(self) -> Heard:
        """Hear events from now on."""
        heard = Heard(self.stage)
        self._running.callback(heard.stop)
        return heard


class RedisPlace(Place):
    def refuse_events(self) -> None:
        rules = ["on", ">secret", "~*", "+@all", "resetchannels", "&[^/]*", "&/0.celery.*"]
        with redis.Redis(port=self.proxy.target_port) as client:
            client.execute_command("ACL", "SETUSER", "worker", *rules)
        self.stage.broker_url = self.stage.broker_url.replace("//", "//worker:secret@")


class RabbitMqPlace(Place):
    def refuse_events(self) -> None:
        vhost = self.stage.broker_url.rpartition("/")[2]
        with amqp.Connection(f"127.0.0.1:{self.proxy.target_port}", virtual_host=vhost) as connection:
            connection.channel().exchange_declare("celeryev", "direct", durable=True, auto_delete=False)


class Heard:
    """The events that were heard, and how many messages those of tasks came in."""

    def __init__(self, stage: Stage) -> None:
        self.messages = 0
        self.events: list[dict[str, Any]] = []
        receiver = stage.app.events.Receiver(handlers={"*": self.events.append})
        receiver.listen()
        self._seen = 0
        self._listening = receiver.itercapture(timeout=30, wakeup=False)

    def wait_for(self, type_: str, ids: set[str]) -> None:
        """Hear until there was an event of this type for each of some tasks."""
        missing = set(ids)
        while missing:
            next(self._listening)
            new, self._seen = self.events[self._seen :], len(self.events)
            self.messages += any(group_of(event["type"]) == "task" for event in new)
            missing -= {event["uuid"] for event in new if event["type"] == type_}

    def stop(self) -> None:
        """Hear no more."""
        self._listening.close()

    def types(self, task_id: str) -> list[str]:
        return [event["type"] for event in self.events if event.get("uuid") == task_id]


@pytest.fixture(params=["redis", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as running:
        server = running.enter_context(RedisServer())
        if request.param == "redis":
            stage = running.enter_context(Stage(tmp_path, server.url(), server.url(1)))
            yield RedisPlace(stage, running.enter_context(TcpProxy(server.port)), running)
        else:
            rabbitmq: RabbitMqServer = request.getfixturevalue("rabbitmq_server")
            vhost = rabbitmq.add_vhost()
            running.callback(rabbitmq.delete_vhost, vhost)
            stage = running.enter_context(Stage(tmp_path, rabbitmq.url(vhost), server.url(1)))
            yield RabbitMqPlace(stage, running.enter_context(TcpProxy(rabbitmq.port)), running)


def longest_round_trip(stage: Stage, count: int) -> float:
    """The longest time that one of some tasks takes, each sent when the one before has ended."""
    longest = 0.0
    for number in range(count):
        begun = time.monotonic()
        assert stage.send("note", f"trip{number}").get(timeout=30) == f"trip{number}"
        longest = max(longest, time.monotonic() - begun)
    return longest


def test_events_of_many_tasks_travel_together(place: Place) -> None:
    heard = place.hear()
    ids = {place.stage.send("note", mark).id for mark in range(500)}
    worker = place.stage.worker("-c2", "-E", "--prefetch-multiplier=100")
    heard.wait_for("task-succeeded", ids)
    for task_id in ids:
        assert heard.types(task_id) == ["task-received", "task-started", "task-succeeded"]
    events = sum(group_of(event["type"]) == "task" for event in heard.events)
    print(f"{events} events in {heard.messages} messages")
    assert heard.messages < events / 5
    assert worker.terminate() == 0


def test_tasks_go_on_when_the_broker_refuses_events(place: Place) -> None:
    place.refuse_events()
    stage = place.stage
    worker = stage.worker("-c2", "-E", "--without-gossip")
    assert longest_round_trip(stage, 40) < LONG
    marks = [str(mark) for mark in range(500)]
    results = [stage.send("note", mark) for mark in marks]
    assert [result.get(timeout=30) for result in results] == marks
    assert worker.terminate() == 0
    assert worker.output.count("Events cannot be sent: ") == 1, worker.output
    assert "Unrecoverable" not in worker.output


def test_nothing_is_sent_when_nobody_asked_for_it(place: Place) -> None:
    """The broker would refuse it, and the worker would say so."""
    place.refuse_events()
    worker = place.stage.worker("-c2", "--without-gossip", "--without-heartbeat")
    results = [place.stage.send("note", mark) for mark in range(100)]
    assert [result.get(timeout=30) for result in results] == list(range(100))
    assert worker.terminate() == 0
    assert "Events cannot be sent" not in worker.output


def test_a_stalled_way_for_events_slows_no_task_and_the_newest_are_kept(place: Place) -> None:
    stage = place.stage
    heard = place.hear()
    worker = stage.worker("-c2", "-E", "--prefetch-multiplier=100")
    first = stage.send("note", "first").id
    heard.wait_for("task-succeeded", {first})
    before = pss_bytes(worker.members())
    place.proxy.swallow(OF_TASKS)
    assert longest_round_trip(stage, 60) < LONG
    # Each has three events.
    ids = [stage.send("note", mark).id for mark in range(ROOM // 3 + 1000)]
    last = stage.send("note", "last")
    assert last.get(timeout=60) == "last"
    stage.wait_for("note", count=len(ids) + 62)
    worker.wait_for_line(r"\d+ events were dropped: more came than the broker took")
    grown = pss_bytes(worker.members()) - before
    place.proxy.swallow(b"")
    place.proxy.cut()
    heard.wait_for("task-succeeded", {last.id})
    events = [event for event in heard.events if group_of(event["type"]) == "task"]
    more = f"{grown / 2**20:.1f} MiB more memory"
    print(f"{len(events)} of {3 * (len(ids) + 62)} events came, in {heard.messages} messages; {more}")
    assert len(events) < ROOM + 1000
    assert grown < 48 * 2**20
    assert worker.output.count("Events cannot be sent: ") == 1, worker.output
    after = stage.send("note", "after")
    heard.wait_for("task-succeeded", {after.id})
    assert worker.terminate() == 0


def test_a_worker_ends_soon_while_its_events_are_stalled(place: Place) -> None:
    stage = place.stage
    worker = stage.worker("-c1", "-E")
    place.proxy.swallow(OF_TASKS)
    assert stage.send("note", "x").get(timeout=30) == "x"
    begun = time.monotonic()
    assert worker.terminate() == 0
    assert time.monotonic() - begun < 15
