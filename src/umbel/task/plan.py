"""``Plan``: what every call of a task has in common while the settings stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from umbel.app import Umbel
    from umbel.client.sender import PlainRoute, Sender
    from umbel.config import Settings
    from umbel.task.task import Task

__all__ = ["MESSAGE_OPTIONS", "Plan"]

#: Attributes of a task that are options of each of its messages. Those that are None say nothing.
MESSAGE_OPTIONS = (
    "queue",
    "routing_key",
    "exchange",
    "exchange_type",
    "priority",
    "expires",
    "serializer",
    "delivery_mode",
    "compression",
    "time_limit",
    "soft_time_limit",
    "immediate",
    "mandatory",
)


class Plan:
    """How a task is sent while the settings stay as they are."""

    __slots__ = ("conf", "eager", "generation", "options", "plain", "sender")

    def __init__(self, task: Task[..., Any], app: Umbel) -> None:
        self.conf: Settings = app.conf
        self.eager = bool(self.conf.task_always_eager)
        self.generation = self.conf._generation
        self.options = task._get_exec_options()
        self.sender: Sender = app.sender
        self.plain: PlainRoute | None = None
        if not (self.eager or task.names_shadows):
            self.plain = self.sender.plain_route(task.name, self.options, task)
