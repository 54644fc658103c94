"""Where a task's message goes: ``task_routes``, ``task_queues`` and the options of the call, to a ``Destination``.

The rules are Celery's. A queue named in the call wins; otherwise the first route that knows the task; otherwise the
default queue. What the call says wins over what a route says. A queue with a direct exchange is reached through the
anonymous exchange, with the queue's name as routing key.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from umbel.core.destination import Destination
from umbel.core.queues import Exchange, Queue, QueueTable, as_queue, binding
from umbel.errors import ImproperlyConfigured, QueueNotFound

__all__ = ["Exchange", "MapRoute", "Queue", "QueueTable", "Route", "Router", "binding", "prepare_routes"]

#: Answers the options for a task, or None when it does not know the task.
RouteFunction = Callable[..., Any]

_DELIVERY_MODES = {"transient": 1, "persistent": 2, 1: 1, 2: 2}


class Route(NamedTuple):
    """A destination, and the options that are left of the call and of the route that matched."""

    destination: Destination
    delivery_mode: int
    options: dict[str, Any]


class MapRoute:
    """A route table: names, globs and regular expressions to a queue's name or a mapping of options.

    Exact names win over patterns; patterns are tried in order.
    """

    def __init__(self, table: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> None:
        self.names: dict[str, Any] = {}
        self.patterns: list[tuple[re.Pattern[str], Any]] = []
        for key, target in table.items() if isinstance(table, Mapping) else table:
            if isinstance(key, re.Pattern):
                self.patterns.append((key, target))
            elif "*" in key:
                self.patterns.append((re.compile(fnmatch.translate(key)), target))
            else:
                self.names[key] = target

    def __call__(self, name: str, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        """The options for a task of this name; None when the table does not know it."""
        target = self.names.get(name)
        if target is None:
            target = next((target for pattern, target in self.patterns if pattern.match(name)), None)
        if target is None:
            return None
        return {"queue": target} if isinstance(target, str) else dict(target)


class _NamedRoute:
    """A route given as a dotted path, imported when the first message needs it."""

    def __init__(self, path: str, load: Callable[[str], Any]) -> None:
        self._path = path
        self._load = load
        self._router: RouteFunction | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._router is None:
            self._router = _as_function(self._load(self._path), self._path)
        return self._router(*args, **kwargs)


def prepare_routes(routes: Any, load: Callable[[str], Any]) -> list[RouteFunction]:
    """Routes from any shape that ``task_routes`` may have.

    A mapping, a list of pairs, a function ``(name, args, kwargs, options, task=None, **kw)``, an object with
    ``route_for_task``, a dotted path to one of these (imported by ``load``), or a list of these.
    """
    if routes is None:
        return []
    if not isinstance(routes, (list, tuple)):
        routes = (routes,)
    return [_prepare(route, load) for route in routes]


def _prepare(route: Any, load: Callable[[str], Any]) -> RouteFunction:
    if isinstance(route, (Mapping, list, tuple)):
        return MapRoute(route)
    if isinstance(route, str):
        return _NamedRoute(route, load)
    return _as_function(route, route)


def _as_function(route: Any, source: Any) -> RouteFunction:
    try:
        old_style = route.route_for_task
    except AttributeError:
        if not callable(route):
            raise ImproperlyConfigured(
                f"task_routes: expected a mapping, a function or a dotted path, got {source!r}"
            ) from None
        function: RouteFunction = route
        return function
    if isinstance(route, type):
        old_style = route().route_for_task

    def ask(name: str, args: Any, kwargs: Any, options: Any, **_: Any) -> Any:
        return old_style(name, args, kwargs)

    return ask


class Router:
    """Decides where messages go.

    Args:
        queues: the application's queues.
        routes: what ``prepare_routes`` made of ``task_routes``.
        default_queue: name of the queue for tasks that nothing else claims.
        default_delivery_mode: 2 persistent, 1 transient.
    """

    def __init__(
        self,
        queues: QueueTable,
        routes: list[RouteFunction] | None = None,
        default_queue: str = "celery",
        default_delivery_mode: int | str = 2,
    ) -> None:
        self.queues = queues
        self.routes = routes or []
        self.default_queue = default_queue
        self.default_delivery_mode = _DELIVERY_MODES[default_delivery_mode]
        #: True when a task's route depends on its name alone, so that it can be remembered.
        self.fixed = all(type(route) is MapRoute for route in self.routes)

    def route(
        self,
        options: Mapping[str, Any],
        name: str,
        args: Any = (),
        kwargs: Any = None,
        task: Any = None,
    ) -> Route:
        """Where one message goes.

        Args:
            options: of the call: ``queue``, ``exchange``, ``exchange_type``, ``routing_key``, ``priority`` and
                ``delivery_mode`` are used up, the rest comes back in ``Route.options``, together with what the route
                that matched has to add.
            name: of the task; ``args`` and ``kwargs``: its arguments, for routes that are functions.
            task: the task, where it is known here.

        Raises:
            QueueNotFound: the queue is not declared and missing ones are not made.
        """
        return self._destination(self._merge(dict(options), name, args, kwargs or {}, task))

    def _merge(self, options: dict[str, Any], name: str, args: Any, kwargs: Any, task: Any) -> dict[str, Any]:
        self._expand(options)
        for router in self.routes:
            route = router(name, args, kwargs, options, task=task)
            if route is not None:
                found = {"queue": route} if isinstance(route, str) else dict(route)
                self._expand(found)
                if not found:
                    break
                return {
                    **found,
                    **{key: value for key, value in options.items() if value is not None or key not in found},
                }
        if options.get("queue") is None:
            options["queue"] = self._queue(self.default_queue)
        return options

    def _expand(self, options: dict[str, Any]) -> None:
        """Put the queue itself in the place of its name."""
        queue = options.pop("queue", None)
        if queue:
            options["queue"] = self._queue(queue) if isinstance(queue, str) else self._given(queue)

    def _given(self, queue: Any) -> Any:
        given = as_queue(queue)
        self.queues.note_given(given)
        return given

    def _queue(self, name: str) -> Any:
        try:
            return self.queues[name]
        except KeyError:
            raise QueueNotFound(f"Queue {name!r} missing from task_queues") from None

    def _destination(self, options: dict[str, Any]) -> Route:
        queue = options.pop("queue", None)
        exchange, routing_key = options.pop("exchange", None), options.pop("routing_key", None)
        if queue is None and exchange is None:
            queue = self._queue(self.default_queue)
        name, kind, mode = self._describe(exchange, queue)
        kind, mode = options.pop("exchange_type", None) or kind, options.pop("delivery_mode", None) or mode
        target = self._target(queue, name, routing_key, kind)
        destination = Destination(*target, exchange_type=kind, priority=options.pop("priority", None) or 0)
        return Route(destination, _DELIVERY_MODES[mode or self.default_delivery_mode], options)

    def _target(
        self, queue: Any, exchange: str | None, routing_key: str | None, kind: str
    ) -> tuple[str, str, str | None]:
        if kind == "direct" and not (exchange and routing_key):
            name = queue.name if queue is not None else exchange or self.default_queue
            return "", name, name
        if exchange is None:
            return queue.exchange.name, routing_key or queue.routing_key, None
        if kind == "direct":
            return exchange, routing_key or "", self._bound(exchange, routing_key)
        return exchange, routing_key or "", None

    def _bound(self, exchange: str, routing_key: str | None) -> str | None:
        """The queue whose own exchange this is; None where the broker has to look up who is bound."""
        # Others may be bound to an exchange of any other name, by applications that are not known here.
        if exchange != routing_key or exchange not in self.queues:
            return None
        bound = [each.queue for each in self.queues.bindings_to(exchange) if each.routing_key == routing_key]
        return exchange if bound == [exchange] else None

    def _describe(self, exchange: Any, queue: Any) -> tuple[str | None, str, Any]:
        """Name, type and delivery mode of the exchange: the one that was named, else the queue's."""
        if exchange is not None and not isinstance(exchange, str):
            return exchange.name, exchange.type or "direct", exchange.delivery_mode
        # A name alone does not say of which type the exchange is; the queues that are bound to it do.
        declared = self.queues.bindings_to(exchange) if exchange else ()
        kind = declared[0].exchange_type if declared else None
        if queue is None or queue.exchange is None:
            return exchange, kind or "direct", None
        return exchange, kind or queue.exchange.type or "direct", queue.exchange.delivery_mode
