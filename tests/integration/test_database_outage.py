"""A database of results that dies while a worker stores: what was done is stored when it is back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.datastores import PostgresServer
from tests.support.waiting import wait_until
from umbel import Umbel
from umbel.errors import BackendError

pytestmark = [pytest.mark.redis, pytest.mark.processes]

pytest.importorskip("sqlalchemy")

PROJECT = """
import os
from umbel import Umbel

app = Umbel("proj", broker=os.environ["BROKER"], backend=os.environ["BACKEND"])

@app.task
def add(x, y):
    return x + y
"""


def test_results_survive_the_death_of_their_database(umbel_worker, redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "proj.py").write_text(PROJECT)
    with PostgresServer() as server:
        backend = f"db+{server.url(server.add_database())}"
        worker = umbel_worker(tmp_path / "proj.py", "-c", "1", env={"BROKER": redis_url, "BACKEND": backend})
        with Umbel("caller", broker=redis_url, backend=backend, set_as_current=False) as app:
            app.conf.result_backend_always_retry = False
            send = [app.send_task("proj.add", (number, 1)) for number in range(3)]
            assert [result.get(timeout=20) for result in send] == [1, 2, 3]
            server.kill9()
            lost = app.send_task("proj.add", (40, 2))
            worker.wait_for_line("Results cannot be stored: ")
            with pytest.raises(BackendError):
                app.backend.load([lost.id])
            server.restart()
            # The worker's pauses between tries have grown by now.
            wait_until(
                lambda: lost.state == "SUCCESS", timeout=60, what="the result of a task that ended meanwhile"
            )
            assert lost.get(timeout=20) == 42
        assert worker.terminate() == 0
