"""``umbel events``: what happens in the fleet, as lines, on a terminal, or for a camera."""

from __future__ import annotations

from typing import TYPE_CHECKING

from umbel.cli.command import UmbelOption, command

if TYPE_CHECKING:
    from umbel.cli.context import CliContext

__all__ = ["events"]

_DUMPER, _SNAPSHOT = "Dumper", "Snapshot"


@command(
    "events",
    UmbelOption(["-d", "--dump"], help_group=_DUMPER, is_flag=True, help="Print every event as a line."),
    UmbelOption(["-c", "--camera"], help_group=_SNAPSHOT, help="Path of a camera's class."),
    UmbelOption(
        ["-F", "--frequency", "--freq"],
        help_group=_SNAPSHOT,
        type=float,
        default=1.0,
        help="Seconds between two shots of the camera.",
    ),
    UmbelOption(["-r", "--maxrate"], help_group=_SNAPSHOT, help="Shots at the most, such as 10/m."),
    UmbelOption(["-l", "--loglevel"], help_group=_SNAPSHOT, default="INFO", help="Level of the log."),
)
def events(
    context: CliContext,
    /,
    dump: bool,
    camera: str | None,
    frequency: float,
    maxrate: str | None,
    loglevel: str,
) -> None:
    """Show what happens in the fleet. Workers tell about tasks with -E."""
    app = context.app
    app.loader.import_default_modules()
    if dump:
        from umbel.events.dumper import evdump

        evdump(app)
    elif camera:
        import logging

        from umbel.events.snapshot import evcam

        logging.basicConfig(level=loglevel.upper())
        evcam(camera, frequency, maxrate, app)
    else:
        from umbel.events.screen import evtop

        evtop(app)
