"""Remote control across libraries: questions and orders of either to the other's workers, by API and command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.interop.world import APP, World
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.interop, pytest.mark.redis, pytest.mark.processes]


@pytest.fixture
def alone(new_world: Callable[..., World]) -> World:
    """A world whose only worker is Umbel's."""
    return new_world()


def works(world: World, queue: str) -> bool:
    return world.celery.value(world.celery.send("echo", "alive", queue=queue)) == "alive"


def asked(world: World, question: str) -> Any:
    """What the only worker answers to a question of Celery's and, the same, of Umbel's."""
    told = [
        side.evaluate(f"app.control.inspect(timeout=2, limit=1).{question}")
        for side in (world.celery, world.umbel)
    ]
    answers = [answer["u@here"] for answer in told]
    return answers[0] if answers[0] == answers[1] else answers


def ordered(world: World, order: str) -> Any:
    """The answer to an order of Celery's program."""
    [answer] = world.celery.evaluate(f"app.control.{order[:-1]}, reply=True, timeout=2, limit=1)")
    return answer["u@here"]


def test_questions_of_both_libraries_have_the_same_answers(alone: World, mark: str):
    worker = alone.worker("umbel", "-c1", "-Q", "q", "-n", "u@here")
    assert asked(alone, "ping()") == {"ok": "pong"}
    assert "software -> celery:5.7.0" in asked(alone, "report()")["ok"]
    assert all(each["clock"] > 0 for each in asked(alone, "clock()"))
    assert {"echo [exchange=None]", "echo"} & {
        each.partition(" [rate")[0] for each in asked(alone, "registered()")
    }
    assert "echo [name=echo]" in asked(alone, "registered('name')")
    scheme = alone.environment()["BROKER"].partition("://")[0]
    assert asked(alone, "conf()")["broker_url"].startswith(f"{scheme}://")
    [queue] = asked(alone, "active_queues()")
    assert (queue["name"], queue["exchange"]["type"], len(queue), len(queue["exchange"])) == (
        "q",
        "direct",
        18,
        8,
    )
    for stats in asked(alone, "stats()"):
        assert (stats["pid"], stats["pool"]["max-concurrency"]) == (worker.pid, 1)
        assert stats["broker"]["transport"] == scheme
    assert asked(alone, "query_task('nobody')") == {}
    assert asked(alone, "active()") == asked(alone, "reserved()") == asked(alone, "scheduled()") == []
    assert worker.terminate() == 0


def test_what_is_in_hand_is_told(alone: World, mark: str):
    worker = alone.worker("umbel", "-c1", "-Q", "q", "-n", "u@here")
    running = alone.celery.send("hold", mark, f"{mark}-gate", queue="q")
    alone.wait_for_notes(mark, 1)
    waiting = alone.umbel.send("echo", 1, queue="q")
    later = alone.celery.send("echo", 2, queue="q", countdown=4)
    info = {
        "id": running,
        "name": "hold",
        "args": [mark, f"{mark}-gate"],
        "kwargs": {},
        "type": "hold",
        "hostname": "u@here",
        "delivery_info": {"exchange": "", "routing_key": "q", "priority": 0, "redelivered": False},
    }
    wait_until(
        lambda: asked(alone, "reserved()") != [] and asked(alone, "scheduled()") != [],
        timeout=10,
        what="the worker to have them",
    )
    [active] = asked(alone, "active()")
    assert info.items() <= active.items()
    assert active["worker_pid"] in worker.members()
    assert [each["id"] for each in asked(alone, "reserved()")] == [waiting]
    [held] = asked(alone, "scheduled()")
    assert (held["request"]["id"], held["request"]["args"], held["priority"]) == (later, [2], 6)
    assert asked(alone, f"query_task({running!r})")[running][0] == "active"
    ordered(alone, f"revoke({running!r}, terminate=True, signal='KILL')")
    assert running in asked(alone, "revoked()")
    assert alone.celery.value(waiting) == 1
    assert alone.celery.value(later) == 2
    assert worker.terminate() == 0


