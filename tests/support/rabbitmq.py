"""Private RabbitMQ servers: alone, or three that make a cluster.

A node has everything in a directory of its own and an Erlang port mapper (epmd) of its own, so that it meets neither
the machine's RabbitMQ nor another test's. It runs as whoever runs the tests: Debian's wrappers, which want root or
the user rabbitmq, are passed by.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from tests.support.processes import end_session, is_alive, spawn
from tests.support.servers import HOST, ServerProcess, free_port
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

_SCRIPTS = Path("/usr/lib/rabbitmq/bin")  #: Debian's, without the wrappers
_COOKIE = "umbel"  #: what nodes and tools show each other; every node listens on the loopback interface alone
_PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
_CONFIGURATION = """\
listeners.tcp.default = {host}:{port}
disk_free_limit.absolute = 10MB
vm_memory_high_watermark.absolute = {watermark}
raft.wal_max_size_bytes = 16000000
loopback_users = none
{more}
"""
_PLENTY = "2GB"


class PortMapper:
    """The epmd in which the nodes of one server or one cluster find each other and their tools find them."""

    def __init__(self) -> None:
        self.port = 0
        self.directory = Path(tempfile.mkdtemp(prefix="epmd-"))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it on a free port unless it runs."""
        if self._process is not None and is_alive(self._process.pid):
            return
        if shutil.which("epmd") is None:
            return  # the server's start says what to install
        self.port = free_port()
        self._process = spawn(
            ["epmd", "-port", str(self.port), "-address", HOST],
            cwd=self.directory,
            output=self.directory / "log",
        )
        wait_until(self._answers, what=f"epmd on port {self.port}")

    def stop(self) -> None:
        """End it; safe twice."""
        if self._process is not None:
            end_session(self._process)
            self._process = None
        shutil.rmtree(self.directory, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            socket.create_connection((HOST, self.port), timeout=1).close()
        except OSError:
            return False
        return True


class RabbitMqServer(ServerProcess):
    """A RabbitMQ node without plug-ins whose user is guest, ready in about three seconds.

    ``configuration`` holds more lines for rabbitmq.conf (``"heartbeat = 2"``). What was confirmed as durable survives
    ``kill9`` and ``restart``. Nodes of a cluster share a ``mapper``.
    """

    program = "rabbitmq-server"
    package = "rabbitmq-server"

    def __init__(self, *configuration: str, mapper: PortMapper | None = None) -> None:
        super().__init__()
        self._configuration = configuration
        self._mapper = mapper or PortMapper()
        self._owns_mapper = mapper is None
        self._node_port = 0
        self._vhosts = 0
        cookie = self.directory / ".erlang.cookie"
        cookie.write_text(_COOKIE)
        cookie.chmod(0o400)

    def find_program(self) -> str | None:
        """The server's own start script: a user's path need not have it."""
        return _script(self.program)

    def choose_ports(self) -> None:
        """One port for clients and one for other nodes and tools."""
        super().choose_ports()
        self._node_port = free_port()

    @property
    def node(self) -> str:
        """The node's name in Erlang."""
        return f"umbel{self.port}@localhost"

    @property
    def node_port(self) -> int:
        """The port for other nodes: cut it to part a cluster."""
        return self._node_port

    def command(self) -> Sequence[str]:
        """The command line; what RabbitMQ takes from the environment is set in ``environment``."""
        self._mapper.start()
        configuration = _CONFIGURATION.format(
            host=HOST, port=self.port, watermark=_PLENTY, more="\n".join(self._configuration)
        )
        (self.directory / "rabbitmq.conf").write_text(configuration)
        return [self.find_program() or self.program, "-noinput"]

    def environment(self) -> Mapping[str, str]:
        """The environment of the node and of its tools."""
        none = str(self.directory / "none")
        own = {
            "HOME": str(self.directory),
            "ERL_EPMD_PORT": str(self._mapper.port),
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self._node_port),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "data"),
            "RABBITMQ_LOG_BASE": str(self.directory / "logs"),
            "RABBITMQ_LOGS": "-",  # standard output, which goes to the log
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": none,
            "RABBITMQ_CONF_ENV_FILE": none,
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_PLUGINS_EXPAND_DIR": str(self.directory / "plugins"),
            # The start script becomes the node instead of waiting for it: the process that is killed or frozen.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CTL_ERL_ARGS": "-start_epmd false",
            # Any free port: the default range has room for ten tools at a time on the whole machine.
            "RABBITMQ_CTL_DIST_PORT_MIN": "10000",
            "RABBITMQ_CTL_DIST_PORT_MAX": "30000",
        }
        return {k: v for k, v in os.environ.items() if not k.startswith("RABBITMQ_")} | own

    def answers(self) -> bool:
        """Whether a connection is greeted, which is the last thing that a starting node comes to."""
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                connection.sendall(_PROTOCOL_HEADER)
                return bool(connection.recv(8))
        except OSError:
            return False

    def stop(self) -> None:
        """End it and delete its data."""
        super().stop()
        if self._owns_mapper:
            self._mapper.stop()

    def url(self, vhost: str = "/") -> str:
        """Its address, with the vhost quoted as Celery reads it."""
        return f"amqp://guest:guest@{HOST}:{self.port}/{quote(vhost, safe='')}"

    @property
    def version(self) -> str:
        """RabbitMQ's version: "3.10.8"."""
        return self.evaluate_text("rabbit_misc:version()")

    def rabbitmqctl(self, *arguments: str, timeout: float = 30) -> str:
        """Run rabbitmqctl (about 0.3 s) and give what it printed. Raises AssertionError when it fails."""
        done = subprocess.run(
            [_script("rabbitmqctl") or "rabbitmqctl", "--quiet", *arguments],
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert done.returncode == 0, (
            f"rabbitmqctl {' '.join(arguments)}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done.stdout

    def evaluate(self, expression: str) -> str:
        """The value of an Erlang expression in the node (about 10 ms), as Erlang writes it."""
        for _ in range(3):
            done = subprocess.run(
                ["erl_call", "-c", _COOKIE, "-n", self.node, "-e"],
                input=f"{expression}.\n",
                env=self.environment(),
                capture_output=True,
                text=True,
                check=False,
                timeout=30,
            )
            if (
                "failed to connect" not in done.stderr
            ):  # a busy node may not answer in time; nothing was evaluated
                break
        value = re.fullmatch(r"(?s)\{ok, (.*)\}", done.stdout.strip())
        assert value, f"{expression} in {self.node}: {done.stdout}\n{done.stderr}\n{self._log_end()}"
        return value.group(1)

    def evaluate_text(self, expression: str) -> str:
        """The value of an Erlang expression that gives a string of ASCII."""
        written = self.evaluate(expression)
        return "" if written == "[]" else str(json.loads(written, strict=False))

    def add_vhost(self, name: str = "") -> str:
        """Make an empty vhost for guest; without a name, one that was never used on this server. Gives the name."""
        self._vhosts += 1
        name = name or f"t{self._vhosts}"
        every = '<<".*">>, <<".*">>, <<".*">>'
        self.evaluate(
            f'ok = rabbit_vhost:add(<<"{name}">>, <<"umbel">>), ok = rabbit_auth_backend_internal:'
            f'set_permissions(<<"guest">>, <<"{name}">>, {every}, <<"umbel">>)'
        )
        return name

    def delete_vhost(self, name: str) -> None:
        """Delete a vhost with all that is in it; who is connected to it is cut off."""
        self.evaluate(f'rabbit_vhost:delete(<<"{name}">>, <<"umbel">>)')

    def queues(self, vhost: str = "/") -> dict[str, int]:
        """How many messages each queue has, those that consumers hold included; -1 where it cannot say as yet."""
        return self._counts(vhost, "messages")

    def ready(self, vhost: str = "/") -> dict[str, int]:
        """How many messages wait in each queue for a consumer; -1 where it cannot say as yet."""
        return self._counts(vhost, "messages_ready")

    def consumers(self, vhost: str = "/") -> dict[str, int]:
        """How many consumers each queue has."""
        return self._counts(vhost, "consumers")

    def _counts(self, vhost: str, column: str) -> dict[str, int]:
        # A queue that is being made or moved, or whose node has just come back, has no figures. Those of a quorum queue
        # are brought up to date every few seconds: its replicas are asked.
        asked = {"messages": "query_messages_total", "messages_ready": "query_messages_ready"}.get(column, "")
        info = f"catch proplists:get_value({column}, rabbit_amqqueue:info(Q, [{column}]))"
        query = f"catch ra:local_query(amqqueue:get_pid(Q), fun rabbit_fifo:{asked}/1)"
        quorum = f"case {query} of {{ok, {{_, N}}, _}} -> N; _ -> none end" if asked else info
        text = self.evaluate_text(
            'lists:flatten([io_lib:format("~ts\\t~p\\n", [element(4, amqqueue:get_name(Q)), '
            f"case amqqueue:get_type(Q) of rabbit_quorum_queue -> {quorum}; _ -> {info} end]) || "
            f'Q <- rabbit_amqqueue:list(<<"{vhost}">>)])'
        )
        rows = [line.split("\t") for line in text.splitlines() if "\t" in line]
        return {name: int(text) if text.isdecimal() else -1 for name, text in rows}

    def bindings(self, vhost: str = "/") -> list[tuple[str, str, str]]:
        """(exchange, queue or exchange that it leads to, routing key) of every binding to a named exchange."""
        text = self.evaluate_text(
            'lists:flatten([io_lib:format("~ts\\t~ts\\t~ts\\n", [proplists:get_value(K, B) || K <- '
            f'[source_name, destination_name, routing_key]]) || B <- rabbit_binding:info_all(<<"{vhost}">>), '
            'proplists:get_value(source_name, B) =/= <<"">>])'
        )
        found = [line.split("\t") for line in text.splitlines()]
        return [(exchange, queue, key) for exchange, queue, key in found]

    def connections(self) -> int:
        """How many clients are connected."""
        return int(self.evaluate("length(rabbit_networking:connections())"))

    def close_connections(self, reason: str = "closed by a test") -> int:
        """Close every client's connection as an administrator does, one after the other; how many there were."""
        closing = (
            f'[rabbit_networking:close_connection(P, "{reason}") || P <- rabbit_networking:connections()]'
        )
        return int(self.evaluate(f"length({closing})"))

    def close_one_connection(self, reason: str = "closed by a test") -> bool:
        """Close the connection that has been open longest; False when there was none."""
        return self.evaluate(
            f'case rabbit_networking:connections() of [] -> 0; Open -> P = hd(lists:sort(Open)), '
            f'rabbit_networking:close_connection(P, "{reason}"), 1 end'
        ) == "1"  # fmt: skip

    def raise_memory_alarm(self) -> None:
        """Let the node think that it has no memory left: it blocks the connections that publish."""
        self.evaluate("vm_memory_monitor:set_vm_memory_high_watermark({absolute, 1})")
        wait_until(lambda: self.evaluate("rabbit_alarm:get_alarms()") != "[]", what="the memory alarm")

    def clear_memory_alarm(self) -> None:
        """Give the memory back."""
        self.evaluate(f'vm_memory_monitor:set_vm_memory_high_watermark({{absolute, "{_PLENTY}"}})')
        wait_until(
            lambda: self.evaluate("rabbit_alarm:get_alarms()") == "[]", what="the end of the memory alarm"
        )


class RabbitMqCluster:
    """Three RabbitMQ nodes that are one cluster, for quorum queues. Start takes about ten seconds."""

    def __init__(self, *configuration: str, size: int = 3) -> None:
        self._mapper = PortMapper()
        self.nodes = [RabbitMqServer(*configuration, mapper=self._mapper) for _ in range(size)]

    def start(self) -> Self:
        """Start every node and join the others to the first."""
        first, *others = self.nodes
        for node in self.nodes:
            node.start()
        for node in others:
            node.rabbitmqctl("stop_app")
            node.rabbitmqctl("join_cluster", first.node)
            node.rabbitmqctl("start_app", timeout=60)
        return self

    def stop(self) -> None:
        """End every node and delete its data."""
        with ExitStack() as ending:
            ending.callback(self._mapper.stop)
            for node in self.nodes:
                ending.callback(node.stop)

    def url(self, vhost: str = "/") -> str:
        """The addresses of all nodes, separated by ``;`` as Celery takes them."""
        return ";".join(node.url(vhost) for node in self.nodes)

    def leader(self, queue: str, vhost: str = "/") -> RabbitMqServer:
        """The node on which a queue is led. Raises AssertionError when no node that runs knows it."""
        asking = f"""
            case rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>)) of
                {{ok, Q}} -> atom_to_list(element(2, amqqueue:get_pid(Q)));
                _ -> ""
            end"""
        for node in self.nodes:
            if node.running:
                name = node.evaluate_text(asking)
                return next(each for each in self.nodes if each.node == name)
        raise AssertionError(f"no node of the cluster runs to be asked for {queue}")

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


def _script(name: str) -> str | None:
    ours = _SCRIPTS / name
    return str(ours) if ours.exists() else shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
