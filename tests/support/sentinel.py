"""Redis servers that replicate, and sentinels that watch them: what a failover needs."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import redis

from tests.support.servers import HOST, RedisServer, ServerProcess
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

MASTER = "umbels"  #: the name by which the sentinels know the primary


class Sentinel(ServerProcess):
    """A sentinel that takes a server for dead after half a second. ``options`` are lines of its configuration."""

    program = "redis-server"
    package = "redis-server"

    def __init__(self, primary: int, quorum: int, *options: str) -> None:
        super().__init__()
        self._primary = primary
        self._quorum = quorum
        self._options = options

    def command(self) -> Sequence[str]:
        """The command line; a sentinel rewrites its configuration as it learns."""
        lines = [
            f"bind {HOST}",
            f"port {self.port}",
            f"dir {self.directory}",
            "protected-mode no",
            f"sentinel monitor {MASTER} {HOST} {self._primary} {self._quorum}",
            f"sentinel down-after-milliseconds {MASTER} 500",
            f"sentinel failover-timeout {MASTER} 3000",
            *self._options,
        ]
        config = self.directory / "sentinel.conf"
        if not config.exists():
            config.write_text("\n".join(lines) + "\n")
        return [self.program, str(config), "--sentinel"]

    def choose_ports(self) -> None:
        """Choose a port, for a configuration that is not written yet."""
        (self.directory / "sentinel.conf").unlink(missing_ok=True)
        super().choose_ports()

    def answers(self) -> bool:
        """Whether PING is answered, if only by asking for a password."""
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


class Replicated:
    """A primary that keeps everything, its replicas, and sentinels; a context manager.

    Args:
        replicas: how many.
        sentinels: how many; a majority of them decides.
        server_options: go to the command line of every server.
        sentinel_options: lines of every sentinel's configuration.
    """

    def __init__(
        self,
        *,
        replicas: int = 1,
        sentinels: int = 0,
        server_options: Sequence[str] = (),
        sentinel_options: Sequence[str] = (),
    ) -> None:
        self._count = (replicas, sentinels)
        self._server_options = server_options
        self._sentinel_options = sentinel_options
        self._running = ExitStack()
        self.servers: list[RedisServer] = []
        self.sentinels: list[Sentinel] = []

    def __enter__(self) -> Self:
        replicas, sentinels = self._count
        with ExitStack() as running:
            options = ("--repl-diskless-sync-delay", "0", *self._server_options)
            primary = running.enter_context(RedisServer(*options, aof="everysec"))
            self.servers = [primary]
            for _ in range(replicas):
                copy = RedisServer(*options, "--replicaof", f"{HOST} {primary.port}", aof="everysec")
                self.servers.append(running.enter_context(copy))
            self._wait_for_replicas(primary, replicas)
            for _ in range(sentinels):
                watcher = Sentinel(primary.port, sentinels // 2 + 1, *self._sentinel_options)
                self.sentinels.append(running.enter_context(watcher))
            self._wait_for_sentinels(replicas)
            self._running = running.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    def _wait_for_replicas(self, primary: RedisServer, count: int) -> None:
        with primary.client() as client:
            wait_until(
                lambda: client.wait(count, 100) >= count if count else True, timeout=30, what="the replicas"
            )

    def _wait_for_sentinels(self, replicas: int) -> None:
        for watcher in self.sentinels:
            with redis.Redis(host=HOST, port=watcher.port, protocol=2, **self.sentinel_login()) as client:
                wait_until(
                    partial(self._is_informed, client, replicas),
                    timeout=30,
                    what="the sentinels to know each other and the replicas",
                )

    def sentinel_login(self) -> dict[str, Any]:
        """How to log in at a sentinel, as its options say."""
        words = dict(option.split(None, 1) for option in self._sentinel_options)
        return {"password": words["requirepass"]} if "requirepass" in words else {}

    def _is_informed(self, client: redis.Redis, replicas: int) -> bool:
        known: Any = client.sentinel_master(MASTER)
        return bool(
            known["num-slaves"] >= replicas and known["num-other-sentinels"] == len(self.sentinels) - 1
        )

    def urls(self, database: int = 0, options: str = "") -> str:
        """All servers, as a list of URLs."""
        return ";".join(f"{server.url(database)}{options}" for server in self.servers)

    def sentinel_urls(self, database: int = 0, options: str = "", login: str = "") -> str:
        """All sentinels, as Celery writes them; ``options`` begin with ``&``."""
        query = f"{database}?master_name={MASTER}{options}"
        return ";".join(f"sentinel://{login}{HOST}:{watcher.port}/{query}" for watcher in self.sentinels)

    def primary(self) -> RedisServer | None:
        """The running server that says that it is the primary."""
        for server in self.servers:
            if not server.running:
                continue
            with server.client() as client:
                try:
                    if client.info("replication")["role"] == "master":
                        return server
                except redis.RedisError:
                    continue
        return None
