"""An application's tasks: making, naming, registering and finalizing them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, Unpack, cast, overload

from umbel.app.builtins import define_builtin_tasks
from umbel.app.definition import (
    annotations_for,
    generated_name,
    make_task,
    prepare_annotations,
    warn_of_duplicate,
)
from umbel.config.sources import import_path
from umbel.registry import TaskRegistry
from umbel.signals import Signal, import_modules
from umbel.state import connect_on_app_finalize, finalizers, forget_finalizer
from umbel.stores.forks import renew_in_children
from umbel.task import Task as BaseTask
from umbel.task.outbox import SendingOutbox

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from umbel.app.application import Umbel
    from umbel.app.definition import BoundTaskDecorator, TaskDecorator
    from umbel.app.loading import Loader
    from umbel.config import Settings
    from umbel.task import AsyncTask, TaskOptions

__all__ = ["TaskHolder", "load"]

P = ParamSpec("P")
R = TypeVar("R")


def load(named: Any) -> Any:
    """What a dotted path names; anything else as it is."""
    return import_path(named) if isinstance(named, str) else named


class TaskHolder:
    """The part of an application that has to do with its tasks."""

    main: str | None = None
    task_cls: Any = BaseTask
    registry_cls: Any = TaskRegistry

    conf: Settings
    loader: Loader

    def __init__(self, tasks: Any, task_cls: Any, autofinalize: bool) -> None:
        self.autofinalize = autofinalize
        self.finalized = False
        self.task_cls = task_cls or self.task_cls
        self._base_task: type[BaseTask[..., Any]] | None = None
        self._tasks: TaskRegistry = (
            tasks if isinstance(tasks, TaskRegistry) else load(self.registry_cls)(tasks or {})
        )
        self._finalize_lock = threading.RLock()
        renew_in_children(self, _finalize_lock=threading.RLock)
        self._shared: list[Callable[[Any], object]] = []
        self._annotations: list[Any] | None = None
        self._duplicates: set[str] = set()
        self._fixups: list[Any] = []
        self.on_after_finalize = Signal(name="app.on_after_finalize")

    def _bind(self, task: BaseTask[..., Any]) -> None:
        task.bind(cast("Umbel", self))

    def _unshare(self) -> None:
        for callback in self._shared:
            forget_finalizer(callback)
        self._shared.clear()

    @overload
    def task(self, fun: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def task(self, fun: Callable[P, R], /) -> BaseTask[P, R]: ...
    @overload
    def task(self, *, bind: Literal[True], **options: Unpack[TaskOptions]) -> BoundTaskDecorator: ...
    @overload
    def task(self, *, bind: Literal[False] = ..., **options: Unpack[TaskOptions]) -> TaskDecorator: ...

    def task(self, fun: Any = None, **options: Any) -> Any:
        """Make a task from a function: ``@app.task`` or ``@app.task(bind=True, max_retries=5)``.

        The task can be called at once like the function, and imported, pickled and sent. What depends on the settings
        is looked up when the application is finalized, at the latest when the task is first sent.

        Args:
            fun: the function, sync or async.
            options: attributes of the task (see ``Task``), and ``name``; ``base``, the class to make it from; ``bind``,
                the task itself is the function's first argument; ``shared``, applications finalized later have it too;
                ``autoretry_for`` and its kin.

        Raises:
            TypeError: it is not a function, or an option is misspelt.
        """
        if fun is None:
            return lambda function: self.task(function, **options)
        if not callable(fun):
            raise TypeError(f"argument 1 to @task() must be a callable, not {fun!r}")
        shared, lazy, keep = (
            options.pop("shared", True),
            options.pop("lazy", True),
            options.pop("filter", None),
        )
        task = self._define_task(fun, **options)
        if not lazy and not task.__bound__:
            self._bind(task)
        if shared:
            self._share(fun, options)
        return keep(task) if keep else task

    def _share(self, fun: Callable[..., Any], options: Mapping[str, Any]) -> None:
        def define(app: TaskHolder) -> None:
            if app is not self:
                app._define_task(fun, **options)

        self._shared.append(connect_on_app_finalize(define))

    def _define_task(
        self,
        fun: Callable[..., Any],
        name: str | None = None,
        base: Any = None,
        bind: bool = False,
        **options: Any,
    ) -> BaseTask[..., Any]:
        for handled_above in ("shared", "lazy", "filter"):
            options.pop(handled_above, None)
        name = name or self.gen_task_name(fun.__name__, fun.__module__)
        known = self._tasks.get(name)
        if known is not None:
            if name not in self._duplicates:
                self._duplicates.add(name)
                warn_of_duplicate(name, known, fun)
            return known
        task = make_task(self, fun, name, base or self.Task, bind, options)
        self._tasks[name] = task
        if self.finalized:
            self._bind(task)
        return task

    def register_task(self, task: Any, **options: Any) -> Any:
        """Register a task of a class of one's own, given as an instance or as the class. Returns the instance.

        A name that it does not have is made from its module and class. ``options`` are those of autoretry.
        """
        instance = task() if isinstance(task, type) else task
        if not instance.name:
            instance.name = self.gen_task_name(type(instance).__name__, type(instance).__module__)
        vars(instance).update(options)
        self._tasks[instance.name] = instance
        instance._app = self
        if self.finalized:
            self._bind(instance)
        return instance

    def gen_task_name(self, name: str, module: str | None) -> str:
        """The name of a task that was given none; subclasses may decide otherwise."""
        return generated_name(self, name, module)

    @property
    def tasks(self) -> TaskRegistry:
        """Every task by name. Using it finalizes the application."""
        if not self.finalized:
            self.finalize(auto=True)
        return self._tasks

    def finalize(self, auto: bool = False) -> None:
        """End the making of tasks: shared ones join, and all take from the settings what was left open. Safe twice.

        Raises RuntimeError when ``auto`` and the application does not finalize by itself.
        """
        if self.finalized:
            return
        with self._finalize_lock:
            if self.finalized:
                return
            if auto and not self.autofinalize:
                raise RuntimeError("Contract breach: app not finalized")
            self.finalized = True
            define_builtin_tasks(cast("Umbel", self))
            for callback in finalizers():
                callback(self)
            for task in list(self._tasks.values()):
                self._bind(task)
            self.on_after_finalize.send(sender=self)

    def outbox(self) -> SendingOutbox:
        """Gathers the tasks that a workflow starts with, and sends them: ``with app.outbox() as outbox:``."""
        return SendingOutbox(cast("Umbel", self))

    @property
    def Task(self) -> type[BaseTask[..., Any]]:  # noqa: N802 -- Celery's name
        """The base class of its tasks. Setting it is seen by tasks that are made afterwards."""
        if self._base_task is None:
            base = load(self.task_cls)
            self._base_task = type("Task", (base,), {"_app": self, "__module__": base.__module__})
        return self._base_task

    @Task.setter
    def Task(self, base: type[BaseTask[..., Any]]) -> None:  # noqa: N802 -- Celery's name
        self._base_task = base

    def annotations_for(self, task: BaseTask[..., Any]) -> Iterable[Mapping[str, Any]]:
        """What ``task_annotations`` says of a task."""
        if self._annotations is None:
            self._annotations = prepare_annotations(self.conf.task_annotations)
        return annotations_for(self._annotations, task)

    @property
    def annotations(self) -> list[Any]:
        """``task_annotations``, prepared."""
        if self._annotations is None:
            self._annotations = prepare_annotations(self.conf.task_annotations)
        return self._annotations

    def autodiscover_tasks(
        self, packages: Any = None, related_name: str | None = "tasks", force: bool = False
    ) -> None:
        """Import the module ``related_name`` of each package, when a worker imports its modules or now with ``force``.

        Args:
            packages: their names, or a function that gives them; None asks the fixups.
        """

        def discover(**_: Any) -> None:
            found = packages() if callable(packages) else packages
            if not found:
                found = [name for fixup in self._fixups for name in _packages_of(fixup)]
            self.loader.autodiscover_tasks(found, related_name)

        if force:
            discover()
        else:
            import_modules.connect(discover, sender=self, weak=False)


def _packages_of(fixup: Any) -> Iterable[str]:
    discover = getattr(fixup, "autodiscover_tasks", None)
    return discover() if discover is not None else ()
