"""``shared_task``: tasks of reusable packages, which do not know the application that will use them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, Unpack, overload

from umbel.app.application import Umbel
from umbel.app.definition import generated_name
from umbel.state import Proxy, active_apps, connect_on_app_finalize, get_current_app, set_app_factory

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from umbel.app.definition import BoundTaskDecorator, TaskDecorator
    from umbel.task import AsyncTask, Task, TaskOptions

__all__ = ["default_app", "shared_task"]

P = ParamSpec("P")
R = TypeVar("R")


def default_app() -> Umbel:
    """The application that there is when the program made none."""
    return Umbel("default", set_as_current=False, fixups=())


set_app_factory(default_app)


@overload
def shared_task(fun: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
@overload
def shared_task(fun: Callable[P, R], /) -> Task[P, R]: ...
@overload
def shared_task(*, bind: Literal[True], **options: Unpack[TaskOptions]) -> BoundTaskDecorator: ...
@overload
def shared_task(*, bind: Literal[False] = ..., **options: Unpack[TaskOptions]) -> TaskDecorator: ...


def shared_task(fun: Any = None, **options: Any) -> Any:
    """Make a task of every application there is or will be, from a function; the options are those of ``app.task``.

    What it gives stands for the task of the application that is current when it is used.
    """
    if fun is None:
        return lambda function: shared_task(function, **options)
    name = options.get("name")

    def define(app: Umbel) -> Any:
        return app._define_task(fun, **options)

    connect_on_app_finalize(define)
    for app in active_apps():
        if app.finalized:
            with app._finalize_lock:
                app._define_task(fun, **options)

    def resolve() -> Any:
        app = get_current_app()
        return app.tasks[name or generated_name(app, fun.__name__, fun.__module__)]

    return Proxy(resolve)
