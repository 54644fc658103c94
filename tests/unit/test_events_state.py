"""The state of a fleet as events build it up, in whatever order they come."""

from __future__ import annotations

import pickle
import time
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.core.events import make_event, read_events, routing_key, write_events
from umbel.core.protocol import pack_native
from umbel.errors import DecodeError
from umbel.events.dumper import Dumper
from umbel.events.members import Task, Worker
from umbel.events.snapshot import Polaroid
from umbel.events.state import State

NOW = time.time()


def event(type_: str, clock: int = 1, hostname: str = "w@here", **fields: Any) -> dict[str, Any]:
    made = make_event(type_, hostname, 7, clock, {"timestamp": NOW + clock, **fields})
    return made | {"local_received": NOW + clock}


LIFE = [
    event("task-received", 1, uuid="t", name="add", args="(1,)", kwargs="{}", retries=0),
    event("task-started", 2, uuid="t"),
    event("task-succeeded", 3, uuid="t", result="2", runtime=0.5),
]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_tasks_events_say_the_same_in_any_order(order: tuple[int, ...]) -> None:
    state = State()
    for index in order:
        state.event(dict(LIFE[index]))
    task = state.tasks["t"]
    assert (task.state, task.name, task.args, task.result, task.runtime) == (
        "SUCCESS",
        "add",
        "(1,)",
        "2",
        0.5,
    )
    assert None not in {task.received, task.started, task.succeeded}
    assert task.worker.hostname == "w@here"
    assert task.ready
    assert state.task_count == 1


def test_a_retry_turns_the_state_back() -> None:
    state = State()
    for each in (
        *LIFE[:2],
        event("task-retried", 3, uuid="t", exception="E()"),
        event("task-started", 4, uuid="t"),
    ):
        state.event(dict(each))
    assert state.tasks["t"].state == "STARTED"


def test_workers_come_beat_and_go() -> None:
    came, went = [], []
    state = State(on_node_join=came.append, on_node_leave=went.append)
    state.event(event("worker-online", freq=2000.0, active=0, processed=1, loadavg=[1, 2, 3]))
    [worker] = state.alive_workers()
    assert (worker.status_string, worker.processed, worker.id) == ("ONLINE", 1, "w@here.7")
    for clock in range(2, 10):
        state.event(event("worker-heartbeat", clock, freq=2000.0))
    assert len(worker.heartbeats) == Worker.heartbeat_max
    assert worker.heartbeat_expires == NOW + 9 + 4000
    state.event(event("worker-offline", 10))
    assert not list(state.alive_workers())
    assert [each.hostname for each in came] == [each.hostname for each in went] == ["w@here"]


def test_a_worker_that_was_not_heard_lately_is_taken_for_gone() -> None:
    worker = Worker("w", freq=2.0, heartbeats=[time.time() - 5])
    assert worker.status_string == "OFFLINE"


def test_families_are_known_whoever_is_heard_of_first() -> None:
    state = State()
    state.event(event("task-received", 1, uuid="child", name="c", parent_id="parent", root_id="parent"))
    state.event(event("task-received", 2, uuid="parent", name="p"))
    state.event(event("task-received", 3, uuid="second", name="c", parent_id="parent", root_id="parent"))
    parent = state.tasks["parent"]
    assert {child.uuid for child in parent.children} == {"child", "second"}
    assert state.tasks["child"].parent is state.tasks["second"].root is parent


def test_tasks_are_found_by_time_name_and_worker() -> None:
    state = State()
    for number in range(6):
        name, host = f"name{number % 2}", f"w{number % 3}"
        state.event(event("task-received", number, host, uuid=str(number), name=name))
    assert [uuid for uuid, _ in state.tasks_by_time()] == list("543210")
    assert [uuid for uuid, _ in state.tasks_by_time(limit=2, reverse=False)] == ["0", "1"]
    assert [uuid for uuid, _ in state.tasks_by_type("name1")] == ["5", "3", "1"]
    assert {task.uuid for task in state.tasks_by_type["name0"]} == {"0", "2", "4"}
    assert [uuid for uuid, _ in state.tasks_by_worker("w2", limit=1)] == ["5"]
    assert state.task_types() == ["name0", "name1"]


@given(st.lists(st.integers(0, 50), max_size=200), st.integers(1, 8))
def test_memory_is_bounded(numbers: list[int], most: int) -> None:
    state = State(max_tasks_in_memory=most, max_workers_in_memory=most)
    for clock, number in enumerate(numbers):
        state.event(event("task-received", clock, f"w{number}", uuid=str(number), name="n"))
        assert len(state.tasks) <= most
        assert len(state.workers) <= most


def test_it_can_be_kept_and_read_again() -> None:
    state = State()
    for each in (*LIFE, event("worker-online", freq=2.0)):
        state.event(dict(each))
    again = pickle.loads(pickle.dumps(state))
    assert again.tasks["t"].as_dict() | {"worker": None} == state.tasks["t"].as_dict() | {"worker": None}
    assert set(again.workers) == {"w@here"}


def test_clearing_keeps_what_is_not_ended() -> None:
    state = State()
    for each in (*LIFE, event("task-received", 5, uuid="u", name="x")):
        state.event(dict(each))
    state.clear_tasks()
    assert list(state.tasks) == ["u"]
    state.clear(ready=False)
    assert not state.tasks
    assert not state.workers


def test_a_custom_event_becomes_a_state() -> None:
    state = State()
    state.event(event("task-progress", 1, uuid="t", percent=40))
    assert state.tasks["t"].state == "PROGRESS"
    assert state.tasks["t"].percent == 40
    assert isinstance(state.tasks["t"], Task)


def test_messages_hold_one_event_or_many() -> None:
    for body in (LIFE[0], LIFE):
        payload = pack_native(write_events(body, "w@here", "json"))
        events = read_events(payload, frozenset({"application/json"}))
        assert events == (body if isinstance(body, list) else [body])
    with pytest.raises(DecodeError, match="an event must be"):
        read_events(pack_native(write_events([1], "w", "json")), frozenset({"application/json"}))  # type: ignore[list-item]
    assert routing_key("worker-heartbeat") == "worker.heartbeat"


def test_events_as_lines(capsys: pytest.CaptureFixture[str]) -> None:
    dumper = Dumper()
    for each in (*LIFE, event("worker-online"), event("worker-heartbeat", 5)):
        dumper.on_event({name: value for name, value in each.items() if name != "local_received"})
    lines = capsys.readouterr().out.splitlines()
    assert "task received: add(t) args=(1,) kwargs={}" in lines[0]
    assert "task succeeded: add(t) args=(1,) kwargs={}" in lines[2]
    assert "result=2" in lines[2]
    assert lines[3].endswith("started")
    assert lines[4].endswith("heartbeat")


def test_a_camera_is_given_the_state() -> None:
    seen = []

    class Camera(Polaroid):
        clear_after = True

        def on_shutter(self, state: State) -> None:
            seen.append(len(state.tasks))

    state = State()
    state.event(dict(LIFE[0]))
    camera = Camera(state, maxrate="1/h")
    camera.capture()
    camera.capture()
    assert seen == [1]
    assert not state.workers
