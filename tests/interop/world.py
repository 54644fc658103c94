"""What the tests see of both libraries: a side to send from and read with, workers, and the notes that tasks leave."""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any, Protocol, Self

from tests.support import peers
from tests.support.rabbitmq import RabbitMqServer
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess

APP = Path(__file__).with_name("apps") / "shared.py"
SIDE = Path(__file__).with_name("side.py")
NOTES_DATABASE = 15

#: Options that spare Celery's worker a second of looking for neighbours at its start.
ALONE = ("--without-mingle", "--without-gossip", "--without-heartbeat")


class Side:
    """A running ``side.py`` of one library. Every method runs over there; a failure there is an AssertionError here."""

    def __init__(self, library: str, python: Path, env: dict[str, str]) -> None:
        self.library = library
        self._directory = tempfile.TemporaryDirectory(prefix="umbel-side-")
        self._address = str(Path(self._directory.name) / "socket")
        self._process = WorkerProcess(
            [python, SIDE, self._address], cwd=APP.parent, env=env, name=f"{library} side"
        )
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        self._process.start()
        self._process.wait_for_line("side listens")
        self._connection = Client(self._address, "AF_UNIX")
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()
        self._process.close()
        self._directory.cleanup()

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a function of ``side.py``."""
        assert self._connection is not None
        self._connection.send((name, args, kwargs))
        assert self._connection.poll(60), f"the {self.library} side does not answer to {name}{args}"
        done, answer = self._connection.recv()
        assert done, f"on the {self.library} side:\n{answer}"
        return answer

    def send(self, name: str, *args: Any, **options: Any) -> str:
        """Send a task by its name; its id."""
        task_id: str = self.call("send", name, *args, **options)
        return task_id

    def delay(self, name: str, *args: Any, **options: Any) -> str:
        """Send a task through its own ``apply_async``; its id."""
        task_id: str = self.call("delay", name, *args, **options)
        return task_id

    def outcome(self, task_id: str, timeout: float = 40) -> dict[str, Any]:
        """Wait for the result of a task."""
        answer: dict[str, Any] = self.call("outcome", task_id, timeout)
        return answer

    def value(self, task_id: str, timeout: float = 40) -> Any:
        """The result of a task that must have succeeded."""
        outcome = self.outcome(task_id, timeout)
        assert outcome["state"] == "SUCCESS", outcome
        return outcome["value"]

    def state(self, task_id: str) -> tuple[str, Any]:
        """The state at this moment and what is known of it."""
        state, info = self.call("state", task_id)
        return state, info

    def evaluate(self, source: str, **names: Any) -> Any:
        """The value of an expression over there; ``app`` is the application."""
        return self.call("evaluate", source, names)

    def execute(self, source: str, **names: Any) -> Any:
        """Run statements over there; the value that they leave in ``answer``."""
        return self.call("execute", source, names)


class Ground(Protocol):
    """The broker of a world."""

    url: str

    def held(self) -> list[bytes]:
        """What workers of either kind hold, one entry for each message; its content where that can be seen."""

    def settings(self) -> dict[str, Any]:
        """What both libraries have to be told."""

    def name_options(self) -> Sequence[str]:
        """Options that give one more worker a name of its own, where two must not have the same."""


class RedisGround:
    """kombu's layout in the first database of a Redis server."""

    def __init__(self, server: RedisServer) -> None:
        self.url = server.url()
        self._server = server

    def held(self) -> list[bytes]:
        with self._server.client() as client:
            return list(client.hvals("unacked"))

    def settings(self) -> dict[str, Any]:
        return {}

    def name_options(self) -> Sequence[str]:
        return ()


class RabbitMqGround:
    """A vhost of its own; with ``quorum`` every queue is one."""

    def __init__(self, server: RabbitMqServer, *, quorum: bool = False) -> None:
        self._server = server
        self._quorum = quorum
        self._workers = itertools.count(1)
        self.vhost = server.add_vhost()
        self.url = server.url(self.vhost)

    def held(self) -> list[bytes]:
        every, ready = self._server.queues(self.vhost), self._server.ready(self.vhost)
        return [b""] * max(0, sum(every.values()) - sum(ready.values()))

    def settings(self) -> dict[str, Any]:
        if not self._quorum:
            return {}
        return {"task_default_queue_type": "quorum", "task_create_missing_queue_type": "quorum"}

    def name_options(self) -> Sequence[str]:
        return ("-n", f"celery@w{next(self._workers)}")

    def bindings(self) -> list[tuple[str, str, str]]:
        """(exchange, queue, routing key) of every binding."""
        return self._server.bindings(self.vhost)

    def ready(self) -> dict[str, int]:
        """How many messages wait in each queue."""
        return self._server.ready(self.vhost)

    def close(self) -> None:
        """Delete the vhost."""
        self._server.delete_vhost(self.vhost)


