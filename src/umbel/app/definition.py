"""From a function and its options to a task."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from umbel.config.sources import import_path
from umbel.errors import DuplicateTaskNameWarning
from umbel.task.checking import arguments_checker
from umbel.task.options import check_option_names

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from umbel.app.tasks import TaskHolder
    from umbel.task import AsyncTask, Task

__all__ = [
    "BoundTaskDecorator",
    "TaskDecorator",
    "annotations_for",
    "generated_name",
    "make_task",
    "prepare_annotations",
    "warn_of_duplicate",
]

P = ParamSpec("P")
R = TypeVar("R")


class TaskDecorator(Protocol):
    """What ``@app.task(...)`` gives: makes a task from a function."""

    @overload
    def __call__(self, fun: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, fun: Callable[P, R], /) -> Task[P, R]: ...


class BoundTaskDecorator(Protocol):
    """What ``@app.task(bind=True, ...)`` gives: the function's first parameter is the task, and no argument of it."""

    @overload
    def __call__(self, fun: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, fun: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...


class _Header:
    """The check of a task's arguments, compiled when it is first wanted: most tasks of a program are never sent."""

    def __init__(self, function: Callable[..., Any], bound: bool) -> None:
        self._function = function
        self._bound = bound

    def __get__(self, task: Any, owner: type) -> Callable[..., Any]:
        checker = arguments_checker(self._function, self._bound)
        if task is not None:
            vars(task)["__header__"] = checker
        return checker


def make_task(
    app: TaskHolder,
    function: Callable[..., Any],
    name: str,
    base: type[Task[..., Any]],
    bind: bool,
    options: Mapping[str, Any],
) -> Task[..., Any]:
    """A task whose body is ``function``: an instance of a class of its own, made from ``base`` with the options.

    Raises:
        TypeError: an option looks like a known one misspelt.
    """
    check_option_names(options, dir(base))
    rest = dict(options)
    body, dump = _with_models(function, bind, rest, {"celery_app": app, "celery_task_name": name})
    attributes = {
        "name": name,
        "_app": app,
        "run": body if bind else staticmethod(body),
        "__wrapped__": function if bind else staticmethod(function),
        "_dump_arguments": None if dump is None else staticmethod(dump),
        "__header__": _Header(function, bind),
        "__doc__": function.__doc__,
        "__module__": function.__module__,
        "_function": staticmethod(function),
        **rest,
    }
    task: Task[..., Any] = type(function.__name__, (base,), attributes)()
    # Set on the instance: a class takes these from its own definition.
    vars(task).update(__qualname__=function.__qualname__, __name__=function.__name__)
    return task


def _with_models(
    function: Callable[..., Any], bind: bool, options: dict[str, Any], told: Mapping[str, Any]
) -> tuple[Callable[..., Any], Callable[..., Any] | None]:
    """The body, and what makes data of the models in a call's arguments; takes the options of pydantic.

    ``told`` is what validators find in their context under Celery's names.
    """
    wanted = options.pop("pydantic", False)
    given = [options.pop(f"pydantic_{name}", None) for name in ("strict", "context", "dump_kwargs")]
    if not wanted:
        return function, None
    # Applications without such tasks do not need the machinery.
    from umbel.app.models import ModelAdapter

    adapter = ModelAdapter(function, bool(given[0]), {**(given[1] or {}), **told}, given[2], bind)
    return adapter.wrap(), adapter.dump_arguments


def generated_name(app: TaskHolder, name: str, module: str | None) -> str:
    """The name of a task that was given none: that of its module and function.

    ``app.main`` stands for the module when it is the program itself, so that a worker, which imports it under its real
    name, knows the task.
    """
    module = module or "__main__"
    # Under the second name pool processes that start from nothing import the program.
    if module in ("__main__", "__mp_main__"):
        module = app.main or "__main__"
    return f"{module}.{name}"


def warn_of_duplicate(name: str, known: Task[..., Any], function: Callable[..., Any]) -> None:
    """Warn when two functions have one task name; the first keeps it, as in Celery."""
    first = vars(type(known)).get("_function")
    first = first.__func__ if isinstance(first, staticmethod) else None
    if first is None or first is function:
        return
    warnings.warn(
        DuplicateTaskNameWarning(
            f"Two functions are tasks of the name {name!r}: {_where(first)} keeps it, and {_where(function)} was not "
            f"registered; give one of them a name of its own, @app.task(name='...')"
        ),
        stacklevel=4,
    )


def _where(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def prepare_annotations(annotations: Any) -> list[Any]:
    """``task_annotations`` as a list: a mapping by task name, an object that annotates, a dotted path, or several."""
    if annotations is None:
        return []
    if not isinstance(annotations, (list, tuple)):
        annotations = (annotations,)
    return [_instance(import_path(each)) if isinstance(each, str) else each for each in annotations]


def _instance(found: Any) -> Any:
    return found() if isinstance(found, type) else found


def annotations_for(annotations: Iterable[Any], task: Task[..., Any]) -> Iterable[Mapping[str, Any]]:
    """What the annotations say of one task: the first that knows its name, then the first for every task (``*``)."""
    for key in (task.name, "*"):
        for annotation in annotations:
            if isinstance(annotation, dict):
                found = annotation.get(key)
            else:
                found = annotation.annotate(task) if key != "*" else annotation.annotate_any()
            if found:
                yield found
                break
