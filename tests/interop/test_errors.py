"""Errors, states and tracebacks that one library stores and the other reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.conftest import OTHER
from tests.interop.world import Ground, Side, World
from tests.support.servers import RedisServer

pytestmark = [pytest.mark.interop, pytest.mark.redis, pytest.mark.processes]

#: What the task raises, and what its reader gets: the class, its arguments.
READ_AS = {
    "value": ("ValueError", ("boom", 3)),
    "key": ("KeyError", ("missing",)),
    "oserror": ("FileNotFoundError", (2, "No such file or directory")),
    "shared": ("Unhappy", ("known to both", {"code": 7})),
    "cause": ("ValueError", ("second",)),
}


@pytest.mark.parametrize("kind", READ_AS)
def test_errors_that_both_sides_know_are_raised_as_themselves(sender: Side, queue: str, kind: str):
    outcome = sender.outcome(sender.send("fail", kind, queue=queue))
    name, args = READ_AS[kind]
    assert outcome["state"] == "FAILURE"
    assert (outcome["error"]["type"], outcome["error"]["args"]) == (name, args)
    assert outcome["error"]["module"] == ("shared" if kind == "shared" else "builtins")
    assert outcome["traceback"].startswith("Traceback (most recent call last):")
    assert f"{name}" in outcome["traceback"].splitlines()[-1]
    assert ", in fail" in outcome["traceback"]


def test_out_of_memory_is_an_error_of_the_task_alone(world: World):
    """Celery's worker ends over it, so it is asked of Umbel's only."""
    for _ in range(3):
        error = world.celery.outcome(world.celery.send("fail", "memory", queue="to_umbel"))["error"]
        assert (error["type"], error["module"]) == ("MemoryError", "builtins")


def test_the_cause_is_in_the_traceback(sender: Side, queue: str):
    outcome = sender.outcome(sender.send("fail", "cause", queue=queue))
    assert "KeyError: 'first'" in outcome["traceback"]
    assert "direct cause of the following exception" in outcome["traceback"]


def test_a_class_that_only_the_worker_has_is_made_up(sender: Side, queue: str):
    outcome = sender.outcome(sender.send("fail", "local", queue=queue))
    error = outcome["error"]
    assert (error["type"], error["args"]) == ("OnlyHere", ("from afar", 1))
    assert error["bases"] == ["OnlyHere", "Exception", "BaseException", "object"]


def test_arguments_that_have_no_json_become_their_text(sender: Side, queue: str):
    error = sender.outcome(sender.send("fail", "unwritable", queue=queue))["error"]
    assert error["type"] == "RuntimeError"
    assert "<object object at" in error["text"]


def test_an_error_that_cannot_be_made_again_is_told_as_text(sender: Side, queue: str):
    """UnicodeDecodeError's arguments cross, its bytes as bytes."""
    error = sender.outcome(sender.send("fail", "unicode", queue=queue))["error"]
    assert error["type"] == "UnicodeDecodeError"
    assert "invalid start byte" in error["text"]


@pytest.mark.parametrize(
    "kind", ["NotRegistered", "TaskRevokedError", "ImproperlyConfigured", "ChordError", "BackendError"]
)
def test_celerys_own_errors_are_the_readers_own(world: World, sender: Side, queue: str, kind: str):
    outcome = sender.outcome(sender.send("fail", kind, queue=queue))
    assert outcome["error"]["type"] == kind
    assert "said by the task" in outcome["error"]["text"]
    own = "celery.exceptions" if sender.library == "celery" else "umbel.errors"
    assert sender.evaluate(f"issubclass(__import__('{own}', fromlist=['x']).{kind}, Exception)")
    assert outcome["error"]["module"] in {own, "celery.exceptions"}


@pytest.mark.parametrize(
    ("task", "name"),
    [("soft", "SoftTimeLimitExceeded"), ("hard", "TimeLimitExceeded"), ("die", "WorkerLostError")],
)
def test_what_the_pool_does_to_a_task(sender: Side, queue: str, task: str, name: str):
    outcome = sender.outcome(sender.send(task, queue=queue))
    assert (outcome["state"], outcome["error"]["type"]) == ("FAILURE", name)


