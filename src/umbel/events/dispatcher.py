"""``Dispatcher``: sends events of a program's own."""

from __future__ import annotations

import os
from threading import RLock
from typing import TYPE_CHECKING, Any, Self

from umbel.core.destination import Destination
from umbel.core.events import group_of, make_event, routing_key, write_events
from umbel.core.records import Publication
from umbel.errors import OperationalError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from umbel.events.receiver import WatchableApp

__all__ = ["Dispatcher"]


class Dispatcher:
    """Sends events, each at once, or those of ``buffer_group`` together. Safe for use by several threads.

    Args:
        connection, channel: accepted as Celery's; the application's own are used.
        hostname: whom the events are from; None: ``gen<pid>@<host>``.
        enabled: whether anything is sent.
        buffer_while_offline: keep what cannot be sent for ``flush``; otherwise sending raises OperationalError.
        app: the application.
        serializer: None: the setting ``event_serializer``.
        groups: send only events of these groups; empty: all.
        buffer_group: groups whose events are sent ``buffer_limit`` at a time.
    """

    def __init__(
        self,
        connection: Any = None,
        hostname: str | None = None,
        enabled: bool = True,
        channel: Any = None,
        buffer_while_offline: bool = True,
        app: WatchableApp | None = None,
        serializer: str | None = None,
        groups: Iterable[str] | None = None,
        delivery_mode: int = 1,
        buffer_group: Collection[str] | None = None,
        buffer_limit: int = 24,
        on_send_buffered: Callable[[], object] | None = None,
    ) -> None:
        if app is None:
            from umbel.state import get_current_app

            app = get_current_app()
        assert app is not None
        self.app = app
        self.connection, self.channel = connection, channel
        self.hostname = hostname or app.identity.origin
        self.enabled = enabled and app.broker.capabilities.fanout
        self.buffer_while_offline = buffer_while_offline
        self.buffer_group = frozenset(buffer_group or ())
        self.buffer_limit = buffer_limit
        self.on_send_buffered = on_send_buffered
        self.groups = set(groups or ())
        self.serializer = serializer or app.conf.event_serializer
        self.clock = app.clock
        self.pid = os.getpid()
        self.on_enabled: set[Callable[[], object]] = set()
        self.on_disabled: set[Callable[[], object]] = set()
        self._unsent: list[tuple[Any, str]] = []
        self._buffers: dict[str, list[dict[str, Any]]] = {}
        self._mutex = RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def enable(self) -> None:
        """Send from now on."""
        self.enabled = True
        for callback in self.on_enabled:
            callback()

    def disable(self) -> None:
        """Send no more."""
        if self.enabled:
            self.enabled = False
            self.close()
            for callback in self.on_disabled:
                callback()

    def send(self, type: str, blind: bool = False, retry: bool = False, **fields: Any) -> None:
        """Send an event, such as ``task-progress`` with fields that the serializer can write.

        Args:
            type: its name; what stands before the first dash is its group.
            blind: leave the logical clock alone.
            retry: accepted as Celery's.
            fields: what the event tells.

        Raises:
            OperationalError: the broker cannot be reached, and nothing is kept for later.
        """
        group = group_of(type)
        if not self.enabled or (self.groups and group not in self.groups):
            return
        clock = 0 if blind else self.clock.forward()
        event = make_event(type, self.hostname, self.pid, clock, fields)
        with self._mutex:
            if group not in self.buffer_group:
                self._publish(event, routing_key(type))
                return
            buffer = self._buffers.setdefault(group, [])
            buffer.append(event)
            if len(buffer) >= self.buffer_limit:
                self.flush()
            elif self.on_send_buffered is not None:
                self.on_send_buffered()

    def flush(self, errors: bool = True, groups: bool = True) -> None:
        """Send what was kept: what could not be sent (``errors``), and what waits to be sent together (``groups``)."""
        with self._mutex:
            unsent: list[tuple[Any, str]] = []
            if errors:
                unsent, self._unsent = self._unsent, []
            if groups:
                unsent += [(events, f"{group}.multi") for group, events in self._buffers.items() if events]
                self._buffers = {}
            for event, key in unsent:
                self._publish(event, key)

    def _publish(self, event: Any, key: str) -> None:
        app = self.app
        to = Destination(app.conf.event_exchange, key, None, "broadcast")
        envelope = write_events(event, self.hostname, self.serializer)
        publication = Publication(to, app.broker.pack(envelope, to))
        try:
            app.sender.client.send_raw(publication, app.conf.broker_publish_timeout)
        except OperationalError:
            if not self.buffer_while_offline:
                raise
            self._unsent.append((event, key))

    def extend_buffer(self, other: Dispatcher) -> None:
        """Take over what another one could not send."""
        self._unsent += other._unsent

    def close(self) -> None:
        """Send what is left. Safe twice."""
        self.flush(errors=False)
