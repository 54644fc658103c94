"""What must come from the operating system: installed with apt as root, named precisely otherwise."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys

from scripts.environments import say

#: Commands that tests and benchmarks start, and the Debian package that has each.
SERVERS = {
    "redis-server": "redis-server",
    "rabbitmq-server": "rabbitmq-server",
    "pg_ctlcluster": "postgresql",
    "mariadbd": "mariadb-server",
    "memcached": "memcached",
    "node": "nodejs",
    "npm": "npm",
    "faketime": "faketime",  # clocks that jump, for the fault harness
}


class MissingPackagesError(RuntimeError):
    """The system lacks packages that this user cannot install; the message says what to run."""


def ensure_venv_support() -> None:
    """Debian ships Python without ``ensurepip``; its package python3-venv brings it."""
    if importlib.util.find_spec("ensurepip") is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        install([f"python{version}-venv"], purpose="virtual environments")


def ensure_servers() -> None:
    """Install the servers that are missing."""
    # Debian keeps servers where a user's path does not look.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
    missing = [package for command, package in SERVERS.items() if not shutil.which(command, path=path)]
    if missing:
        install(missing, purpose="the tests and benchmarks, which start private servers of their own")


def install(packages: list[str], *, purpose: str) -> None:
    """Install Debian packages as root. Raises MissingPackagesError where that cannot be done."""
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    names = " ".join(packages)
    if not shutil.which("apt-get"):
        raise MissingPackagesError(f"{purpose} need {names}: install what your system calls them")
    if os.geteuid() != 0:
        raise MissingPackagesError(f"{purpose} need {names}: run `sudo {' '.join(command)}`")
    say(f"installing {names} for {purpose}")
    # The packages' own services are not needed: on a machine that seems to be in single-user mode none is started.
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for step in (["apt-get", "update"], command):
        done = subprocess.run(step, check=False, stdout=sys.stderr, env=environment)
        if done.returncode != 0:
            raise MissingPackagesError(f"exit status {done.returncode} from `{' '.join(step)}` for {purpose}")
