"""``umbel events``: what happens in the fleet, as lines, on a terminal, or for a camera."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from umbel.cli.background import background_options, foreground
from umbel.cli.command import UmbelOption, command
from umbel.cli.errors import CommandFailed

if TYPE_CHECKING:
    from umbel.cli.context import CliContext

__all__ = ["events"]

_DUMPER, _SNAPSHOT = "Dumper", "Snapshot"


@command(
    "events",
    UmbelOption(["-d", "--dump"], help_group=_DUMPER, is_flag=True, help="Print every event as a line."),
    UmbelOption(["-c", "--camera"], help_group=_SNAPSHOT, help="Path of a camera's class."),
    UmbelOption(["--detach"], help_group=_SNAPSHOT, is_flag=True, help="Run the camera in the background."),
    UmbelOption(
        ["-F", "--frequency", "--freq"],
        help_group=_SNAPSHOT,
        type=float,
        default=1.0,
        help="Seconds between two shots of the camera.",
    ),
    UmbelOption(["-r", "--maxrate"], help_group=_SNAPSHOT, help="Shots at the most, such as 10/m."),
    UmbelOption(["-l", "--loglevel"], help_group=_SNAPSHOT, default="INFO", help="Level of the log."),
    *background_options("events"),
)
def events(context: CliContext, /, dump: bool, camera: str | None, **options: Any) -> None:
    """Show what happens in the fleet. Workers tell about tasks with -E."""
    app = context.app
    app.loader.import_default_modules()
    if dump:
        from umbel.events.dumper import evdump

        evdump(app)
    elif camera:
        with foreground(context, options) as runs_here:
            if runs_here:
                _photograph(context, camera, **options)
    else:
        _show(context)


def _show(context: CliContext) -> None:
    if not sys.stdout.isatty():
        raise CommandFailed("the fleet is shown on a terminal only; use --dump or --camera")
    from umbel.events.screen import evtop

    _leave_on_term()
    evtop(context.app)


def _leave_on_term() -> None:
    """Have TERM end the program as Ctrl-C does: a camera is put away, a terminal left as it was found."""
    import signal

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


def _photograph(
    context: CliContext,
    camera: str,
    *,
    frequency: float,
    maxrate: str | None,
    loglevel: str,
    logfile: str | None,
) -> None:
    import logging

    from umbel.events.snapshot import evcam

    logging.basicConfig(level=loglevel.upper(), filename=logfile)
    _leave_on_term()
    evcam(camera, frequency, maxrate, context.app)
