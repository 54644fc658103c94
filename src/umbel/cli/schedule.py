"""``umbel schedule``: what beat sends, shown and changed while it runs."""

from __future__ import annotations

from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from umbel.cli.command import UmbelOption, command
from umbel.cli.errors import CommandFailed
from umbel.cli.params import JSON_ARRAY, JSON_OBJECT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from umbel.cli.context import CliContext
    from umbel.scheduler.changes import ListedEntry, ScheduleEntries

__all__ = ["schedule"]

_GROUP: Final = "Entry Options"


@click.group("schedule", short_help="Show and change what beat sends.")
def schedule() -> None:
    """Show and change what beat sends, while it runs.

    A SCHEDULE is an interval (30s, 5m, 2h, 1d, "relative 1h"), a line of cron ("0 4 * * mon-fri") or "solar EVENT
    LATITUDE LONGITUDE". Changes are kept in the store of beat_store_url.
    """


@contextmanager
def _entries(context: CliContext) -> Iterator[ScheduleEntries]:
    """The entries; what goes wrong with them is told in a line."""
    app = context.app
    app.loader.import_default_modules()
    app.finalize()
    try:
        with closing(app.schedule_entries) as entries:
            yield entries
    except (LookupError, ValueError) as error:
        raise CommandFailed(str(error)) from error


def _options(*, schedule: bool) -> list[UmbelOption]:
    given = [
        UmbelOption(["-a", "--args"], help_group=_GROUP, type=JSON_ARRAY, help="Arguments, as JSON."),
        UmbelOption(["-k", "--kwargs"], help_group=_GROUP, type=JSON_OBJECT, help="Keywords, as JSON."),
        UmbelOption(
            ["-o", "--options"], help_group=_GROUP, type=JSON_OBJECT, help="Options of apply_async, as JSON."
        ),
        UmbelOption(
            ["--missed"],
            help_group=_GROUP,
            type=click.Choice(["skip", "once", "all"]),
            help="What becomes of ticks that no beat sent in time; default: beat_missed.",
        ),
    ]
    if schedule:
        given += [
            UmbelOption(["--task"], help_group=_GROUP, help="Name of the task."),
            UmbelOption(["--schedule"], help_group=_GROUP, help="When it is due."),
        ]
    return given


@command(
    "list",
    UmbelOption(["-j", "--json"], help_group=_GROUP, is_flag=True, help="Print JSON."),
    short_help="Show the entries.",
)
def _list(context: CliContext, /, json: bool) -> None:
    """Show the entries, and when they were sent last."""
    with _entries(context) as entries:
        listed = entries.list()
    if json:
        context.echo(msgspec.json.encode(listed, enc_hook=repr).decode())
    else:
        for entry in listed:
            context.echo(_line(context, entry))


def _line(context: CliContext, entry: ListedEntry) -> str:
    notes = [word for word, holds in (("paused", entry.paused), ("changed", entry.stored)) if holds]
    last = "never"
    if entry.last_run_at is not None:
        last = datetime.fromtimestamp(entry.last_run_at, UTC).astimezone(context.app.timezone).isoformat()
    ending = f" ({', '.join(notes)})" if notes else ""
    return f"{entry.name}: {entry.task}, {entry.schedule}, last {last}, {entry.total_run_count} times{ending}"


@command(
    "add",
    click.Argument(["name"]),
    click.Argument(["task"]),
    click.Argument(["when"], metavar="SCHEDULE"),
    *_options(schedule=False),
    short_help="Add an entry.",
)
def _add(context: CliContext, /, name: str, task: str, when: str, **options: Any) -> None:
    """Add an entry: its name, the name of its task, and when it is due."""
    with _entries(context) as entries:
        entries.add(name, task, when, **_given(options))


@command("change", click.Argument(["name"]), *_options(schedule=True), short_help="Change an entry.")
def _change(context: CliContext, /, name: str, **options: Any) -> None:
    """Change an entry, one of the settings too: it is then as changed until it is removed."""
    with _entries(context) as entries:
        entries.change(name, **_given(options))


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


@command("pause", click.Argument(["name"]), short_help="Leave out an entry's ticks.")
def _pause(context: CliContext, /, name: str) -> None:
    """Leave out an entry's ticks until it is resumed."""
    with _entries(context) as entries:
        entries.pause(name)


@command("resume", click.Argument(["name"]), short_help="Go on with a paused entry.")
def _resume(context: CliContext, /, name: str) -> None:
    """Go on with a paused entry; what was left out is not made up for."""
    with _entries(context) as entries:
        entries.resume(name)


@command("run", click.Argument(["name"]), short_help="Send an entry's task now.")
def _run(context: CliContext, /, name: str) -> None:
    """Send an entry's task now, beside its schedule, and print its id."""
    with _entries(context) as entries:
        context.echo(entries.run(name).id)


@command("remove", click.Argument(["name"]), short_help="Remove an entry.")
def _remove(context: CliContext, /, name: str) -> None:
    """Remove an entry that was added, or have a changed one be as the settings say."""
    with _entries(context) as entries:
        entries.remove(name)


for _subcommand in (_list, _add, _change, _pause, _resume, _run, _remove):
    schedule.add_command(_subcommand)
