"""``task-sent`` events: what a program says of the tasks it sends, with ``task_send_sent_event``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from umbel.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.core.destination import Destination
    from umbel.core.message import TaskMessage
    from umbel.events.receiver import WatchableApp

__all__ = ["tell_sent"]

logger = logging.getLogger("celery.events")


def tell_sent(app: WatchableApp) -> Callable[[TaskMessage, Destination], None]:
    """What is to be called with every message that was sent. It never fails the sending."""

    def tell(message: TaskMessage, destination: Destination) -> None:
        # Only who sends events pays for the import.
        from umbel.events.dispatcher import Dispatcher

        try:
            Dispatcher(app=app, buffer_while_offline=False).send("task-sent", **_fields(message, destination))
        except BrokerError as error:
            logger.warning("A task was sent, and monitors cannot be told: %s", error)

    return tell


def _fields(message: TaskMessage, destination: Destination) -> dict[str, Any]:
    headers = message.headers
    return {
        "uuid": headers.get("id"),
        "root_id": headers.get("root_id"),
        "parent_id": headers.get("parent_id"),
        "name": headers.get("task"),
        "args": headers.get("argsrepr"),
        "kwargs": headers.get("kwargsrepr"),
        "retries": headers.get("retries"),
        "eta": headers.get("eta"),
        "expires": headers.get("expires"),
        "queue": destination.queue or destination.routing_key,
        "exchange": destination.exchange,
        "routing_key": destination.routing_key,
    }
