"""Both kinds of worker on one queue, both kinds of producer: every job runs once."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.interop.world import World

pytestmark = [pytest.mark.interop, pytest.mark.redis, pytest.mark.processes]

#: Jobs of each producer; ``LOAD_JOBS`` in the environment is another number.
BURST = int(os.environ.get("LOAD_JOBS", "500"))


@pytest.mark.timeout(120)
def test_none_is_lost_and_none_runs_twice(new_world: Callable[..., World], mark: str):
    with new_world() as world:
        queue = "load"
        workers = [world.worker(library, "-c2", "-Q", queue) for library in ("celery", "umbel")]
        sides = [world.celery, world.umbel]
        with ThreadPoolExecutor(2) as pool:
            ids = pool.map(lambda side: side.call("burst", "count", BURST, mark, queue=queue), sides)
            sent = [task_id for burst in ids for task_id in burst]
        world.wait_for(lambda: len(world.counts(mark)) >= len(sent), "all jobs", timeout=90)
        world.wait_nothing_held()
        counts = world.counts(mark)
        assert set(counts) == set(sent)
        assert set(counts.values()) == {1}
        shares = {library: world.total(f"{mark}:{library}") for library in ("celery", "umbel")}
        assert sum(shares.values()) == 2 * BURST
        assert min(shares.values()) > 0, shares
        for worker in workers:
            assert worker.terminate() == 0
        world.wait_nothing_held()
