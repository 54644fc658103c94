"""``app.amqp``: the application's queues and its router, as the settings describe them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from umbel.config.sources import import_path
from umbel.core.queues import Exchange, Queue, QueueTable
from umbel.core.routing import Router, prepare_routes

if TYPE_CHECKING:
    from umbel.config import Settings

__all__ = ["AMQP"]

_QUEUE_SETTINGS = (
    "task_queues",
    "task_default_queue",
    "task_default_queue_type",
    "task_default_exchange",
    "task_default_exchange_type",
    "task_default_routing_key",
    "task_create_missing_queues",
    "task_create_missing_queue_type",
    "task_create_missing_queue_exchange_type",
    "task_queue_max_priority",
)


class AMQP:
    """Queues and routes. They are made anew when the settings that describe them change, and kept otherwise."""

    def __init__(self, conf: Settings) -> None:
        self._conf = conf
        self._queues: QueueTable | None = None
        self._described: list[Any] = []
        self._router: Router | None = None
        self._routed: tuple[Any, ...] = ()

    @property
    def queues(self) -> QueueTable:
        """The queues by name; see ``QueueTable``."""
        conf = self._conf
        described = [conf[name] for name in _QUEUE_SETTINGS]
        if self._queues is None or described != self._described:
            self._queues = self.Queues(conf.task_queues)
            self._described = described
        return self._queues

    @queues.setter
    def queues(self, queues: QueueTable) -> None:
        self._queues = queues
        self._described = [self._conf[name] for name in _QUEUE_SETTINGS]

    def Queues(self, queues: Any = None, create_missing: bool | None = None) -> QueueTable:  # noqa: N802 - Celery's name
        """A table of these queues, or of the default queue, with what the settings say of queues.

        ``create_missing`` is ``task_create_missing_queues`` unless it is given.
        """
        return _queue_table(self._conf, queues, create_missing)

    @property
    def router(self) -> Router:
        """Decides where messages go."""
        conf, queues = self._conf, self.queues
        described = (queues, conf.task_routes, conf.task_default_queue, conf.task_default_delivery_mode)
        if self._router is None or described != self._routed:
            routes = prepare_routes(conf.task_routes, import_path)
            self._router = Router(queues, routes, conf.task_default_queue, conf.task_default_delivery_mode)
            self._routed = described
        return self._router

    @router.setter
    def router(self, router: Router) -> None:
        self._router = router

    @property
    def default_queue(self) -> Any:
        """The queue of tasks that nothing else claims."""
        return self.queues[self._conf.task_default_queue]

    @property
    def default_exchange(self) -> Exchange:
        """The exchange of queues that name none."""
        return _default_exchange(self._conf)


def _default_exchange(conf: Settings) -> Exchange:
    return Exchange(conf.task_default_exchange, conf.task_default_exchange_type or "direct")


def _queue_table(conf: Settings, queues: Any, create_missing: bool | None) -> QueueTable:
    exchange = _default_exchange(conf)
    if not queues and conf.task_default_queue:
        arguments = {"x-queue-type": "quorum"} if conf.task_default_queue_type == "quorum" else None
        key = conf.task_default_routing_key
        queues = [Queue(conf.task_default_queue, exchange, key, queue_arguments=arguments)]
    return QueueTable(
        queues,
        default_exchange=exchange,
        default_routing_key=conf.task_default_routing_key,
        create_missing=bool(conf.task_create_missing_queues if create_missing is None else create_missing),
        missing_type=conf.task_create_missing_queue_type,
        missing_exchange_type=conf.task_create_missing_queue_exchange_type,
        max_priority=conf.task_queue_max_priority,
    )
