"""What is current: the application of this thread, and the proxies that stand for it.

This is the only module-level state in the package. Celery's rule is kept (each thread has its own current application,
``set_default`` is for all threads) with one kindness: a thread that never chose gets the application that was made
current last, where Celery would quietly make an unconfigured one. Without any application a default one is made.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "Proxy",
    "ShutdownFlags",
    "active_apps",
    "adopt_app",
    "connect_on_app_finalize",
    "current_app_or_none",
    "finalizers",
    "forget_finalizer",
    "get_current_app",
    "note_successes",
    "register_app",
    "remote_commands",
    "restore",
    "revoked_ids",
    "revoked_stamps",
    "set_app_factory",
    "set_current_app",
    "set_default_app",
    "shutdown_flags",
    "snapshot",
    "successes",
    "unregister_app",
]

T = TypeVar("T")


class _Current(threading.local):
    """The application that this thread chose."""

    app: Any = None


class ShutdownFlags:
    """Whether the workers of this process are to stop: set, neither None nor False, they do, warmly or at once."""

    def __init__(self) -> None:
        self._stop: Any = None
        self._terminate: Any = None
        self._changed = threading.Condition()

    @property
    def stop(self) -> Any:
        """The exit status with which they are to stop warmly."""
        return self._stop

    @stop.setter
    def stop(self, value: Any) -> None:
        with self._changed:
            self._stop = value
            self._changed.notify_all()

    @property
    def terminate(self) -> Any:
        """The exit status with which they are to stop at once."""
        return self._terminate

    @terminate.setter
    def terminate(self, value: Any) -> None:
        with self._changed:
            self._terminate = value
            self._changed.notify_all()

    def wait(self, timeout: float) -> bool:
        """Wait until one of them is set; whether one is."""
        with self._changed:
            return self._changed.wait_for(self._is_set, timeout)

    def _is_set(self) -> bool:
        return any(flag is not None and flag is not False for flag in (self._stop, self._terminate))


class _Process:
    """What all threads share."""

    def __init__(self) -> None:
        self.default_app: Any = None
        self.latest_app: Any = None
        self.fallback_app: Any = None
        self.factory: Callable[[], Any] | None = None
        self.lock = threading.RLock()
        self.apps: WeakSet[Any] = WeakSet()
        self.finalizers: list[Callable[[Any], object]] = []
        self.shutdown_flags = ShutdownFlags()
        self.remote_commands: dict[str, Any] = {}
        self.revoked_ids: dict[str, float] = {}
        self.revoked_stamps: dict[str, list[Any]] = {}
        self.successes: Any = None


_current = _Current()
_process = _Process()


def set_app_factory(factory: Callable[[], Any]) -> None:
    """Say how the default application is made; the app module does this when it is imported."""
    _process.factory = factory


def current_app_or_none() -> Any:
    """The current application, or None where a default one would have to be made."""
    return _current.app or _process.default_app or _process.latest_app


def get_current_app() -> Any:
    """The current application of this thread; makes the default one if there is none at all.

    Raises RuntimeError when nothing could be made, because ``umbel.app`` was never imported.
    """
    return current_app_or_none() or _make_default()


def _make_default() -> Any:
    with _process.lock:
        if _process.fallback_app is None:
            if _process.factory is None:
                raise RuntimeError("there is no current application: make one with umbel.Umbel('name')")
            _process.fallback_app = _process.factory()
        return _process.fallback_app


def set_current_app(app: Any) -> None:
    """Make ``app`` the current application of this thread."""
    _current.app = _process.latest_app = app


def adopt_app(app: Any) -> None:
    """Make ``app`` the current application of this thread, and of no other."""
    _current.app = app


def set_default_app(app: Any) -> None:
    """Make ``app`` the one that threads get which chose none."""
    _process.default_app = app


def snapshot() -> tuple[Any, ...]:
    """What is current and known now, for ``restore``: how a test keeps its applications to itself."""
    return (
        _current.app,
        _process.default_app,
        _process.latest_app,
        list(_process.finalizers),
        list(_process.apps),
    )


def restore(before: tuple[Any, ...]) -> None:
    """Make everything as it was when ``snapshot`` gave this."""
    _current.app, _process.default_app, _process.latest_app, finalizers, apps = before
    _process.finalizers[:] = finalizers
    _process.apps = WeakSet(apps)


def shutdown_flags() -> ShutdownFlags:
    """The flags that stop this process's workers."""
    return _process.shutdown_flags


