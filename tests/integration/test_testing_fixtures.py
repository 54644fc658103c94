"""The fixtures that users get: `celery_app`, `celery_worker` and their like, in a pytest of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import logging
import time

import pytest
from umbel import shared_task, current_app
from umbel.testing.worker import start_worker

PLUGIN

@shared_task
def add(x, y):
    return x + y

@pytest.fixture(scope="session")
def celery_config():
    return {"task_default_queue": "mine"}

@pytest.fixture(scope="session")
def celery_worker_pool():
    return "threads"

def test_a_worker_leaves_the_log_as_it_was(celery_app):
    def state():
        names = ("", "celery", "celery.task", "celery.redirected")
        return [(each.level, each.propagate, each.handlers[:]) for each in map(logging.getLogger, names)]

    before = state()
    with start_worker(celery_app, pool="solo"):
        assert state() != before
    assert state() == before

def test_the_application_has_the_settings(celery_app):
    assert celery_app.conf.task_default_queue == "mine"
    assert celery_app.conf.broker_url == "memory://"

@pytest.mark.celery(task_default_queue="other")
def test_a_marker_changes_settings(celery_app):
    assert celery_app.conf.task_default_queue == "other"

def test_a_worker_runs_tasks(umbel_app, umbel_worker):
    assert add.delay(2, 3).get(timeout=10) == 5
    assert umbel_worker.state == "running"

def test_a_task_that_is_defined_in_the_test(celery_app, celery_worker):
    @celery_app.task
    def double(x):
        return 2 * x

    celery_worker.reload()
    assert double.delay(4).get(timeout=10) == 8

def test_the_session_has_a_worker_too(celery_session_app, celery_session_worker):
    celery_session_app.set_current()
    assert add.delay(1, 1).get(timeout=10) == 2

def test_a_worker_starts_at_once(celery_app):
    # Of its own it takes 10 ms of this process's CPU; the bound on the clock is for machines with much else to do.
    starts = []
    for _ in range(5):
        begun, cpu = time.perf_counter(), time.process_time()
        with start_worker(celery_app, pool="solo"):
            starts.append((time.perf_counter() - begun, time.process_time() - cpu))
    assert min(cpu for _, cpu in starts) < 0.05, starts
    assert min(seconds for seconds, _ in starts) < 0.5, starts

def test_nothing_stays_current(celery_app):
    assert current_app._get_current_object() is not celery_app
"""


@pytest.mark.parametrize("plugin", ["umbel.testing.fixtures", "celery.contrib.pytest"])
def test_users_tests_pass(tmp_path: Path, plugin: str):
    install = "" if plugin.startswith("umbel") else "import umbel; umbel.install_as_celery()\n"
    (tmp_path / "conftest.py").write_text(f'{install}pytest_plugins = ("{plugin}",)\n')
    (tmp_path / "test_users.py").write_text(TESTS.replace("PLUGIN", ""))
    done = subprocess.run(
        # In the order of the file: two workers of one queue would take each other's tasks.
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert "8 passed" in done.stdout, done.stdout + done.stderr