def test_a_reader_catches_what_the_pool_did_by_its_own_class(sender: Side, queue: str):
    module = {"celery": "billiard.exceptions", "umbel": "umbel.errors"}[sender.library]
    caught = sender.execute(
        f"from {module} import SoftTimeLimitExceeded\n"
        "try:\n"
        "    app.send_task('soft', queue=queue).get(timeout=20)\n"
        "except SoftTimeLimitExceeded as error:\n"
        "    answer = repr(error)\n",
        queue=queue,
    )
    assert "SoftTimeLimitExceeded" in caught


def test_an_unknown_task_is_a_failure_at_its_sender(sender: Side, queue: str):
    outcome = sender.outcome(sender.send("nobody.knows", queue=queue))
    assert (outcome["state"], outcome["error"]["type"]) == ("FAILURE", "NotRegistered")
    assert "nobody.knows" in outcome["error"]["text"]


def test_an_expired_task_is_revoked(sender: Side, queue: str):
    task_id = sender.send("echo", 1, queue=queue, expires=-1)
    outcome = sender.outcome(task_id)
    assert outcome["state"] == "REVOKED"
    assert (outcome["error"]["type"], outcome["error"]["args"]) == ("TaskRevokedError", ("expired",))


def test_a_task_that_waits_expires(sender: Side, queue: str):
    task_id = sender.send("echo", 1, queue=queue, countdown=1, expires=0.5)
    assert sender.outcome(task_id)["state"] == "REVOKED"


def test_states_of_a_task_that_runs(world: World, sender: Side, queue: str, mark: str):
    task_id = sender.send("report", mark, queue=queue)
    world.wait_for(lambda: sender.state(task_id)[0] == "PROGRESS", "PROGRESS")
    assert sender.state(task_id) == ("PROGRESS", {"done": 40, "of": 100})
    world.open(mark)
    assert sender.value(task_id) == "done"


def test_started_names_the_worker(world: World, sender: Side, queue: str, mark: str):
    task_id = sender.send("hold", mark, f"{mark}-gate", queue=queue)
    world.wait_for(lambda: sender.state(task_id)[0] == "STARTED", "STARTED")
    _, info = sender.state(task_id)
    assert set(info) == {"pid", "hostname"}
    assert info["hostname"].startswith("celery@")
    world.open(f"{mark}-gate")
    assert sender.value(task_id) == OTHER[sender.library]


def test_ignore_stores_nothing(world: World, sender: Side, queue: str, mark: str):
    task_id = sender.send("fail", "ignore", queue=queue)
    sender.value(sender.send("record", mark, queue=queue))
    world.wait_settled(task_id)
    assert sender.state(task_id)[0] in {"PENDING", "STARTED"}


def test_revoke_told_by_the_handle_is_seen(sender: Side, queue: str):
    """Forgetting: the one removes what the other wrote."""
    task_id = sender.send("echo", 1, queue=queue)
    assert sender.value(task_id) == 1
    sender.execute("app.AsyncResult(task_id).forget()", task_id=task_id)
    assert sender.state(task_id) == ("PENDING", None)


@pytest.fixture(scope="module")
def extended(interop_python: Path, own_server: RedisServer, ground: Ground) -> Iterator[World]:
    with World(own_server, interop_python, ground, result_extended=True) as world:
        for library in ("celery", "umbel"):
            world.worker(library, "-c1", "-Q", f"extended_{library}", "-n", f"{library}@here")
        yield world


@pytest.mark.parametrize("reader", ["celery", "umbel"])
@pytest.mark.parametrize("worker", ["celery", "umbel"])
@pytest.mark.parametrize("kind", ["echo", "fail"])
def test_extended_results_are_written_and_read_the_same(extended: World, reader: str, worker: str, kind: str):
    side = extended.side(reader)
    outcome = side.outcome(side.send(kind, "value", queue=f"extended_{worker}"))
    told = {name: outcome[name] for name in ("name", "args", "kwargs", "worker", "retries", "queue")}
    assert told == {
        "name": kind,
        "args": ["value"],
        "kwargs": {},
        "worker": f"{worker}@here",
        "retries": 0,
        "queue": f"extended_{worker}",
    }
