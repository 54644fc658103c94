"""Where the load goes: a private broker with its persistence, a proxy for everyone who uses it, what is left in it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from chaos.checker import WINDOW, Dead
from chaos.workload import QUEUE
from tests.support.proxy import TcpProxy
from tests.support.rabbitmq import RabbitMqServer
from tests.support.sentinel import MASTER, Replicated
from tests.support.servers import HOST, RedisServer, ServerProcess
from umbel import Umbel
from umbel.core.protocol import read_envelope
from umbel.errors import DecodeError

_BATCH = 500  #: results asked for at once
_PAGE = 4096
_MANY = 100_000  #: more dead letters than there can be
_DISK = 512 * 1024 * 1024  #: bytes of the small disk that SQLite's file is on
HEARTBEAT = 5  #: seconds, of AMQP connections


class Left(NamedTuple):
    """How many messages the broker has."""

    waiting: int
    delayed: int
    held: int
    unknown: int = (
        0  #: queues that cannot say: their node has just come back, or was killed while they were made
    )

    @property
    def messages(self) -> int:
        """All that is known of."""
        return self.waiting + self.delayed + self.held


@dataclass
class Address:
    """How one process reaches its broker and its results, by ways of its own that can be cut."""

    broker: str
    backend: str
    proxies: list[TcpProxy] = field(default_factory=list)
    shared: list[TcpProxy] = field(default_factory=list)  #: those that other processes use too

    def close(self) -> None:
        """Take its own ways away."""
        for proxy in self.proxies:
            proxy.stop()


class World(ABC):
    """One private broker; ends, with its data, with the block that it is used in."""

    name: ClassVar[str]
    #: Whether a worker passes a message on in one step with the acknowledgement of what it came from.
    atomic: ClassVar[bool] = True
    #: Whether what a worker holds returns as soon as its connection ends, and not with its lease.
    returns_at_once: ClassVar[bool] = False
    #: Whether the broker tells the time by the clock of the processes that use it.
    shares_clock: ClassVar[bool] = False
    #: Seconds after its end in which an attempt may still be unsettled, while its worker reaches its broker.
    window: ClassVar[float] = WINDOW
    has_disk = False  #: a small disk of its own, which can be filled

    def __init__(self, *, durable: bool, queue_type: str = "classic") -> None:
        self.queue_type = queue_type  #: of RabbitMQ's queues: classic or quorum
        self.directory = Path(tempfile.mkdtemp(prefix="chaos-"))
        self.durable = durable
        self.servers: dict[str, ServerProcess] = {}  #: "broker" and "backend", those that are processes
        self._ending = ExitStack()
        self._ending.callback(shutil.rmtree, self.directory, ignore_errors=True)

    @abstractmethod
    def urls(self) -> tuple[str, str]:
        """Broker and backend, without a proxy between."""

    @abstractmethod
    def address(self, role: str) -> Address:
        """Broker and backend for one more process: a "worker", a "producer" or a "beat"."""

    @abstractmethod
    def start(self) -> None:
        """Start the servers."""

    def settings(self) -> dict[str, Any]:
        """What an application needs here."""
        return self.transport()

    def transport(self) -> dict[str, Any]:
        """Of that, what the harness' own application needs too, to reach the broker."""
        return {}

    def versions(self) -> dict[str, str]:
        """The servers' own versions."""
        return {}

    def left(self) -> Left:
        """What the broker has by now."""
        broker = self.app.broker
        return Left(broker.depth(QUEUE), broker.delayed_depth(QUEUE), broker.held_depth())

    def dead(self) -> list[Dead]:
        """The dead letters."""
        return [_read(letter.payload) for letter in self.app.broker.dead_letters(QUEUE, _MANY)]

    def documents(self, ids: Sequence[str]) -> dict[str, Any]:
        """The result documents that there are, by task id."""
        found: dict[str, Any] = {}
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH]
            for task_id, document in zip(batch, self.app.backend.load(batch), strict=True):
                if document is not None:
                    found[task_id] = msgspec.json.decode(document)
        return found

    def __enter__(self) -> Self:
        try:
            self.start()
            broker, backend = self.urls()
            # The harness' own eyes and hands: it sends poisons, and looks at what is left.
            self.app = Umbel("chaos-judge", broker=broker, backend=backend, set_as_current=False)
            self.app.conf.update(self.transport())
            self._ending.callback(self.app.close)
        except BaseException:
            self._ending.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def _serve(self, role: str, server: ServerProcess) -> None:
        self.servers[role] = server
        self._ending.callback(server.stop)
        server.start()

    def _proxy(self, server: ServerProcess) -> TcpProxy:
        proxy = TcpProxy(server.port).start()
        self._ending.callback(proxy.stop)
        return proxy


