"""Real Celery can be had: its environment is made, its worker starts, runs a task and ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.peers import run_script
from tests.support.workers import WorkerProcess

APP = """
import os
from celery import Celery
app = Celery("shop", broker=os.environ["SHOP_URL"], backend=os.environ["SHOP_URL"])

@app.task
def add(x, y):
    return x + y
"""


@pytest.mark.interop
@pytest.mark.redis
@pytest.mark.timeout(300)
def test_a_real_celery_worker_runs_a_task(
    tmp_path: Path, interop_python: Path, redis_url: str, celery_worker: Callable[..., WorkerProcess]
) -> None:
    app_file = tmp_path / "shop.py"
    app_file.write_text(APP)
    worker = celery_worker(app_file, "-c", "2", env={"SHOP_URL": redis_url})
    assert len(worker.children()) == 2
    sum_of = run_script(
        interop_python,
        "import shop; print(shop.add.delay(2, 3).get(timeout=20))",
        cwd=tmp_path,
        env={"SHOP_URL": redis_url},
    )
    assert sum_of == "5\n"
    worker.wait_for_line(r"shop\.add\[.*succeeded in")
    assert worker.terminate() == 0
