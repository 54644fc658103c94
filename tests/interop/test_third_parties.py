"""Well-known packages that import celery and kombu, with Umbel in their place."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from conformance.environments import ensure_third_parties
from scripts.environments import pip_of
from tests.support.peers import run_script

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

SCRIPTS = Path(__file__).with_name("third_parties")


@pytest.fixture(scope="module")
def python() -> Path:
    """Umbel, umbel-celery and the packages; made on first use, which takes about a minute."""
    return ensure_third_parties()


def run(python: Path, script: str, directory: Path, **environment: str) -> Any:
    printed = run_script(python, SCRIPTS / f"{script}.py", cwd=directory, env=environment, timeout=120)
    return json.loads(printed.splitlines()[-1])


def test_opentelemetry_joins_the_publish_and_the_run(python, tmp_path):
    assert run(python, "opentelemetry_spans", tmp_path) == {"kinds": ["CONSUMER", "PRODUCER"], "traces": 1}


def test_sentry_captures_what_tasks_raise(python, tmp_path):
    assert run(python, "sentry_errors", tmp_path) == {"trace": True, "errors": ["ValueError"]}


def test_elastic_apm_records_what_tasks_raise(python, tmp_path):
    assert run(python, "elastic_errors", tmp_path) == {
        "errors": [["ValueError", "ValueError: x"]],
        "frames": ["boom"],
        "outcomes": {"__main__.boom": "failure", "program": None},
        "traces": 1,
    }


@pytest.mark.redis
def test_redbeat_keeps_and_sends_its_entries(python, tmp_path, redis_url):
    found = run(python, "redbeat_entries", tmp_path, REDIS_URL=redis_url)
    assert found == {"same": True, "args": [1, 2], "sent": True}


def test_django_celery_beat_sends_what_its_models_say(python, tmp_path):
    assert run(python, "django_packages", tmp_path) == {"task": "models.add", "periodic": "often"}


def test_a_django_project_keeps_results_and_schedule_in_its_database(python, tmp_path):
    """django-celery-results as ``django-db``, django-celery-beat as ``-S django``, with worker and beat."""
    assert run(python, "django_project", tmp_path) == {
        "added": 5,
        "row": ["shop.tasks.add", "(2, 3)", True, "from the task"],
        "failed": "KeyError('nothing')",
        "traceback": True,
        "group": [0, 2, 4],
        "chord": 6,
        "periodic": 42,
        "forgotten": 0,
        "cached": {"in": "the cache"},
    }


def test_flower_takes_the_application(python, tmp_path):
    assert run(python, "flower_pages", tmp_path) == {"command": True, "workers": ["w@h"]}


@pytest.mark.redis
def test_what_is_on_its_way_is_not_sent_again(python, tmp_path, redis_url):
    """celery-once and celery-singleton."""
    assert run(python, "tasks_once", tmp_path, REDIS_URL=redis_url) == {
        "refused": True,
        "same": True,
        "waiting": 2,
        "values": [3, 12],
        "later": 3,
        "new": True,
    }


def test_celery_progress_hears_how_far_a_task_is(python, tmp_path):
    assert run(python, "progress_bars", tmp_path) == {
        "states": ["PROGRESS", "PROGRESS"],
        "percent": [50, 100],
        "end": "done",
    }


def test_pip_takes_celery_for_installed_and_refuses_another(python, tmp_path):
    """A wheel that calls itself Celery, made here: pip must not write over the alias."""
    printed = run_script(
        python,
        "from importlib.metadata import version; print(version('celery'), version('kombu'))",
        cwd=tmp_path,
    )
    assert printed.split() == ["5.7.0", "5.7.0"]
    _write_wheel(tmp_path)
    wheel = str(tmp_path / "celery-5.6.0-py3-none-any.whl")
    command = [*pip_of(python), "install", "--no-index", "--no-deps", wheel]
    refused = subprocess.run(command, cwd=tmp_path, timeout=60, check=False, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "umbel-celery" in refused.stdout + refused.stderr


def test_the_command_celery_runs_a_worker(python, tmp_path):
    """A project as Celery's users have it: only the environment knows that it is Umbel."""
    (tmp_path / "proj.py").write_text(PROJECT)
    celery = python.parent / "celery"
    worker = subprocess.Popen(
        [str(celery), "-A", "proj", "worker", "-l", "INFO", "-c", "1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert worker.stdout is not None
        assert any(" ready." in line for line in worker.stdout)
        printed = run_script(
            python, "import proj; print(proj.add.delay(2, 3).get(timeout=20))", cwd=tmp_path, timeout=40
        )
        assert printed.split() == ["5"]
        worker.terminate()
        worker.communicate(timeout=20)
        assert worker.returncode == 0
    finally:
        worker.kill()
        worker.wait()


PROJECT = """
from celery import Celery

app = Celery("proj", broker="sqlite:///proj.db", backend="sqlite:///proj.db")


@app.task
def add(x, y):
    return x + y
"""


def _write_wheel(directory: Path) -> None:
    from zipfile import ZipFile

    info = "celery-5.6.0.dist-info"
    with ZipFile(directory / "celery-5.6.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("celery/__init__.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: celery\nVersion: 5.6.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(
            f"{info}/RECORD", f"celery/__init__.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )
