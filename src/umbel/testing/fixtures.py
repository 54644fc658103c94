"""Fixtures for pytest: applications and workers for tests, under Celery's names and Umbel's.

``pytest_plugins = ("umbel.testing.fixtures",)`` in ``conftest.py``, or ``-p umbel.testing.fixtures``. Override
``celery_config`` (settings), ``celery_parameters`` (of the application), ``celery_includes`` (modules to import),
``celery_worker_pool`` and ``celery_worker_parameters``; ``@pytest.mark.celery(setting=value)`` changes settings of
one test.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from umbel.app.application import Umbel
from umbel.testing.app import TestApp, setup_default_app
from umbel.testing.worker import start_worker

NO_WORKER = os.environ.get("NO_WORKER")


def pytest_configure(config: pytest.Config) -> None:
    """Tell pytest of the marker."""
    config.addinivalue_line("markers", "celery(**overrides): override celery configuration for a test case")


@contextmanager
def _application(
    request: pytest.FixtureRequest,
    config: Mapping[str, Any],
    parameters: Mapping[str, Any],
    enable_logging: bool,
    use_trap: bool,
) -> Iterator[Umbel]:
    mark = request.node.get_closest_marker("celery")
    settings = {**config, **(mark.kwargs if mark else {})}
    app = TestApp(set_as_current=False, enable_logging=enable_logging, config=settings, **(parameters or {}))
    with setup_default_app(app, use_trap=use_trap):
        yield app


@pytest.fixture(scope="session")
def use_celery_app_trap() -> bool:
    """Whether using the current application by accident fails. Override it."""
    return False


@pytest.fixture(scope="session")
def celery_session_app(
    request: pytest.FixtureRequest,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
    celery_enable_logging: bool,
    use_celery_app_trap: bool,
) -> Iterator[Umbel]:
    """One application for the whole session."""
    with _application(
        request, celery_config, celery_parameters, celery_enable_logging, use_celery_app_trap
    ) as app:
        if not use_celery_app_trap:
            app.set_default()
            app.set_current()
        yield app


@pytest.fixture(scope="session")
def celery_session_worker(
    request: pytest.FixtureRequest,
    celery_session_app: Umbel,
    celery_includes: Sequence[str],
    celery_class_tasks: Sequence[Any],
    celery_worker_pool: Any,
    celery_worker_parameters: Mapping[str, Any],
) -> Iterator[Any]:
    """One worker for the whole session; None with ``NO_WORKER`` in the environment."""
    if NO_WORKER:
        yield None
        return
    for module in celery_includes:
        celery_session_app.loader.import_task_module(module)
    for task in celery_class_tasks:
        celery_session_app.register_task(task)
    with start_worker(celery_session_app, pool=celery_worker_pool, **celery_worker_parameters) as worker:
        yield worker


@pytest.fixture(scope="session")
def celery_enable_logging() -> bool:
    """Whether the application sets up logging. Override it."""
    return False


@pytest.fixture(scope="session")
def celery_includes() -> Sequence[str]:
    """Modules that are imported before a worker starts. Override it."""
    return ()


@pytest.fixture(scope="session")
def celery_worker_pool() -> Any:
    """The kind of pool. Override it."""
    return "solo"


@pytest.fixture(scope="session")
def celery_config() -> Mapping[str, Any]:
    """Settings of the application. Override it."""
    return {}


@pytest.fixture(scope="session")
def celery_parameters() -> Mapping[str, Any]:
    """Arguments of the application. Override it."""
    return {}


@pytest.fixture(scope="session")
def celery_worker_parameters() -> Mapping[str, Any]:
    """Arguments of the worker. Override it."""
    return {}


@pytest.fixture(scope="session")
def celery_class_tasks() -> Sequence[Any]:
    """Task classes that are registered before the session's worker starts. Override it."""
    return []


@pytest.fixture
def celery_app(
    request: pytest.FixtureRequest,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
    celery_enable_logging: bool,
    use_celery_app_trap: bool,
) -> Iterator[Umbel]:
    """An application for one test."""
    with _application(
        request, celery_config, celery_parameters, celery_enable_logging, use_celery_app_trap
    ) as app:
        yield app


@pytest.fixture
def celery_worker(
    request: pytest.FixtureRequest,
    celery_app: Umbel,
    celery_includes: Sequence[str],
    celery_worker_pool: Any,
    celery_worker_parameters: Mapping[str, Any],
) -> Iterator[Any]:
    """A worker for one test; None with ``NO_WORKER`` in the environment."""
    if NO_WORKER:
        yield None
        return
    for module in celery_includes:
        celery_app.loader.import_task_module(module)
    with start_worker(celery_app, pool=celery_worker_pool, **celery_worker_parameters) as worker:
        yield worker


@pytest.fixture
def depends_on_current_app(celery_app: Umbel) -> None:
    """Makes the application of this test the current one."""
    celery_app.set_current()


@pytest.fixture
def umbel_app(celery_app: Umbel) -> Umbel:
    """An application for one test, which is the current one."""
    celery_app.set_current()
    return celery_app


@pytest.fixture
def umbel_worker(umbel_app: Umbel, celery_worker: Any) -> Any:
    """A worker of ``umbel_app`` for one test."""
    return celery_worker
