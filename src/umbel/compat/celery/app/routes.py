"""Routes of tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from umbel.compat.helpers.functional import maybe_evaluate
from umbel.compat.helpers.imports import symbol_by_name
from umbel.core.queues import QueueTable
from umbel.core.routing import MapRoute, Route
from umbel.core.routing import Router as _Router
from umbel.state import get_current_app

from ..utils.functional import mlazy

__all__ = ("MapRoute", "Router", "expand_router_string", "prepare")


class Router(_Router):
    """Umbel's router by Celery's arguments; its answers are mappings of options, with the queue itself."""

    def __init__(
        self, routes: Any = None, queues: Any = None, create_missing: bool = False, app: Any = None
    ) -> None:
        self.app = app or get_current_app()
        conf = self.app.conf
        super().__init__(
            QueueTable() if queues is None else queues,
            [_asked(route) for route in routes or ()],
            conf.task_default_queue,
            conf.task_default_delivery_mode,
        )

    def route(  # type: ignore[override]  # Celery's answer
        self, options: Mapping[str, Any], name: str, args: Any = (), kwargs: Any = None, task_type: Any = None
    ) -> dict[str, Any]:
        """The options of a call, with what the first route that knows the task adds, and the queue."""
        return _Routed(self, self._merge(dict(options), name, args, kwargs or {}, task_type))

    def expand_destination(self, route: Any) -> dict[str, Any]:
        """A route's options with the queue in the place of its name. Raises QueueNotFound."""
        options: dict[str, Any] = {"queue": route} if isinstance(route, str) else route
        self._expand(options)
        return options


class _Routed(dict[str, Any]):
    """Options of a call, as Celery's routers give them, that Umbel's own callers can read too."""

    def __init__(self, router: Router, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self._router = router

    def _found(self) -> Route:
        return self._router._destination(dict(self))

    destination = property(lambda self: self._found().destination)
    delivery_mode = property(lambda self: self._found().delivery_mode)
    options = property(lambda self: self._found().options)


def _asked(route: Any) -> Callable[..., Any]:
    if type(route) is MapRoute:
        return route

    def ask(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> Any:
        found = maybe_evaluate(route)
        if "route_for_task" in dir(found):
            return found.route_for_task(name, args, kwargs)
        return found(name, args, kwargs, options, task=task)

    return ask


def expand_router_string(router: Any) -> Any:
    """A router by its path; a class of the old kind, with ``route_for_task``, is made an object."""
    found = symbol_by_name(router)
    return found() if isinstance(found, type) and "route_for_task" in dir(found) else found


def prepare(routes: Any) -> Any:
    """``task_routes`` as a list; what is given by its path is imported when it is first asked."""
    if routes is None:
        return ()
    if not isinstance(routes, (list, tuple)):
        routes = (routes,)
    return [_prepared(route) for route in routes]


def _prepared(route: Any) -> Any:
    if isinstance(route, (Mapping, list, tuple)):
        return MapRoute(route)
    return mlazy(expand_router_string, route) if isinstance(route, str) else route
