"""What the slots of a green process need of the library whose greenlets they are."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Timer(Protocol):
    """Raises an exception in the greenlet that started it."""

    def stop(self) -> None:
        """It does not, unless it has."""


class Event(Protocol):
    """Something that happens once."""

    def set(self) -> None:
        """It has happened."""

    def wait(self) -> object:
        """Wait until it has."""


class Greenlets(Protocol):
    """One library."""

    def patch(self) -> None:
        """Replace what blocks in the standard library; called before anything else is imported."""

    def spawn(self, call: Callable[..., None], *arguments: object) -> Any:
        """Start a greenlet."""

    def throw(self, greenlet: Any, error: type[BaseException]) -> None:
        """Raise something in another greenlet, where it waits; it has begun and not ended."""

    def event(self) -> Event:
        """A new event."""

    def local(self) -> Any:
        """A new namespace of which each greenlet has its own."""

    def timer(self, seconds: float | None, error: type[BaseException]) -> Timer:
        """A new timer that runs; None: it never rings."""


def greenlets_of(library: str) -> Greenlets:
    """What stands for ``gevent`` or ``eventlet``, which is imported by this."""
    return _Gevent() if library == "gevent" else _Eventlet()


class _Gevent:
    def __init__(self) -> None:
        self._gevent = import_module("gevent")

    def patch(self) -> None:
        import_module("gevent.monkey").patch_all()

    def spawn(self, call: Callable[..., None], *arguments: object) -> Any:
        return self._gevent.spawn(call, *arguments)

    def throw(self, greenlet: Any, error: type[BaseException]) -> None:
        greenlet.kill(error, block=False)

    def event(self) -> Event:
        event: Event = import_module("gevent.event").Event()
        return event

    def local(self) -> Any:
        return import_module("gevent.local").local()

    def timer(self, seconds: float | None, error: type[BaseException]) -> Timer:
        return _GeventTimer(self._gevent.Timeout.start_new(seconds, error))


class _GeventTimer:
    def __init__(self, timeout: Any) -> None:
        self._timeout = timeout

    def stop(self) -> None:
        self._timeout.close()


class _Eventlet:
    def __init__(self) -> None:
        with warnings.catch_warnings():
            # That it is about to retire is for those to hear who choose it, and the documentation says so.
            warnings.simplefilter("ignore")
            self._eventlet = import_module("eventlet")
        self._hubs = import_module("eventlet.hubs")

    def patch(self) -> None:
        self._eventlet.monkey_patch()

    def spawn(self, call: Callable[..., None], *arguments: object) -> Any:
        return self._eventlet.spawn(call, *arguments)

    def throw(self, greenlet: Any, error: type[BaseException]) -> None:
        # From its hub, so that whoever asks for it is not held up by what the greenlet does then.
        self._hubs.get_hub().schedule_call_global(0, _throw, greenlet, error)

    def event(self) -> Event:
        return _EventletEvent(import_module("eventlet.event").Event())

    def local(self) -> Any:
        return import_module("eventlet.corolocal").local()

    def timer(self, seconds: float | None, error: type[BaseException]) -> Timer:
        return _EventletTimer(self._eventlet.Timeout(seconds, error))


def _throw(greenlet: Any, error: type[BaseException]) -> None:
    if not greenlet.dead:
        greenlet.throw(error)


class _EventletEvent:
    def __init__(self, event: Any) -> None:
        self._event = event

    def set(self) -> None:
        if not self._event.ready():
            self._event.send()

    def wait(self) -> object:
        result: object = self._event.wait()
        return result


class _EventletTimer:
    def __init__(self, timeout: Any) -> None:
        self._timeout = timeout

    def stop(self) -> None:
        self._timeout.cancel()
