"""Commands of Celery's that this version does not have. They are not listed; who types one is told."""

from __future__ import annotations

from typing import Final

from umbel.cli.errors import EX_USAGE, CommandFailed

__all__ = ["LATER_COMMANDS", "not_there_yet"]

#: Command → what it would need.
LATER_COMMANDS: Final = {
    "amqp": "RabbitMQ is not among the brokers yet",
    "graph": "there is nothing to draw yet",
    "list": "RabbitMQ is not among the brokers yet",
    "logtool": "logs are as Celery's, whose own logtool reads them",
    "migrate": "messages are not moved between brokers yet",
}


def not_there_yet(name: str) -> CommandFailed:
    """The failure of a command that belongs to a later version."""
    return CommandFailed(f"umbel {name} is not in this version: {LATER_COMMANDS[name]}.", exit_code=EX_USAGE)
