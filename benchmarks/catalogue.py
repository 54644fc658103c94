"""The systems that are measured: where each is installed and how its worker is started.

Every worker has two processes that run tasks, and its library's defaults otherwise.
"""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.environments import ROOT, ensure_environment

PROCESSES = 2
#: Async tasks at a time in each process, where pools of them are compared: Umbel's default, taskiq's and arq's.
ASYNC_SLOTS = 100


class CannotMeasureError(RuntimeError):
    """This machine lacks something that a system needs; the message says what."""


@dataclass(frozen=True)
class WorkerOptions:
    """How a worker is started; systems without such an option ignore it."""

    pool: str = "prefork"
    broker_url: str = ""
    loglevel: str = "WARNING"
    logfile: Path | None = None
    extra: tuple[str, ...] = ()  #: of a system with Celery's options


@dataclass(frozen=True)
class System:
    """One task queue."""

    name: str
    worker: Callable[[Path, WorkerOptions], list[str]]  #: the command line, given the interpreter
    library: str = ""  #: import name, where it is not the name
    module: str = ""  #: file in benchmarks/systems, where it is not the name
    celery_like: bool = False  #: has Celery's options: pools and log levels
    brokers: tuple[str, ...] = ("redis",)
    oldest_python: tuple[int, int] = (3, 11)
    #: Results are one key each and nothing else is, so that the size of the database tells how many are stored.
    results_are_keys: bool = False
    #: Its task can be had without a result.
    drops_results: bool = False

    @property
    def file(self) -> str:
        """The module in benchmarks.systems."""
        return self.module or self.name

    @property
    def import_name(self) -> str:
        """What programs import."""
        return self.library or self.name

    def python(self) -> Path:
        """The interpreter that has it: this one for Umbel, an environment of its own for a peer."""
        if self.name == "umbel":
            # As installers do for the peers: its modules are not to be compiled anew by every process.
            compileall.compile_dir(ROOT / "src" / "umbel", quiet=2)
            return Path(sys.executable)
        lock = ROOT / "benchmarks" / "peers" / f"{self.name}.lock"
        return ensure_environment(f"bench-{self.name}", lock, interpreter=_interpreter(self.oldest_python))

    def pool_name(self, pool: str) -> str:
        """The pool that its rows carry."""
        return pool if self.celery_like else f"{PROCESSES} processes"


def _interpreter(oldest: tuple[int, int]) -> str:
    """A Python that is new enough: this one, or another on the path or among pyenv's."""
    if sys.version_info >= oldest:
        return sys.executable
    versions = [f"3.{minor}" for minor in range(oldest[1], oldest[1] + 4)]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{version}") or "" for version in versions]
    candidates += [
        str(path) for version in versions for path in sorted(pyenv.glob(f"{version}*/bin/python3"))
    ]
    for candidate in filter(None, candidates):
        asked = subprocess.run([candidate, "-c", "import ensurepip"], check=False, capture_output=True)
        if asked.returncode == 0:
            return candidate
    raise CannotMeasureError(f"it needs Python {versions[0]} or later, which is not on the path")


def _celery_worker(library: str) -> Callable[[Path, WorkerOptions], list[str]]:
    def command(python: Path, options: WorkerOptions) -> list[str]:
        line = [str(python), "-m", library, "-A", "benchmarks.systems.celery", "worker"]
        line += ["-c", str(PROCESSES), "-P", options.pool, f"--loglevel={options.loglevel}", *options.extra]
        return [*line, f"--logfile={options.logfile}"] if options.logfile else line

    return command


def _module(*words: str) -> Callable[[Path, WorkerOptions], list[str]]:
    """A worker started with ``python -m`` and these words."""
    return lambda python, _options: [str(python), "-m", *words]


def _script(*words: str, url_option: str = "") -> Callable[[Path, WorkerOptions], list[str]]:
    """A worker started by a command of its environment; some take the server's address only as an option."""

    def command(python: Path, options: WorkerOptions) -> list[str]:
        address = [url_option, options.broker_url] if url_option else []
        return [str(python.parent / words[0]), *words[1:], *address]

    return command


def _several(*words: str) -> Callable[[Path, WorkerOptions], list[str]]:
    """A worker that is one process, started once for each process wanted."""
    started = f'for i in $(seq {PROCESSES}); do "$@" & done'
    script = f"{started}; trap 'trap \"\" TERM; kill -TERM 0' TERM; wait; wait"
    return lambda python, _options: ["sh", "-c", script, "sh", str(python), "-m", *words]


SYSTEMS = {
    system.name: system
    for system in (
        System(
            "umbel",
            _celery_worker("umbel"),
            module="celery",
            celery_like=True,
            brokers=("redis", "sqlite", "rabbitmq"),
            results_are_keys=True,
            drops_results=True,
        ),
        System(
            "celery",
            _celery_worker("celery"),
            celery_like=True,
            brokers=("redis", "rabbitmq"),
            results_are_keys=True,
            drops_results=True,
        ),
        System(
            "dramatiq",
            _module("dramatiq", "benchmarks.systems.dramatiq", "-p", str(PROCESSES)),
            brokers=("redis", "rabbitmq"),
            drops_results=True,
        ),
        System(
            "taskiq",
            _module(
                *("taskiq", "worker", "benchmarks.systems.taskiq:broker"),
                *("--workers", str(PROCESSES), "--log-level", "WARNING", "--no-parse"),
            ),
            results_are_keys=True,
        ),
        System(
            "ardiq",
            _module("ardiq", "run", "benchmarks.systems.ardiq:app", "-q", "-w", str(PROCESSES)),
            oldest_python=(3, 12),
        ),
        System("saq", _module("saq", "benchmarks.systems.saq.settings", "--workers", str(PROCESSES))),
        System(
            "huey",
            _script(
                "huey_consumer", "benchmarks.systems.huey.huey", "-k", "process", "-w", str(PROCESSES), "-q"
            ),
        ),
        System(
            "rq", _script("rq", "worker-pool", "bench", "-n", str(PROCESSES), "--quiet", url_option="--url")
        ),
        System(
            "streaq",
            _script("streaq", "run", "benchmarks.systems.streaq:worker", "-w", str(PROCESSES)),
        ),
        System("arq", _several("arq", "benchmarks.systems.arq.WorkerSettings")),
    )
}
