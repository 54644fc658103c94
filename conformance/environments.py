"""The environments: one where ``celery`` is Umbel, one with real Celery."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Final, Literal

from scripts.environments import (
    CACHE,
    ROOT,
    digest,
    ensure_environment,
    exclusively,
    install_lock,
    make_venv,
    pip_install,
    python_of,
    say,
)

Subject = Literal["umbel", "celery"]

_HERE: Final = ROOT / "conformance"
_ALIAS: Final = ROOT / "packages" / "umbel-celery"


def ensure_python(subject: Subject) -> Path:
    """The interpreter of a subject's environment, in which the working tree is what ``celery`` means, for ``umbel``."""
    python = ensure_environment(f"conformance-{subject}", _HERE / f"{subject}.lock")
    if subject == "umbel":
        _install_projects(python)
    return python


def _install_projects(python: Path) -> None:
    """Install Umbel as it stands in the working tree, and its alias."""
    sources = sorted(path for path in _ALIAS.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    wanted = digest((ROOT / "pyproject.toml").read_bytes(), *(path.read_bytes() for path in sources))
    stamp = python.parent.parent / "projects"
    with exclusively("conformance-projects"):
        if stamp.exists() and stamp.read_text() == wanted:
            return
        say("installing umbel and umbel-celery into the environment")
        options = ("--quiet", "--no-deps", "--no-build-isolation")
        pip_install(python, *options, "-e", str(ROOT))
        pip_install(python, *options, "--force-reinstall", str(_ALIAS))
        stamp.write_text(wanted)


def ensure_third_parties() -> Path:
    """The interpreter of an environment with well-known packages that import celery, and Umbel in its place."""
    umbel, others = _HERE / "umbel.lock", _HERE / "thirdparty.lock"
    path = CACHE / f"conformance-thirdparty-{digest(umbel.read_bytes(), others.read_bytes())}"
    with exclusively("conformance-thirdparty"):
        if not (path / "complete").exists():
            say(f"making the environment {path.relative_to(ROOT)} (once)")
            for old in CACHE.glob("conformance-thirdparty-*"):
                shutil.rmtree(old)
            python = make_venv(path, sys.executable, with_pip=False)
            install_lock(python, umbel, "--quiet")
            # Their own requirements name celery, which is Umbel here.
            install_lock(python, others, "--quiet", "--no-deps")
            (path / "complete").touch()
    _install_projects(python_of(path))
    return python_of(path)
