"""Signals: Celery's hooks into publishing, running and stopping, with Celery's names, senders and arguments.

A receiver takes keyword arguments: ``signal``, ``sender`` and those of the signal. What a receiver raises is logged,
never propagated. Hot paths test ``receivers`` for truth before they gather arguments: a signal that nobody listens to
costs one attribute look-up.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from umbel.state import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

logger = logging.getLogger("celery.utils.dispatch.signal")

Receiver = TypeVar("Receiver", bound="Callable[..., Any]")

_VARIADIC_KEYWORDS = 0x08  #: the flag of code objects that take ``**kwargs``


class _Connection:
    """One receiver of a signal: its key, the sender it listens to and how to get at it."""

    __slots__ = ("key", "receiver", "sender", "weak")

    def __init__(self, key: object, sender: Any, receiver: Any, weak: bool) -> None:
        self.key = key
        self.sender = sender
        self.receiver = receiver
        self.weak = weak

    def live(self) -> Callable[..., Any] | None:
        """The receiver itself; None when it was only weakly held and is gone."""
        receiver: Callable[..., Any] | None = self.receiver() if self.weak else self.receiver
        return receiver

    def hears(self, sender: Any) -> bool:
        """Whether this receiver listens to that sender; names compare by value, everything else by identity."""
        mine = _resolve(self.sender)
        return mine is None or mine is sender or (isinstance(mine, str) and mine == sender)


def _resolve(sender: Any) -> Any:
    # A shared task stands for the task of whichever application is current when the signal is sent.
    return sender._get_current_object() if type(sender) is Proxy else sender


def _identity(target: Any) -> object:
    return (id(target.__self__), id(target.__func__)) if isinstance(target, MethodType) else id(target)


class Signal:
    """Something that happens, to which receivers can be connected.

    Args:
        providing_args: names of the arguments, for documentation.
        use_caching: accepted as Celery's; there is nothing to cache.
        name: for logs.
    """

    def __init__(
        self,
        providing_args: Iterable[str] | None = None,
        use_caching: bool = False,
        name: str | None = None,
    ) -> None:
        self.receivers: list[_Connection] = []
        self.providing_args = set(providing_args or ())
        self.use_caching = use_caching
        self.name = name
        self._lock = threading.RLock()

    @overload
    def connect(
        self,
        receiver: Receiver,
        sender: Any = ...,
        weak: bool = ...,
        dispatch_uid: object = ...,
        retry: bool = ...,
    ) -> Receiver: ...

    @overload
    def connect(
        self,
        receiver: None = ...,
        sender: Any = ...,
        weak: bool = ...,
        dispatch_uid: object = ...,
        retry: bool = ...,
    ) -> Callable[[Receiver], Receiver]: ...

    def connect(
        self,
        receiver: Any = None,
        sender: Any = None,
        weak: bool = True,
        dispatch_uid: object = None,
        retry: bool = False,
    ) -> Any:
        """Connect a receiver; also a decorator, with or without arguments.

        Args:
            receiver: called with ``signal``, ``sender`` and the signal's arguments as keywords. Connecting it again
                changes nothing.
            sender: only listen to this sender; None: to all.
            weak: hold the receiver weakly, so that a receiver that nobody else keeps goes away.
            dispatch_uid: names the receiver; of those with one name and sender only the first is connected.
            retry: call it again, after growing pauses of 2 to 30 seconds, until it does not raise.

        Raises:
            TypeError: the receiver cannot be called.
            ValueError: the receiver does not take keyword arguments.
        """
        if receiver is None:
            return lambda decorated: self.connect(decorated, sender, weak, dispatch_uid, retry)
        if not callable(receiver):
            raise TypeError(f"a signal's receiver must be callable, not {receiver!r}")
        if not _accepts_keywords(receiver):
            raise ValueError(
                f"a signal's receiver must accept keyword arguments (**kwargs), but {receiver!r} does not"
            )
        self._add(receiver, sender, weak, dispatch_uid or _identity(receiver), retry)
        return receiver

    def _add(self, receiver: Any, sender: Any, weak: bool, key: object, retry: bool) -> None:
        if retry:
            held, weak = _insistent(receiver), False
        elif weak:
            reference = weakref.WeakMethod if isinstance(receiver, MethodType) else weakref.ref
            held = reference(receiver, self._forget)
        else:
            held = receiver
        with self._lock:
            if not any(_same(known, key, sender) for known in self.receivers):
                self.receivers.append(_Connection(key, sender, held, weak))

    def _forget(self, reference: Any) -> None:
        # Called by the garbage collector, perhaps in the middle of connect: the list is changed in place, in one step.
        self.receivers[:] = [known for known in self.receivers if known.receiver is not reference]

    def disconnect(
        self, receiver: Any = None, sender: Any = None, weak: bool | None = None, dispatch_uid: object = None
    ) -> bool:
        """Undo ``connect`` with the same receiver (or ``dispatch_uid``) and sender; says whether it was connected."""
        key = dispatch_uid or _identity(receiver)
        with self._lock:
            for index, known in enumerate(self.receivers):
                if _same(known, key, sender):
                    del self.receivers[index]
                    return True
        return False

    def has_listeners(self, sender: Any = None) -> bool:
        """Whether anyone listens to this sender."""
        return any(known.hears(sender) and known.live() is not None for known in list(self.receivers))

    def send(self, sender: Any, **named: Any) -> list[tuple[Callable[..., Any], Any]]:
        """Call every receiver of this sender; gives (receiver, its response or what it raised) for each."""
        responses: list[tuple[Callable[..., Any], Any]] = []
        if not self.receivers:
            return responses
        sender = _resolve(sender)
        for known in list(self.receivers):
            receiver = known.live() if known.hears(sender) else None
            if receiver is not None:
                responses.append((receiver, self._call(receiver, sender, named)))
        return responses

    send_robust = send

    def _call(self, receiver: Callable[..., Any], sender: Any, named: dict[str, Any]) -> Any:
        try:
            return receiver(signal=self, sender=sender, **named)
        except Exception as error:
            # A receiver's mistake must not fail the publish or the task it was told about.
            # Celery's text, which names the error too.
            logger.exception("Signal handler %r raised: %r", receiver, error)  # noqa: TRY401
            return error

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name} providing_args={self.providing_args!r}>"


def _same(known: _Connection, key: object, sender: Any) -> bool:
    return known.key == key and (
        known.sender is sender or (isinstance(sender, str) and known.sender == sender)
    )


def _accepts_keywords(receiver: Any) -> bool:
    function = receiver.__func__ if isinstance(receiver, MethodType) else receiver
    if isinstance(function, FunctionType):
        return bool(function.__code__.co_flags & _VARIADIC_KEYWORDS)
    # Rare, and inspect is slow to import: callable objects, partials and builtins.
    import inspect

    try:
        parameters = inspect.signature(receiver).parameters.values()
    except ValueError:
        return True
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _insistent(receiver: Callable[..., Any]) -> Callable[..., Any]:
    """A receiver that is called until it does not raise."""

    def call(*args: Any, **kwargs: Any) -> Any:
        pause = 2.0
        while True:
            try:
                return receiver(*args, **kwargs)
            except Exception:
                logger.exception(
                    "Could not process signal receiver %r. Retrying in %.0f seconds...", receiver, pause
                )
                time.sleep(pause)
                pause = min(pause + 2.0, 30.0)

    return call


def _signal(name: str, *arguments: str) -> Signal:
    return Signal(providing_args=arguments, name=name)


# Publishing. The sender is the task's name. What before_task_publish hands out is live: changes reach the message.
before_task_publish = _signal(
    "before_task_publish",
    "body",
    "exchange",
    "routing_key",
    "headers",
    "properties",
    "declare",
    "retry_policy",
)
after_task_publish = _signal("after_task_publish", "body", "headers", "exchange", "routing_key")
task_sent = _signal("task_sent", "task_id", "task", "args", "kwargs", "eta", "taskset")

# The worker's view of a task. The sender is the consumer.
task_received = _signal("task_received", "request")
task_rejected = _signal("task_rejected", "message", "exc")
task_unknown = _signal("task_unknown", "message", "exc", "name", "id")

# One attempt. The sender is the task.
task_prerun = _signal("task_prerun", "task_id", "task", "args", "kwargs")
task_postrun = _signal("task_postrun", "task_id", "task", "args", "kwargs", "retval", "state")
task_success = _signal("task_success", "result")
task_retry = _signal("task_retry", "request", "reason", "einfo")
task_failure = _signal("task_failure", "task_id", "exception", "args", "kwargs", "traceback", "einfo")
task_internal_error = _signal(
    "task_internal_error", "task_id", "args", "kwargs", "request", "exception", "traceback", "einfo"
)
task_revoked = _signal("task_revoked", "request", "terminated", "signum", "expired")

# The worker's life.
celeryd_init = _signal("celeryd_init", "instance", "conf", "options")
celeryd_after_setup = _signal("celeryd_after_setup", "instance", "conf")
import_modules = _signal("import_modules")
worker_init = _signal("worker_init")
worker_before_create_process = _signal("worker_before_create_process")
worker_process_init = _signal("worker_process_init")
worker_process_shutdown = _signal("worker_process_shutdown", "pid", "exitcode")
worker_ready = _signal("worker_ready")
worker_shutdown = _signal("worker_shutdown")
worker_shutting_down = _signal("worker_shutting_down", "sig", "how", "exitcode")
heartbeat_sent = _signal("heartbeat_sent")

# Logging. A receiver of setup_logging replaces the default set-up.
setup_logging = _signal("setup_logging", "loglevel", "logfile", "format", "colorize")
after_setup_logger = _signal("after_setup_logger", "logger", "loglevel", "logfile", "format", "colorize")
after_setup_task_logger = _signal(
    "after_setup_task_logger", "logger", "loglevel", "logfile", "format", "colorize"
)

# Beat, green pools and the command line.
beat_init = _signal("beat_init")
beat_embedded_init = _signal("beat_embedded_init")
eventlet_pool_started = _signal("eventlet_pool_started")
eventlet_pool_preshutdown = _signal("eventlet_pool_preshutdown")
eventlet_pool_postshutdown = _signal("eventlet_pool_postshutdown")
eventlet_pool_apply = _signal("eventlet_pool_apply", "target", "args", "kwargs")
user_preload_options = _signal("user_preload_options", "app", "options")
