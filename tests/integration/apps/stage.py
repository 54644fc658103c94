"""What the worker tests see of the application in ``jobs``: its journal, its gates, its broker, its workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from tests.support.servers import RedisServer
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess
from tests.support.workers import umbel_worker as make_worker
from umbel import Umbel
from umbel.brokers.base import Broker, DeadLetter
from umbel.results.handles import AsyncResult

APP = Path(__file__).with_name("jobs.py")


class Stage:
    """A directory, a broker and a result store; workers that end with the stage."""

    def __init__(self, directory: Path, broker: str, backend: str | None = None, **settings: Any) -> None:
        self.directory = directory
        self.broker_url = broker
        self.backend_url = backend or broker
        self.settings = settings
        self.app = Umbel("tests", broker=broker, backend=self.backend_url, set_as_current=False)
        self._running = ExitStack()

    def worker(self, *options: str, ready: bool = True, env: dict[str, str] | None = None) -> WorkerProcess:
        """Start a worker; it takes tasks when this returns, unless told otherwise."""
        environment = self.variables() | (env or {})
        worker = self._running.enter_context(make_worker(APP, *options, env=environment))
        return worker.ready() if ready else worker

    def variables(self) -> dict[str, str]:
        """The variables that a program which uses the application needs."""
        return {
            "STAGE": str(self.directory),
            "BROKER": self.broker_url,
            "BACKEND": self.backend_url,
            "SETTINGS": json.dumps(self.settings),
        }

    def send(self, name: str, *args: object, **options: Any) -> AsyncResult:
        """Send a task of the application by its name there."""
        return self.app.send_task(f"{APP.stem}.{name}", args, **options)

    @property
    def journal(self) -> list[list[str]]:
        """The lines that tasks have written, as words."""
        path = self.directory / "journal"
        return [line.split(" ") for line in path.read_text().splitlines()] if path.exists() else []

    def lines(self, *start: object) -> list[list[str]]:
        """Those lines that begin with some words."""
        words = [str(word) for word in start]
        return [line for line in self.journal if line[: len(words)] == words]

    def wait_for(self, *start: object, count: int = 1, timeout: float = 40.0) -> list[list[str]]:
        """Wait for ``count`` lines that begin with some words."""
        return wait_until(
            lambda: found if len(found := self.lines(*start)) >= count else None,
            timeout=timeout,
            what=lambda: f"{count} lines {start}; the journal: {self.journal[-40:]}",
        )

    def open(self, gate: str = "gate") -> None:
        """Let the tasks go on that wait for this gate."""
        (self.directory / gate).touch()

    @property
    def broker(self) -> Broker:
        return self.app.broker

    def dead(self, queue: str = "celery") -> list[DeadLetter]:
        """The dead letters, oldest first."""
        return self.broker.dead_letters(queue, 1000)[::-1]

    def wait_for_dead(self, count: int, queue: str = "celery") -> list[DeadLetter]:
        return wait_until(
            lambda: found if len(found := self.dead(queue)) >= count else None,
            what=lambda: f"{count} dead letters; there are {[letter.reason for letter in self.dead(queue)]}",
        )

    def wait_empty(self, queue: str = "celery", *, timeout: float = 40.0) -> None:
        """Wait until nothing waits, is delayed or held."""

        def depths() -> tuple[int, int, int]:
            return (
                self.broker.depth(queue),
                self.broker.delayed_depth(queue),
                self.broker.held_depth(),
            )

        wait_until(
            lambda: depths() == (0, 0, 0),
            timeout=timeout,
            what=lambda: f"an empty queue; waiting, delayed, held: {depths()}",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()
        self.app.close()


@contextmanager
def redis_stage(directory: Path, server: RedisServer, database: int = 0, **settings: Any) -> Iterator[Stage]:
    """A stage in an emptied database. One that many tests share has a database of its own."""
    with server.client(database) as client:
        client.flushdb()
    with Stage(directory, server.url(database), **settings) as stage:
        yield stage


@contextmanager
def sqlite_stage(directory: Path, **settings: Any) -> Iterator[Stage]:
    with Stage(directory, f"sqlite:///{directory}/jobs.db", **settings) as stage:
        yield stage
