"""Private servers: each on a free port with a directory of its own, started, killed, frozen and restarted by tests.

``ServerProcess`` is the part that every server has in common; a server says how it is started and when it is ready.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import socket
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import redis

from tests.support.processes import cpu_seconds, end_session, is_alive, pss_bytes, spawn, tree
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence
    from types import TracebackType

HOST = "127.0.0.1"  #: every private server listens on the loopback interface alone
_LOWEST_PORT = 10_000  #: of those that are given to private servers
_chance = random.SystemRandom()  #: tests begin with the same seed in several processes
_ATTEMPTS = 5  #: another process may take a free port before the server does


class ServerMissingError(RuntimeError):
    """The server's program is not installed; the message says what to install."""


class ServerDiedError(RuntimeError):
    """The server ended while it was waited for; the message carries the end of its log."""


class ServerProcess(ABC):
    """One server on a free port of the loopback interface, with its data in a directory of its own.

    ``start`` returns when the server answers. ``stop`` ends it and deletes its data; ``kill9`` leaves the data for
    ``restart``. All are safe to call again.
    """

    program: ClassVar[str]  #: the command that must be on the path
    package: ClassVar[str]  #: the Debian package that has it
    #: Seconds that it may take to answer: a RabbitMQ node on a busy machine has needed more than 30.
    patience: ClassVar[float] = 90

    def __init__(self) -> None:
        self.port = 0
        #: Short, because the path of a unix socket may have 107 bytes at most.
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self.program[:5]}-"))
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The command line for ``self.port`` and ``self.directory``."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server takes requests by now."""

    def environment(self) -> Mapping[str, str] | None:
        """The environment of the server's process; None: this process' own."""
        return None

    def find_program(self) -> str | None:
        """The path of the server's program; None when it is not installed."""
        return shutil.which(self.program)

    def choose_ports(self) -> None:
        """Choose the ports for the next attempt to start."""
        self.port = free_port()

    @property
    def log(self) -> Path:
        """Where the server's output goes."""
        return self.directory / "log"

    @property
    def pid(self) -> int:
        """The process id; the server must have been started."""
        assert self._process is not None, f"{self.program} was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether its process is there, frozen or not."""
        return self._process is not None and is_alive(self._process.pid)

    def start(self) -> Self:
        """Start on a free port and wait until the server answers."""
        if not self.find_program():
            raise ServerMissingError(
                f"{self.program} is not installed: run `apt-get install {self.package}` as root"
            )
        for attempt in range(_ATTEMPTS):
            self.choose_ports()
            try:
                return self.restart()
            except ServerDiedError:
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def restart(self) -> Self:
        """Start again on the same port with the same data, after ``kill9`` or while it runs (it is killed then)."""
        self.launch()
        try:
            wait_until(
                self.is_up,
                timeout=self.patience,
                what=lambda: f"{self.program} on port {self.port}:\n{self._log_end()}",
            )
        except BaseException:
            self.kill9()
            raise
        return self

    def launch(self) -> None:
        """As ``restart``, but return at once: ``is_up`` tells when it answers."""
        self.kill9()
        self._process = spawn(self.command(), cwd=self.directory, output=self.log, env=self.environment())

    def kill9(self) -> None:
        """Kill it and what it started with SIGKILL; a frozen server dies too."""
        if self._process is None:
            return
        end_session(self._process)
        self._process = None

    def freeze(self) -> None:
        """Stop it in its tracks (SIGSTOP): connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it and delete its data."""
        self.kill9()
        shutil.rmtree(self.directory, ignore_errors=True)

    def cpu_seconds(self) -> float:
        """User plus system time that its processes have used."""
        return cpu_seconds(tree(self.pid))

    def pss_bytes(self) -> int:
        """Memory of its processes."""
        return pss_bytes(tree(self.pid))

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def is_up(self) -> bool:
        """Whether it answers by now. Raises ServerDiedError when it has ended."""
        assert self._process is not None
        if self._process.poll() is not None or not is_alive(self._process.pid):
            raise ServerDiedError(f"{self.program} on port {self.port} ended at once:\n{self._log_end()}")
        return self.answers()

    def _log_end(self) -> str:
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""


class RedisServer(ServerProcess):
    """A Redis server that keeps nothing, or everything with ``aof``.

    ``aof`` is Redis' ``appendfsync``: "always", "everysec" or "no"; with any of them what was confirmed survives the
    death of the server's process. ``options`` go to the command line as they are (``"--maxmemory", "50mb"``).
    """

    program = "redis-server"
    package = "redis-server"

    def __init__(self, *options: str, aof: str | None = None) -> None:
        super().__init__()
        self._options = options
        self._aof = aof

    def command(self) -> Sequence[str]:
        """The command line."""
        durable = ["--appendonly", "yes", "--appendfsync", self._aof] if self._aof else ["--appendonly", "no"]
        return [
            self.program,
            *("--bind", HOST, "--port", str(self.port), "--unixsocket", str(self.unix_socket)),
            *("--dir", str(self.directory), "--save", "", "--databases", "16", *durable, *self._options),
        ]

    def answers(self) -> bool:
        """Whether PING is answered; a server that still loads its data answers with an error."""
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    @property
    def unix_socket(self) -> Path:
        """The path of its unix socket."""
        return self.directory / "redis.sock"

    def url(self, database: int = 0) -> str:
        """Its address over TCP."""
        return f"redis://{HOST}:{self.port}/{database}"

    def unix_url(self, database: int = 0) -> str:
        """Its address over the unix socket, as Celery writes it."""
        return f"redis+socket://{self.unix_socket}?virtual_host={database}"

    def client(self, database: int = 0) -> redis.Redis:
        """A client of its own, to be closed by the caller (use it with ``with``)."""
        return redis.Redis(host=HOST, port=self.port, db=database, protocol=2)

    def flush(self) -> None:
        """Empty every database and forget the statistics."""
        with self.client() as client:
            client.flushall()
            client.config_resetstat()


def free_port() -> int:
    """A port that no one listens on at this moment, and that the system gives to no outgoing connection.

    A server that is killed and started again finds such a port taken by somebody's connection now and then.
    """
    while True:
        port = _chance.randrange(_LOWEST_PORT, _lowest_of_connections())
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            return port


def _lowest_of_connections() -> int:
    """The first port that Linux gives to outgoing connections."""
    return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
