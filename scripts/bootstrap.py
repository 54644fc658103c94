"""Make the development environment `.venv` from requirements-dev.lock, or leave it when it is up to date.

    python3 -m scripts.bootstrap [--servers]

With ``--servers`` the servers that tests and benchmarks start are installed as well. Where this user may not install
them, the tests that need them are skipped, except in continuous integration (CI is set), where that is an error.
"""

from __future__ import annotations

import os
import sys

from scripts import system
from scripts.environments import (
    ROOT,
    InstallError,
    digest,
    exclusively,
    install_lock,
    make_venv,
    pip_install,
    python_of,
    say,
)

VENV = ROOT / ".venv"
LOCK = ROOT / "requirements-dev.lock"
STAMP = VENV / "made-from"
OLDEST_PYTHON = (3, 11)


def main(arguments: list[str]) -> int:
    """Bring `.venv` up to date; the exit status is 0 when it can be used."""
    if sys.version_info < OLDEST_PYTHON:
        found = ".".join(map(str, sys.version_info[:3]))
        say(
            f"Umbel needs Python 3.11 or later, this is {found}: install python3.11, or `make PYTHON=/path/to/python`"
        )
        return 1
    try:
        with exclusively("bootstrap"):
            ensure_venv()
    except (system.MissingPackagesError, InstallError) as error:
        say(str(error))
        return 1
    return ensure_servers() if "--servers" in arguments else 0


def ensure_venv() -> None:
    """Install what the lock names and the project itself, unless the stamp says that it was done."""
    wanted = digest(LOCK.read_bytes(), (ROOT / "pyproject.toml").read_bytes(), str(VENV))
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    python = python_of(VENV)
    if not python.exists():
        system.ensure_venv_support()
        say(f"making the environment .venv with Python {sys.version.split()[0]}")
        make_venv(VENV, sys.executable)
    say("installing what requirements-dev.lock names into .venv")
    install_lock(python, LOCK)
    pip_install(python, "--no-deps", "--no-build-isolation", "-e", str(ROOT))
    STAMP.write_text(wanted)
    say(".venv is ready")


def ensure_servers() -> int:
    """Install missing servers; without the right to do so, say what to install and go on outside CI."""
    try:
        system.ensure_servers()
    except system.MissingPackagesError as error:
        say(str(error))
        return 1 if os.environ.get("CI") else 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
