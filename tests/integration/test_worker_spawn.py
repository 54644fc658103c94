"""Pool processes that start from nothing."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.apps.stage import Stage, sqlite_stage
from tests.support.processes import is_alive
from tests.support.waiting import wait_until
from umbel import Umbel
from umbel.errors import ImproperlyConfigured

pytestmark = pytest.mark.processes


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with sqlite_stage(tmp_path, worker_pool_start_method="spawn") as found:
        yield found


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_tasks_run_in_new_interpreters_that_log_as_the_worker_does(stage: Stage, pool: str) -> None:
    worker = stage.worker("-c2", "--pool", pool)
    pids = {stage.send("pid").get(timeout=10) for _ in range(10)}
    assert worker.pid not in pids
    for pid in pids:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        assert "umbel.pools.child_main" in command
    name = "SpawnPoolWorker" if pool == "prefork" else "ThreadPoolWorker"
    worker.wait_for_line(rf"INFO/{name}-\d\] Task jobs.pid\[.*succeeded")
    worker.terminate()
    assert not any(is_alive(pid) for pid in pids)


def test_what_the_command_line_says_reaches_them(stage: Stage) -> None:
    worker = stage.worker(
        *("-c1", "--pool-start-method=spawn", "-n", "new@%h", "-l", "INFO"),
        *("--", "worker.redirect_stdouts_level=ERROR"),
    )
    assert stage.send("talk").get(timeout=10) is None
    worker.wait_for_line(r"ERROR/SpawnPoolWorker-1\] printed by the task")


def test_killed_ones_are_replaced(stage: Stage) -> None:
    worker = stage.worker("-c1", "--max-tasks-per-child=1")
    first = stage.send("pid").get(timeout=10)
    assert stage.send("pid").get(timeout=10) != first
    assert worker.alive


def test_the_program_itself_may_have_the_application(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent(
            """
            import os
            from umbel import Umbel

            app = Umbel(broker="sqlite:///jobs.db", backend="sqlite:///jobs.db")

            @app.task
            def add(x, y):
                return x + y, os.getppid()

            if __name__ == "__main__":
                with app.worker(start_method="spawn"):
                    print(add.name, *add.delay(2, 2).get(timeout=10), os.getpid())
            """
        )
    )
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True
    )
    name, total, parent, pid = done.stdout.split()
    assert (name, total) == ("__main__.add", "4")
    assert parent == pid


def test_an_application_that_cannot_be_imported_is_refused(tmp_path: Path) -> None:
    with (
        Umbel("hidden", broker=f"sqlite:///{tmp_path}/jobs.db", set_as_current=False) as app,
        pytest.raises(ImproperlyConfigured, match="global name in a module"),
    ):
        app.worker(start_method="spawn").start()


def test_an_application_of_a_module_is_found_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_a_module.py").write_text(
        textwrap.dedent(
            """
            from umbel import Umbel

            made = {}
            queue = Umbel("of_a_module", set_as_current=False)

            @queue.task
            def setting(name):
                return queue.conf[name]
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    import of_a_module  # type: ignore[import-not-found]

    url = f"sqlite:///{tmp_path}/jobs.db"
    # Changed after its import: the pool processes are told.
    of_a_module.queue.conf.update(broker_url=url, result_backend=url, worker_lost_wait=7.5)
    with of_a_module.queue.worker(start_method="spawn") as worker:
        assert of_a_module.setting.delay("worker_lost_wait").get(timeout=10) == 7.5
        wait_until(lambda: worker.counts["SUCCESS"] == 1, what="the count")
    of_a_module.queue.close()
