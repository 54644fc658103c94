"""Commands that workers obey, and how to add one's own."""

from __future__ import annotations

from typing import Any

from umbel.state import remote_commands
from umbel.worker.commands import COMMANDS, control_command, inspect_command
from umbel.worker.commands.panel import CommandInfo, nok, ok

__all__ = ("Panel",)

controller_info_t = CommandInfo


class Panel:
    """The commands by name, Umbel's own and those that were added."""

    data = COMMANDS
    meta = COMMANDS

    @classmethod
    def register(cls, *args: Any, **kwargs: Any) -> Any:
        """Add a command; a decorator. ``type`` is ``control`` or ``inspect``."""
        kind = kwargs.pop("type", None)
        decorate: Any = inspect_command if kind == "inspect" else control_command
        return decorate(*args, **kwargs)

    @classmethod
    def unregister(cls, name: str) -> None:
        """Take a command of one's own away."""
        remote_commands().pop(name, None)


def _as_celery_calls_it(command: CommandInfo) -> Any:
    """A command of the worker's own as a function ``(state, *arguments)``, for those who call it in theirs."""
    names = [name for name, _ in command.args]

    def run(state: Any, *args: Any, **kwargs: Any) -> Any:
        return state.carry_out(command.run, {**dict(zip(names, args, strict=False)), **kwargs})

    run.__name__ = command.name
    run.__doc__ = command.help
    return run


def __getattr__(name: str) -> Any:
    command = COMMANDS.get(name)
    if command is None or not command.builtin:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _as_celery_calls_it(command)
