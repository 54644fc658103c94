"""Applications for tests, and a trap for code that uses the current one by accident."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Final, NoReturn

from umbel import state
from umbel.app.application import Umbel
from umbel.app.log import Logging

__all__ = ["DEFAULT_TEST_CONFIG", "TestApp", "Trap", "UnitLogging", "set_trap", "setup_default_app"]

#: The settings of such an application where a test says nothing else: nothing leaves the process.
DEFAULT_TEST_CONFIG: Final[dict[str, Any]] = {
    "worker_hijack_root_logger": False,
    "worker_log_color": False,
    "accept_content": {"json"},
    "enable_utc": True,
    "timezone": "UTC",
    "broker_url": "memory://",
    "result_backend": "cache+memory://",
    "broker_heartbeat": 0,
    # As in Celery a test goes on as soon as its message is on its way. Where it waited for RabbitMQ's confirmation, a
    # worker of the same process would often have done the task by then.
    "broker_transport_options": {"confirm_publish": False},
}


class Trap:
    """Stands for an application where there must be none: using it raises RuntimeError."""

    def __getattr__(self, name: str) -> NoReturn:
        if name in {"_is_coroutine", "__func__"}:
            raise AttributeError(name)  # mocks look for these
        raise RuntimeError(f"Test depends on current_app: it asked for {name!r}")


class UnitLogging(Logging):
    """Logging that is never set up: the test's own log stays as it is."""

    def __init__(self, app: Umbel) -> None:
        super().__init__(app)
        self.already_setup = True


def TestApp(  # noqa: N802 -- Celery's name
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    enable_logging: bool = False,
    set_as_current: bool = False,
    log: Any = UnitLogging,
    backend: Any = None,
    broker: Any = None,
    **kwargs: Any,
) -> Umbel:
    """An application with settings for tests, which ``config`` changes; ``kwargs`` are those of ``Umbel``."""
    # Registers the task.
    from umbel.testing import tasks  # noqa: F401

    settings = {**deepcopy(DEFAULT_TEST_CONFIG), **(config or {})}
    if broker is not None:
        settings.pop("broker_url", None)
    if backend is not None:
        settings.pop("result_backend", None)
    app = Umbel(
        name or "celery.tests",
        set_as_current=set_as_current,
        log=None if enable_logging else log,
        broker=broker,
        backend=backend,
        **kwargs,
    )
    app.add_defaults(settings)
    return app


vars(TestApp)["__test__"] = False  # pytest would take it for a test


@contextmanager
def set_trap(app: Any) -> Iterator[None]:
    """Within it, whatever uses the current or the default application fails."""
    before = state.snapshot()
    trap = Trap()
    state.set_default_app(trap)
    state.set_current_app(trap)
    try:
        yield
    finally:
        state.restore(before)


@contextmanager
def setup_default_app(app: Umbel, use_trap: bool = False) -> Iterator[None]:
    """Within it, ``app`` may become the current or default application; then all is as before, and it is closed."""
    before = state.snapshot()
    try:
        if use_trap:
            with set_trap(app):
                yield
        else:
            yield
    finally:
        state.restore(before)
        app.close()
