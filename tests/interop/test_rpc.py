"""Results that are sent to their caller: either library's callers read what the other's workers send."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.interop.conftest import OTHER
from tests.interop.world import Side, World
from tests.support.servers import RedisServer

pytestmark = [pytest.mark.interop, pytest.mark.redis, pytest.mark.processes]


@pytest.fixture(scope="module")
def post(own_server: RedisServer, interop_python, ground) -> Iterator[World]:
    """Both sides, and a worker of each kind on ``to_celery`` and ``to_umbel``, with results by ``rpc://``."""
    with World(own_server, interop_python, ground, result_backend="rpc://") as world:
        workers = [world.worker(name, "-c2", "-Q", f"to_{name}", ready=False) for name in OTHER]
        for worker in workers:
            worker.ready()
        yield world


@pytest.fixture(params=["celery", "umbel"], ids=["celery-to-umbel", "umbel-to-celery"])
def caller(request: pytest.FixtureRequest, post: World) -> Side:
    return post.side(request.param)


@pytest.fixture
def callee(caller: Side) -> str:
    return f"to_{OTHER[caller.library]}"


def test_values_errors_and_what_comes_out_of_order(caller: Side, callee: str) -> None:
    ids = [caller.send("add", number, 1, queue=callee) for number in range(30)]
    failed = caller.send("fail", "value", queue=callee)
    assert [caller.value(task_id) for task_id in reversed(ids)] == list(reversed(range(1, 31)))
    outcome = caller.outcome(failed)
    assert (outcome["state"], outcome["error"]["type"], outcome["error"]["args"]) == (
        "FAILURE",
        "ValueError",
        ("boom", 3),
    )
    assert outcome["traceback"].startswith("Traceback (most recent call last):")


def test_states_on_the_way(post: World, caller: Side, callee: str, mark: str) -> None:
    # Celery's callers that have waited before look for nothing but what they wait for.
    caller = post.side(caller.library, result_persistent=False)
    task_id = caller.send("report", mark, queue=callee)
    post.wait_for(lambda: caller.state(task_id)[0] == "PROGRESS", "PROGRESS")
    assert caller.state(task_id) == ("PROGRESS", {"done": 40, "of": 100})
    post.open(mark)
    assert caller.value(task_id) == "done"
    if caller.library == "umbel":  # Celery's forgets what one handle has seen
        assert caller.state(task_id) == ("SUCCESS", "done")


def test_retries(caller: Side, callee: str, mark: str) -> None:
    assert caller.value(caller.send("persist", mark, 2, queue=callee)) == 2


def test_results_of_many_are_joined(caller: Side, callee: str) -> None:
    source = (
        "results = [app.send_task('add', (n, n), queue=queue) for n in range(100)]\n"
        "answer = app.ResultSet(results).get(timeout=20)\n"
    )
    assert caller.execute(source, queue=callee) == [2 * n for n in range(100)]


def test_every_thread_gets_its_own(caller: Side, callee: str) -> None:
    source = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "def ask(n):\n"
        "    return app.send_task('add', (n, 1), queue=queue).get(timeout=20)\n"
        "with ThreadPoolExecutor(5) as pool:\n"
        "    answer = list(pool.map(ask, range(50)))\n"
    )
    assert caller.execute(source, queue=callee) == list(range(1, 51))


def test_a_coroutine_awaits_what_celery_sends(post: World) -> None:
    source = (
        "import asyncio\n"
        "async def main(app):\n"
        "    results = [await app.tasks['add'].adelay(n, 1) for n in range(20)]\n"
        "    return [await result.aget(timeout=20) for result in results]\n"
        "app.conf.task_default_queue = 'to_celery'\n"
        "answer = asyncio.run(main(app))\n"
        "app.conf.task_default_queue = 'both'\n"
    )
    assert post.umbel.execute(source) == list(range(1, 21))


def test_whoever_is_gone_stops_nobody(new_world: Callable[..., World], library: str, mark: str) -> None:
    """A caller ends before its results come: the worker goes on."""
    world = new_world(result_backend="rpc://")
    gone = world.side(OTHER[library], task_ignore_result=False)
    waiting = gone.send("hold", mark, f"{mark}-gate", queue="q")
    gone.__exit__()
    worker = world.worker(library, "-c1", "-Q", "q")
    world.wait_for_notes(mark, 1)
    world.open(f"{mark}-gate")
    world.wait_for_notes(mark, 2)
    assert waiting
    other = world.side(OTHER[library])
    assert other.value(other.send("add", 1, 2, queue="q")) == 3
    assert worker.terminate() == 0
