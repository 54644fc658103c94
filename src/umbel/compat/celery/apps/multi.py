"""Several workers as one: nodes, and clusters of them, on the workers of ``umbel multi``."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections import UserList
from pathlib import Path
from typing import TYPE_CHECKING, Any

from umbel.cli.multi import pid_of
from umbel.cli.nodes import Arguments, completed, nodes_of, read_arguments
from umbel.cli.nodes import Node as _Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

__all__ = ("Cluster", "Node")

#: Seconds between two looks at nodes that are to end.
_LOOK_EVERY = 0.2


class Node:
    """One worker: the command that starts it, and the process that its pid file names.

    Args:
        name: in full, as ``w1@host``.
        cmd: what Python runs, instead of ``-m umbel worker --detach``.
        append: put behind the command line.
        options: by their names on the command line.
        extra_args: put behind the options.
    """

    def __init__(
        self,
        name: str,
        cmd: str | None = None,
        append: str | None = None,
        options: Mapping[str, str | None] | None = None,
        extra_args: str | None = None,
    ) -> None:
        self.name = name
        self.cmd, self.append, self.extra_args = cmd or "", append, extra_args or ""
        self.options = completed(name, options or {})
        self._node = _Node(name, self.options, self.cmd, append or "", tuple(shlex.split(self.extra_args)))
        self._pid: int | None = None

    @classmethod
    def from_kwargs(cls, name: str, **kwargs: object) -> Node:
        """A node with options by their names in Python: ``pool="solo"``, ``A="proj"``."""
        words = {
            f"--{key.replace('_', '-')}" if len(key) > 1 else f"-{key}": value
            for key, value in kwargs.items()
        }
        return cls(name, options={key: str(value) for key, value in words.items()})

    def expander(self, template: str) -> str:
        """Fill in ``%n``, ``%h`` and the others."""
        return self._node.expand(template)

    def getopt(self, *names: str) -> str | None:
        """The option of one of these names. Raises KeyError."""
        for name in names:
            if name in self.options:
                return self.options[name]
        raise KeyError(names[0])

    @property
    def argv_with_executable(self) -> tuple[str, ...]:
        """The command line."""
        return tuple(self._node.argv)

    @property
    def argv(self) -> tuple[str, ...]:
        """The command line behind Python."""
        return self.argv_with_executable[1:]

    @property
    def executable(self) -> str:
        """The Python that runs it."""
        return self._node.executable

    @property
    def pidfile(self) -> str:
        """Where its process id is."""
        return str(self._node.pidfile)

    @property
    def logfile(self) -> str:
        """Where it logs."""
        return str(self._node.logfile)

    @property
    def pid(self) -> int | None:
        """Its process id: the one that was set, else what the file says."""
        return self._pid if self._pid is not None else pid_of(self._node)

    @pid.setter
    def pid(self, value: int | None) -> None:
        self._pid = value

    def alive(self) -> bool:
        """Whether its process is there."""
        return self.send(0)

    def send(self, sig: int, on_error: Callable[[Node], object] | None = None) -> bool:
        """Send its process a signal; ``on_error(node)`` is called, and the answer is false, when it is not there."""
        pid = self.pid
        if pid:
            try:
                os.kill(pid, sig)
            except ProcessLookupError:
                pass
            else:
                return True
        _tell(on_error, self)
        return False

    def start(
        self,
        env: Mapping[str, str] | None = None,
        *,
        on_spawn: Callable[..., object] | None = None,
        on_signalled: Callable[[Node, int], object] | None = None,
        on_failure: Callable[[Node, int], object] | None = None,
    ) -> int:
        """Start it; gives the exit status of the command, or the number of the signal that ended it."""
        for path in (self._node.pidfile, self._node.logfile):
            Path(path).expanduser().parent.mkdir(parents=True, exist_ok=True)
        words = self._node.argv
        _tell(on_spawn, self, argstr=" ".join(words), env=env)
        status = subprocess.run(words, check=False, env=env).returncode
        if status:
            _tell(on_signalled if status < 0 else on_failure, self, abs(status))
        return abs(status)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name}>"


#: The class by a name that ``MultiParser.Node`` does not hide.
_Parsed = Node


class NamespacedOptionParser:
    """Takes a command line apart; ``parse`` fills the attributes."""

    def __init__(self, args: Sequence[str]) -> None:
        self.args = args
        self.values: list[str] = []
        self.options: dict[str, str | None] = {}
        self.namespaces: dict[str, dict[str, str | None]] = {}
        self.passthrough = ""

    def parse(self) -> None:
        """Read ``args``."""
        read = read_arguments(self.args)
        self.values, self.options, self.namespaces = read.names, read.options, read.special
        self.passthrough = shlex.join(["--", *read.rest]) if read.rest else ""


class MultiParser:
    """Makes the nodes of a command line.

    Args:
        cmd, append, prefix, suffix, range_prefix: where the command line does not say otherwise.
    """

    Node = Node

    def __init__(
        self,
        cmd: str | None = None,
        append: str = "",
        prefix: str = "",
        suffix: str = "",
        range_prefix: str = "celery",
    ) -> None:
        self.cmd = cmd
        self._own = {
            "--append": append,
            "--prefix": prefix,
            "--suffix": suffix,
            "--range-prefix": range_prefix,
        }

    def parse(self, p: NamespacedOptionParser) -> Iterator[_Parsed]:
        """The nodes. Raises KeyError for an index that no node has."""
        options: dict[str, str | None] = {**self._own, "--cmd": self.cmd, **p.options}
        rest = shlex.split(p.passthrough)[1:]
        try:
            nodes = nodes_of(Arguments(list(p.values), options, p.namespaces, rest))
        except ValueError as error:
            raise KeyError(str(error)) from error
        for node in nodes:
            yield self.Node(node.name, node.command, node.append, node.options, shlex.join(node.rest))


class Cluster(UserList):  # type: ignore[type-arg]
    """Some workers. Every ``on_…`` is a function that hears of what happens to a node, or None."""

    def __init__(
        self,
        nodes: Iterable[Node],
        cmd: str | None = None,
        env: Mapping[str, str] | None = None,
        on_stopping_preamble: Callable[[list[Node]], object] | None = None,
        on_send_signal: Callable[[Node, str], object] | None = None,
        on_still_waiting_for: Callable[[set[Node]], object] | None = None,
        on_still_waiting_progress: Callable[[set[Node]], object] | None = None,
        on_still_waiting_end: Callable[[], object] | None = None,
        on_node_start: Callable[[Node], object] | None = None,
        on_node_restart: Callable[[Node], object] | None = None,
        on_node_shutdown_ok: Callable[[Node], object] | None = None,
        on_node_status: Callable[[Node, int], object] | None = None,
        on_node_signal: Callable[[Node, str], object] | None = None,
        on_node_signal_dead: Callable[[Node], object] | None = None,
        on_node_down: Callable[[Node], object] | None = None,
        on_child_spawn: Callable[..., object] | None = None,
        on_child_signalled: Callable[[Node, int], object] | None = None,
        on_child_failure: Callable[[Node, int], object] | None = None,
    ) -> None:
        super().__init__(nodes)
        self.cmd = cmd
        self.env = env
        self.on_stopping_preamble = on_stopping_preamble
        self.on_send_signal = on_send_signal
        self.on_still_waiting_for = on_still_waiting_for
        self.on_still_waiting_progress = on_still_waiting_progress
        self.on_still_waiting_end = on_still_waiting_end
        self.on_node_start = on_node_start
        self.on_node_restart = on_node_restart
        self.on_node_shutdown_ok = on_node_shutdown_ok
        self.on_node_status = on_node_status
        self.on_node_signal = on_node_signal
        self.on_node_signal_dead = on_node_signal_dead
        self.on_node_down = on_node_down
        self.on_child_spawn = on_child_spawn
        self.on_child_signalled = on_child_signalled
        self.on_child_failure = on_child_failure

    @property
    def nodes(self) -> list[Node]:
        """Its nodes."""
        return self.data

    def find(self, name: str) -> Node:
        """The node of a name. Raises KeyError."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def getpids(self, on_down: Callable[[Node], object] | None = None) -> Iterator[Node]:
        """The nodes that have a process id; of the others ``on_down`` hears."""
        for node in self.nodes:
            if node.pid:
                yield node
            else:
                _tell(on_down, node)

    def start(self) -> list[int]:
        """Start every node; gives their exit statuses."""
        return [self.start_node(node) for node in self.nodes]

    def start_node(self, node: Node) -> int:
        """Start one."""
        _tell(self.on_node_start, node)
        return self._started(node)

    def restart(self, sig: int = signal.SIGTERM) -> list[int]:
        """Stop every node and start it again when it has ended, or at once where it was down."""
        statuses: list[int] = []

        def again(node: Node) -> None:
            _tell(self.on_node_restart, node)
            statuses.append(self._started(node))

        self.stop(_LOOK_EVERY, again, sig)
        return statuses

    def stop(
        self,
        retry: float | None = None,
        callback: Callable[[Node], object] | None = None,
        sig: int = signal.SIGTERM,
    ) -> None:
        """Send every node a signal; with ``retry`` look every so many seconds until they have ended.

        Of every node that is down, or was and is no more, ``callback`` hears, or else ``on_node_down``.
        """
        told = callback if callback is not None else self.on_node_down
        nodes = list(self.getpids(told))
        for node in self.shutdown_nodes(nodes, sig, retry) if nodes else ():
            _tell(told, node)

    def stopwait(
        self,
        retry: float | None = 2,
        callback: Callable[[Node], object] | None = None,
        sig: int = signal.SIGTERM,
    ) -> None:
        """As ``stop``, and wait until they have ended."""
        self.stop(retry, callback, sig)

    def kill(self) -> None:
        """Send every node KILL."""
        self.send_all(signal.SIGKILL)

    def send_all(self, sig: int) -> None:
        """Send every node a signal."""
        for node in self.getpids(self.on_node_down):
            _tell(self.on_node_signal, node, _name_of(sig))
            node.send(sig, self.on_node_signal_dead)

    def shutdown_nodes(
        self, nodes: Sequence[Node], sig: int = signal.SIGTERM, retry: float | None = None
    ) -> Iterator[Node]:
        """Send a signal, and give each node when it has ended; without ``retry`` only those that had before."""
        _tell(self.on_stopping_preamble, nodes)
        left = set(nodes)
        for node in nodes:
            _tell(self.on_send_signal, node, _name_of(sig))
            if not node.send(sig, self.on_node_signal_dead):
                left.discard(node)
                yield node
        if retry:
            yield from self._ended(left, float(retry))

    def _ended(self, left: set[Node], every: float) -> Iterator[Node]:
        _tell(self.on_still_waiting_for, left)
        while left:
            _tell(self.on_still_waiting_progress, left)
            for node in [node for node in left if not node.alive()]:
                _tell(self.on_node_shutdown_ok, node)
                left.discard(node)
                yield node
            if left:
                time.sleep(every)
        _tell(self.on_still_waiting_end)

    def _started(self, node: Node) -> int:
        status = node.start(
            self.env,
            on_spawn=self.on_child_spawn,
            on_signalled=self.on_child_signalled,
            on_failure=self.on_child_failure,
        )
        _tell(self.on_node_status, node, status)
        return status

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({len(self)}): {[node.name for node in self.nodes]}>"


def _name_of(sig: int) -> str:
    return signal.Signals(sig).name.removeprefix("SIG")


def _tell(told: Callable[..., object] | None, *args: Any, **kwargs: Any) -> None:
    if told is not None:
        told(*args, **kwargs)
