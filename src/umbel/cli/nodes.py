"""The nodes that ``umbel multi`` works on: names and ranges, and options that hold for all or for some of them.

``start 3 -c 3 -c:1 10`` means three nodes ``celery1`` to ``celery3``, the first with ten slots; ``-Q:image,video q`` an
option of the nodes of these names. Pure: nothing is started here.
"""

from __future__ import annotations

import shlex
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from umbel.worker.options import expand

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = ["Arguments", "Node", "completed", "nodes_of", "read_arguments"]

#: Options that stand before the command in ``umbel … worker …``.
_GLOBAL: Final = frozenset(
    {
        "-A",
        "--app",
        "-b",
        "--broker",
        "--result-backend",
        "--loader",
        "--config",
        "--workdir",
        "-C",
        "--no-color",
    }
    | {"-q", "--quiet"}
)
#: Options of multi itself, with what they are when not given.
_OWN: Final = {"--cmd": "", "--append": "", "--prefix": "", "--suffix": "", "--range-prefix": "celery"}
_PID_FILES: Final = ("--pidfile", "-p")
_LOG_FILES: Final = ("--logfile", "-f")


@dataclass
class Arguments:
    """A command line taken apart: names, options for all nodes, options for some, and what follows ``--``."""

    names: list[str] = field(default_factory=list)
    options: dict[str, str | None] = field(default_factory=dict)
    special: dict[str, dict[str, str | None]] = field(default_factory=dict)
    rest: list[str] = field(default_factory=list)


def read_arguments(words: Sequence[str]) -> Arguments:
    """Take a command line apart. As in Celery, a short option's value is the next word unless that is an option."""
    read = Arguments()
    left = [word for word in words if word]
    while left:
        word = left.pop(0)
        if word == "--":
            read.rest = left
            break
        if not word.startswith("-"):
            read.names.append(word)
            continue
        if word.startswith("--"):
            name, equals, text = word.partition("=")
            value = text if equals else None
        else:
            name, value = word, left.pop(0) if left and not left[0].startswith("-") else None
        name, _, whose = name.partition(":")
        (read.special.setdefault(whose, {}) if whose else read.options)[name] = value
    return read


@dataclass(frozen=True)
class Node:
    """One worker: its full name, and the command that starts it."""

    name: str
    options: dict[str, str | None]
    command: str = ""
    append: str = ""
    rest: tuple[str, ...] = ()

    def expand(self, template: str) -> str:
        """Fill in ``%n``, ``%h`` and the others; ``%i`` and ``%I`` are left for the worker."""
        return expand(template, self.name, process=None)

    @property
    def argv(self) -> list[str]:
        """The command line that starts it."""
        before = self._words(name for name in self.options if name in _GLOBAL)
        after = self._words(name for name in self.options if name not in _GLOBAL)
        command = shlex.split(self.expand(self.command)) or ["-m", "umbel", "worker", "--detach"]
        at = command.index("worker") if "worker" in command else len(command)
        words = [*command[:at], *before, *command[at:], *after, *self.rest]
        return [self.executable, *words, *shlex.split(self.expand(self.append))]

    @property
    def executable(self) -> str:
        """The Python that runs it."""
        return self.options.get("--executable") or sys.executable

    @property
    def pidfile(self) -> Path:
        """Where its process id is."""
        return Path(expand(self.expand(_first(self.options, _PID_FILES)), self.name))

    @property
    def logfile(self) -> Path:
        """Where it logs."""
        return Path(expand(self.expand(_first(self.options, _LOG_FILES)), self.name))

    def _words(self, names: Iterable[str]) -> list[str]:
        return [word for name in names for word in _written(name, self._value(name))]

    def _value(self, name: str) -> str | None:
        value = self.options[name]
        if value is None:
            return None
        value = self.expand(value)
        return str(Path(value).expanduser()) if name in {*_PID_FILES, *_LOG_FILES, "--workdir"} else value


def nodes_of(arguments: Arguments) -> list[Node]:
    """The nodes of a command line. Raises ValueError for an index that no node has."""
    options = dict(arguments.options)
    own = {name: options.pop(name, default) or "" for name, default in _OWN.items()}
    host = options.pop("--hostname", None) or options.pop("-n", None) or socket.gethostname()
    suffix = "" if own["--suffix"] in {'""', "''"} else own["--suffix"] or host
    count = _count(arguments.names)
    names = [str(number) for number in range(1, count + 1)] if count is not None else arguments.names
    prefix = own["--range-prefix"] if count is not None else own["--prefix"]
    special = _by_name(arguments.special, names, counted=count is not None)
    return [_node(name, f"{prefix}{name}", suffix, options, special, own, arguments.rest) for name in names]


def _node(
    key: str,
    short: str,
    suffix: str,
    options: dict[str, str | None],
    special: dict[str, dict[str, str | None]],
    own: dict[str, str],
    rest: Sequence[str],
) -> Node:
    here = socket.gethostname()
    name = expand(key if "@" in key else f"{short}@{suffix}", here)
    mine = special.get(key) or special.get(name) or special.get(name.partition("@")[0]) or {}
    return Node(name, completed(name, {**options, **mine}), own["--cmd"], own["--append"], tuple(rest))


def completed(name: str, options: Mapping[str, str | None]) -> dict[str, str | None]:
    """The options of a node of this name, with those that every node has."""
    merged = {**options, "-n": name}
    for names, default in ((_PID_FILES, "/var/run/celery/%n.pid"), (_LOG_FILES, "/var/log/celery/%n%I.log")):
        if not any(each in merged for each in names):
            merged[names[0]] = default
    return merged


def _count(names: Sequence[str]) -> int | None:
    """The number of nodes, where a number is all that was given."""
    return int(names[0]) if len(names) == 1 and names[0].isdecimal() else None


def _by_name(
    special: dict[str, dict[str, str | None]], names: Sequence[str], *, counted: bool
) -> dict[str, dict[str, str | None]]:
    """Options for some nodes, by the node's name: numbers are places in the list of names."""
    found: dict[str, dict[str, str | None]] = {}
    for whose, options in special.items():
        for each in _spread(whose, counted=counted):
            name = _named(each, names, counted=counted)
            found.setdefault(name, {}).update(options)
    return found


def _spread(whose: str, *, counted: bool) -> Iterator[str]:
    for part in whose.split(","):
        first, dash, last = part.partition("-")
        if counted and dash:
            yield from (str(number) for number in range(int(first), int(last) + 1))
        else:
            yield part


def _named(each: str, names: Sequence[str], *, counted: bool) -> str:
    if not each.isdecimal() or counted:
        return each
    if not 1 <= int(each) <= len(names):
        raise ValueError(f"there are nodes 1 to {len(names)}, and no node {each}")
    return names[int(each) - 1]


def _first(options: dict[str, str | None], names: Sequence[str]) -> str:
    return next(options[name] or "" for name in names if name in options)


def _written(name: str, value: str | None) -> list[str]:
    if not value:
        return [name]
    return [f"{name}={value}"] if name.startswith("--") else [name, value]
