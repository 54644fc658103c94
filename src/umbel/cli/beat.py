"""``umbel beat``: Celery's options, all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from umbel.cli.background import background_options, foreground
from umbel.cli.command import UmbelOption, command
from umbel.cli.params import LOG_LEVEL
from umbel.errors import ImproperlyConfigured

if TYPE_CHECKING:
    from umbel.cli.context import CliContext

__all__ = ["beat"]

_BEAT: Final = "Beat Options"


def _option(*names: str, **attributes: Any) -> UmbelOption:
    return UmbelOption(names, help_group=_BEAT, **attributes)


_OPTIONS: Final = (
    _option("--detach", is_flag=True, help="Run in the background."),
    _option(
        "-s",
        "--schedule",
        metavar="PATH",
        help="File that keeps the times of the last runs; default: celerybeat-schedule. "
        "The extension .db may be appended to its name.",
    ),
    _option("-S", "--scheduler", metavar="CLASS", help="Scheduler class to use."),
    _option("--max-interval", type=int, help="Longest sleep between two looks at the schedule, in seconds."),
    _option(
        "--enable-remote-control/--no-enable-remote-control",
        "remote_control",
        default=None,
        help="Answer `inspect ping`, for those who watch over beat; default: beat_enable_remote_control.",
    ),
    _option("-n", "--hostname", help="Name by which it answers; default: celerybeat@%h."),
    _option("-l", "--loglevel", type=LOG_LEVEL, default="WARNING", show_default=True, help="Log level."),
    *background_options("beat"),
    click.Argument(["settings"], nargs=-1, metavar="[NAME=VALUE]..."),
)


@command("beat", *_OPTIONS, short_help="Send periodic tasks when they are due.")
def beat(context: CliContext, /, **options: Any) -> None:
    """Send the tasks of the schedule when they are due, until told to stop.

    \b
    umbel -A proj beat -l INFO
    umbel -A proj beat -s /var/run/celery/beat-schedule --detach --pidfile=/var/run/celery/beat.pid

    The schedule is the setting beat_schedule and what the program adds with app.add_periodic_task.
    """  # noqa: D301 - \b keeps click from joining the lines
    _change_settings(context, options.pop("settings"))
    with foreground(context, options) as runs_here:
        if runs_here:
            _run(context, options)


def _change_settings(context: CliContext, words: tuple[str, ...]) -> None:
    """Take the words after the options as settings."""
    try:
        context.app.config_from_cmdline(words, namespace="beat")
    except ImproperlyConfigured as error:
        raise click.UsageError(f"Unable to parse extra configuration from command line: {error}") from error


def _run(context: CliContext, options: dict[str, Any]) -> None:
    # What runs beat takes time to import; showing the help and finding mistakes does not need it.
    from umbel.scheduler.program import Beat

    Beat(app=context.app, quiet=context.quiet, no_color=context.no_color or None, **options).run()
