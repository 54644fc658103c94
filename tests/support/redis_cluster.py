"""Redis servers that are one cluster."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import redis

from tests.support.servers import HOST, RedisServer, free_port
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

SLOTS = 16384


class ClusterNode(RedisServer):
    """A server that may be a node; it takes another for dead after some seconds of silence.

    With a ``certificate`` and its key the nodes speak TLS among themselves and at ``tls_port``.
    """

    def __init__(
        self,
        *options: str,
        aof: str | None = None,
        patience: float = 15.0,
        certificate: tuple[str, str] | None = None,
    ) -> None:
        super().__init__(*options, aof=aof)
        self._patience = patience
        self._certificate = certificate
        self.bus_port = self.tls_port = 0

    def choose_ports(self) -> None:
        """Choose the ports of clients and of other nodes."""
        super().choose_ports()
        self.bus_port, self.tls_port = free_port(), free_port()

    def command(self) -> Sequence[str]:
        """The command line, with the databases that a cluster has."""
        command = [*super().command()]
        del command[command.index("--databases") : command.index("--databases") + 2]
        if self._certificate is not None:
            file, key = self._certificate
            command += ["--tls-port", str(self.tls_port), "--tls-cluster", "yes", "--tls-auth-clients", "no"]
            command += ["--tls-cert-file", file, "--tls-key-file", key, "--tls-ca-cert-file", file]
        return [
            *command,
            *("--cluster-enabled", "yes", "--cluster-port", str(self.bus_port)),
            *("--cluster-node-timeout", str(int(self._patience * 1000)), "--repl-diskless-sync-delay", "0"),
        ]


class RedisCluster:
    """Masters that share the slots evenly, each with so many replicas; a context manager.

    ``server_options`` go to the command line of every server, ``aof`` is as for RedisServer. A node is
    taken for dead after ``patience`` seconds of silence. ``certificate`` is as for ClusterNode.
    """

    def __init__(
        self,
        *,
        masters: int = 3,
        replicas: int = 0,
        server_options: Sequence[str] = (),
        aof: str | None = None,
        patience: float = 15.0,
        certificate: tuple[str, str] | None = None,
    ) -> None:
        self._patience = patience
        self._certificate = certificate
        self._count = (masters, replicas)
        self._options = server_options
        self._aof = aof
        self._running = ExitStack()
        self._clients: dict[int, redis.Redis] = {}
        self.nodes: list[ClusterNode] = []

    def __enter__(self) -> Self:
        masters, replicas = self._count
        with ExitStack() as running:
            for _ in range(masters * (1 + replicas)):
                node = ClusterNode(
                    *self._options, aof=self._aof, patience=self._patience, certificate=self._certificate
                )
                self.nodes.append(running.enter_context(node))
            self._share_slots(masters)
            self._introduce()
            wait_until(
                lambda: all(self._knows(node, len(self.nodes)) for node in self.nodes),
                timeout=30,
                what="the nodes to know each other",
            )
            for number, node in enumerate(self.nodes[masters:]):
                self._follow(node, self.nodes[number % masters])
            wait_until(
                lambda: all(self.is_well(node) for node in self.nodes), timeout=30, what="the cluster's state"
            )
            for node in self.nodes[masters:]:
                wait_until(partial(self._is_linked, node), timeout=30, what="the replicas")
            self._running = running.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients.values():
            client.close()
        self._running.close()

    def _share_slots(self, masters: int) -> None:
        for number, node in enumerate(self.nodes[:masters]):
            first, last = SLOTS * number // masters, SLOTS * (number + 1) // masters - 1
            self.call(node, "CLUSTER", "ADDSLOTSRANGE", first, last)
            self.call(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)

    def _introduce(self) -> None:
        for node in self.nodes:
            for other in self.nodes:
                if other is not node:
                    port = other.port if self._certificate is None else other.tls_port
                    self.call(node, "CLUSTER", "MEET", HOST, port, other.bus_port)

    def _knows(self, node: ClusterNode, count: int) -> bool:
        lines = _text(self.call(node, "CLUSTER", "NODES")).splitlines()
        return len(lines) == count and not any("handshake" in line for line in lines)

    def _follow(self, node: ClusterNode, master: ClusterNode) -> None:
        self.call(node, "CLUSTER", "REPLICATE", self.name(master))

    def _is_linked(self, node: ClusterNode) -> bool:
        return bool(self.client(node).info("replication").get("master_link_status") == "up")

    def is_well(self, node: ClusterNode) -> bool:
        """Whether a node finds that all slots are served."""
        return "cluster_state:ok" in _text(self.call(node, "CLUSTER", "INFO")).split()

    def name(self, node: ClusterNode) -> str:
        """The id of a node in the cluster."""
        return _text(self.call(node, "CLUSTER", "MYID"))

    def call(self, node: ClusterNode, *command: str | bytes | int) -> Any:
        """The reply of one node to one command."""
        client: Any = self.client(node)
        return client.execute_command(*command)

    def client(self, node: ClusterNode) -> redis.Redis:
        """A client of one node, which is closed with the cluster."""
        if node.port not in self._clients:
            self._clients[node.port] = node.client()
        return self._clients[node.port]

    def url(self, options: str = "", scheme: str = "redis+cluster", login: str = "") -> str:
        """The cluster's address, with two of its nodes."""
        secure = scheme.startswith("rediss")
        places = ",".join(f"{HOST}:{node.tls_port if secure else node.port}" for node in self.nodes[:2])
        return f"{scheme}://{login}{places}{'?' if options else ''}{options}"

    def masters(self) -> list[ClusterNode]:
        """The running nodes that have slots of their own."""
        return [node for node in self.nodes if node.running and _text(self.call(node, "ROLE")[0]) == "master"]

    def clients(self) -> list[redis.Redis]:
        """A client of each master."""
        return [self.client(node) for node in self.masters()]

    def owner(self, slot: int) -> ClusterNode:
        """The node that has a slot."""
        node = next(node for node in self.nodes if node.running)
        for first, last, (_, port, *_), *_ in self.call(node, "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise AssertionError(f"nobody has slot {slot}")

    def begin_to_move(self, slot: int, to: ClusterNode) -> ClusterNode:
        """Let a slot be on its way to another node; gives the one that has it still."""
        source = self.owner(slot)
        self.call(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.name(source))
        self.call(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.name(to))
        return source

    def end_move(self, slot: int, source: ClusterNode, to: ClusterNode) -> None:
        """Move the keys, and have everybody know."""
        while keys := self.call(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
            self.call(source, "MIGRATE", HOST, to.port, "", 0, 5000, "KEYS", *keys)
        for node in (to, source, *self.masters()):
            self.call(node, "CLUSTER", "SETSLOT", slot, "NODE", self.name(to))

    def move(self, slot: int, to: ClusterNode) -> None:
        """Move a slot with its keys, as ``redis-cli --cluster reshard`` does."""
        self.end_move(slot, self.begin_to_move(slot, to), to)

    def flush(self) -> None:
        """Empty the cluster."""
        for node in self.nodes:
            with suppress(redis.ReadOnlyError):
                self.client(node).flushall()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
