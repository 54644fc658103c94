"""What commands are made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from umbel.cli import params
from umbel.cli.command import UmbelCommand as CeleryCommand
from umbel.cli.command import UmbelOption
from umbel.cli.context import CliContext as CLIContext
from umbel.cli.main import umbel

EX_UNAVAILABLE = 69
LEXER = FORMATTER = None

CommaSeparatedList = type(params.NAMES)
JsonArray = JsonObject = type(params.JSON_ARRAY)
ISO8601DateTime = ISO8601DateTimeOrFloat = type(params.INSTANT)
LogLevel = type(params.LOG_LEVEL)

COMMA_SEPARATED_LIST = params.NAMES
JSON_ARRAY = params.JSON_ARRAY
JSON_OBJECT = params.JSON_OBJECT
ISO8601 = params.INSTANT
ISO8601_OR_FLOAT = params.INSTANT_OR_SECONDS
LOG_LEVEL = params.LOG_LEVEL


class CeleryOption(UmbelOption):
    """An option that is shown in the help under the heading ``help_group``."""

    def __init__(self, *args: Any, help_group: str | None = None, **kwargs: Any) -> None:
        kwargs.pop("default_value_from_context", None)
        super().__init__(*args, help_group=help_group or "Options", **kwargs)


DaemonOption = CeleryOption
CeleryDaemonCommand = CeleryCommand


def consume_preload_options(command: click.Command, ctx: click.Context) -> None:
    """Accepted: commands tell the receivers of ``user_preload_options`` themselves."""


def handle_preload_options(f: Callable[..., Any]) -> Callable[..., Any]:
    """Accepted: commands tell the receivers of ``user_preload_options`` themselves."""

    @wraps(f)
    def command(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        return f(ctx, *args, **kwargs)

    return command


def handle_remote_command_error(command_name: str, error: BaseException) -> Any:
    """End a command that the workers could not carry out."""
    raise click.ClickException(f"{command_name}: {error}") from error


def highlight(text: str, *_: Any) -> str:
    """As it is: Umbel colours by itself."""
    return text


def command(module: str, name: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a command's module: the command itself, taken from the command line when asked for."""

    def find(wanted: str) -> Any:
        if wanted != name:
            raise AttributeError(f"module {module!r} has no attribute {wanted!r}")
        found = umbel.get_command(click.Context(umbel), name)
        if found is None:
            raise ImportError(f"{module}.{name} is not in this version of Umbel", name=module)
        return found

    return find