def _read(payload: bytes) -> Dead:
    try:
        envelope = read_envelope(payload)
        args = msgspec.json.decode(envelope.body)[0]
    except (DecodeError, msgspec.DecodeError):
        return Dead("")
    return Dead(str(envelope.headers.get("id", "")), frozenset(arg for arg in args if isinstance(arg, int)))


class RedisChaos(World):
    """Redis, for messages and results; every write is on the disk before it is confirmed, unless told otherwise."""

    name = "redis"

    def start(self) -> None:
        """Start the server."""
        self._server = RedisServer(aof="always" if self.durable else None)
        self._serve("broker", self._server)

    def urls(self) -> tuple[str, str]:
        """One for both."""
        return self._server.url(), self._server.url()

    def address(self, role: str) -> Address:
        """By a proxy for both."""
        proxy = self._proxy(self._server)
        return Address(proxy.url("redis"), proxy.url("redis"), [proxy])

    def versions(self) -> dict[str, str]:
        """Redis'."""
        return {"redis": _redis_version(self._server)}


class SentinelChaos(World):
    """A Redis primary with two replicas, which three sentinels watch.

    A message counts as sent when a replica has it too, and a primary that is alone takes nothing, as the documentation
    advises. Clients hear from the sentinels where the primary is, so that no proxy can stand between.
    """

    name = "sentinel"

    def start(self) -> None:
        """Start all six."""
        careful = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "10")
        # On a busy machine a server is silent for half a second now and then, and nothing was done to it.
        patient = (f"sentinel down-after-milliseconds {MASTER} 3000",)
        self._replicated = self._ending.enter_context(
            Replicated(replicas=2, sentinels=3, server_options=careful, sentinel_options=patient)
        )
        self.servers["broker"] = self._replicated.servers[0]

    def urls(self) -> tuple[str, str]:
        """The sentinels', for both."""
        url = ";".join(f"sentinel://{HOST}:{watcher.port}/0" for watcher in self._replicated.sentinels)
        return url, url

    def address(self, role: str) -> Address:
        """There is nothing between."""
        return Address(*self.urls())

    def transport(self) -> dict[str, Any]:
        """The primary's name, and how many replicas must have a message."""
        named = {"master_name": MASTER}
        return {
            "broker_transport_options": {**named, "wait_for_replicas": 1},
            "result_backend_transport_options": named,
        }

    def versions(self) -> dict[str, str]:
        """Redis'."""
        return {"redis": _redis_version(self._replicated.servers[0])}

    def replicas(self, primary: RedisServer) -> list[RedisServer]:
        """The others."""
        return [server for server in self._replicated.servers if server is not primary]

    def primary(self) -> RedisServer | None:
        """The server that all sentinels name and that takes itself for the primary; None while they disagree."""
        named = {port for watcher in self._replicated.sentinels if (port := self._named_by(watcher.port))}
        for server in self._replicated.servers:
            if named == {server.port} and self._replication(server).get("role") == "master":
                return server
        return None

    def in_step(self) -> RedisServer | None:
        """The primary, when it has all of its replicas, and all that was confirmed is with them."""
        primary = self.primary()
        if primary is None:
            return None
        count = len(self._replicated.servers) - 1
        replication = self._replication(primary)
        online = [replication.get(f"slave{number}", {}).get("state") for number in range(count)]
        return primary if online == ["online"] * count else None

    def _named_by(self, sentinel: int) -> int:
        with _impatient(sentinel) as client:
            known = client.sentinel_get_master_addr_by_name(MASTER)
        return int(known[1]) if known else 0

    def _replication(self, server: RedisServer) -> dict[str, Any]:
        with _impatient(server.port) as client:
            try:
                found: dict[str, Any] = client.info("replication")
            except redis.RedisError:
                return {}  # it was killed, or stands still
        return found


def _impatient(port: int) -> redis.Redis:
    """A client that waits a second at the most, and tries once."""
    once = Retry(NoBackoff(), 0)
    return redis.Redis(
        host=HOST, port=port, protocol=2, socket_timeout=1, socket_connect_timeout=1, retry=once
    )


