"""``app.control``: orders to the workers, broadcast as Celery's remote control messages."""

from __future__ import annotations

import logging
from time import time
from typing import TYPE_CHECKING, Any, NamedTuple

from umbel.core.destination import Destination
from umbel.core.pidbox import KEPT, command_exchange, write_control
from umbel.core.records import Publication
from umbel.core.stamps import as_stamps, write_stamps
from umbel.errors import BrokerConnectionError, BrokerError, ImproperlyConfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from umbel.app.application import Umbel
    from umbel.app.inspecting import Inspect

__all__ = ["Control"]

logger = logging.getLogger("umbel.control")


class Order(NamedTuple):
    """A command and whom it is for."""

    command: str
    arguments: dict[str, Any]
    destination: Sequence[str] | None
    pattern: str | None
    matcher: str | None
    timeout: float  #: seconds that the sender waits; 0: not at all

    @property
    def revoked(self) -> list[str]:
        """The ids that no worker is to run."""
        if self.command not in {"revoke", "terminate"} or self.destination or self.pattern:
            return []
        ids = self.arguments.get("task_id") or ()
        return [ids] if isinstance(ids, str) else list(ids)

    @property
    def revoked_stamps(self) -> dict[str, list[Any]]:
        """The stamps of which no worker is to run a task."""
        if self.command != "revoke_by_stamped_headers" or self.destination or self.pattern:
            return {}
        return as_stamps(self.arguments.get("headers") or {})


