"""Arguments and results from nothing to 64 MiB, through a real worker and back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.faults.arena import Arena
from tests.integration.faults.load import answer
from tests.support.servers import RedisServer

pytestmark = pytest.mark.processes

MIB = 1024 * 1024
SIZES = [0, 1, 1000, 64 * 1024, 2**20 + 1, 16 * MIB]


@pytest.fixture(scope="module")
def on_redis(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    redis_server.flush()
    with Arena(tmp_path_factory.mktemp("redis"), redis_server.url(), 0) as arena:
        arena.worker()
        yield arena


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    directory = tmp_path_factory.mktemp("sqlite")
    with Arena(directory, f"sqlite:///{directory}/faults.db", 0) as arena:
        arena.worker()
        yield arena


@pytest.fixture(params=["redis", "sqlite"])
def arena(request: pytest.FixtureRequest) -> Arena:
    return request.getfixturevalue(f"on_{request.param}")


def echo(arena: Arena, *args: object) -> object:
    result = arena.app.send_task("echo", args, argsrepr="()")
    try:
        return result.get(timeout=60)
    finally:
        result.forget()


def test_no_arguments_and_no_result(arena: Arena) -> None:
    assert echo(arena) is None


@pytest.mark.parametrize("size", SIZES)
def test_text(arena: Arena, size: int) -> None:
    text = ("0123456789abcde\n" * (size // 16 + 1))[:size]
    assert echo(arena, text) == text
    arena.drain()


async def test_40_mib_awaited(arena: Arena) -> None:
    """Redis ends the connection of a subscriber to whom it would have to send more than 32 MB."""
    text = "0123456789abcdef" * (40 * MIB // 16)
    small = arena.app.send_task("wait", (1, 1.0))
    result = await arena.app.asend_task("echo", (text,), argsrepr="()")
    assert await result.aget(timeout=60) == text
    assert await result.aget(timeout=60) == text  # it was there before anybody waited
    assert await small.aget(timeout=30) == answer(1)
    result.forget()
    arena.drain()


def test_64_mib(arena: Arena) -> None:
    text = "ä\n" * (64 * MIB // 3)
    assert len(text.encode()) > 64 * MIB - 3
    assert echo(arena, text) == text
    arena.drain()
