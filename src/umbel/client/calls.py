"""From the options of ``apply_async`` to a ``Call``: instants made aware, limits checked, the parent's part added."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Any, NamedTuple

from umbel.canvas.signature import as_list
from umbel.client.client import PublishOptions, Work
from umbel.core.ids import new_id
from umbel.core.message import Call
from umbel.core.times import instant, seconds, seconds_until
from umbel.execution.context import context_of, current, current_worker_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.core.routing import Route, Router
    from umbel.execution.context import Context

__all__ = ["CallFactory", "PublishDefaults"]

logger = logging.getLogger("celery.app.base")

#: Options that say how a message is sent and by what, and have no place in it. Celery's producers and connections
#: are taken and left alone: the client has its own.
_NOT_SENT = (
    "add_to_parent",
    "confirm_timeout",
    "connection",
    "declare",
    "event_dispatcher",
    "immediate",
    "mandatory",
    "now",
    "producer",
    "publisher",
    "result_cls",
    "task_type",
    "timezone",
)


class PublishDefaults(NamedTuple):
    """What the settings say for every publish. ``timeout`` is seconds."""

    serializer: str
    compression: str | None
    retry: bool
    retry_policy: Mapping[str, Any]
    timeout: float
    timezone: tzinfo
    inherit_priority: bool


class CallFactory:
    """Makes calls under one state of an application's settings; ``now`` is the broker's clock."""

    def __init__(
        self, router: Router, defaults: PublishDefaults, now: Callable[[], float] = time.time
    ) -> None:
        self.router = router
        self.defaults = defaults
        self._now = now

    def make(
        self,
        name: str,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        *,
        reply_to: str,
        origin: str,
        task: Any = None,
    ) -> Work:
        """The call that these options of ``apply_async`` describe, and how to send it.

        Raises:
            ValueError: the soft time limit is above the hard one, or an instant cannot be read.
            TypeError: an option has the wrong type.
            QueueNotFound: the queue is not declared and missing ones are not made.
        """
        merged = self._with_priority(options)
        router = merged.pop("router", None) or self.router
        route: Route = router.route(merged, merged.pop("route_name", None) or name, args, kwargs, task)
        rest = route.options
        publish = self._publish_options(route, rest)
        call = self._call(name, args or (), kwargs or {}, rest, route)
        call.reply_to = rest.pop("reply_to", None) or reply_to
        call.origin = rest.pop("origin", None) or origin
        self._add_parent(call)
        for option in _NOT_SENT:
            rest.pop(option, None)
        if rest:
            call.extra_properties = rest
        return Work(call, publish)

    def _with_priority(self, options: Mapping[str, Any]) -> dict[str, Any]:
        merged = dict(options)
        if self.defaults.inherit_priority and merged.get("priority") is None:
            parent = worker_context()
            if parent is not None and parent.delivery_info:
                merged["priority"] = parent.delivery_info.get("priority")
        return merged

    def _publish_options(self, route: Route, rest: dict[str, Any]) -> PublishOptions:
        defaults = self.defaults
        retry = rest.pop("retry", None)
        policy = rest.pop("retry_policy", None)
        timeout = rest.pop("timeout", None)
        return PublishOptions(
            route.destination,
            rest.pop("serializer", None) or defaults.serializer,
            rest.pop("compression", None) or defaults.compression,
            defaults.retry if retry is None else bool(retry),
            {**defaults.retry_policy, **(policy or {})},
            defaults.timeout if timeout is None else seconds(timeout, "timeout"),
        )

    def _call(self, name: str, args: Any, kwargs: Any, rest: dict[str, Any], route: Route) -> Call:
        take = rest.pop
        hard, soft = check_limits(take("time_limit", None), take("soft_time_limit", None))
        call = Call(
            task=name,
            id=take("task_id", None) or new_id(),
            args=args,
            kwargs=kwargs,
            retries=take("retries", None) or 0,
            time_limit=hard,
            soft_time_limit=soft,
            root_id=take("root_id", None),
            parent_id=take("parent_id", None),
            group_id=take("group_id", None),
            group_index=take("group_index", None),
            shadow=take("shadow", None),
            argsrepr=take("argsrepr", None),
            kwargsrepr=take("kwargsrepr", None),
            ignore_result=bool(take("ignore_result", None)),
            replaced_task_nesting=take("replaced_task_nesting", None) or 0,
            priority=route.destination.priority,
            delivery_mode=route.delivery_mode,
            callbacks=as_list(take("link", None)),
            errbacks=as_list(take("link_error", None)),
            chain=take("chain", None),
            chord=take("chord", None),
            custom_headers=take("headers", None),
        )
        stamped = take("stamped_headers", None)
        if stamped:
            call.stamped_headers = stamped
            call.stamps = {stamp: take(stamp) for stamp in dict.fromkeys(stamped)}
        self._set_times(call, take("eta", None), take("countdown", None), take("expires", None))
        return call

    def _set_times(self, call: Call, eta: Any, countdown: Any, expires: Any) -> None:
        if not (eta or countdown or expires is not None):
            return
        now, timezone = self._now(), self.defaults.timezone
        if countdown:
            call.eta = instant(countdown, now, timezone, "countdown").isoformat()
        elif eta:
            call.eta = instant(_not_a_number(eta), now, timezone, "eta").isoformat()
        if expires is not None:
            moment = instant(expires, now, timezone, "expires")
            call.expires = expires if isinstance(expires, str) else moment.isoformat()
            left = float(expires) if isinstance(expires, (int, float)) else seconds_until(moment, now)
            if left < 0:
                logger.warning("%s has an expiration date in the past (%ss ago).", call.id, -left)
            call.expiration = max(left, 0.0)

    def _add_parent(self, call: Call) -> None:
        if call.root_id and call.parent_id:
            return
        parent = worker_context()
        if parent is not None:
            call.root_id = call.root_id or parent.root_id or parent.id
            call.parent_id = call.parent_id or parent.id


def worker_context() -> Context | None:
    """The request of the task that sends; None outside tasks, and in tasks that were called as functions."""
    if current() is None:
        return None
    task = current_worker_task()
    return None if task is None else context_of(task)


def check_limits(hard: float | None, soft: float | None) -> tuple[float | None, float | None]:
    """Both limits, hard first. Raises ValueError when the soft one is above the hard one."""
    if hard and soft and soft > hard:
        raise ValueError(
            f"soft_time_limit must be less than or equal to time_limit, got {soft} and {hard} seconds"
        )
    return hard, soft


def _not_a_number(eta: Any) -> datetime | str:
    if not isinstance(eta, (datetime, str)):
        raise TypeError(
            f"eta must be a datetime or ISO 8601 text, not {type(eta).__qualname__}; seconds are given as countdown"
        )
    return eta
