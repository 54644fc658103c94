"""Events of Umbel's workers as real Celery's monitors hear them."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.world import APP, World
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess

pytestmark = [pytest.mark.interop, pytest.mark.redis, pytest.mark.processes]


class Watching:
    """A process with Celery's event receiver, and what it has heard."""

    def __init__(self, world: World, python: Path) -> None:
        env = {"BROKER": world.environment()["BROKER"]}
        self.process = WorkerProcess(
            [python, APP.with_name("watch.py")], cwd=APP.parent, env=env, name="watch"
        )

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in re.findall(r"^event (.*)$", self.process.output, re.MULTILINE)]

    def of(self, task_id: str) -> list[dict[str, Any]]:
        return [event for event in self.events() if event.get("uuid") == task_id]

    def wait_for(self, task_id: str, *types: str) -> list[dict[str, Any]]:
        """Wait until a task's events are of these types, in this order."""
        wait_until(
            lambda: [event["type"] for event in self.of(task_id)] == list(types),
            timeout=20,
            what=lambda: f"{types}; heard were {self.events()}",
        )
        return self.of(task_id)

    def wait_for_type(self, type_: str) -> dict[str, Any]:
        found = wait_until(
            lambda: [event for event in self.events() if event["type"] == type_],
            timeout=20,
            what=lambda: f"{type_}; heard were {self.events()}",
        )
        event: dict[str, Any] = found[0]
        return event


@pytest.fixture
def world(new_world: Callable[..., World]) -> World:
    return new_world()


@pytest.fixture
def watching(world: World, interop_python: Path) -> Iterator[Watching]:
    found = Watching(world, interop_python)
    with found.process:
        found.process.wait_for_line("watching")
        yield found


def test_a_task_is_followed_from_its_receipt_to_its_end(world: World, watching: Watching, mark: str) -> None:
    worker = world.worker("umbel", "-c1", "-Q", "q", "-n", "u@here", "-E")
    done = world.celery.send("echo", "x", queue="q")
    received, started, succeeded = watching.wait_for(done, "task-received", "task-started", "task-succeeded")
    assert received["name"] == "echo"
    assert (received["args"], received["kwargs"], received["retries"]) == ("['x']", "{}", 0) or received[
        "args"
    ] == "('x',)"
    assert received["root_id"] == done
    assert succeeded["result"] == "'x'"
    assert 0 <= succeeded["runtime"] < 10
    assert {each["hostname"] for each in (received, started, succeeded)} == {"u@here"}
    assert received["clock"] < started["clock"] < succeeded["clock"]
    revoked = world.umbel.send("hold", mark, f"{mark}-gate", queue="q")
    world.wait_for_notes(mark, 1)
    world.umbel.evaluate("app.control.revoke(task_id, terminate=True, signal='KILL')", task_id=revoked)
    [*_, ended] = watching.wait_for(revoked, "task-received", "task-started", "task-revoked")
    assert ended["terminated"] is True
    unknown = world.celery.send("nobody.knows", queue="q")
    [failed] = watching.wait_for(unknown, "task-failed")
    assert "NotRegistered" in failed["exception"]
    assert worker.terminate() == 0


def test_workers_come_live_and_go(world: World, watching: Watching) -> None:
    worker = world.worker("umbel", "-c1", "-Q", "q", "-n", "u@here")
    online = watching.wait_for_type("worker-online")
    assert {"freq", "active", "processed", "loadavg", "sw_ident", "sw_ver", "sw_sys"} <= online.keys()
    assert online["hostname"] == "u@here"
    world.celery.evaluate("app.control.heartbeat()")
    assert watching.wait_for_type("worker-heartbeat")["freq"] == 2.0
    assert worker.terminate() == 0
    watching.wait_for_type("worker-offline")


def test_events_of_tasks_are_switched_on_and_off_from_afar(world: World, watching: Watching) -> None:
    worker = world.worker("umbel", "-c1", "-Q", "q", "-n", "u@here")

    def order(name: str) -> str:
        [answer] = world.celery.evaluate(f"app.control.{name}_events(reply=True, timeout=2, limit=1)")
        told: str = answer["u@here"]["ok"]
        return told

    silent = world.celery.send("echo", 1, queue="q")
    assert world.celery.value(silent) == 1
    assert order("enable") == "task events enabled"
    assert order("enable") == "task events already enabled"
    told = world.celery.send("echo", 2, queue="q")
    watching.wait_for(told, "task-received", "task-started", "task-succeeded")
    assert order("disable") == "task events disabled"
    assert watching.of(silent) == []
    assert worker.terminate() == 0


