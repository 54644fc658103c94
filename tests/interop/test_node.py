"""celery-node, the Celery client and worker for Node.js, with Umbel's workers and producers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import absent
from tests.interop.nodejs import node_home
from tests.interop.world import World
from tests.support.servers import ServerMissingError
from tests.support.workers import WorkerProcess

pytestmark = [pytest.mark.interop, pytest.mark.redis, pytest.mark.processes]


@pytest.fixture(scope="module")
def broker() -> str:
    return "redis"


@pytest.fixture(scope="session")
def node() -> Path:
    try:
        return node_home()
    except ServerMissingError as error:
        absent(str(error))
        raise


@contextmanager
def node_worker(world: World, node: Path, queue: str) -> Iterator[WorkerProcess]:
    argv = ["node", "work.js", world.server.url(), queue]
    with WorkerProcess(argv, cwd=node, name="celery-node worker") as worker:
        worker.wait_for_line("node worker is ready")
        yield worker


def produce(
    world: World, node: Path, protocol: int, task: str, *args: Any, queue: str = "to_umbel", **kwargs: Any
) -> dict[str, Any]:
    """Send a task and wait for its result, all in Node.js."""
    words = [world.server.url(), queue, str(protocol), task, json.dumps(args), json.dumps(kwargs)]
    done = subprocess.run(
        ["node", "produce.js", *words], cwd=node, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


@pytest.mark.parametrize("protocol", [1, 2])
class TestProducer:
    def test_a_task_runs_and_its_result_is_read(self, world: World, node: Path, protocol: int):
        value = {"text": "grüße 🐝", "list": [1, 2.5, None, True]}
        outcome = produce(world, node, protocol, "echo", value)
        assert outcome["value"] == value
        assert world.celery.value(outcome["id"]) == world.umbel.value(outcome["id"]) == value

    def test_what_the_message_does_not_say_is_as_celery_has_it(self, world: World, node: Path, protocol: int):
        of_itself = {"library", "id", "correlation_id", "root_id", "delivery_info"}
        if protocol == 1:  # what such messages cannot say Umbel's worker fills in, Celery's leaves it empty
            of_itself |= {"argsrepr", "kwargsrepr", "stamps", "headers"}
        told = []
        for queue in ("to_celery", "to_umbel"):
            answer = produce(world, node, protocol, "describe", 1, queue=queue, x=2)["value"]
            told.append({key: value for key, value in answer.items() if key not in of_itself})
        assert told[0] == told[1]
        assert (answer["args"], answer["kwargs"], answer["retries"]) == ([1], {"x": 2}, 0)

    def test_an_error_is_an_error_over_there(self, world: World, node: Path, protocol: int):
        outcome = produce(world, node, protocol, "fail", "value")
        assert "value" not in outcome
        assert world.celery.outcome(outcome["id"])["error"]["args"] == ("boom", 3)

    def test_a_task_retries(self, world: World, node: Path, protocol: int, mark: str):
        assert produce(world, node, protocol, "persist", mark, 2)["value"] == 2
        assert [attempt for _, attempt in world.notes(mark)] == [0, 1, 2]


def test_a_node_worker_runs_what_umbel_sends(world: World, node: Path, mark: str):
    with node_worker(world, node, mark):
        umbel = world.umbel
        assert umbel.value(umbel.send("node.add", 40, 2, queue=mark)) == 42
        assert umbel.value(umbel.send("node.named", kwargs={"x": "by name"}, queue=mark)) == "by name"
        value = {"text": "grüße", "none": None}
        assert umbel.value(umbel.send("node.echo", value, queue=mark, priority=0)) == value


def test_a_node_workers_error_is_an_error_here(world: World, node: Path, mark: str):
    """It stores no class of error, only that the task has failed."""
    with node_worker(world, node, mark):
        outcome = world.umbel.outcome(world.umbel.send("node.fail", queue=mark))
        assert outcome["state"] == "FAILURE"
        assert outcome["error"] is not None
