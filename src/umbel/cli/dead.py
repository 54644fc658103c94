"""``umbel dead``: what was given up."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from umbel.cli.command import UmbelOption, command
from umbel.cli.errors import CommandFailed
from umbel.cli.params import NAMES
from umbel.core.causes import KINDS
from umbel.core.json_types import dumps_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from umbel.app.dead import DeadLetters, Letter, Which
    from umbel.cli.context import CliContext

__all__ = ["dead"]

_GROUP: Final = "Which Letters"
_HOW: Final = "Options"


@click.group("dead", short_help="Show and replay what was given up.")
def dead() -> None:
    """Show, replay, delete and export messages that were given up: the dead letters.

    Without options that choose, all letters of all known queues are meant.
    """


_WHICH: Final = (
    UmbelOption(["-Q", "--queues"], help_group=_GROUP, type=NAMES, help="Of these queues."),
    UmbelOption(["-t", "--task"], help_group=_GROUP, help="Of tasks whose name matches; * is any text."),
    UmbelOption(
        ["-r", "--reason", "kinds"], help_group=_GROUP, type=NAMES, help=f"Given up as: {', '.join(KINDS)}."
    ),
    UmbelOption(
        ["--id", "ids"], help_group=_GROUP, multiple=True, help="With this task id; may be repeated."
    ),
    UmbelOption(
        ["--older-than"], help_group=_GROUP, type=float, metavar="SECONDS", help="Given up longer ago."
    ),
    UmbelOption(
        ["--newer-than"], help_group=_GROUP, type=float, metavar="SECONDS", help="Given up less long ago."
    ),
    UmbelOption(
        ["-n", "--limit"], help_group=_GROUP, type=int, help="No more than so many, the oldest first."
    ),
)
_JSON: Final = UmbelOption(["-j", "--json"], help_group=_HOW, is_flag=True, help="Print JSON.")
_DRY: Final = UmbelOption(
    ["--dry-run"], help_group=_HOW, is_flag=True, help="Only say how many that would be."
)


@contextmanager
def _letters(context: CliContext) -> Iterator[DeadLetters]:
    """The letters; what was asked for wrongly is told in a line."""
    try:
        yield context.app.dead_letters
    except ValueError as error:
        raise CommandFailed(str(error)) from error


def _which(given: dict[str, Any]) -> Which:
    which: Which = {
        "queues": given["queues"],
        "task": given["task"],
        "kinds": given["kinds"],
        "ids": given["ids"] or None,
        "older_than": given["older_than"],
        "newer_than": given["newer_than"],
        "limit": given["limit"],
    }
    return which


@command("list", *_WHICH, _JSON, short_help="Show letters, one a line.")
def _list(context: CliContext, /, json: bool, **given: Any) -> None:
    """Show letters, one a line, of each queue the oldest first."""
    with _letters(context) as letters:
        for letter in letters.walk(**_which(given)):
            context.echo(letter.as_json() if json else _line(letter))


def _line(letter: Letter) -> str:
    name = f"{letter.task or 'no task'}[{letter.id}]"
    first = (letter.reason or "no reason given").splitlines()[0]
    return f"{letter.at.isoformat(timespec='seconds')} {letter.queue} {letter.kind} {name}: {first}"


@command(
    "show", click.Argument(["task_id"]), UmbelOption(["-Q", "--queues"], help_group=_GROUP, type=NAMES), _JSON
)
def _show(context: CliContext, /, task_id: str, queues: list[str] | None, json: bool) -> None:
    """Show everything that is known of one letter, by its task's id."""
    with _letters(context) as letters:
        letter = letters.get(task_id, queues)
    if letter is None:
        raise CommandFailed(f"There is no dead letter with the task id {task_id!r}.")
    if json:
        context.echo(letter.as_json())
        return
    for name, value in letter.as_dict().items():
        if value not in ("", None, {}):
            shown = value if isinstance(value, str) else dumps_json(value).decode()
            context.echo(f"{name}:\n{shown}" if "\n" in shown else f"{name}: {shown}")


@command(
    "replay",
    *_WHICH,
    UmbelOption(
        ["--rate"], help_group=_HOW, type=click.FloatRange(min=0, min_open=True), help="So many a second."
    ),
    _DRY,
    _JSON,
    short_help="Put messages back on their queues.",
)
def _replay(context: CliContext, /, rate: float | None, dry_run: bool, json: bool, **given: Any) -> None:
    """Put messages back on their queues, under their ids, as if they had never been lost."""
    with _letters(context) as letters:
        count = letters.replay(rate=rate, dry_run=dry_run, **_which(given))
    _tell(context, "replayed", count, dry_run=dry_run, json=json)


@command(
    "purge",
    *_WHICH,
    UmbelOption(["-f", "--force"], help_group=_HOW, is_flag=True, help="Do not ask."),
    _DRY,
    _JSON,
    short_help="Delete letters for good.",
)
def _purge(context: CliContext, /, force: bool, dry_run: bool, json: bool, **given: Any) -> None:
    """Delete letters for good."""
    with _letters(context) as letters:
        if not (force or dry_run):
            count = letters.count(**_which(given))
            click.confirm(f"Delete {_number(count)}? There is no way back.", abort=True)
        count = letters.purge(dry_run=dry_run, **_which(given))
    _tell(context, "deleted", count, dry_run=dry_run, json=json)


@command(
    "export",
    *_WHICH,
    UmbelOption(
        ["-o", "--output"],
        help_group=_HOW,
        type=click.Path(path_type=Path),
        help="To this file; default: standard output.",
    ),
    short_help="Write letters as JSON, one a line.",
)
def _export(context: CliContext, /, output: Path | None, **given: Any) -> None:
    """Write letters with headers, properties and bodies as JSON, one a line. They stay where they are."""
    with _letters(context) as letters:
        if output is None:
            letters.export(sys.stdout, **_which(given))
            return
        with output.open("w") as file:
            count = letters.export(file, **_which(given))
    context.echo(f"Wrote {_number(count)} to {output}.")


def _tell(context: CliContext, what: str, count: int, *, dry_run: bool, json: bool) -> None:
    if json:
        context.echo(dumps_json({what: count, "dry_run": dry_run}).decode())
    else:
        context.echo(f"{_number(count)} {'would be ' if dry_run else ''}{what}.")


def _number(count: int) -> str:
    return f"{count} dead letter{'' if count == 1 else 's'}"


for _each in (_list, _show, _replay, _purge, _export):
    dead.add_command(_each)
