"""``umbel migrate``: messages from one broker to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from umbel.cli.command import UmbelOption, command

if TYPE_CHECKING:
    from umbel.cli.context import CliContext

__all__ = ["migrate"]

_GROUP = "Migration Options"


@command(
    "migrate",
    click.Argument(["source"]),
    click.Argument(["destination"]),
    UmbelOption(["-n", "--limit"], help_group=_GROUP, type=int, help="Send so many messages at most."),
    UmbelOption(
        ["-t", "--timeout"],
        help_group=_GROUP,
        type=float,
        default=1.0,
        help="Seconds without a message after which it ends.",
    ),
    UmbelOption(
        ["-a", "--ack-messages"],
        help_group=_GROUP,
        is_flag=True,
        help="Take the messages from the source; otherwise they are copied.",
    ),
    UmbelOption(["-T", "--tasks"], help_group=_GROUP, help="Only tasks of these names: a,b,…"),
    UmbelOption(
        ["-Q", "--queues"], help_group=_GROUP, help="Only these queues: a,b,…; a:b puts them into queue b."
    ),
    UmbelOption(["-F", "--forever"], help_group=_GROUP, is_flag=True, help="Go on until killed."),
)
def migrate(context: CliContext, /, source: str, destination: str, **options: Any) -> None:
    """Send what waits at one broker to another one: both as URLs.

    Messages that wait for their time and dead letters stay where they are.
    """
    from umbel.client.connection import Connection
    from umbel.client.moving import migrate_tasks, prepare_queues

    def tell(state: Any, body: Any, message: Any) -> None:
        context.echo(f"Migrating task {state.count}/{state.strtotal}: {list(body)}")

    app = context.app
    with Connection(source) as taken, Connection(destination) as sent:
        migrate_tasks(taken, sent, app=app, callback=tell, **options)
        for queue in prepare_queues(options["queues"]) or app.amqp.queues.consume_from:
            if delayed := taken.broker.delayed_depth(queue):
                context.error(
                    f"{delayed} messages of queue {queue} wait for their time, and stay at the source."
                )
