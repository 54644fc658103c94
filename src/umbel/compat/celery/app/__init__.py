"""Applications."""

from __future__ import annotations

from typing import Any

from umbel.app.application import Celery
from umbel.app.shared import shared_task
from umbel.compat.lazily import lazily as _lazily
from umbel.state import Proxy

from .. import _state
from .._state import app_or_default, disable_trace, enable_trace, pop_current_task, push_current_task
from .utils import AppPickler

__all__ = (
    "AppPickler",
    "Celery",
    "app_or_default",
    "bugreport",
    "default_app",
    "disable_trace",
    "enable_trace",
    "pop_current_task",
    "push_current_task",
    "shared_task",
)

default_app: Any = Proxy(lambda: vars(_state._Module)["default_app"].fget(_state))


def bugreport(app: Any = None) -> str:
    """What to put into a bug report."""
    return str((app or _state.get_current_app()).bugreport())


__getattr__ = _lazily(__name__, {})