class RabbitChaos(World):
    """RabbitMQ for messages, a Redis server for results."""

    name = "rabbitmq"
    atomic = False
    returns_at_once = True
    # Results go to another server, what follows is confirmed, queues for delays are made before: an acknowledgement has
    # come six seconds after the end of its task where two cores had a load of 25.
    window = 10.0

    def start(self) -> None:
        """Start both servers."""
        self._server = RabbitMqServer(f"heartbeat = {HEARTBEAT}")
        self._results = RedisServer(aof="always")
        self._serve("backend", self._results)
        self._serve("broker", self._server)
        self._way = self._proxy(self._server)
        self.vhost = self._server.add_vhost()

    def urls(self) -> tuple[str, str]:
        """One each."""
        return self._server.url(self.vhost), self._results.url()

    def address(self, role: str) -> Address:
        """By a proxy each; workers share the one to the broker.

        Workers complete each other's chords where the URL of their broker is the same.
        """
        backend = self._proxy(self._results)
        if role == "worker":
            return Address(self._way.url(path=self.vhost), backend.url("redis"), [backend], [self._way])
        broker = self._proxy(self._server)
        return Address(broker.url(path=self.vhost), backend.url("redis"), [broker, backend])

    def settings(self) -> dict[str, Any]:
        """A dead peer is to be noticed within seconds."""
        durable = {} if self.durable else {"task_default_delivery_mode": "transient"}
        typed = {"task_default_queue_type": self.queue_type} if self.queue_type != "classic" else {}
        return {"broker_heartbeat": HEARTBEAT, **durable, **typed}

    def versions(self) -> dict[str, str]:
        """Both servers'."""
        return {"rabbitmq": self._server.version, "redis": _redis_version(self._results)}

    def left(self) -> Left:
        """Of all queues; AMQP has no question for it, so the node itself is asked."""
        every, ready = self._server.queues(self.vhost), self._server.ready(self.vhost)
        return count_left(every, ready)

    def close_one_connection(self) -> None:
        """Close the oldest connection, as an administrator does."""
        self._server.close_one_connection("closed by chaos")


def count_left(every: Mapping[str, int], ready: Mapping[str, int]) -> Left:
    """What the queues have, by the name of each: all messages, and those that wait; -1 where it cannot say."""
    known = {name: count for name, count in every.items() if count >= 0 and ready.get(name, -1) >= 0}
    delayed = sum(count for name, count in known.items() if name.startswith("celery_delayed_"))
    held = sum(count - ready[name] for name, count in known.items())
    return Left(ready[QUEUE] if QUEUE in known else 0, delayed, held, len(every) - len(known))


class SqliteChaos(World):
    """A file, on a small disk of its own where this user may make one."""

    name = "sqlite"
    shares_clock = True

    def start(self) -> None:
        """Mount the disk."""
        if os.geteuid() == 0 and shutil.which("mount"):
            mounting = ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(self.directory)]
            self.has_disk = subprocess.run(mounting, check=False, capture_output=True).returncode == 0
        if self.has_disk:
            # Lazily, because a process that was killed a moment ago may still be letting go of its files.
            self._ending.callback(subprocess.run, ["umount", "-l", str(self.directory)], check=True)

    def urls(self) -> tuple[str, str]:
        """The file is both."""
        url = f"sqlite:///{self.directory}/chaos.db"
        return url, url

    def address(self, role: str) -> Address:
        """There is nothing between."""
        return Address(*self.urls())

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Leave not a byte on the disk."""
        ballast = self.directory / "ballast"
        try:
            with ballast.open("wb") as handle:
                _take_all(handle.fileno())
            yield
        finally:
            ballast.unlink(missing_ok=True)


def _take_all(descriptor: int) -> None:
    """Let a file take all that its disk has, while others take some too."""
    block = 16 * 1024 * 1024
    size = 0
    while block >= _PAGE:
        try:
            os.posix_fallocate(descriptor, size, block)
            size += block
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            block //= 2


def _redis_version(server: RedisServer) -> str:
    with server.client() as client:
        return str(client.info("server")["redis_version"])


WORLDS: dict[str, type[World]] = {
    world.name: world for world in (RedisChaos, SentinelChaos, RabbitChaos, SqliteChaos)
}
