"""The group of commands: found by name and imported then, plug-ins included; misspelt names get a suggestion."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

import click

from umbel.cli.command import adopt, format_option_groups
from umbel.cli.errors import EX_FAILURE, CommandFailed, describe

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["UmbelGroup"]

#: Command → the module that has it, under the same name, and its line in the help.
_COMMANDS: Final = {
    "amqp": ("umbel.cli.amqp", "Exchanges, queues and messages by hand."),
    "beat": ("umbel.cli.beat", "Send periodic tasks when they are due."),
    "call": ("umbel.cli.call", "Call a task by its name, and print its id."),
    "control": ("umbel.cli.remote", "Tell the workers something."),
    "dead": ("umbel.cli.dead", "Show and replay what was given up."),
    "events": ("umbel.cli.events", "Show what happens in the fleet."),
    "graph": ("umbel.cli.graph", "Draw a worker's parts, or the fleet, for Graphviz."),
    "inspect": ("umbel.cli.remote", "Ask the workers something."),
    "list": ("umbel.cli.listing", "Show what the broker knows."),
    "logtool": ("umbel.cli.logtool", "Read the logs of workers."),
    "migrate": ("umbel.cli.migrate", "Send what waits at one broker to another."),
    "multi": ("umbel.cli.multi", "Start, stop and restart several workers."),
    "purge": ("umbel.cli.purge", "Delete all messages that wait in the queues."),
    "report": ("umbel.cli.report", "Show what a bug report should tell."),
    "result": ("umbel.cli.result", "Print the result of a task."),
    "schedule": ("umbel.cli.schedule", "Show and change what beat sends."),
    "shell": ("umbel.cli.shell", "Start Python with the application and its tasks at hand."),
    "status": ("umbel.cli.remote", "Show the workers that are online."),
    "upgrade": ("umbel.cli.upgrade", "Move from older versions."),
    "worker": ("umbel.cli.worker", "Start a worker."),
}

#: Entry points of packages that bring commands.
_PLUGIN_GROUPS: Final = ("umbel.commands", "celery.commands")


class UmbelGroup(click.Group):
    """``umbel``: commands of its own and of plug-ins, and errors as one line each."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command that there is."""
        return sorted({*_COMMANDS, *self.commands, *_plugins()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, imported now; None if there is none."""
        known = super().get_command(ctx, cmd_name)
        if known is not None:
            return known
        if cmd_name in _COMMANDS:
            found: click.Command = getattr(importlib.import_module(_COMMANDS[cmd_name][0]), cmd_name)
            return found
        plugin = _plugins().get(cmd_name)
        return _load(plugin) if plugin is not None else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command. Raises UsageError with suggestions for an unknown one."""
        name = args[0]
        found = self.get_command(ctx, name)
        if found is not None:
            return name, found, args[1:]
        raise click.UsageError(self._no_such_command(ctx, name), ctx)

    def _no_such_command(self, ctx: click.Context, name: str) -> str:
        import difflib  # only for those who misspell

        message = f"No such command {name!r}."
        near = difflib.get_close_matches(name, self.list_commands(ctx))
        if near:
            message += "\n\nDid you mean one of these?\n" + "\n".join(f"    {each}" for each in near)
        return message

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what it raises becomes a line and an exit status."""
        try:
            return super().invoke(ctx)
        except CommandFailed as error:
            error.show_traceback = ctx.params["traceback"]
            raise
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except Exception as error:
            failure = CommandFailed.of(error)
            failure.show_traceback = ctx.params["traceback"]
            raise failure from error

    def adopt_plugin(self, ctx: click.Context) -> None:
        """Give the plug-in that is about to run the application's options of every command."""
        name = ctx.invoked_subcommand
        if name and name not in _COMMANDS and ctx.obj.given_app is not None:
            found = self.get_command(ctx, name)
            if found is not None:
                adopt(found, ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the global options, then the commands."""
        format_option_groups(self.get_params(ctx), ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a line for each command, without importing any."""
        lines = {name: line for name, (_, line) in _COMMANDS.items()}
        lines |= {name: _origin(plugin) for name, plugin in _plugins().items() if name not in _COMMANDS}
        lines |= {
            name: each.get_short_help_str(60) for name, each in self.commands.items() if not each.hidden
        }
        with formatter.section("Commands"):
            formatter.write_dl(sorted(lines.items()))


def _plugins() -> dict[str, EntryPoint]:
    # Looking through every installed package takes 10 ms; only help and unknown names need it.
    from importlib.metadata import entry_points

    return {point.name: point for group in reversed(_PLUGIN_GROUPS) for point in entry_points(group=group)}


def _origin(plugin: EntryPoint) -> str:
    return f"From {plugin.dist.name}." if plugin.dist is not None else f"From {plugin.value}."


def _load(plugin: EntryPoint) -> click.Command:
    try:
        found = plugin.load()
    except Exception as error:
        raise CommandFailed(
            f"The command {plugin.name} ({_origin(plugin)[:-1].lower()}) cannot be loaded: {describe(error)}",
            exit_code=EX_FAILURE,
            cause=error,
        ) from error
    if not isinstance(found, click.Command):
        raise CommandFailed(
            f"The entry point {plugin.name} = {plugin.value} is no click command but {found!r}"
        )
    return found
