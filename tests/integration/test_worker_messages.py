"""What a worker makes of the messages it takes: those that wait, those that must not run, those nobody can read."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.integration.apps.stage import Stage, redis_stage, sqlite_stage
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess
from umbel.core.destination import Destination
from umbel.core.envelope import Envelope
from umbel.core.records import Publication
from umbel.errors import NotRegistered, Reject, TaskRevokedError

pytestmark = pytest.mark.processes

HERE = Destination("", "celery", "celery")


class Scene:
    """One worker and what it is sent."""

    def __init__(self, stage: Stage, worker: WorkerProcess) -> None:
        self.stage = stage
        self.worker = worker

    def put(self, payload: bytes) -> None:
        publisher = self.stage.broker.publisher()
        publisher.send([Publication(HERE, payload)], timeout=10)
        publisher.close()

    def post(
        self,
        headers: dict[str, Any],
        body: bytes = b"[[], {}, null]",
        content_type: str = "application/json",
        encoding: str = "utf-8",
        **properties: Any,
    ) -> None:
        envelope = Envelope(headers, properties, content_type, encoding, body)
        self.put(self.stage.broker.pack(envelope, HERE))

    def still_works(self) -> None:
        assert self.stage.send("nothing", 1).get(timeout=10) == 1


@pytest.fixture(scope="module", params=["redis", "sqlite"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "redis":
        with redis_stage(directory, request.getfixturevalue("redis_server"), database=1) as stage:
            yield Scene(stage, stage.worker("-c2"))
    else:
        with sqlite_stage(directory) as stage:
            yield Scene(stage, stage.worker("-c2"))


# Those that wait


def test_a_near_countdown_waits_in_the_worker_and_is_received_once(scene: Scene) -> None:
    sent = time.time()
    result = scene.stage.send("note", "near", countdown=0.7)
    scene.worker.wait_for_line(rf"{result.id}\] received")
    assert scene.stage.broker.delayed_depth("celery") == 0
    assert result.get(timeout=10) == "near"
    assert 0.7 <= time.time() - sent < 1.5
    assert scene.worker.output.count(f"{result.id}] received") == 1


def test_what_expired_is_revoked_and_nothing_else(scene: Scene) -> None:
    late = scene.stage.send("note", "too late", expires=datetime.now(UTC) - timedelta(seconds=5))
    in_time = scene.stage.send("note", "in time", expires=60)
    with pytest.raises(TaskRevokedError, match="expired"):
        late.get(timeout=10)
    assert in_time.get(timeout=10) == "in time"
    assert scene.stage.lines("note", "too") == []
    scene.worker.wait_for_line(rf"Discarding revoked task: jobs\.note\[{late.id}\]")
    [line] = scene.stage.wait_for("signal", "task_revoked", "note", "jobs.note", late.id)
    assert line[-3:] == ["False", "None", "True"]


def test_what_expires_while_it_waits_in_the_worker_does_not_run(scene: Scene) -> None:
    held = [scene.stage.send("hold", f"slot {n}", "expiry gate") for n in range(2)]
    scene.stage.wait_for("begun", "slot", count=2)
    late = scene.stage.send("note", "waited", expires=datetime.now(UTC) + timedelta(seconds=0.3))
    scene.worker.wait_for_line(rf"{late.id}\] received")
    expired_at = time.time() + 0.4
    wait_until(lambda: time.time() > expired_at, what="the expiry")
    scene.stage.open("expiry gate")
    [result.get(timeout=10) for result in held]
    with pytest.raises(TaskRevokedError, match="expired"):
        late.get(timeout=10)
    assert scene.stage.lines("note", "waited") == []


def test_retries_come_at_their_time_and_no_earlier(scene: Scene) -> None:
    assert scene.stage.send("retry", 3, "plain", 0.3).get(timeout=10) == 3
    assert scene.stage.send("back_off", "doubling").get(timeout=10) == 2
    plain = [float(line[-1]) for line in scene.stage.lines("attempt", "plain")]
    doubling = [float(line[-1]) for line in scene.stage.lines("attempt", "doubling")]
    assert [after - before >= 0.3 for before, after in itertools.pairwise(plain)] == [True] * 3
    first, second = (after - before for before, after in itertools.pairwise(doubling))
    assert 1 <= first < 2 <= second < 3.5  # a factor below one counts as one, as in Celery
    assert scene.stage.lines("attempt", "plain")[0][2] == "0"
    with pytest.raises(ValueError, match="not yet"):
        scene.stage.send("retry", 9, "too many", 0).get(timeout=10)
    scene.stage.wait_empty()


def test_a_rate_limit_holds_for_its_task_alone(scene: Scene) -> None:
    for mark in range(12):
        scene.stage.send("paced", mark)
    begun = time.monotonic()
    scene.still_works()
    assert time.monotonic() - begun < 0.6
    times = sorted(float(line[-1]) for line in scene.stage.wait_for("paced", count=12))
    assert times[-1] - times[0] >= 1.05  # eleven waits of a tenth of a second
    assert times[-1] - times[0] < 3
    scene.stage.wait_empty()


# Those that end without a result of their body


def test_rejected_and_ignored(scene: Scene) -> None:
    stage, before = scene.stage, len(scene.stage.dead())
    with pytest.raises(Reject):
        stage.send("refuse", False).get(timeout=10)
    assert "not this one" in stage.wait_for_dead(before + 1)[-1].reason
    assert stage.send("refuse_once").get(timeout=10) == "second time"
    ignored = stage.send("ignore")
    scene.worker.wait_for_line(rf"Task jobs\.ignore\[{ignored.id}\] ignored")
    assert ignored.state == "PENDING"
    stage.wait_empty()


def test_an_unknown_task_has_failed_and_is_a_dead_letter(scene: Scene) -> None:
    stage, before = scene.stage, len(scene.stage.dead())
    result = stage.app.send_task("nobody.knows", (1,))
    with pytest.raises(NotRegistered):
        result.get(timeout=10)
    assert "nobody.knows" in stage.wait_for_dead(before + 1)[-1].reason
    scene.worker.wait_for_line("Received unregistered task of type 'nobody.knows'")
    assert scene.worker.output.count(result.id) == 1
    scene.still_works()


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_content_that_is_not_accepted_is_never_decoded(scene: Scene, tmp_path: Path) -> None:
    stage, before = scene.stage, len(scene.stage.dead())
    task_id = str(uuid4())
    headers = {"task": "jobs.note", "id": task_id, "lang": "py"}
    bomb = pickle.dumps(((Bomb(tmp_path / "boom"),), {}, {}))
    scene.post(headers, bomb, "application/x-python-serialize", "binary")
    scene.post({}, pickle.dumps(Bomb(tmp_path / "boom")), "application/x-python-serialize", "binary")
    letters = stage.wait_for_dead(before + 2)[before:]
    assert all("pickle" in letter.reason or "x-python-serialize" in letter.reason for letter in letters)
    assert not (tmp_path / "boom").exists()
    wait_until(
        lambda: stage.app.AsyncResult(task_id).state == "FAILURE", what="the result of the refused task"
    )
    scene.still_works()


GARBAGE = {
    "nothing": b"",
    "text": b"hello, this is not a message",
    "json that is no message": b'{"a": 1}',
    "a list": b"[1, 2, 3]",
    "zeros": b"\0" * 100,
    "half a message": b'{"body": "W1tdLCB7fSwgbnVsbF0=", "content-encoding": "utf-8", "content-ty',
    "headers that are a list": b'{"body": "", "headers": [1], "properties": {}}',
}


@pytest.mark.parametrize("payload", GARBAGE.values(), ids=GARBAGE)
def test_what_is_no_message_is_a_dead_letter_with_its_reason(scene: Scene, payload: bytes) -> None:
    before, printed = len(scene.stage.dead()), scene.worker.line_count
    scene.put(payload)
    letter = scene.stage.wait_for_dead(before + 1)[-1]
    assert letter.payload == payload
    assert letter.reason
    scene.worker.wait_for_line("Can't decode message", since=printed)
    scene.still_works()
    # By its size: what another message has led to may be printed as late as this.
    assert "\n".join(scene.worker.output.splitlines()[printed:]).count(f", {len(payload)} bytes]") == 1
    scene.stage.wait_empty()


MISSHAPEN: dict[str, tuple[dict[str, Any], bytes]] = {
    "an eta that is no instant": ({"eta": "soon"}, b"[[1], {}, null]"),
    "an expiry that is a list": ({"expires": [1]}, b"[[1], {}, null]"),
    "a body that is no json": ({}, b"[[1], {}"),
    "a body without arguments": ({}, b"{}"),
    "arguments that are a number": ({}, b"[1, {}, null]"),
    "a task that is a number": ({"task": 7}, b"[[1], {}, null]"),
    "a limit that is text": ({"timelimit": ["a", "b"]}, b"[[1], {}, null]"),
    "retries that are text": ({"retries": "many"}, b"[[1], {}, null]"),
    "a compression nobody knows": ({"compression": "application/x-none"}, b"[[1], {}, null]"),
}


@pytest.mark.parametrize(("changed", "body"), MISSHAPEN.values(), ids=MISSHAPEN)
def test_a_misshapen_message_does_not_stop_the_worker(
    scene: Scene, changed: dict[str, Any], body: bytes
) -> None:
    scene.post({"task": "jobs.nothing", "id": str(uuid4()), "lang": "py", **changed}, body)
    scene.still_works()
    scene.stage.wait_empty()


def test_minimal_headers_are_enough(scene: Scene) -> None:
    task_id = str(uuid4())
    scene.post({"task": "jobs.note", "id": task_id}, b'[["minimal"], {}]')
    assert scene.stage.app.AsyncResult(task_id).get(timeout=10) == "minimal"


def test_protocol_one_runs(scene: Scene) -> None:
    task_id = str(uuid4())
    body = {"task": "jobs.note", "id": task_id, "args": ["old"], "kwargs": {}, "retries": 0, "eta": None}
    scene.post({}, json.dumps(body).encode())
    assert scene.stage.app.AsyncResult(task_id).get(timeout=10) == "old"


# With settings or a broker of their own


@pytest.fixture
def stage(tmp_path: Path, redis_server: RedisServer) -> Iterator[Stage]:
    with redis_stage(tmp_path, redis_server) as found:
        yield found


def test_revoked_ids_do_not_run(stage: Stage) -> None:
    task_id = str(uuid4())
    worker = stage.worker("-c1", env={"REVOKED": task_id})
    result = stage.send("note", "revoked", task_id=task_id)
    with pytest.raises(TaskRevokedError, match="revoked"):
        result.get(timeout=10)
    worker.wait_for_line(rf"Discarding revoked task: jobs\.note\[{task_id}\]")
    [line] = stage.wait_for("signal", "task_revoked")
    assert line[-3:] == ["False", "None", "False"]
    assert stage.lines("note") == []


def test_a_long_queue_of_a_limited_task_does_not_fill_the_worker(stage: Stage) -> None:
    stage.worker("-c1")
    for mark in range(300):
        stage.send("paced", mark)
    # Fifty are at most held for the next five seconds; the rest waits in the broker.
    wait_until(
        lambda: stage.broker.depth("celery") == 0 and stage.broker.held_depth() <= 60,
        what=lambda: f"{stage.broker.depth('celery')} waiting, {stage.broker.held_depth()} held",
    )
    assert stage.broker.delayed_depth("celery") > 200
    begun = len(stage.wait_for("paced", count=20))
    assert begun < 300
    assert stage.send("nothing", 1).get(timeout=5) == 1


def test_a_far_eta_waits_in_the_broker(stage: Stage) -> None:
    stage.worker("-c1")
    result = stage.send("note", "far", eta=datetime.now(UTC) + timedelta(hours=1))
    wait_until(lambda: stage.broker.delayed_depth("celery") == 1, what="a parked message")
    wait_until(lambda: stage.broker.held_depth() == 0, what="nothing held")
    assert stage.send("nothing", 1).get(timeout=5) == 1
    assert result.state == "PENDING"
    assert stage.lines("note", "far") == []


def test_many_far_etas_leave_the_worker_small(stage: Stage) -> None:
    worker = stage.worker("-c1")
    assert stage.send("nothing", 1).get(timeout=10) == 1
    before = _resident(worker.pid)
    eta = datetime.now(UTC) + timedelta(hours=2)
    for _ in range(3000):
        stage.send("note", "x" * 1000, eta=eta)
    wait_until(
        lambda: stage.broker.delayed_depth("celery") == 3000 and stage.broker.held_depth() == 0,
        what="all of them parked",
    )
    assert _resident(worker.pid) - before < 8 << 20
    assert stage.lines("note") == []


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
