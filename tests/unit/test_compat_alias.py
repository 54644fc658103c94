"""`umbel.install_as_celery()`: one module under one name, and a clear word where a real Celery is in the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ALIAS = Path(__file__).parents[2] / "packages" / "umbel-celery"


def run(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def output(code: str, *paths: Path) -> list[str]:
    done = run(code, *paths)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_celery_is_umbel_after_install():
    lines = output(
        "import umbel; umbel.install_as_celery(); umbel.install_as_celery()\n"
        "import celery, kombu, celery.app.task\n"
        "print(celery.__version__, celery.Celery is umbel.Celery, kombu.Queue is umbel.Queue)\n"
        "print(celery.app.task.Task is umbel.Task, celery.app.task.__name__)\n"
    )
    assert lines == ["5.7.0 True True", "True celery.app.task"]


def test_a_module_is_imported_once_under_the_name_that_users_see():
    lines = output(
        "import sys, umbel; umbel.install_as_celery()\n"
        "import celery.utils.log, celery.contrib.testing.manager\n"
        "print([name for name in sys.modules if name.startswith('umbel.compat.celery')])\n"
        "from celery.utils import log\n"
        "print(log is sys.modules['celery.utils.log'])\n"
    )
    assert lines == ["[]", "True"]


def test_submodules_are_found_without_an_import_of_theirs():
    assert output(
        "import umbel; umbel.install_as_celery()\n"
        "import celery\n"
        "print(celery.app.trace.LOG_SUCCESS.startswith('Task'), celery.utils.nodenames.__name__)"
    ) == ["True celery.utils.nodenames"]


def test_what_replaces_the_guard_of_results_is_asked():
    assert output(
        "import umbel; umbel.install_as_celery()\n"
        "from unittest.mock import patch\n"
        "from celery import result\n"
        "with patch('celery.result.task_join_will_block', lambda: True):\n"
        "    try: result.assert_will_not_block()\n"
        "    except RuntimeError: print('refused')\n"
        "result.assert_will_not_block()\n"
    ) == ["refused"]


def test_a_name_that_nobody_has_is_an_attribute_error():
    assert output(
        "import umbel; umbel.install_as_celery()\n"
        "import celery\n"
        "print(hasattr(celery, 'no_such_name'), hasattr(celery.app, 'no_such_name'))"
    ) == ["False False"]


def test_programs_without_the_alias_do_not_see_it():
    done = run("import umbel, celery")
    assert "No module named 'celery'" in done.stderr


@pytest.fixture
def real_celery(tmp_path: Path) -> Path:
    """A folder with something that looks like Celery's package."""
    package = tmp_path / "celery"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '5.6.0'\n")
    return tmp_path


def test_a_celery_that_was_imported_already_is_refused(real_celery):
    done = run("import celery, umbel; umbel.install_as_celery()", real_celery)
    assert done.returncode != 0
    assert "celery was imported before umbel.install_as_celery() could take its place" in done.stderr


def test_a_celery_that_is_installed_too_is_warned_of(real_celery):
    done = run(
        "import umbel; umbel.install_as_celery(); import celery; print(celery.__version__)", real_celery
    )
    assert done.stdout.split() == ["5.7.0"]
    assert "both Umbel and celery are installed" in done.stderr


def test_the_alias_distribution_gives_umbel():
    assert output("import celery, umbel, kombu; print(celery.Celery is umbel.Celery)", ALIAS) == ["True"]
    assert output("import kombu, celery; print(kombu.Queue.__module__)", ALIAS) == ["umbel.core.queues"]


@pytest.mark.parametrize("first", ["celery", "kombu"])
def test_the_alias_distribution_over_a_real_celery_refuses(tmp_path, first):
    for name in ("celery", "kombu"):
        (tmp_path / name).mkdir()
        source = (ALIAS / name / "__init__.py").read_text()
        (tmp_path / name / "__init__.py").write_text(source)
    (tmp_path / "celery" / "app").mkdir()
    done = run(f"import {first}", tmp_path)
    assert done.returncode != 0
    assert "umbel-celery was installed over a real Celery or kombu" in done.stderr
    assert "pip uninstall -y celery kombu umbel-celery" in done.stderr


def test_an_abortable_task_sees_that_it_was_aborted():
    assert output(
        "import umbel; umbel.install_as_celery()\n"
        "from celery import Celery\n"
        "from celery.contrib.abortable import AbortableTask, AbortableAsyncResult\n"
        "app = Celery('a', broker='memory://', backend='cache+memory://')\n"
        "@app.task(bind=True, base=AbortableTask)\n"
        "def wait(self): return self.is_aborted()\n"
        "with app.worker(pool='threads'):\n"
        "    handle = wait.apply_async(task_id='one')\n"
        "    print(handle.get(timeout=10), type(handle) is not None)\n"
        "    app.backend.store_result('two', None, 'PENDING')\n"
        "    AbortableAsyncResult('two', app=app).abort()\n"
        "    print(AbortableAsyncResult('two', app=app).is_aborted())\n"
    ) == ["False True", "True"]
