"""``umbel list bindings``: which queues an exchange leads to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from umbel.cli.command import command
from umbel.cli.errors import CommandFailed
from umbel.errors import BrokerConnectionError, BrokerError

if TYPE_CHECKING:
    from umbel.cli.context import CliContext

__all__ = ["list"]


@click.group("list", short_help="Show what the broker knows.")
def list() -> None:
    """Show what the broker knows."""


@command("bindings", short_help="Show the bindings of queues.")
def _bindings(context: CliContext, /) -> None:
    """Show which queues are bound to which exchanges. On RabbitMQ its management plugin is asked."""
    app = context.app
    queues = app.amqp.queues
    app.broker.declare(queues.bindings(), queues.definitions())
    try:
        found = app.broker.bound()
    except BrokerConnectionError:
        raise
    except BrokerError as error:
        raise CommandFailed(str(error), cause=error) from error
    for row in (("Queue", "Exchange", "Routing Key"), ("-" * 16,) * 3):
        context.echo(_line(*row))
    for each in sorted(found, key=lambda each: (each.queue, each.exchange, each.routing_key)):
        context.echo(_line(each.queue, each.exchange, each.routing_key))


def _line(queue: str, exchange: str, routing_key: str) -> str:
    return f"{queue:<28} {exchange:<28} {routing_key}"


list.add_command(_bindings)
