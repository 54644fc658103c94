"""Events for those who watch: receiving them, keeping the state of a fleet from them, and sending one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from umbel.events import dispatcher, receiver, state

__all__ = ["Events"]


class Events:
    """``app.events``: Celery's ``Receiver``, ``Dispatcher`` and ``State``, bound to an application."""

    def __init__(self, app: receiver.WatchableApp) -> None:
        self.app = app

    def Receiver(self, channel: Any = None, handlers: Any = None, **options: Any) -> receiver.Receiver:  # noqa: N802 -- Celery's name
        """Hears events; see ``umbel.events.receiver.Receiver``."""
        from umbel.events.receiver import Receiver

        return Receiver(channel, handlers, app=self.app, **options)

    def Dispatcher(  # noqa: N802 -- Celery's name
        self, connection: Any = None, hostname: str | None = None, **options: Any
    ) -> dispatcher.Dispatcher:
        """Sends events; see ``umbel.events.dispatcher.Dispatcher``."""
        from umbel.events.dispatcher import Dispatcher

        return Dispatcher(connection, hostname, app=self.app, **options)

    def State(self, **options: Any) -> state.State:  # noqa: N802 -- Celery's name
        """The state of the fleet; see ``umbel.events.state.State``."""
        from umbel.events.state import State

        return State(**options)

    def default_dispatcher(
        self, hostname: str | None = None, enabled: bool = True, buffer_while_offline: bool = False
    ) -> dispatcher.Dispatcher:
        """A dispatcher on the application's own connection; a context manager, as Celery's."""
        return self.Dispatcher(None, hostname, enabled=enabled, buffer_while_offline=buffer_while_offline)
