"""Workers of both libraries around one broker, for all tests of a file that do not kill anything."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import absent
from tests.interop.world import Ground, RabbitMqGround, RedisGround, Side, World
from tests.support.rabbitmq import RabbitMqServer
from tests.support.servers import RedisServer, ServerMissingError

OTHER = {"celery": "umbel", "umbel": "celery"}


@pytest.fixture(scope="module")
def own_server() -> Iterator[RedisServer]:
    """A server whose databases nobody empties while workers run on it."""
    server = RedisServer()
    try:
        try:
            server.start()
        except ServerMissingError as error:
            absent(str(error))
        yield server
    finally:
        server.stop()


@pytest.fixture(
    scope="module", params=["redis", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)], ids=str
)
def broker(request: pytest.FixtureRequest) -> str:
    """Each broker in turn. A module that looks into one overrides this with its name; there is ``quorum`` too."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def make_ground(broker: str, request: pytest.FixtureRequest) -> Iterator[Callable[[RedisServer], Ground]]:
    """Make a broker's empty ground beside a Redis server."""
    with ExitStack() as grounds:

        def make(server: RedisServer) -> Ground:
            if broker == "redis":
                return RedisGround(server)
            rabbitmq: RabbitMqServer = request.getfixturevalue("rabbitmq_server")
            ground = RabbitMqGround(rabbitmq, quorum=broker == "quorum")
            grounds.callback(ground.close)
            return ground

        yield make


@pytest.fixture(scope="module")
def ground(make_ground: Callable[[RedisServer], Ground], own_server: RedisServer) -> Ground:
    """The broker that the worlds of a module share."""
    return make_ground(own_server)


@pytest.fixture(scope="module")
def world(own_server: RedisServer, interop_python: Path, ground: Ground) -> Iterator[World]:
    """Both sides, and a worker of each kind: on a queue of its own, ``to_celery`` and ``to_umbel``."""
    with World(own_server, interop_python, ground) as world:
        workers = [
            world.worker(library, "-c2", "-Q", f"to_{library}", ready=False)
            for library in ("celery", "umbel")
        ]
        for worker in workers:
            worker.ready()
        yield world


@pytest.fixture
def new_world(
    interop_python: Path, make_ground: Callable[[RedisServer], Ground]
) -> Iterator[Callable[..., World]]:
    """Make a world with a server and settings of its own: ``new_world(broker_transport_options=…)``."""
    with RedisServer() as server:
        worlds = []

        def make(**settings: Any) -> World:
            worlds.append(World(server, interop_python, make_ground(server), **settings))
            return worlds[-1]

        yield make
        for world in worlds:
            world.__exit__()


@pytest.fixture(params=["celery", "umbel"], ids=["celery-to-umbel", "umbel-to-celery"])
def sender(request: pytest.FixtureRequest, world: World) -> Side:
    """The library that sends and reads results; the other one works."""
    return world.side(request.param)


@pytest.fixture
def queue(sender: Side) -> str:
    """The queue of the other library's worker."""
    return f"to_{OTHER[sender.library]}"


@pytest.fixture(params=["celery", "umbel"])
def library(request: pytest.FixtureRequest) -> str:
    """Each library in turn."""
    name: str = request.param
    return name


@pytest.fixture
def mark() -> str:
    """A name that no other test uses."""
    return uuid.uuid4().hex
