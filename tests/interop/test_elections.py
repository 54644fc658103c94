"""Elections in a fleet of both libraries: all name the same leader, and it alone acts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.interop.world import World
from tests.support.workers import WorkerProcess

pytestmark = [pytest.mark.interop, pytest.mark.redis, pytest.mark.processes]

#: How many elections are held.
ELECTIONS = 5


def leader(worker: WorkerProcess, election: str) -> str:
    """Whom a worker names, by its node."""
    match = worker.wait_for_line(
        rf"(I won the election|node (\S+)\.\d+ elected for) '{election}'", timeout=30
    )
    return match[2] or "itself"


def test_workers_of_both_libraries_elect_one(new_world: Callable[..., World], mark: str) -> None:
    world = new_world(worker_hijack_root_logger=True)
    names = {"celery": ["c1@here", "c2@here"], "umbel": ["u1@here", "u2@here"]}
    fleet = {
        name: world.worker(library, "-c1", "-lINFO", "-n", name, alone=False, ready=False)
        for library in names
        for name in names[library]
    }
    for worker in fleet.values():
        worker.ready()
    # Celery's workers know of each other by their heartbeats.
    world.celery.evaluate("app.control.heartbeat()")
    for number in range(ELECTIONS):
        election = f"{mark}-{number}"
        side = world.celery if number % 2 else world.umbel
        task = side.evaluate("dict(app.signature('record', (name, n)))", name=mark, n=number)
        side.evaluate("app.control.election(id, 'task', task)", id=election, task=task)
        told = {name: leader(worker, election) for name, worker in fleet.items()}
        [chosen] = [name for name, said in told.items() if said == "itself"]
        assert set(told.values()) == {"itself", chosen}, told
        world.wait_for_notes(mark, number + 1)
    assert [note[1] for note in world.notes(mark)] == list(range(ELECTIONS))
    assert [worker.terminate() for worker in fleet.values()] == [0] * 4
