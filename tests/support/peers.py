"""Real Celery for the interoperability tests, in an environment of its own made from requirements-interop.lock."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.environments import ROOT, ensure_environment
from tests.support.workers import WorkerProcess, celery_worker, umbel_worker

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["WorkerProcess", "celery_worker", "interop_python", "run_script", "umbel_worker"]

LOCK = ROOT / "requirements-interop.lock"


def interop_python() -> Path:
    """The interpreter that has real Celery; its environment is made on first use, which takes about half a minute."""
    return ensure_environment("interop", LOCK)


def run_script(
    python: Path,
    script: Path | str,
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    timeout: float = 60,
) -> str:
    """Run a script (a file, or source text) to its end and give its standard output.

    Raises AssertionError with what it printed when its exit status is not 0.
    """
    source = ["-c", script] if isinstance(script, str) else [str(script)]
    done = subprocess.run(
        [str(python), *source, *arguments],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert done.returncode == 0, f"exit status {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout
