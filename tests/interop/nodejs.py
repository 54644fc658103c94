"""celery-node, installed once into the cache from ``node/package-lock.json``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from scripts.environments import CACHE, digest, exclusively, say
from tests.support.servers import ServerMissingError

SOURCES = Path(__file__).with_name("node")


def node_home() -> Path:
    """The directory with celery-node and the scripts that use it.

    Raises ServerMissingError where Node.js is not installed.
    """
    for command, package in (("node", "nodejs"), ("npm", "npm")):
        if not shutil.which(command):
            raise ServerMissingError(f"{command} is not installed: run `apt-get install {package}` as root")
    files = sorted(path for path in SOURCES.iterdir() if path.suffix in {".json", ".js"})
    home = CACHE / f"node-{digest(*(path.read_bytes() for path in files))}"
    with exclusively("node"):
        if not (home / "complete").exists():
            say(f"installing celery-node into {home.name} (once)")
            for old in CACHE.glob("node-*/"):
                shutil.rmtree(old)
            home.mkdir(parents=True)
            for path in files:
                shutil.copy(path, home)
            _install(home)
            (home / "complete").touch()
    return home


def _install(home: Path) -> None:
    """Versions and hashes come from the lock file, the registry from npm's own settings."""
    command = [
        "npm",
        "ci",
        "--omit-lockfile-registry-resolved",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
    ]
    subprocess.run(command, cwd=home, check=True, stdout=sys.stderr)
