"""``celery.contrib.sphinx``: tasks are documented as the functions that they were made of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx")

CONFIGURATION = """
import sys
sys.path.insert(0, ".")
import umbel
umbel.install_as_celery()
extensions = ["celery.contrib.sphinx"]
"""
TASKS = '''
from celery import Celery
app = Celery("t")

@app.task(bind=True)
def add(self, x, y=2):
    """Adds two numbers."""

def plain(z):
    """A function."""
'''
PAGE = """
Tasks
=====

.. automodule:: proj_tasks
   :members:

See :task:`proj_tasks.add`.
"""


def test_a_module_with_tasks(tmp_path: Path) -> None:
    (tmp_path / "conf.py").write_text(CONFIGURATION)
    (tmp_path / "proj_tasks.py").write_text(TASKS)
    (tmp_path / "index.rst").write_text(PAGE)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "text", ".", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "index.txt").read_text()
    assert "(task)proj_tasks.add(x, y=2)\n\n   Adds two numbers." in page
    assert "\nproj_tasks.plain(z)\n\n   A function." in page
    assert 'See "proj_tasks.add()".' in page
