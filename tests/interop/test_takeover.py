"""Workers of one library take over what a killed worker of the other had held, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.interop.conftest import OTHER
from tests.interop.world import World

pytestmark = [pytest.mark.interop, pytest.mark.redis, pytest.mark.processes]

#: Seconds. Celery looks for what is overdue every second here, and Umbel's lease is as short.
VISIBILITY = 2
SETTINGS = {
    "broker_transport_options": {
        "visibility_timeout": VISIBILITY,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    },
    "worker_lease_duration": 2,
    "worker_prefetch_multiplier": 4,
}


@pytest.fixture
def world(new_world: Callable[..., World]) -> World:
    return new_world(**SETTINGS)


def test_what_a_killed_worker_held_runs_on_the_other_librarys(world: World, library: str, mark: str):
    """One job was running, acknowledged late; others were waiting in the worker."""
    victim = world.worker(library, "-c1", "-Q", "q")
    side = world.side(library)
    running = side.send("hold_late", mark, f"{mark}-gate", queue="q")
    assert world.wait_for_notes(mark, 1) == [[library, "begins", False]]
    waiting = [side.send("record", f"{mark}-waiting", number, queue="q") for number in range(3)]
    world.wait_for(lambda: len(world.held()) == 4, "the worker to hold all four")
    victim.kill9()
    world.open(f"{mark}-gate")
    heir = world.worker(OTHER[library], "-c1", "-Q", "q")
    assert side.value(running, 30) == OTHER[library]
    assert world.notes(mark)[1] == [OTHER[library], "begins", True]
    for task_id in waiting:
        side.value(task_id)
    assert sorted(number for _, number in world.notes(f"{mark}-waiting")) == [0, 1, 2]
    world.wait_nothing_held()
    assert heir.terminate() == 0


def test_a_job_longer_than_the_visibility_timeout_runs_once(world: World, mark: str):
    """Umbel's worker keeps what it holds fresh, so Celery's leaves it alone."""
    holder = world.worker("umbel", "-c1", "-Q", "q")
    task_id = world.celery.send("hold_late", mark, None, 3 * VISIBILITY, queue="q")
    world.wait_for_notes(mark, 1)
    peer = world.worker("celery", "-c1", "-Q", "q")
    assert world.celery.value(task_id) == "umbel"
    assert world.celery.value(world.celery.send("record", f"{mark}-after", queue="q")) in {"celery", "umbel"}
    world.wait_nothing_held()
    assert world.notes(mark) == [["umbel", "begins", False], ["umbel", "ends"]]
    assert [worker.terminate() for worker in (peer, holder)] == [0, 0]


def test_a_worker_that_ends_gives_back_what_it_had_not_begun(world: World, library: str, mark: str):
    leaver = world.worker(library, "-c1", "-Q", "q")
    side = world.side(library)
    running = side.send("hold", mark, f"{mark}-gate", queue="q")
    world.wait_for_notes(mark, 1)
    waiting = [side.send("record", f"{mark}-waiting", number, queue="q") for number in range(3)]
    world.wait_for(lambda: len(world.held()) >= 3, "the worker to hold what waits")
    leaver.signal(15)
    world.open(f"{mark}-gate")
    assert leaver.wait() == 0
    assert side.value(running) == library
    heir = world.worker(OTHER[library], "-c1", "-Q", "q")
    for task_id in waiting:
        side.value(task_id)
    assert sorted(number for _, number in world.notes(f"{mark}-waiting")) == [0, 1, 2]
    assert heir.terminate() == 0
