"""Remote control across libraries on one Redis: each revokes the other's tasks and sees the other's workers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop.world import APP, Side, World
from tests.support.peers import run_script
from tests.support.workers import WorkerProcess

pytestmark = [pytest.mark.interop, pytest.mark.redis, pytest.mark.processes]

OTHER = {"celery": "umbel", "umbel": "celery"}


@pytest.fixture
def place(new_world: Callable[..., World], library: str) -> tuple[Side, WorkerProcess, World]:
    """The library's side, and a worker of the other one with one slot; its queue is ``both``."""
    world = new_world()
    return world.side(library), world.worker(OTHER[library], "-c1", "-none@here"), world


def is_refused(side: Side, task_id: str, reason: str) -> None:
    outcome = side.outcome(task_id)
    assert outcome["state"] == "REVOKED"
    assert outcome["error"]["type"] == "TaskRevokedError"
    assert outcome["error"]["args"] == (reason,)


def test_a_waiting_task_is_revoked_at_once_and_never_run(
    place: tuple[Side, WorkerProcess, World], mark: str
) -> None:
    side, worker, world = place
    running = side.send("hold", mark, f"{mark}-gate")
    world.wait_for_notes(mark, 1)
    waiting = [side.send("record", f"{mark}-record", number) for number in range(20)]
    side.evaluate("app.control.revoke(ids)", ids=[waiting[0], waiting[-1]])
    is_refused(side, waiting[0], "revoked")
    is_refused(side, waiting[-1], "revoked")
    world.open(f"{mark}-gate")
    assert side.value(running) == OTHER[side.library]
    assert side.value(waiting[-2]) == OTHER[side.library]
    worker.wait_for_line(rf"Discarding revoked task: record\[{re.escape(waiting[-1])}\]")
    world.wait_nothing_held()
    assert [note[1] for note in world.notes(f"{mark}-record")] == list(range(1, 19))
    is_refused(side, waiting[0], "revoked")


@pytest.mark.parametrize("task", ["hold", "hold_late"])
def test_a_running_task_is_ended(place: tuple[Side, WorkerProcess, World], mark: str, task: str) -> None:
    side, worker, world = place
    task_id = side.send(task, mark, f"{mark}-gate")
    world.wait_for_notes(mark, 1)
    side.evaluate("app.AsyncResult(task_id).revoke(terminate=True, signal='KILL')", task_id=task_id)
    is_refused(side, task_id, "terminated")
    worker.wait_for_line(rf"Terminating {task_id} ")
    assert side.value(side.send("add", 1, 2), 30) == 3  # Celery looks after its processes every few seconds
    world.wait_nothing_held()
    assert len(world.notes(mark)) == 1


def test_answers_come_back(place: tuple[Side, WorkerProcess, World]) -> None:
    side, _, world = place
    ping = "app.control.broadcast('ping', reply=True, timeout=5, limit=1)"
    assert side.evaluate(ping) == [{"one@here": {"ok": "pong"}}]
    chosen = "app.control.broadcast('ping', reply=True, timeout=5, destination=['one@here'])"
    assert side.evaluate(chosen) == [{"one@here": {"ok": "pong"}}]
    others = "app.control.broadcast('ping', reply=True, timeout=0.3, destination=['two@here'])"
    assert not side.evaluate(others)
    by_pattern = (
        "app.control.broadcast('ping', reply=True, timeout=5, limit=1, pattern='one@.*', matcher='pcre')"
    )
    assert side.evaluate(by_pattern) == [{"one@here": {"ok": "pong"}}]
    [answer] = side.evaluate("app.control.revoke('nobody', reply=True, timeout=5, limit=1, terminate=True)")
    assert answer == {"one@here": {"ok": "terminate: tasks unknown"}}
    world.wait_for(
        lambda: not world.redis.exists("_kombu.binding.reply.celery.pidbox"), "no reply queue left"
    )


CLI = "import sys; from celery.__main__ import main; sys.argv[0] = 'celery'; sys.exit(main())"


def test_celerys_programs_see_both_workers(new_world: Callable[..., World], interop_python: Path) -> None:
    world = new_world()
    for library in ("celery", "umbel"):
        world.worker(library, "-c1", f"-n{library}@here")
    seen = world.celery.evaluate("app.control.inspect(timeout=3, limit=2).ping()")
    assert seen == {"celery@here": {"ok": "pong"}, "umbel@here": {"ok": "pong"}}
    for command in (["status"], ["inspect", "ping"]):
        told = run_script(
            interop_python,
            CLI,
            "-A",
            "shared",
            *command,
            "--timeout=3",
            cwd=APP.parent,
            env=world.environment(),
        )
        assert "celery@here" in told
        assert "umbel@here" in told
        assert "2 nodes online" in told
    world.celery.evaluate("app.control.shutdown(destination=['umbel@here'])")
    world.wait_for(
        lambda: (
            world.celery.evaluate("app.control.inspect(timeout=0.3).ping()")
            == {"celery@here": {"ok": "pong"}}
        ),
        "the end of the one that was told to",
    )


def test_workers_that_start_later_know_what_either_library_revoked(
    new_world: Callable[..., World], library: str
) -> None:
    """Celery's own order reaches the workers that run; they have the broker keep what it names."""
    world = new_world()
    side = world.side(library)
    first = world.worker("umbel", "-c1", "-nfirst@here")
    waiting = side.send("record", "later-record", 1, countdown=4)
    side.evaluate("app.control.revoke(task_id)", task_id=waiting)
    first.wait_for_line(f"Tasks flagged as revoked: {waiting}")
    is_refused(side, waiting, "revoked")
    first.kill9()
    second = world.worker("umbel", "-c1", "-nsecond@here")
    second.wait_for_line(rf"Discarding revoked task: record\[{re.escape(waiting)}\]")
    assert world.notes("later-record") == []


def test_stamped_tasks_are_revoked_together_those_that_run_too(
    place: tuple[Side, WorkerProcess, World], mark: str
) -> None:
    side, worker, world = place

    def stamped(customer: str, *args: object) -> str:
        sent = side.execute(
            "task = app.signature(name, args)\ntask.stamp(customer=customer)\nanswer = task.apply_async().id",
            name=args[0],
            args=args[1:],
            customer=customer,
        )
        return str(sent)

    running = stamped("x", "hold", mark, f"{mark}-gate")
    world.wait_for_notes(mark, 1)
    waiting = [stamped(customer, "record", f"{mark}-record", customer) for customer in "xyx"]
    side.evaluate(
        "app.control.revoke_by_stamped_headers({'customer': ['x', 'z']}, terminate=True, signal='KILL')"
    )
    is_refused(side, running, "terminated")
    assert side.value(waiting[1], 30) == OTHER[side.library]
    is_refused(side, waiting[0], "revoked")
    is_refused(side, waiting[2], "revoked")
    worker.wait_for_line(rf"Discarding revoked task: record\[{re.escape(waiting[2])}\]")
    world.wait_nothing_held()
    assert [note[1] for note in world.notes(f"{mark}-record")] == ["y"]