def test_orders_are_obeyed(alone: World):
    worker = alone.worker("umbel", "-c1", "-Q", "q", "-n", "u@here")
    assert ordered(alone, "rate_limit('echo', '600/m')") == {"ok": "new rate limit set successfully"}
    assert "echo [rate_limit=600/m]" in asked(alone, "registered('rate_limit')")
    assert ordered(alone, "rate_limit('echo', 0)") == {"ok": "rate limit disabled successfully"}
    assert ordered(alone, "rate_limit('nothing', '1/s')") == {"error": "unknown task"}
    assert "Invalid rate limit string" in ordered(alone, "rate_limit('echo', 'often')")["error"]
    assert ordered(alone, "time_limit('echo', 50, 60)") == {"ok": "time limits set successfully"}
    assert ordered(alone, "pool_grow(2)") == {"ok": "pool will grow"}
    wait_until(
        lambda: len(asked_now(alone)["pool"]["processes"]) == 3, timeout=10, what="the worker to have them"
    )
    assert ordered(alone, "pool_shrink(1)") == {"ok": "pool will shrink"}
    wait_until(
        lambda: len(asked_now(alone)["pool"]["processes"]) == 2, timeout=10, what="the worker to have them"
    )
    assert "error" in ordered(alone, "autoscale(3, 1)")
    assert ordered(alone, "add_consumer('elsewhere')") == {"ok": "add consumer elsewhere"}
    assert works(alone, "elsewhere")
    assert ordered(alone, "cancel_consumer('q')") == {"ok": "no longer consuming from q"}
    left = alone.celery.send("echo", "later", queue="q")
    assert works(alone, "elsewhere")
    assert [each["name"] for each in asked(alone, "active_queues()")] == ["elsewhere"]
    assert ordered(alone, "add_consumer('q')") == {"ok": "add consumer q"}
    assert alone.celery.value(left) == "later"
    # Orders on each other's heels: the second comes while the first is being seen to.
    for number in range(6):
        alone.umbel.evaluate(f"app.control.add_consumer('more{number}')")
    assert all(works(alone, f"more{number}") for number in range(6))
    alone.celery.evaluate("app.control.shutdown()")
    assert worker.wait() == 0


def test_a_pool_is_restarted_where_that_is_allowed(new_world: Callable[..., World], mark: str):
    world = new_world(worker_pool_restarts=True)
    worker = world.worker("umbel", "-c2", "-Q", "q", "-n", "u@here")
    before = set(asked_now(world)["pool"]["processes"])
    running = world.celery.send("hold", mark, f"{mark}-gate", queue="q")
    world.wait_for_notes(mark, 1)
    assert world.celery.evaluate("app.control.pool_restart(reply=True, timeout=5, limit=1)")[0]["u@here"] == {
        "ok": "reload started"
    }
    assert works(world, "q")
    world.open(f"{mark}-gate")
    assert world.celery.value(running) == "umbel"
    wait_until(
        lambda: not before & set(asked_now(world)["pool"]["processes"]), timeout=15, what="new processes only"
    )
    assert worker.terminate() == 0


def asked_now(world: World) -> Any:
    return world.umbel.evaluate("app.control.inspect(timeout=2, limit=1).stats()")["u@here"]


@pytest.mark.parametrize(
    ("library", "workers"), [("celery", "umbel"), ("umbel", "umbel"), ("umbel", "celery")]
)
def test_the_command_lines_of_both_libraries(alone: World, interop_python: Path, library: str, workers: str):
    worker = alone.worker(workers, "-c1", "-Q", "q", "-n", "u@here")
    python = interop_python if library == "celery" else Path(sys.executable)

    def told(*words: str) -> subprocess.CompletedProcess[str]:
        program = [str(python), "-m", library, "-A", "shared", *words]
        environment = {**os.environ, **alone.environment()}
        return subprocess.run(
            program, check=False, capture_output=True, text=True, cwd=APP.parent, env=environment, timeout=60
        )

    here = ("-d", "u@here", "-t", "20")  # with a destination nobody waits for more answers than its own
    status = told("status", *here).stdout
    assert "->  u@here: OK" in status
    assert "1 node online." in status
    assert "* echo" in told("inspect", "registered", *here).stdout
    assert json.loads(told("inspect", "ping", "--json", *here).stdout) == {"u@here": {"ok": "pong"}}
    assert "new rate limit set successfully" in told("control", "rate_limit", "echo", "10/m", *here).stdout
    unknown = told("inspect", "dance")
    assert unknown.returncode != 0
    assert "dance" in unknown.stderr
    assert "pool_grow" in told("control", "--list").stdout
    nobody = told("inspect", "ping", "-d", "x@nowhere", "-t", "1")
    assert nobody.returncode == 69
    assert "No nodes replied within time constraint" in nobody.stderr
    assert worker.terminate() == 0


def test_a_celery_worker_with_everything_on_is_at_home_beside_umbels(
    new_world: Callable[..., World], mark: str
):
    """Gossip, mingle, heartbeats and events of the one pass by the other."""
    world = new_world(worker_send_task_events=True, task_send_sent_event=True)
    umbel = world.worker("umbel", "-c1", "-Q", "q", "-n", "u@here")
    celery = world.worker("celery", "-c1", "-Q", "q", "-E", "-n", "c@here", alone=False)
    assert "mingle: sync complete" in celery.output
    ids = [side.send("record", mark, queue="q") for _ in range(40) for side in (world.celery, world.umbel)]
    ran = [world.celery.value(task_id) for task_id in ids]
    assert len(world.notes(mark)) == len(ran) == 80
    answer = world.celery.evaluate("app.control.inspect(timeout=1).ping()")
    assert answer == {"c@here": {"ok": "pong"}, "u@here": {"ok": "pong"}}
    assert [worker.terminate() for worker in (celery, umbel)] == [0, 0]
