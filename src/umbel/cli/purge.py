"""``umbel purge``: delete what waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from umbel.cli.command import UmbelOption, command
from umbel.cli.params import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from umbel.cli.context import CliContext

__all__ = ["purge"]

_GROUP = "Purging Options"


@command(
    "purge",
    UmbelOption(["-f", "--force"], help_group=_GROUP, is_flag=True, help="Do not ask."),
    UmbelOption(
        ["-Q", "--queues"], help_group=_GROUP, type=NAMES, help="These queues; default: all known ones."
    ),
    UmbelOption(["-X", "--exclude-queues"], help_group=_GROUP, type=NAMES, help="Not these."),
)
def purge(
    context: CliContext, /, force: bool, queues: list[str] | None, exclude_queues: list[str] | None
) -> None:
    """Delete all messages that wait in the queues. There is no way back."""
    app = context.app
    names = sorted(set(queues or app.amqp.queues) - set(exclude_queues or ()))
    if not names:
        return
    if not force:
        _confirm(context, names)
    broker = app.broker
    messages = sum(broker.purge(name) for name in names)
    queues_text = "queue" if len(names) == 1 else "queues"
    if messages:
        text = "message" if messages == 1 else "messages"
        context.echo(f"Purged {messages} {text} from {len(names)} known task {queues_text}.")
    else:
        context.echo(f"No messages purged from {len(names)} {queues_text}.")


def _confirm(context: CliContext, names: Iterable[str]) -> None:
    listed = list(names)
    click.confirm(
        f"{context.style('WARNING', fg='red')}: This will remove all tasks from "
        f"{'queue' if len(listed) == 1 else 'queues'}: {', '.join(listed)}.\n"
        "         There is no undo for this operation!\n\n"
        "(to skip this prompt use the -f option)\n"
        "Are you sure you want to delete all tasks?",
        abort=True,
    )
