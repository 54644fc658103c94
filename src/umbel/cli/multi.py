"""``umbel multi``: start, stop and restart several workers of this machine, as init scripts do with Celery's."""

from __future__ import annotations

import contextlib
import os
import signal as signals
import subprocess
import time
from typing import TYPE_CHECKING, Final

import click

from umbel.cli.command import UmbelCommand
from umbel.cli.errors import EX_FAILURE, CommandFailed
from umbel.cli.nodes import Node, nodes_of, read_arguments

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from umbel.cli.context import CliContext

__all__ = ["Multi", "call", "multi", "pid_of", "signal_in"]

#: Seconds between two looks at nodes that are to end.
_LOOK_EVERY: Final = 0.2
_FLAGS: Final = {"--nosplash", "--quiet", "-q", "--verbose", "--no-color"}


class Multi:
    """The commands, on the nodes that the command line names."""

    def __init__(
        self, context: CliContext, flags: frozenset[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self._context = context
        self._environment = environment
        self._quiet = context.quiet or bool(flags & {"--quiet", "-q"})
        self._verbose = "--verbose" in flags

    def note(self, text: str, *, end: str = "\n") -> None:
        """Print progress, unless it is to be quiet."""
        if not self._quiet:
            self._context.echo(text, nl=end == "\n")

    # The commands. Each gives the exit status.

    def start(self, nodes: list[Node], words: Sequence[str]) -> int:
        """Start every node."""
        self.note("> Starting nodes...")
        statuses = [self._start(node) for node in nodes]
        return int(any(statuses))

    def stop(self, nodes: list[Node], words: Sequence[str]) -> int:
        """Send every node a signal, TERM if none is named."""
        self._signal_all(nodes, signal_in(words))
        return 0

    def stopwait(self, nodes: list[Node], words: Sequence[str]) -> int:
        """As stop, and wait until they have ended."""
        self._wait(self._signal_all(nodes, signal_in(words)))
        return 0

    def restart(self, nodes: list[Node], words: Sequence[str]) -> int:
        """Stop every node, wait, and start it again; those that were not there are started."""
        self._wait(self._signal_all(nodes, signal_in(words)))
        statuses = []
        for node in nodes:
            self.note(f"> Restarting node {node.name}: ", end="")
            statuses.append(self._run(node))
        return int(any(statuses))

    def kill(self, nodes: list[Node], words: Sequence[str]) -> int:
        """Send every node KILL."""
        self._signal_all(nodes, signals.SIGKILL)
        return 0

    def show(self, nodes: list[Node], words: Sequence[str]) -> int:
        """Print the command of every node."""
        for node in nodes:
            self._context.echo(" ".join(node.argv))
        return 0

    def names(self, nodes: list[Node], words: Sequence[str]) -> int:
        """Print the names of the nodes."""
        for node in nodes:
            self._context.echo(node.name)
        return 0

    def _start(self, node: Node) -> int:
        self.note(f"\t> {node.name}: ", end="")
        return self._run(node)

    def _run(self, node: Node) -> int:
        for path in (node.pidfile, node.logfile):
            path.expanduser().parent.mkdir(parents=True, exist_ok=True)
        if self._verbose:
            self.note(f"\n  {' '.join(node.argv)}")
        status = subprocess.run(node.argv, check=False, env=self._environment).returncode
        self.note(self._context.OK if status == 0 else self._context.style("FAILED", fg="red"))
        if status:
            how = (
                f"was terminated by signal {-status}" if status < 0 else f"terminated with exit code {status}"
            )
            self.note(f"* Child {how}")
        return abs(status)

    def _signal_all(self, nodes: list[Node], number: int) -> list[tuple[Node, int]]:
        """Signal the nodes that run; those that did, with their process ids."""
        running = [(node, pid) for node in nodes if (pid := pid_of(node))]
        for node in nodes:
            if node.name not in {each.name for each, _ in running}:
                self.note(f"> {node.name}: {self._context.style('DOWN', fg='magenta')}")
        if running:
            self.note("> Stopping nodes...")
        signalled = []
        for node, pid in running:
            self.note(f"\t> {node.name}: {signals.Signals(number).name.removeprefix('SIG')} -> {pid}")
            try:
                os.kill(pid, number)
            except (ProcessLookupError, PermissionError):
                self.note(f"Could not signal {node.name} ({pid}): No such process")
            else:
                signalled.append((node, pid))
        return signalled

    def _wait(self, running: list[tuple[Node, int]]) -> None:
        left = running
        if left:
            self.note(f"> Waiting for {len(left)} node{'s' if len(left) != 1 else ''}...")
        while left:
            for node, pid in left:
                if not _is_alive(pid):
                    self.note(f"\t> {node.name}: {self._context.OK}")
            left = [(node, pid) for node, pid in left if _is_alive(pid)]
            if left:
                time.sleep(_LOOK_EVERY)


_COMMANDS: Final[dict[str, Callable[[Multi, list[Node], Sequence[str]], int]]] = {
    "start": Multi.start,
    "stop": Multi.stop,
    "stopwait": Multi.stopwait,
    "stop_verify": Multi.stopwait,
    "restart": Multi.restart,
    "kill": Multi.kill,
    "show": Multi.show,
    "names": Multi.names,
}


#: Commands whose options may name a signal.
_SIGNALLING: Final = frozenset({"stop", "stopwait", "stop_verify", "restart"})


def pid_of(node: Node) -> int | None:
    """The process id in a node's file; None where there is none."""
    try:
        return int(node.pidfile.expanduser().read_text(encoding="ascii").strip())
    except (FileNotFoundError, ValueError):
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def signal_in(words: Sequence[str]) -> int:
    """The signal that the last option names, such as ``-KILL`` or ``-9``; TERM if none does."""
    for word in reversed(words):
        if word.startswith("-") and not word.startswith("--"):
            name = word[1:]
            if name.isdecimal():
                return int(name)
            with contextlib.suppress(KeyError):
                return signals.Signals[f"SIG{name.upper().removeprefix('SIG')}"]
    return signals.SIGTERM


def _without_signal(words: Sequence[str]) -> list[str]:
    """The words that are not the name of a signal."""
    return [word for word in words if not (word.startswith("-") and _is_signal(word[1:]))]


def _is_signal(name: str) -> bool:
    return name.isdecimal() or f"SIG{name.removeprefix('SIG')}" in signals.Signals.__members__


class _MultiCommand(UmbelCommand):
    """Takes every word as it is: most are for the workers."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.params["words"] = tuple(args)
        return []


def _multi(context: CliContext, /, words: tuple[str, ...]) -> None:
    """Start, stop and restart several workers.

    multi start|stop|stopwait|restart|kill|show|names|get|expand|help NODES... [OPTIONS]
    """
    flags = frozenset(word for word in words if word in _FLAGS)
    left = [word for word in words if word not in _FLAGS]
    if not left or left[0] in {"help", "--help", "-h"}:
        click.echo(click.get_current_context().get_help())
        return
    name, *rest = left
    rest = [*rest, *_global_words(click.get_current_context())]
    status = call(Multi(context, flags), context, name, rest)
    if status:
        raise click.exceptions.Exit(status)


def call(tool: Multi, context: CliContext, name: str, rest: list[str]) -> int:
    """Do what a command line says; the exit status. Raises CommandFailed."""
    try:
        if name == "expand":
            template, *rest = rest
            for node in nodes_of(read_arguments(rest)):
                context.echo(node.expand(template))
            return 0
        if name == "get":
            wanted, *rest = rest
            found = [node for node in nodes_of(read_arguments(rest)) if node.name == wanted]
            for node in found:
                context.echo(" ".join(node.argv[1:]))
            return 0 if found else EX_FAILURE
        if name not in _COMMANDS:
            raise CommandFailed(f"Invalid command: {name}")
        words = _without_signal(rest) if name in _SIGNALLING else rest
        nodes = nodes_of(read_arguments(words))
        return _COMMANDS[name](tool, nodes, rest)
    except ValueError as error:
        raise CommandFailed(f"multi {name}: {error}") from error


def _global_words(ctx: click.Context) -> list[str]:
    """What stood before ``multi`` on the command line, for the workers: ``umbel -A proj multi start 3``."""
    parent = ctx.parent
    words: list[str] = []
    for option, name in (
        ("--app", "app"),
        ("--broker", "broker"),
        ("--result-backend", "result_backend"),
        ("--loader", "loader"),
        ("--config", "config"),
        ("--workdir", "workdir"),
    ):
        value = parent.params.get(name) if parent is not None else None
        if (
            value
            and parent is not None
            and parent.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
        ):
            words.append(f"{option}={value}")
    return words


multi = _MultiCommand("multi", callback=click.pass_obj(_multi), help=_multi.__doc__)
