"""``umbel status``, ``inspect`` and ``control``: the workers that run now, asked and told."""

from __future__ import annotations

import json as jsons
from pprint import pformat
from typing import TYPE_CHECKING, Any

import click

from umbel.cli.command import UmbelOption, command
from umbel.cli.errors import EX_UNAVAILABLE, CommandFailed
from umbel.cli.params import NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from umbel.cli.context import CliContext
    from umbel.worker.commands.panel import CommandInfo, Kind

__all__ = ["control", "inspect", "status"]

_GROUP = "Remote Control Options"


def _options() -> list[UmbelOption]:
    return [
        UmbelOption(
            ["-t", "--timeout"],
            help_group=_GROUP,
            type=float,
            default=1.0,
            help="Seconds to wait for the next answer.",
        ),
        UmbelOption(
            ["-d", "--destination"], help_group=_GROUP, type=NAMES, help="Names of workers; default: all."
        ),
        UmbelOption(["-j", "--json"], help_group=_GROUP, is_flag=True, help="Print JSON."),
    ]


def _list_option(kind: Kind) -> UmbelOption:
    def show(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if not value or ctx.resilient_parsing:
            return
        # The application may have commands of its own.
        ctx.obj.app.loader.import_default_modules()
        formatter = click.HelpFormatter()
        with formatter.section(f"{kind.capitalize()} Commands"):
            formatter.write_dl(
                [(f"{name} {info.signature or ''}".strip(), info.help) for name, info in _known(kind).items()]
            )
        click.echo(formatter.getvalue(), nl=False)
        ctx.exit()

    return UmbelOption(
        ["--list"],
        help_group=_GROUP,
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help=f"List the {kind} commands and exit.",
    )


@command("status", *_options())
def status(context: CliContext, /, timeout: float, destination: list[str] | None, json: bool) -> None:
    """Show the workers that are online."""
    callback = None if json else lambda reply: _say(context, reply, show_body=False)
    inspect = context.app.control.inspect(destination, timeout, callback)
    _conclude(context, inspect.ping(), json=json)


@command(
    "inspect",
    click.Argument(["name"], metavar="COMMAND"),
    click.Argument(["arguments"], nargs=-1),
    _list_option("inspect"),
    *_options(),
)
def inspect(
    context: CliContext,
    /,
    name: str,
    arguments: tuple[str, ...],
    timeout: float,
    destination: list[str] | None,
    json: bool,
) -> None:
    """Ask the workers something; `--list` shows what."""
    context.app.loader.import_default_modules()
    given = _arguments(_find("inspect", name), arguments)
    callback = None if json else lambda reply: _say(context, reply)
    replies = context.app.control.inspect(destination, timeout, callback)._request(name, **given)
    _conclude(context, replies, json=json)


@command(
    "control",
    click.Argument(["name"], metavar="COMMAND"),
    click.Argument(["arguments"], nargs=-1),
    _list_option("control"),
    *_options(),
)
def control(
    context: CliContext,
    /,
    name: str,
    arguments: tuple[str, ...],
    timeout: float,
    destination: list[str] | None,
    json: bool,
) -> None:
    """Tell the workers something; `--list` shows what."""
    context.app.loader.import_default_modules()
    given = _arguments(_find("control", name), arguments)
    replies = context.app.control.broadcast(
        name,
        given,
        destination,
        reply=True,
        timeout=timeout,
        callback=None if json else lambda reply: _say(context, reply),
    )
    if not replies:
        raise _nobody()
    if json:
        context.echo(jsons.dumps(replies))


def _known(kind: Kind) -> dict[str, CommandInfo]:
    # Only these commands need the table, and the worker's modules with it.
    from umbel.worker.commands import COMMANDS

    return COMMANDS.of_type(kind)


def _find(kind: Kind, name: str) -> CommandInfo:
    known = _known(kind)
    if name not in known:
        raise click.UsageError(
            f"Command {name} not recognized. Available {kind} commands: {', '.join(known)}"
        )
    return known[name]


def _arguments(info: CommandInfo, words: Sequence[str]) -> dict[str, Any]:
    """The order's arguments, from the words on the command line: first those by position, then the rest."""
    found: dict[str, Any] = {}
    for (name, convert), word in zip(info.args, words, strict=False):
        try:
            found[name] = convert(word)
        except ValueError:
            raise click.UsageError(
                f"{info.name}: expected {getattr(convert, '__name__', convert)} for {name}, not {word!r}"
            ) from None
    rest = list(words[len(info.args) :])
    if info.variadic:
        found[info.variadic] = rest
    elif rest:
        raise click.UsageError(
            f"Command {info.name!r} takes arguments: {info.signature}"
            if info.signature
            else f"Command {info.name!r} takes no arguments"
        )
    return found


def _conclude(context: CliContext, replies: dict[str, Any] | None, *, json: bool) -> None:
    if not replies:
        raise _nobody()
    if json:
        context.echo(jsons.dumps(replies))
    elif not context.quiet:
        count = len(replies)
        context.echo(f"\n{count} {'node' if count == 1 else 'nodes'} online.")


def _nobody() -> CommandFailed:
    return CommandFailed("No nodes replied within time constraint", exit_code=EX_UNAVAILABLE)


def _say(context: CliContext, reply: dict[str, Any], *, show_body: bool = True) -> None:
    """Print one worker's answer as it arrives."""
    for node, answer in reply.items():
        word, body = _shown(context, answer)
        context.echo(f"->  {context.style(f'{node}: ', fg='cyan', bold=True)}{word}")
        if show_body and body:
            context.echo("\n".join(f"    {line}" for line in body.splitlines()))


def _shown(context: CliContext, answer: Any) -> tuple[str, str]:
    match answer:
        case {"ok": value}:
            return context.OK, _text(value)
        case {"error": value}:
            return context.ERROR, _text(value)
        case list():
            return context.OK, "\n".join(f"* {_text(each)}" for each in answer) or "- empty -"
        case _:
            return context.OK, _text(answer)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else pformat(value)