class World:
    """A broker, the sides and workers of both libraries around it, with the same settings for all.

    A Redis server keeps the results and what tasks note; unless there is another ``ground``, it is the broker too.
    """

    def __init__(
        self, server: RedisServer, interop_python: Path, ground: Ground | None = None, **settings: Any
    ) -> None:
        self.server = server
        self.ground = ground or RedisGround(server)
        self._pythons = {"celery": interop_python, "umbel": Path(sys.executable)}
        self._settings = self.ground.settings() | settings
        self._running = ExitStack()
        self.redis = self._running.enter_context(server.client())
        self._notes = self._running.enter_context(server.client(NOTES_DATABASE))
        self._sides: dict[str, Side] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def environment(self, **settings: Any) -> dict[str, str]:
        """Where processes of this world find everything."""
        return {
            "BROKER": self.ground.url,
            "BACKEND": self.server.url(),
            "NOTES": self.server.url(NOTES_DATABASE),
            "SETTINGS": json.dumps(self._settings | settings),
            "PYTHONPATH": str(APP.parent),
        }

    def side(self, library: str, **settings: Any) -> Side:
        """The library's side; the one with this world's own settings is started once."""
        if settings:
            return self._start_side(library, settings)
        if library not in self._sides:
            self._sides[library] = self._start_side(library, {})
        return self._sides[library]

    def _start_side(self, library: str, settings: dict[str, Any]) -> Side:
        return self._running.enter_context(
            Side(library, self._pythons[library], self.environment(**settings))
        )

    @property
    def celery(self) -> Side:
        return self.side("celery")

    @property
    def umbel(self) -> Side:
        return self.side("umbel")

    def worker(
        self, library: str, *options: str, ready: bool = True, alone: bool = True, **settings: Any
    ) -> WorkerProcess:
        """Start a worker of a library; it takes tasks when this returns, unless told otherwise.

        ``alone`` spares Celery's worker the looking for its neighbours.
        """
        env = self.environment(**settings)
        del env["PYTHONPATH"]
        if not any(option.startswith(("-n", "--hostname")) for option in options):
            options = (*options, *self.ground.name_options())
        if library == "celery":
            worker = peers.celery_worker(
                self._pythons["celery"], APP, *(ALONE if alone else ()), *options, env=env
            )
        else:
            worker = peers.umbel_worker(APP, *options, env=env)
        self._running.enter_context(worker)
        return worker.ready() if ready else worker

    def notes(self, name: str) -> list[list[Any]]:
        """What tasks have noted under a name; each begins with the library that ran it."""
        return [json.loads(line) for line in self._notes.lrange(name, 0, -1)]

    def wait_for_notes(self, name: str, count: int, *, timeout: float = 40.0) -> list[list[Any]]:
        """Wait for that many notes."""
        wait_until(
            lambda: len(self.notes(name)) >= count,
            timeout=timeout,
            what=lambda: f"{count} notes {name!r}; there are {self.notes(name)}",
        )
        return self.notes(name)

    def counts(self, name: str) -> dict[str, int]:
        """How often each job that counts under this name has run."""
        return {key.decode(): int(value) for key, value in self._notes.hgetall(name).items()}

    def total(self, name: str) -> int:
        """The value of a counter."""
        return int(self._notes.get(name) or 0)

    def open(self, gate: str, times: int = 1) -> None:
        """Let tasks go on that wait at a gate."""
        self._notes.rpush(gate, *["open"] * times)

    def wait_for(self, predicate: Callable[[], Any], what: str, *, timeout: float = 40.0) -> Any:
        """Wait until something is so."""
        return wait_until(predicate, timeout=timeout, what=what)

    def held(self) -> list[bytes]:
        """The messages that workers of either kind hold."""
        return self.ground.held()

    def wait_settled(self, task_id: str, *, timeout: float = 30.0) -> None:
        """Wait until no worker of either kind holds this task's message, nor any whose content cannot be seen."""
        wait_until(
            lambda: not any(not message or task_id.encode() in message for message in self.held()),
            timeout=timeout,
            what=lambda: f"the end of the delivery of {task_id}; held are {self.held()}",
        )

    def wait_nothing_held(self, *, timeout: float = 30.0) -> None:
        """Wait until no worker of either kind holds any message."""
        wait_until(
            lambda: not self.held() and not self.redis.zcard("unacked_index"),
            timeout=timeout,
            what=lambda: f"the end of all deliveries; held are {self.held()}",
        )