def register_app(app: Any) -> None:
    """Remember an application, weakly, until it is closed."""
    _process.apps.add(app)


def unregister_app(app: Any) -> None:
    """Forget a closed application; it stops being the current one of this thread and of those that chose none."""
    _process.apps.discard(app)
    if _current.app is app:
        _current.app = None
    if _process.default_app is app:
        _process.default_app = None
    if _process.latest_app is app:
        _process.latest_app = None


def active_apps() -> Iterator[Any]:
    """The applications that are alive and not closed."""
    return iter(list(_process.apps))


def connect_on_app_finalize(callback: Callable[[Any], object]) -> Callable[[Any], object]:
    """Have ``callback(app)`` called when any application is finalized: how shared tasks reach every application."""
    _process.finalizers.append(callback)
    return callback


def forget_finalizer(callback: Callable[[Any], object]) -> None:
    """Undo ``connect_on_app_finalize``. Safe twice."""
    if callback in _process.finalizers:
        _process.finalizers.remove(callback)


def finalizers() -> list[Callable[[Any], object]]:
    """A copy of the callbacks that an application's finalization calls, in the order they came."""
    return list(_process.finalizers)


def remote_commands() -> dict[str, Any]:
    """The commands of remote control that programs have added, by name and alias (Celery's ``Panel``)."""
    return _process.remote_commands


def revoked_ids() -> dict[str, float]:
    """The ids of tasks that this process's workers do not run, and when each was revoked (``time.monotonic``)."""
    return _process.revoked_ids


def revoked_stamps() -> dict[str, list[Any]]:
    """The stamps whose tasks this process's workers do not run: for each name its values."""
    return _process.revoked_stamps


def note_successes(into: Any) -> None:
    """Have this process's workers add the ids of tasks that succeeded to a set; None: to none."""
    _process.successes = into


def successes() -> Any:
    """The set that the ids of tasks that succeeded are added to, if there is one."""
    return _process.successes


class Proxy(Generic[T]):
    """Stands for an object that is looked up each time it is used: ``current_app``, ``current_task``, shared tasks.

    Everything but ``_get_current_object`` goes to the object, ``isinstance`` included.
    """

    __slots__ = ("__weakref__", "_resolve")

    def __init__(self, resolve: Callable[[], T]) -> None:
        object.__setattr__(self, "_resolve", resolve)

    def _get_current_object(self) -> T:
        """The object that this stands for now."""
        return cast("T", object.__getattribute__(self, "_resolve")())

    @property
    def __class__(self) -> Any:
        """The class of the object, so that ``isinstance`` sees through the proxy."""
        return type(self._get_current_object())

    @__class__.setter
    def __class__(self, value: Any) -> None:
        raise TypeError(f"the class of a proxy cannot be set (to {value!r})")

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        """The attributes of the object."""
        return vars(self._get_current_object())

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        """The documentation of the object."""
        return self._get_current_object().__doc__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._get_current_object(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._get_current_object(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._get_current_object(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the object."""
        return cast("Any", self._get_current_object())(*args, **kwargs)

    def __repr__(self) -> str:
        return repr(self._get_current_object())

    def __str__(self) -> str:
        return str(self._get_current_object())

    def __bool__(self) -> bool:
        return bool(self._get_current_object())

    def __eq__(self, other: object) -> bool:
        if type(other) is Proxy:
            other = other._get_current_object()
        return self._get_current_object() == other

    def __hash__(self) -> int:
        return hash(self._get_current_object())

    def __dir__(self) -> list[str]:
        return dir(self._get_current_object())

    def __len__(self) -> int:
        return len(cast("Any", self._get_current_object()))

    def __getitem__(self, key: Any) -> Any:
        return cast("Any", self._get_current_object())[key]

    def __contains__(self, key: Any) -> bool:
        return key in cast("Any", self._get_current_object())

    def __iter__(self) -> Iterator[Any]:
        return iter(cast("Any", self._get_current_object()))

    def __or__(self, other: Any) -> Any:
        return cast("Any", self._get_current_object()) | other

    def __reduce__(self) -> Any:
        return self._get_current_object().__reduce__()