class Control:
    """Orders to the workers of one application's broker. They are heard by the workers that run now, Celery's too."""

    def __init__(self, app: Umbel) -> None:
        self.app = app

    def broadcast(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        destination: Sequence[str] | None = None,
        connection: object = None,
        reply: bool = False,
        timeout: float | None = 1.0,
        limit: int | None = None,
        callback: Callable[[dict[str, Any]], object] | None = None,
        channel: object = None,
        pattern: str | None = None,
        matcher: str | None = None,
        **extra_kwargs: Any,
    ) -> list[dict[str, Any]] | None:
        """Send a command to every worker, or to those of these names, or of names that match.

        Args:
            command: its name, such as ``revoke``.
            arguments: of the command; ``extra_kwargs`` are more of them.
            destination: names of workers; None: all.
            connection, channel: accepted as Celery's; the application's own are used.
            reply: wait for the workers' answers and return them.
            timeout: seconds to wait for the next answer; None: one second.
            limit: how many answers to wait for; None: one from each of ``destination``, or as many as come in time.
            callback: called with each answer as it arrives.
            pattern, matcher: a ``glob`` or ``pcre`` pattern of names.

        Returns:
            the answers, each a mapping of a worker's name to what it says; None without ``reply``.

        Raises:
            ImproperlyConfigured: the broker cannot broadcast.
            OperationalError: the broker cannot be reached.
            ValueError: ``destination`` is neither a list nor a tuple.
        """
        if destination is not None and not isinstance(destination, (list, tuple)):
            raise ValueError(f"destination must be a list or tuple of names, not {destination!r}")
        self._check_able(command)
        order = Order(
            command, {**(arguments or {}), **extra_kwargs}, destination, pattern, matcher, timeout or 0.0
        )
        if not reply:
            self._send(order)
            return None
        # asyncio is imported only by those who wait for answers.
        from umbel.app.replies import collect

        silence = 1.0 if timeout is None else timeout
        return collect(
            self.app,
            lambda extra: self._send(order, extra),
            limit or len(destination or ()),
            silence,
            callback,
        )

    def _check_able(self, command: str) -> None:
        broker = self.app.broker
        if not broker.capabilities.fanout:
            raise ImproperlyConfigured(
                f"{broker.display_url} cannot broadcast, so workers cannot be told to {command}; "
                "use a broker that can, such as redis://"
            )

    def _send(self, order: Order, extra: Mapping[str, Any] | None = None) -> None:
        """Publish an order; ``extra`` says where the answers go."""
        conf, broker = self.app.conf, self.app.broker
        target = Destination(command_exchange(conf.control_exchange), "", None, "fanout")
        expires = time() + order.timeout if order.timeout else 0
        headers: dict[str, Any] = {"clock": self.app.clock.forward(), "expires": expires}
        if kept := self._keep(order):
            headers[KEPT] = kept
        body = {
            "method": order.command,
            "arguments": order.arguments,
            "destination": order.destination,
            "pattern": order.pattern,
            "matcher": order.matcher,
            **(extra or {}),
        }
        envelope = write_control(body, headers, conf.task_serializer, delivery_mode=2)
        publication = Publication(target, broker.pack(envelope, target))
        self.app.sender.client.send_raw(publication, conf.broker_publish_timeout)

    def _keep(self, order: Order) -> float:
        """Have the broker keep what an order revokes for workers that start later; the seconds for which it does."""
        broker, expires = self.app.broker, self.app.conf.revoked_expires or 0.0
        ids, stamps = order.revoked, order.revoked_stamps
        if not (broker.capabilities.revocations and expires and (ids or stamps)):
            return 0.0
        try:
            return broker.revoke(ids, expires, write_stamps(stamps))
        except BrokerConnectionError:
            raise
        except BrokerError as error:
            # Such as a user of RabbitMQ's who may not make queues: those who run are told all the same.
            logger.warning("Workers that start later will not know that tasks are revoked: %s", error)
            return 0.0

    def revoke(
        self,
        task_id: str | Iterable[str],
        destination: Sequence[str] | None = None,
        terminate: bool = False,
        signal: str | int | None = "SIGTERM",
        **kwargs: Any,
    ) -> list[dict[str, Any]] | None:
        """Tell the workers not to run a task, or several.

        Those that run now hear of it; those that start later find it in the broker, for ``revoked_expires`` seconds.
        What is said to some workers only (``destination``, ``pattern``) the broker does not keep.

        Args:
            task_id: the id, or ids.
            destination: names of workers; None: all.
            terminate: also end it where it runs, with ``signal``. Nobody knows what it was doing: it is for the
                operator who wants a stuck task gone, not for programs.
            signal: its name or number; None: TERM.
            kwargs: of ``broadcast``, such as ``reply`` and ``timeout``.
        """
        ids = task_id if isinstance(task_id, str) else list(task_id)
        arguments = {"task_id": ids, "terminate": terminate, "signal": signal}
        return self.broadcast("revoke", arguments, destination, **kwargs)

    def terminate(
        self,
        task_id: str | Iterable[str],
        destination: Sequence[str] | None = None,
        signal: str | int | None = "SIGTERM",
        **kwargs: Any,
    ) -> list[dict[str, Any]] | None:
        """Tell the workers not to run a task, and to end it where it runs."""
        return self.revoke(task_id, destination, terminate=True, signal=signal, **kwargs)

    def inspect(
        self,
        destination: str | Sequence[str] | None = None,
        timeout: float = 1.0,
        callback: Callable[[dict[str, Any]], object] | None = None,
        connection: object = None,
        app: Umbel | None = None,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> Inspect:
        """Questions to the workers; see ``Inspect``."""
        from umbel.app.inspecting import Inspect  # only those who ask

        return Inspect(destination, timeout, callback, connection, app or self.app, limit, pattern, matcher)

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any],
        destination: Sequence[str] | None = None,
        terminate: bool = False,
        signal: str | int | None = "SIGTERM",
        **kwargs: Any,
    ) -> list[dict[str, Any]] | None:
        """Tell the workers not to run tasks that carry one of these stamps: names, each with a value or several.

        Kept as revoked ids are, see ``revoke``.
        """
        arguments = {"headers": dict(headers), "terminate": terminate, "signal": signal}
        return self.broadcast("revoke_by_stamped_headers", arguments, destination, **kwargs)

    def ping(
        self, destination: Sequence[str] | None = None, timeout: float = 1.0, **kwargs: Any
    ) -> list[dict[str, Any]]:
        """The answers of the workers that are there, each ``{name: {"ok": "pong"}}``."""
        return (
            self.broadcast("ping", destination=destination, timeout=timeout, **{**kwargs, "reply": True})
            or []
        )

    def rate_limit(
        self, task_name: str, rate_limit: str | float, destination: Sequence[str] | None = None, **kwargs: Any
    ) -> list[dict[str, Any]] | None:
        """Change how many tasks of a name may begin in a time, in each worker: ``"10/s"``, ``"5/m"``; 0: any number."""
        arguments = {"task_name": task_name, "rate_limit": rate_limit}
        return self.broadcast("rate_limit", arguments, destination, **kwargs)

    def time_limit(
        self,
        task_name: str,
        soft: float | None = None,
        hard: float | None = None,
        destination: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]] | None:
        """Change the time limits of a task, in seconds; None: no limit."""
        arguments = {"task_name": task_name, "hard": hard, "soft": soft}
        return self.broadcast("time_limit", arguments, destination, **kwargs)

    def add_consumer(
        self,
        queue: str,
        exchange: str | None = None,
        exchange_type: str = "direct",
        routing_key: str | None = None,
        options: Mapping[str, Any] | None = None,
        destination: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]] | None:
        """Have workers take from a queue too; ``options`` are more of the queue's."""
        arguments = {
            "queue": queue,
            "exchange": exchange,
            "exchange_type": exchange_type,
            "routing_key": routing_key,
            **(options or {}),
        }
        return self.broadcast("add_consumer", arguments, destination, **kwargs)

    def cancel_consumer(
        self, queue: str, destination: Sequence[str] | None = None, **kwargs: Any
    ) -> list[dict[str, Any]] | None:
        """Have workers take from a queue no more."""
        return self.broadcast("cancel_consumer", {"queue": queue}, destination, **kwargs)

    def enable_events(
        self, destination: Sequence[str] | None = None, **kwargs: Any
    ) -> list[dict[str, Any]] | None:
        """Have workers send task events."""
        return self.broadcast("enable_events", {}, destination, **kwargs)

    def disable_events(
        self, destination: Sequence[str] | None = None, **kwargs: Any
    ) -> list[dict[str, Any]] | None:
        """Have workers send no task events."""
        return self.broadcast("disable_events", {}, destination, **kwargs)

    def heartbeat(
        self, destination: Sequence[str] | None = None, **kwargs: Any
    ) -> list[dict[str, Any]] | None:
        """Have workers send a heartbeat event now."""
        return self.broadcast("heartbeat", {}, destination, **kwargs)

    def pool_grow(
        self, n: int = 1, destination: Sequence[str] | None = None, **kwargs: Any
    ) -> list[dict[str, Any]] | None:
        """Have workers run n more tasks at a time."""
        return self.broadcast("pool_grow", {"n": n}, destination, **kwargs)

    def pool_shrink(
        self, n: int = 1, destination: Sequence[str] | None = None, **kwargs: Any
    ) -> list[dict[str, Any]] | None:
        """Have workers run n fewer tasks at a time."""
        return self.broadcast("pool_shrink", {"n": n}, destination, **kwargs)

    def pool_restart(
        self,
        modules: Sequence[str] | None = None,
        reload: bool = False,
        reloader: Any = None,
        destination: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]] | None:
        """Have workers replace their pool processes; they do with ``worker_pool_restarts``."""
        arguments = {"modules": modules, "reload": reload, "reloader": reloader}
        return self.broadcast("pool_restart", arguments, destination, **kwargs)

    def autoscale(
        self, max: int, min: int, destination: Sequence[str] | None = None, **kwargs: Any
    ) -> list[dict[str, Any]] | None:
        """Change the bounds of the workers' autoscalers."""
        return self.broadcast("autoscale", {"max": max, "min": min}, destination, **kwargs)

    def shutdown(
        self, destination: Sequence[str] | None = None, **kwargs: Any
    ) -> list[dict[str, Any]] | None:
        """Have workers stop as on TERM."""
        return self.broadcast("shutdown", {}, destination, **kwargs)

    def election(self, id: str, topic: str, action: Any = None, connection: object = None) -> None:
        """Have the workers choose one of them, Celery's among them, who carries out an action.

        Args:
            id: of the election, used for no other.
            topic: what kind of action it is: ``task``, or one for which the workers have a handler.
            action: of the kind ``task`` a signature, which the chosen worker sends.
            connection: accepted as Celery's.
        """
        self.broadcast("election", {"id": id, "topic": topic, "action": action})

    def purge(self, connection: object = None) -> int:
        """Delete every message that waits in the queues workers listen to; says how many. They are lost for good."""
        broker = self.app.broker
        return sum(broker.purge(name) for name in self.app.amqp.queues.consume_from)

    discard_all = purge
