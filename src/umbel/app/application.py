"""``Umbel``: an application. It holds the settings and the tasks, and makes what they need when it is first used."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, Self, TypeVar, cast

from umbel.app.amqp import AMQP
from umbel.app.bound import bound_to
from umbel.app.connections import Connections
from umbel.app.control import Control
from umbel.app.loading import Loader
from umbel.app.members import Members
from umbel.app.periodic import PeriodicTasks
from umbel.app.tasks import TaskHolder, load
from umbel.canvas.signature import Signature, signature
from umbel.client.sender import Identity
from umbel.config import Settings, parse_cmdline_settings
from umbel.core.records import ResultRecord
from umbel.core.serializers import accept_set
from umbel.core.times import from_timestamp, zone
from umbel.errors import AlwaysEagerIgnored
from umbel.execution.context import current_task, current_worker_task
from umbel.lamport import LogicalClock
from umbel.results.documents import DocumentWriter
from umbel.results.handles import AsyncResult as Handle
from umbel.results.handles import GroupResult as Group
from umbel.results.handles import ResultSet as Results
from umbel.results.options import compression_of
from umbel.results.waiting import tells_requests
from umbel.signals import Signal
from umbel.state import (
    register_app,
    set_current_app,
    set_default_app,
    unregister_app,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime, tzinfo

    from umbel.app.dead import DeadLetters
    from umbel.brokers.base import AsyncPublisher, Broker
    from umbel.client.sender import Sender
    from umbel.core.records import Publication
    from umbel.events import Events
    from umbel.execution.context import Context
    from umbel.execution.job import ExecutionApp
    from umbel.pools.base import JobRunner
    from umbel.results.base import ResultBackend
    from umbel.worker.embedded import EmbeddedWorker

__all__ = ["Celery", "Umbel"]

P = ParamSpec("P")
R = TypeVar("R")
Lifespan = TypeVar("Lifespan", bound="Callable[[Any], AsyncIterator[Any]]")


class Umbel(Members, PeriodicTasks, TaskHolder):
    """An application: tasks, settings and connections. ``Celery`` is another name of this class.

    Args:
        main: name of the main module; it stands for ``__main__`` in generated task names.
        broker: URL of the broker, ``broker_url``; None: as configured, else ``sqlite:///umbel.db``.
        backend: URL of the result backend, ``result_backend``.
        include: modules that a worker imports.
        changes: settings that win over every source.
        config_source: see ``config_from_object``.
        namespace: what the names of settings in that source begin with.
        set_as_current: make this the current application of this thread.
        autofinalize: finalize when the tasks are first used; otherwise that is an error until ``finalize`` was called.
        task_cls: base class of its tasks, or the path of one.
        tasks: a registry to use.
        strict_typing: check arguments before sending, unless a task says otherwise (``typing``).
        fixups: functions, or paths of them, that are called with the new application.
        loader, amqp, events, log, control: accepted for Celery's sake; a class given as ``loader`` is used.
        settings: more settings, as keywords.
    """

    #: A result backend, as ``result_backend`` takes it, that wins over the settings; for subclasses.
    backend_cls: Any = None
    loader_cls: Any = Loader
    control_cls: Any = Control
    builtin_fixups: ClassVar[frozenset[str]] = frozenset({"umbel.contrib.django:fixup"})
    on_configure: Any = None
    _timezone: str | tzinfo | None = None

    #: Runs a command line, ``(app, argv) -> exit status``. The command line stands above the application and puts
    #: itself here, so that ``start`` and ``worker_main`` work without the application knowing it.
    command_line: ClassVar[Callable[[Umbel, Sequence[str]], int | None] | None] = None

    #: Makes a worker inside this program, ``(app, **options)``; it stands above the application too.
    embedded_worker: ClassVar[Callable[..., EmbeddedWorker] | None] = None

    def __init__(
        self,
        main: str | None = None,
        loader: Any = None,
        backend: Any = None,
        amqp: Any = None,
        events: Any = None,
        log: Any = None,
        control: Any = None,
        set_as_current: bool = True,
        tasks: Any = None,
        broker: Any = None,
        include: Iterable[str] | None = None,
        changes: Mapping[str, Any] | None = None,
        config_source: Any = None,
        fixups: Iterable[Any] | None = None,
        task_cls: Any = None,
        autofinalize: bool = True,
        namespace: str | None = None,
        strict_typing: bool = True,
        config_source_silent: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(tasks, task_cls, autofinalize)
        self.main = main or self.main
        #: The logical clock of this process, which events and remote control carry.
        self.clock = LogicalClock()
        self.set_as_current = set_as_current
        self.namespace = namespace
        self.strict_typing = strict_typing
        self.identity = Identity()
        self.user_options: defaultdict[str, set[Any]] = defaultdict(set)
        self.lifespans: list[Callable[[Any], AbstractAsyncContextManager[Any]]] = []
        self.steps: defaultdict[str, set[Any]] = defaultdict(set)
        self._pickled = {"loader": loader, "task_cls": task_cls, "include": include}
        self.on_configure = self.on_configure or Signal(name="app.on_configure")
        self.on_after_configure = Signal({"source"}, name="app.on_after_configure")
        self.on_after_fork = Signal(name="app.on_after_fork")
        self.conf = Settings(
            changes, prefix=namespace, before_load=self._before_configure, after_load=self._after_configure
        )
        self.conf.preset(broker_url=broker, result_backend=backend, include=include, **settings)
        if config_source is not None:
            self.conf.read_from(config_source, silent=config_source_silent)
        self.amqp = AMQP(self.conf)
        self.loader = load(loader or os.environ.get("CELERY_LOADER") or self.loader_cls)(self)
        self.control = load(control or self.control_cls)(self)
        self.log_cls = log or self.log_cls
        self._connections = Connections(self)
        self.fixups = list(self.builtin_fixups if fixups is None else fixups)
        self._fixups = [load(fixup)(self) for fixup in self.fixups]
        if set_as_current:
            self.set_current()
        self.on_init()
        register_app(self)

    def on_init(self) -> None:
        """Called when the application has been made; for subclasses."""

    # Being current, starting and ending.

    def set_current(self) -> None:
        """Make this the current application of this thread."""
        set_current_app(self)

    def set_default(self) -> None:
        """Make this the application of all threads that chose none."""
        set_default_app(self)

    @property
    def configured(self) -> bool:
        """Whether the settings were read."""
        return self.conf.configured

    @property
    def events(self) -> Events:
        """``Receiver``, ``Dispatcher`` and ``State``, bound to this application."""
        from umbel.events import Events  # only those who watch

        return Events(self)

    @property
    def dead_letters(self) -> DeadLetters:
        """What was given up: to be counted, looked through, replayed, deleted, exported."""
        from umbel.app.dead import DeadLetters  # only those who look

        return DeadLetters(self)

    def bugreport(self) -> str:
        """The text of a bug report: versions, platform and settings without their secrets."""
        from umbel.app.bugreport import bugreport  # only reports need the platform's details

        return bugreport(self)

    def close(self) -> None:
        """Close its connections and forget it: it is no longer current, and its tasks are no longer shared.

        Safe twice. ``with Umbel() as app:`` does this at the end.
        """
        self._connections.close()
        self._unshare()
        unregister_app(self)

    def forget_parent(self) -> None:
        """Use none of the connections that a process with threads had, of which this one was forked."""
        self._connections.forget_parent()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def start(self, argv: Sequence[str] | None = None) -> int | None:
        """Run the command line with this application, as the program ``umbel`` would; ``argv`` None: the program's own.

        Raises RuntimeError where no command line is installed.
        """
        if Umbel.command_line is None:
            raise RuntimeError("there is no command line here: import umbel, not its parts")
        return Umbel.command_line(self, _argv(argv))

    def worker_main(self, argv: Sequence[str] | None = None) -> int | None:
        """Run a worker: ``app.worker_main(['worker', '--loglevel=INFO'])``.

        Raises ValueError when ``argv`` does not have the command ``worker`` in it.
        """
        argv = _argv(argv)
        if "worker" not in argv:
            raise ValueError(
                f"worker_main needs the worker command, app.worker_main(['worker', ...]), got {list(argv)}; "
                "app.start() runs other commands"
            )
        return self.start(argv)

    def worker(self, **options: Any) -> EmbeddedWorker:
        """A worker inside this program, not started: ``with app.worker(): ...`` or ``async with app.worker(): ...``.

        The options are those of ``umbel.worker.embedded.EmbeddedWorker``: ``pool``, ``concurrency``, ``queues``, ….
        """
        if Umbel.embedded_worker is None:
            raise RuntimeError("there is no worker here: import umbel, not its parts")
        return Umbel.embedded_worker(self, **options)

    def lifespan(self, function: Lifespan) -> Lifespan:
        """Run an async generator around the tasks of each event loop: what it makes before its ``yield`` is theirs.

        It is given the application. There is one loop in a process of the pools asyncio and prefork, and one in each
        thread of the others; all but those of asyncio begin with their first async task.
        """
        self.lifespans.append(asynccontextmanager(function))
        return function

    # Settings.

    def config_from_object(
        self, obj: Any, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> Settings | None:
        """Take the settings from an object, a mapping, or the path of one; they are read when first needed.

        Args:
            silent: a path that cannot be imported counts as empty.
            force: read them now.
            namespace: what the names begin with: ``'CELERY'`` for ``CELERY_BROKER_URL``.
        """
        self.conf.read_from(obj, namespace or self.namespace, silent)
        self.namespace = namespace or self.namespace
        return self.conf.finalize() if force or self.configured else None

    def config_from_envvar(self, variable_name: str, silent: bool = False, force: bool = False) -> bool:
        """Take the settings from the module that an environment variable names, and tell whether it named one.

        Raises ImproperlyConfigured when it is not set, unless ``silent``.
        """
        found = self.conf.read_from_environment(variable_name, silent)
        if found and force:
            self.conf.finalize()
        return found

    def config_from_cmdline(self, argv: Iterable[str], namespace: str = "celery") -> None:
        """Change settings from words such as ``worker.prefetch_multiplier=1``."""
        self.conf.update(parse_cmdline_settings(argv, namespace))

    def add_defaults(self, fun: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Add settings under what the program changed; a function is called when the settings are read."""
        self.conf.add_defaults(fun)

    def _before_configure(self) -> None:
        if isinstance(self.on_configure, Signal):
            self.on_configure.send(sender=self)
        else:
            self.on_configure()

    def _after_configure(self, conf: Settings) -> None:
        self._add_waiting_lines()
        self.on_after_configure.send(sender=self, source=conf)

    def either(self, default_key: str, *defaults: Any) -> Any:
        """The first of ``defaults`` that is not None, else the setting."""
        given = next((value for value in defaults if value is not None), None)
        return self.conf.get(default_key) if given is None else given

    @property
    def timezone(self) -> tzinfo:
        """The time zone of naive instants: ``timezone``, else UTC (with ``enable_utc`` off: the machine's)."""
        configured = self._timezone or self.conf.timezone
        if configured:
            return zone(configured) if isinstance(configured, str) else configured
        if self.conf.enable_utc:
            return zone("UTC")
        return from_timestamp(time.time()).astimezone().tzinfo or zone("UTC")

    @timezone.setter
    def timezone(self, zone: str | tzinfo) -> None:
        self._timezone = zone

    @timezone.deleter
    def timezone(self) -> None:
        self._timezone = None

    def now(self) -> datetime:
        """The present instant, in the application's time zone."""
        return from_timestamp(time.time(), self.timezone)

    # Running.

    @property
    def current_task(self) -> Any:
        """The task that runs here; None outside tasks."""
        return current_task()

    @property
    def current_worker_task(self) -> Any:
        """The task that a worker runs here, where it has called other tasks as functions."""
        return current_worker_task()

    # Sending.

    @property
    def sender(self) -> Sender:
        """Sends tasks as the settings are now."""
        return self._connections.sender

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Handle[Any]:
        """Send a task by its name, known here or not; the options are those of ``Task.apply_async``.

        A task that is known here contributes its own options.
        """
        if self.conf.task_always_eager:
            _warn_eager()
        add_to_parent, result_cls = options.pop("add_to_parent", True), options.pop("result_cls", None)
        work = self.sender.make(name, args, kwargs, *self._with_own_options(name, options))
        return self.sender.send(work, result_cls, add_to_parent)

    async def asend_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Handle[Any]:
        """As ``send_task``, without blocking the event loop."""
        if self.conf.task_always_eager:
            _warn_eager()
        add_to_parent, result_cls = options.pop("add_to_parent", True), options.pop("result_cls", None)
        work = self.sender.make(name, args, kwargs, *self._with_own_options(name, options))
        return await self.sender.asend(work, self.async_publisher(), result_cls, add_to_parent)

    def _with_own_options(self, name: str, options: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        task = options.pop("task_type", None)
        if task is None:
            # Not self.tasks: a name may be sent by an application that is not finalized.
            task = self._tasks.get(name)
            if task is not None:
                options = {**task._get_exec_options(), **options}
        return options, task

    def send_many(self, signatures: Iterable[Mapping[str, Any]]) -> list[Handle[Any]]:
        """Send many signatures in few round trips; the handles come in the same order.

        When it raises, the first of them may have been sent.
        """
        sender = self.sender
        return sender.send_many([self._work_of(each) for each in signatures])

    async def asend_many(self, signatures: Iterable[Mapping[str, Any]]) -> list[Handle[Any]]:
        """As ``send_many``, without blocking the event loop."""
        works = [self._work_of(each) for each in signatures]
        return await self.sender.asend_many(works, self.async_publisher())

    def prepare(self, signature: Mapping[str, Any]) -> Publication:
        """The publication that ``apply_async`` of a complete signature would send, without sending it.

        ``before_task_publish`` is sent. Raises EncodeError and whatever routing raises.
        """
        call, options = self._work_of(signature)
        return self.sender.client.prepare(call, options)

    def _work_of(self, signature: Mapping[str, Any]) -> Any:
        name = signature["task"]
        options, task = self._with_own_options(name, dict(signature.get("options") or {}))
        return self.sender.make(name, signature.get("args"), signature.get("kwargs"), options, task)

    def async_publisher(self) -> AsyncPublisher:
        """The publisher of the running event loop."""
        return self._connections.async_publisher()

    def signature(self, *args: Any, **kwargs: Any) -> Signature:
        """A signature that is sent by this application."""
        kwargs["app"] = self
        return signature(*args, **kwargs)

    # Results.

    @cached_property
    def AsyncResult(self) -> type[Handle[Any]]:  # noqa: N802 -- Celery's name
        """The class of the results of this application's tasks."""
        return bound_to(self, Handle)

    @cached_property
    def ResultSet(self) -> type[Results]:  # noqa: N802 -- Celery's name
        """The class of several results as one."""
        return bound_to(self, Results)

    @cached_property
    def GroupResult(self) -> type[Group]:  # noqa: N802 -- Celery's name
        """The class of the results of a group as one."""
        return bound_to(self, Group)

    def _result_handle(self, task_id: str, task_name: str) -> Handle[Any]:
        return Handle(task_id, None, task_name, self)

    def store_state(
        self,
        task_id: str,
        state: str,
        meta: Any,
        context: Context | None,
        backend: ResultBackend,
        traceback: str | None = None,
    ) -> None:
        """Store a task's state; see ``Task.update_state``."""
        conf = self.conf
        writer = DocumentWriter(
            conf.result_serializer, compression_of(conf), conf.result_extended, tells_requests(backend)
        )
        document = writer.write(task_id, state, meta, traceback, context)
        reply_to = context.reply_to if context is not None else None
        backend.save([ResultRecord(task_id, state, document, reply_to or "")])

    # Parts.

    @property
    def broker(self) -> Broker:
        """Where its messages wait, as workers see it (``broker_read_url``)."""
        return self._connections.broker(self.conf.broker_read_url)

    @property
    def backend(self) -> ResultBackend:
        """Where its results are kept."""
        return self._connections.backend

    @property
    def accept(self) -> frozenset[str]:
        """Content types of messages that may be decoded (``accept_content``)."""
        return accept_set(self.conf.accept_content)

    def make_runner(self, hostname: str) -> JobRunner:
        """What pool processes run jobs with, on the worker of this name."""
        # Programs that only send need nothing of what runs tasks.
        from umbel.execution.runner import Runner

        return Runner(cast("ExecutionApp", self), hostname)

    def select_queues(self, queues: str | Iterable[str] | None = None) -> None:
        """Have workers of this process listen to these queues only."""
        self.amqp.queues.select(queues)

    @property
    def oid(self) -> str:
        """The identifier of this application in this process."""
        return self.identity.oid_of(0)

    @property
    def thread_oid(self) -> str:
        """The identifier of this application in this thread: where results are sent that are sent."""
        return self.identity.thread_oid

    def __reduce__(self) -> Any:
        options = {
            **self._pickled,
            "main": self.main,
            "changes": {
                name: value for name, value in self.conf.changes.items() if name in self.conf.defaults[-1]
            },
            "config_source": self.conf._source,
            "namespace": self.namespace,
            "set_as_current": self.set_as_current,
            "autofinalize": self.autofinalize,
            "strict_typing": self.strict_typing,
        }
        return unpickle_app, (type(self), options)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.main or '__main__'}:{id(self):#x}>"


Celery = Umbel


def unpickle_app(cls: type[Umbel], options: dict[str, Any]) -> Umbel:
    """The copy of an application that was pickled. Settings that cannot be pickled have to be configured on import."""
    return cls(**options)


def _argv(argv: Sequence[str] | None) -> Sequence[str]:
    # Its import is free: the interpreter has it.
    import sys

    return sys.argv[1:] if argv is None else argv


def _warn_eager() -> None:
    import warnings

    warnings.warn(AlwaysEagerIgnored("task_always_eager has no effect on send_task"), stacklevel=3)
