"""Fixtures for every test: private servers, real Celery, worker processes that end with the test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support import order, peers
from tests.support.datastores import MariaDbServer, MemcachedServer, PostgresServer
from tests.support.rabbitmq import RabbitMqServer
from tests.support.redis_cluster import RedisCluster
from tests.support.servers import RedisServer, ServerMissingError, ServerProcess
from tests.support.workers import WorkerProcess


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the files begin in their order; that of the tests of one is left to chance."""
    items.sort(key=lambda item: order.rank(item.path))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A private Redis server for the whole run; tests that kill or freeze one start their own."""
    yield from _running(RedisServer())


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """Three masters for the whole run; tests that kill one start their own cluster."""
    with ExitStack() as running:
        try:
            cluster = running.enter_context(RedisCluster())
        except ServerMissingError as error:
            absent(str(error))
        yield cluster


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The address of an empty Redis database."""
    redis_server.flush()
    return redis_server.url()


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[RabbitMqServer]:
    """A private RabbitMQ server for the whole run; tests that kill or freeze one start their own."""
    yield from _running(RabbitMqServer())


@pytest.fixture
def rabbitmq_url(rabbitmq_server: RabbitMqServer) -> Iterator[str]:
    """The address of an empty vhost, which is deleted with the test."""
    vhost = rabbitmq_server.add_vhost()
    yield rabbitmq_server.url(vhost)
    rabbitmq_server.delete_vhost(vhost)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A private PostgreSQL server for the whole run."""
    yield from _running(PostgresServer())


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDbServer]:
    """A private MariaDB server for the whole run."""
    yield from _running(MariaDbServer())


@pytest.fixture(scope="session")
def memcached_server() -> Iterator[MemcachedServer]:
    """A private memcached for the whole run."""
    yield from _running(MemcachedServer())


@pytest.fixture(scope="session")
def interop_python() -> Path:
    """The interpreter that has real Celery."""
    return peers.interop_python()


@pytest.fixture
def celery_worker(interop_python: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Start real Celery workers that end with the test: ``celery_worker(app_file, *options, env=…)``, ready."""
    with ExitStack() as running:

        def start(app_file: Path, *options: str, env: dict[str, str] | None = None) -> WorkerProcess:
            worker = peers.celery_worker(interop_python, app_file, *options, env=env)
            return running.enter_context(worker).ready()

        yield start


@pytest.fixture
def umbel_worker() -> Iterator[Callable[..., WorkerProcess]]:
    """Start Umbel workers that end with the test: ``umbel_worker(app_file, *options, env=…)``, ready."""
    with ExitStack() as running:

        def start(app_file: Path, *options: str, env: dict[str, str] | None = None) -> WorkerProcess:
            return running.enter_context(peers.umbel_worker(app_file, *options, env=env)).ready()

        yield start


Server = TypeVar("Server", bound=ServerProcess)


def _running(server: Server) -> Iterator[Server]:
    try:
        try:
            server.start()
        except ServerMissingError as error:
            absent(str(error))
        yield server
    finally:
        server.stop()


def absent(message: str) -> None:
    """A server that is not installed is a failure in continuous integration and a skip elsewhere."""
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
