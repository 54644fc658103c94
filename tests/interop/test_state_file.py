"""The state file of a worker: what one library has written the other reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop.world import World

pytestmark = [pytest.mark.interop, pytest.mark.redis, pytest.mark.processes]


@pytest.mark.parametrize("first", ["celery", "umbel"])
@pytest.mark.parametrize("second", ["celery", "umbel"])
def test_revoked_ids_outlast_a_worker(
    new_world: Callable[..., World], tmp_path: Path, first: str, second: str
) -> None:
    world = new_world()
    options = ("-c1", "-Q", "q", "-n", "w@here", f"--statedb={tmp_path}/%n.state")
    worker = world.worker(first, *options)
    [answer] = world.celery.evaluate("app.control.revoke('gone', reply=True, limit=1, timeout=30)")
    assert "ok" in answer["w@here"]
    assert worker.terminate() == 0
    worker = world.worker(second, *options)
    assert "gone" in world.celery.evaluate("app.control.inspect(timeout=30, limit=1).revoked()")["w@here"]
    world.celery.evaluate("app.send_task('echo', ('never',), task_id='gone', queue='q').id")
    worker.wait_for_line(r"Discarding revoked task: echo\[gone\]")
    assert worker.terminate() == 0
