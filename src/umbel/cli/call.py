"""``umbel call``: send a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from umbel.cli.command import UmbelOption, command
from umbel.cli.params import INSTANT, INSTANT_OR_SECONDS, JSON_ARRAY, JSON_OBJECT

if TYPE_CHECKING:
    from umbel.cli.context import CliContext

__all__ = ["call"]

_CALLING, _ROUTING = "Calling Options", "Routing Options"


@command(
    "call",
    click.Argument(["name"]),
    UmbelOption(
        ["-a", "--args"],
        help_group=_CALLING,
        type=JSON_ARRAY,
        default="[]",
        help="Positional arguments, as JSON.",
    ),
    UmbelOption(
        ["-k", "--kwargs"],
        help_group=_CALLING,
        type=JSON_OBJECT,
        default="{}",
        help="Keyword arguments, as JSON.",
    ),
    UmbelOption(["--eta"], help_group=_CALLING, type=INSTANT, help="Not before this instant."),
    UmbelOption(
        ["--countdown"], help_group=_CALLING, type=float, help="Not before so many seconds have passed."
    ),
    UmbelOption(
        ["--expires"],
        help_group=_CALLING,
        type=INSTANT_OR_SECONDS,
        help="Not after this instant, or so many seconds.",
    ),
    UmbelOption(["--serializer"], help_group=_CALLING, default="json", help="Serializer of the arguments."),
    UmbelOption(["--queue"], help_group=_ROUTING, help="Queue to send it to."),
    UmbelOption(["--exchange"], help_group=_ROUTING, help="Exchange to send it to."),
    UmbelOption(["--routing-key"], help_group=_ROUTING, help="Routing key."),
)
def call(context: CliContext, /, name: str, args: list[Any], kwargs: dict[str, Any], **options: Any) -> None:
    """Call a task by its name, which need not be known here, and print its id."""
    given = {option: value for option, value in options.items() if value is not None}
    context.echo(context.app.send_task(name, args=args, kwargs=kwargs, **given).id)
