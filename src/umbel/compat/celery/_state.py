"""What is current. Celery's state lives in ``umbel.state``; what is read of this module is read there."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from umbel import current_app, current_task, state
from umbel.execution.context import current_task as get_current_task
from umbel.execution.context import current_worker_task as get_current_worker_task
from umbel.results.waiting import set_join_will_block as _set_task_join_will_block
from umbel.results.waiting import task_join_will_block
from umbel.state import (
    connect_on_app_finalize,
    get_current_app,
    set_default_app,
)
from umbel.state import (
    register_app as _register_app,
)
from umbel.state import (
    set_current_app as _set_current_app,
)
from umbel.state import (
    unregister_app as _deregister_app,
)

from .utils.threads import LocalStack

__all__ = (
    "connect_on_app_finalize",
    "current_app",
    "current_task",
    "get_current_app",
    "get_current_task",
    "get_current_worker_task",
    "set_default_app",
)

_task_stack = LocalStack()
push_current_task = _task_stack.push
pop_current_task = _task_stack.pop


class _ThisThread:
    """``_tls``: the application that this thread chose, as an attribute."""

    @property
    def current_app(self) -> Any:
        return state._current.app

    @current_app.setter
    def current_app(self, app: Any) -> None:
        state._current.app = app


def app_or_default(app: Any = None) -> Any:
    """The application that was given, else the current one."""
    return get_current_app() if app is None else app


def enable_trace() -> None:
    """Accepted; Umbel has no trace of who uses the default application."""


def disable_trace() -> None:
    """Undo ``enable_trace``."""


def _get_active_apps() -> Any:
    return state._process.apps


def _announce_app_finalized(app: Any) -> None:
    for callback in state.finalizers():
        callback(app)


class _Module(ModuleType):
    """Attributes of Celery's that are read, and put back, by those who isolate tests."""

    _tls = _ThisThread()
    _TLS = _ThisThread

    @property
    def default_app(self) -> Any:
        return state._process.default_app

    @default_app.setter
    def default_app(self, app: Any) -> None:
        state.set_default_app(app)

    @property
    def _apps(self) -> Any:
        return state._process.apps

    @_apps.setter
    def _apps(self, apps: Any) -> None:
        state._process.apps = apps

    @property
    def _on_app_finalizers(self) -> Any:
        return state._process.finalizers

    @_on_app_finalizers.setter
    def _on_app_finalizers(self, callbacks: Any) -> None:
        state._process.finalizers[:] = list(callbacks)

    @property
    def _task_join_will_block(self) -> bool:
        return task_join_will_block()


sys.modules[__name__].__class__ = _Module
