"""``umbel upgrade``: a settings file with old upper-case names, rewritten with today's."""

from __future__ import annotations

import io
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING

import click

from umbel.cli.command import UmbelOption, command
from umbel.cli.errors import CommandFailed
from umbel.config.names import meaning_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.cli.context import CliContext

__all__ = ["rewrite", "upgrade"]

_GROUP = "Upgrading Options"
_NAMESPACE = "CELERY_"


@command(
    "settings",
    click.Argument(["filename"], type=click.Path(exists=True, dir_okay=False, path_type=Path)),
    UmbelOption(
        ["--django"], help_group=_GROUP, is_flag=True, help="Write CELERY_ names, for Django's settings."
    ),
    UmbelOption(["--compat"], help_group=_GROUP, is_flag=True, help="The same, for older programs."),
    UmbelOption(["--no-backup"], help_group=_GROUP, is_flag=True, help="Keep no copy of the file as it was."),
)
def settings(context: CliContext, /, filename: Path, django: bool, compat: bool, no_backup: bool) -> None:
    """Rewrite a settings file of Celery 3 with the names of today."""
    before = filename.read_bytes()
    context.echo(f"processing {filename}...", err=True)
    try:
        after = rewrite(before.decode(), _spaced if django or compat else str).encode()
    except (UnicodeDecodeError, SyntaxError, tokenize.TokenError) as error:
        raise CommandFailed(f"{filename} cannot be read as Python: {error}") from error
    if after == before:
        context.echo("Does not seem to require any changes :-)")
        return
    if not no_backup:
        backup = filename.with_name(f"{filename.name}.orig")
        context.echo(f"writing backup to {backup}...", err=True)
        backup.write_bytes(before)
    filename.write_bytes(after)
    context.echo("Changes to your setting have been made!")


def rewrite(source: str, spell: Callable[[str], str] = str) -> str:
    """Python source with old names of settings replaced; ``spell`` writes today's name as it is wanted.

    Only names are replaced, not text and comments. Raises SyntaxError or TokenError for what is not Python.
    """
    lines = source.splitlines(keepends=True)
    # From the end, so that what comes before keeps its place.
    for token in reversed(_names(source)):
        meaning = meaning_of(token.string) if token.string.isupper() else None
        if meaning is not None and meaning.rank == 2:
            row, start = token.start[0] - 1, token.start[1]
            line = lines[row]
            lines[row] = line[:start] + spell(meaning.setting) + line[start + len(token.string) :]
    return "".join(lines)


def _names(source: str) -> list[tokenize.TokenInfo]:
    tokens = tokenize.generate_tokens(io.StringIO(source, newline="").readline)
    return [token for token in tokens if token.type == tokenize.NAME]


def _spaced(name: str) -> str:
    upper = name.upper()
    return upper if upper.startswith(_NAMESPACE) else _NAMESPACE + upper


@click.group("upgrade")
def upgrade() -> None:
    """Move from older versions."""


upgrade.add_command(settings)