@pytest.mark.parametrize(
    ("shown_by", "library"), [("umbel", "celery"), ("umbel", "umbel"), ("celery", "umbel")]
)
def test_the_programs_show_the_events_of_either(
    world: World, interop_python: Path, shown_by: str, library: str
) -> None:
    python = interop_python if shown_by == "celery" else Path(sys.executable)
    program = [python, "-m", shown_by, "-A", "shared", "events", "--dump"]
    env = world.environment()
    with WorkerProcess(program, cwd=APP.parent, env=env, name="events") as dump:
        dump.wait_for_line("starting capture")
        worker = world.worker(library, "-c1", "-Q", "q", "-n", "w@here", "-E", alone=False)
        dump.wait_for_line("w@here .* started")
        done = world.umbel.send("echo", "x", queue="q")
        dump.wait_for_line(f"task received: echo\\({done}\\)")
        dump.wait_for_line(f"task succeeded: echo\\({done}\\).*result='x'")
        assert worker.terminate() == 0
        dump.wait_for_line("w@here .* shutdown")


def test_a_programs_own_events_are_heard_by_celerys_monitors(world: World, watching: Watching) -> None:
    world.umbel.execute(
        "with app.events.default_dispatcher('me@here') as dispatcher:\n"
        "    dispatcher.send('shop-opened', name='corner')\n"
        "answer = None"
    )
    event = watching.wait_for_type("shop-opened")
    assert (event["hostname"], event["name"]) == ("me@here", "corner")


def test_umbels_receiver_keeps_the_state_of_celerys_workers(world: World) -> None:
    world.worker("celery", "-c1", "-Q", "q", "-n", "c@here", "-E", alone=False)
    answer = world.umbel.execute(
        "state = app.events.State()\n"
        "receiver = app.events.Receiver(handlers={'*': state.event})\n"
        "sent = None\n"
        "for _ in receiver.itercapture(timeout=20):\n"
        "    if sent is None:\n"
        "        sent = app.send_task('echo', ('x',), queue='q').id\n"
        "    elif sent in state.tasks and state.tasks[sent].ready:\n"
        "        break\n"
        "task = state.tasks[sent]\n"
        "answer = (task.state, task.name, task.result, task.worker.hostname, sorted(state.workers))\n"
    )
    assert tuple(answer) == ("SUCCESS", "echo", "'x'", "c@here", ["c@here"])


def test_sent_tasks_are_told_where_that_is_set(new_world: Callable[..., World], interop_python: Path) -> None:
    world = new_world(task_send_sent_event=True)
    watching = Watching(world, interop_python)
    with watching.process:
        watching.process.wait_for_line("watching")
        ids = [world.umbel.send("echo", "x", queue="q"), world.umbel.delay("echo", "y", queue="q")]
        for task_id in ids:
            [sent] = watching.wait_for(task_id, "task-sent")
            assert (sent["name"], sent["queue"], sent["retries"]) == ("echo", "q", 0)
            assert sent["hostname"].startswith("gen")


@pytest.mark.parametrize("broker", ["redis"], indirect=True)  # where anybody may listen to what is written
def test_messages_are_made_as_celerys(new_world: Callable[..., World]) -> None:
    """Channels, properties, headers and the fields of every event with their types, as they pass through Redis."""
    shapes = {library: _shapes(new_world(), library) for library in ("celery", "umbel")}
    assert shapes["umbel"].keys() == shapes["celery"].keys()
    for type_, shape in shapes["celery"].items():
        assert shapes["umbel"][type_] == shape, type_


def _shapes(world: World, library: str) -> dict[str, Any]:
    """How a worker of a library tells of its start, a success, a failure, a revocation and its end."""
    with world.redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.psubscribe("/0.celeryev/*")
        pubsub.get_message(timeout=5)
        worker = world.worker(library, "-c1", "-Q", "q", "-n", "w@here", "-E", alone=False)
        done, failed = (world.celery.send(name, "KeyError", queue="q") for name in ("echo", "fail"))
        for task_id in (done, failed):
            world.celery.outcome(task_id)
        gone = world.celery.send("echo", "late", queue="q", expires=-1)
        assert world.celery.outcome(gone)["state"] == "REVOKED"
        found: dict[str, Any] = {}

        def hear_until(type_: str) -> None:
            while type_ not in found:
                heard = pubsub.get_message(timeout=10)
                assert heard is not None, found.keys()
                message = json.loads(heard["data"])
                body = json.loads(base64.b64decode(message.pop("body")))
                for event in body if isinstance(body, list) else [body]:
                    found.setdefault(event["type"], (heard["channel"], _shape(message), _shape(event)))

        hear_until("worker-heartbeat")
        assert worker.terminate() == 0
        hear_until("worker-offline")
    return found


def _shape(value: Any) -> Any:
    """The names and types in a value; what is text stays where it is the same for everybody."""
    if isinstance(value, dict):
        return {name: _shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_shape(each) for each in value]
    fixed = {"application/json", "utf-8", "base64", "celeryev", "task.multi", "w@here", "py-celery", "echo"}
    return value if isinstance(value, str) and value in fixed else type(value).__name__
