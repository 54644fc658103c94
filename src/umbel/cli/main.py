"""``umbel``: the global options, which say what the commands work with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from umbel.cli.command import UmbelOption
from umbel.cli.context import CliContext
from umbel.cli.group import UmbelGroup

if TYPE_CHECKING:
    from umbel.app import Umbel

__all__ = ["main", "umbel"]

_GLOBAL = "Global Options"
_START_DIRECTORY = "umbel.start_directory"


class _Flag(UmbelOption):
    """A flag that any text in its environment variable sets, as the conventions for NO_COLOR ask."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        value = super().resolve_envvar_value(ctx)
        if value is None:
            return None
        return "0" if value.lower() in {"0", "false", "no", "off"} and self.envvar != "NO_COLOR" else "1"


def _change_directory(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    if value is not None:
        ctx.meta[_START_DIRECTORY] = os.getcwd()  # noqa: PTH109 - text is what exec needs
        try:
            os.chdir(value)
        except OSError as error:
            raise click.BadParameter(f"{value}: {error.strerror}", ctx, param) from error
    return value


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from umbel import __version__

        click.echo(f"{__version__} (umbel)")
        ctx.exit()


@click.group(cls=UmbelGroup, invoke_without_command=True, context_settings={"auto_envvar_prefix": "CELERY"})
@click.option(
    "-A",
    "--app",
    cls=UmbelOption,
    help_group=_GLOBAL,
    envvar="APP",
    type=click.UNPROCESSED,  # in a program of its own the application itself, see run_with_app
    metavar="APP",
    help="Application: module, module:attribute, or a package that has one in its module celery.",
)
@click.option(
    "-b", "--broker", cls=UmbelOption, help_group=_GLOBAL, envvar="BROKER_URL", help="URL of the broker."
)
@click.option(
    "--result-backend",
    cls=UmbelOption,
    help_group=_GLOBAL,
    envvar="RESULT_BACKEND",
    help="URL of the result backend.",
)
@click.option(
    "--loader", cls=UmbelOption, help_group=_GLOBAL, envvar="LOADER", help="Path of a loader class."
)
@click.option(
    "--config", cls=UmbelOption, help_group=_GLOBAL, envvar="CONFIG_MODULE", help="Module of settings."
)
@click.option(
    "--workdir",
    cls=UmbelOption,
    help_group=_GLOBAL,
    type=click.Path(path_type=Path),
    callback=_change_directory,
    is_eager=True,
    help="Change to this directory first.",
)
@click.option(
    "-C", "--no-color", cls=_Flag, help_group=_GLOBAL, envvar="NO_COLOR", is_flag=True, help="No colours."
)
@click.option("-q", "--quiet", cls=_Flag, help_group=_GLOBAL, is_flag=True, help="No banner.")
@click.option(
    "--skip-checks",
    cls=_Flag,
    help_group=_GLOBAL,
    envvar="SKIP_CHECKS",
    is_flag=True,
    help="Skip Django's system checks.",
)
@click.option(
    "--traceback",
    cls=_Flag,
    help_group=_GLOBAL,
    is_flag=True,
    help="Show the traceback of an error that ends the command.",
)
@click.option(
    "--version",
    cls=UmbelOption,
    help_group=_GLOBAL,
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the version.",
)
@click.pass_context
def umbel(ctx: click.Context, /, **options: Any) -> None:
    """Umbel: a distributed task queue, used as Celery is."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit()
    _store(options)
    if options["no_color"]:
        ctx.color = False
    ctx.obj = CliContext(
        _application(options["app"]),
        no_color=options["no_color"],
        quiet=options["quiet"],
        workdir=options["workdir"],
        start_directory=ctx.meta.get(_START_DIRECTORY, ""),
    )
    assert isinstance(ctx.command, UmbelGroup)
    ctx.command.adopt_plugin(ctx)


def _store(options: dict[str, Any]) -> None:
    """Put what the settings and every process started from here must see into the environment, as Celery does."""
    for option, variable in (
        ("loader", "CELERY_LOADER"),
        ("broker", "CELERY_BROKER_URL"),
        ("result_backend", "CELERY_RESULT_BACKEND"),
        ("config", "CELERY_CONFIG_MODULE"),
    ):
        if options[option]:
            os.environ[variable] = options[option]
    if options["skip_checks"]:
        os.environ["CELERY_SKIP_CHECKS"] = "true"


def _application(given: Any) -> Umbel | None:
    if not isinstance(given, str):
        app: Umbel | None = given
        return app
    # Commands that need no application do not wait for its import.
    from umbel.cli.finding import find_app

    return find_app(given)


def main() -> int:
    """Run the command line of this process and end it; the console script ``umbel``."""
    umbel.main(prog_name="umbel")
    return 0  # click has ended the process by now
