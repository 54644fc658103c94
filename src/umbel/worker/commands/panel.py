"""The table of commands: what a worker obeys, what the command line offers, and how applications add their own.

``control_command`` and ``inspect_command`` are Celery's decorators. A command of an application's own is a function
``f(state, **arguments)``; it runs in a thread, so that it may block, and what it returns is the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeVar, overload

from umbel.state import remote_commands

__all__ = ["Command", "CommandInfo", "Table", "control_command", "inspect_command", "nok", "ok"]

#: Takes the commander and the order's arguments by name.
Command = Callable[..., Awaitable[Any]]
Kind = Literal["inspect", "control"]
F = TypeVar("F", bound=Callable[..., Any])


class CommandInfo(NamedTuple):
    """A command and what the command line has to know of it.

    Attributes:
        name: what an order calls it.
        type: ``inspect`` asks, ``control`` changes.
        run: the function; of a built-in command a coroutine function.
        alias: an older name of it.
        visible: whether the command line lists it.
        default_timeout: seconds to wait for its answer.
        help: one line.
        signature: its arguments as the command line shows them.
        args: names and types of its positional arguments on the command line.
        variadic: the argument that takes all that are left.
        builtin: false for an application's own.
    """

    name: str
    type: Kind
    run: Callable[..., Any]
    alias: str | None = None
    visible: bool = True
    default_timeout: float = 1.0
    help: str = ""
    signature: str | None = None
    args: tuple[tuple[str, Callable[[str], Any]], ...] = ()
    variadic: str | None = None
    builtin: bool = False


def builtin(kind: Kind, **details: Any) -> Callable[[Command], CommandInfo]:
    """Decorator: a command of the worker's own, named as its function is."""

    def make(run: Command) -> CommandInfo:
        name = str(getattr(run, "__name__", "")).rstrip("_")
        return CommandInfo(name, kind, run, help=_first_line(run), builtin=True, **details)

    return make


class Table(Mapping[str, CommandInfo]):
    """The commands by name and alias: the worker's own, and those that applications have added until now."""

    def __init__(self, own: Sequence[CommandInfo]) -> None:
        self._own: Final = {name: info for info in own for name in (info.name, info.alias) if name}

    def __getitem__(self, name: str) -> CommandInfo:
        added: CommandInfo | None = remote_commands().get(name)
        return added if added is not None else self._own[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._own, **remote_commands()})

    def __len__(self) -> int:
        return len({*self._own, *remote_commands()})

    def of_type(self, kind: Kind) -> dict[str, CommandInfo]:
        """The commands of a type that are shown to users, in alphabetical order."""
        found = {info.name: info for info in self.values() if info.type == kind and info.visible}
        return dict(sorted(found.items()))


def ok(value: object) -> dict[str, object]:
    """The answer of a command that was carried out."""
    return {"ok": value}


def nok(value: object) -> dict[str, object]:
    """The answer of a command that could not be."""
    return {"error": value}


@overload
def control_command(function: F, /) -> F: ...
@overload
def control_command(**details: Any) -> Callable[[F], F]: ...
def control_command(*args: Any, **details: Any) -> Any:
    """Decorator: add a command that changes something in workers, for ``app.control.broadcast`` and ``umbel control``.

    Args:
        details: ``name``, ``alias``, ``visible``, ``default_timeout``, ``help``, ``signature``, ``args`` (pairs of name
            and type) and ``variadic``, as in Celery.
    """
    return _register(args, {"type": "control", **details})


@overload
def inspect_command(function: F, /) -> F: ...
@overload
def inspect_command(**details: Any) -> Callable[[F], F]: ...
def inspect_command(*args: Any, **details: Any) -> Any:
    """Decorator: add a command that asks something of workers; see ``control_command``."""
    return _register(args, {"type": "inspect", **details})


def _register(args: tuple[Any, ...], details: dict[str, Any]) -> Any:
    def add(function: F) -> F:
        info = _info(function, **details)
        table = remote_commands()
        table[info.name] = info
        if info.alias:
            table[info.alias] = info
        return function

    return add(*args) if args else add


def _info(function: Callable[..., Any], **details: Any) -> CommandInfo:
    name = details.pop("name", None) or getattr(function, "__name__", "")
    details["args"] = tuple(tuple(pair) for pair in details.pop("args", None) or ())
    details["help"] = details.pop("help", None) or _first_line(function)
    return CommandInfo(name, details.pop("type"), function, **details)


def _first_line(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").strip().partition("\n")[0].rstrip(".")
