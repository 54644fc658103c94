"""Async tasks: natively in the asyncio pool, and one at a time on the loop of a slot elsewhere."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import RedisServer
from tests.support.waiting import wait_until
from umbel import Umbel
from umbel.errors import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded

pytestmark = pytest.mark.processes

POOLS = ["asyncio", "prefork", "threads", "solo"]

#: What a task sets, to see whether its neighbours see it.
mark: ContextVar[int] = ContextVar("mark", default=0)


def note(path: Path, *words: object) -> None:
    """Add a line to a file."""
    with path.open("a", encoding="ascii") as file:
        file.write(" ".join(map(str, words)) + "\n")


async def opened(gate: Path) -> None:
    """Await a file."""
    while not gate.exists():  # noqa: ASYNC110, ASYNC240 - nobody else can say so
        await asyncio.sleep(0.005)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Umbel]:
    url = f"sqlite:///{tmp_path}/jobs.db"
    with Umbel("inside", broker=url, backend=url, set_as_current=False) as app:
        yield app


@pytest.fixture
def redis_app(redis_server: RedisServer) -> Iterator[Umbel]:
    with redis_server.client(4) as client:
        client.flushdb()
    url = redis_server.url(4)
    with Umbel("inside", broker=url, backend=url, set_as_current=False) as app:
        yield app


def test_a_thousand_at_once_in_one_process_each_in_its_context(app: Umbel) -> None:
    @app.task(bind=True)
    async def wait(self: Any, number: int) -> tuple[int, int, str]:
        mark.set(number)
        await asyncio.sleep(1.0)
        return mark.get(), os.getpid(), self.request.id

    with app.worker(pool="asyncio", slots=1000) as worker:
        begun = time.monotonic()
        results = app.send_many([wait.s(number) for number in range(1, 1001)])
        ended = [result.get(timeout=20) for result in results]
        assert time.monotonic() - begun < 10
        assert [number for number, _, _ in ended] == list(range(1, 1001))
        assert [task_id for _, _, task_id in ended] == [result.id for result in results]
        assert {pid for _, pid, _ in ended} == set(worker.pids)


def test_concurrency_is_the_number_of_processes(app: Umbel) -> None:
    @app.task
    async def wait() -> int:
        await asyncio.sleep(0.3)
        return os.getpid()

    with app.worker(pool="asyncio", concurrency=2, slots=4) as worker:
        results = app.send_many([wait.s() for _ in range(8)])
        pids = [result.get(timeout=10) for result in results]
        assert sorted(pids.count(pid) for pid in worker.pids) == [4, 4]


def test_tasks_send_and_await_others(redis_app: Umbel) -> None:
    @redis_app.task
    async def add(x: int, y: int) -> int:
        await asyncio.sleep(0)
        return x + y

    @redis_app.task
    async def total(count: int) -> int:
        results = [await add.adelay(number, number) for number in range(count)]
        return sum([await result.aget(timeout=10) for result in results])

    with redis_app.worker(pool="asyncio", slots=10):
        assert [result.get(timeout=10) for result in (total.delay(5), total.delay(6))] == [20, 30]


def test_plain_tasks_run_in_threads_with_their_limits(app: Umbel) -> None:
    @app.task
    def plain() -> tuple[bool, int]:
        time.sleep(0.2)
        return threading.current_thread() is threading.main_thread(), os.getpid()

    @app.task(soft_time_limit=0.2)
    def long() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            pass

    @app.task
    async def short() -> int:
        return os.getpid()

    with app.worker(pool="asyncio", slots=4) as worker:
        blocked, limited = plain.delay(), long.delay()
        assert short.delay().get(timeout=10) == worker.pids[0]
        assert blocked.get(timeout=10) == [False, worker.pids[0]]
        with pytest.raises(SoftTimeLimitExceeded):
            limited.get(timeout=10)


@pytest.mark.parametrize("pool", ["asyncio", "prefork", "threads", "solo"])
def test_soft_limits_of_async_tasks(app: Umbel, pool: str, tmp_path: Path) -> None:
    @app.task(soft_time_limit=0.2)
    async def tidy() -> str:
        try:
            await opened(tmp_path / "never")
        except SoftTimeLimitExceeded:
            await asyncio.sleep(0.01)
        return "tidied up"

    @app.task(soft_time_limit=0.2)
    async def hang() -> None:
        await opened(tmp_path / "never")

    @app.task(soft_time_limit=0.2)
    async def spin() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            pass

    @app.task
    async def neighbours() -> int:
        return len(asyncio.all_tasks())

    with app.worker(pool=pool, slots=4):
        if pool != "asyncio":  # whose loop it holds up
            with pytest.raises(SoftTimeLimitExceeded):
                spin.delay().get(timeout=10)
        assert tidy.delay().get(timeout=10) == "tidied up"
        failed = hang.delay()
        with pytest.raises(SoftTimeLimitExceeded):
            failed.get(timeout=10)
        assert "hang" in (failed.traceback or "")
        # Nothing of those that were interrupted is left on the loop; that of asyncio has one task of its own.
        assert neighbours.delay().get(timeout=10) == (2 if pool == "asyncio" else 1)


def test_a_revoked_task_is_cancelled_and_its_neighbours_go_on(redis_app: Umbel, tmp_path: Path) -> None:
    @redis_app.task
    async def hold(name: str, gate: str) -> str:
        try:
            (tmp_path / f"{name} begun").touch()
            await opened(tmp_path / gate)
        except asyncio.CancelledError:
            (tmp_path / f"{name} cancelled").touch()
            raise
        return name

    with redis_app.worker(pool="asyncio", slots=4) as worker:
        pids = worker.pids
        first, second = hold.delay("first", "never"), hold.delay("second", "gate")
        wait_until((tmp_path / "second begun").exists, what="the tasks")
        wait_until((tmp_path / "first begun").exists, what="the tasks")
        first.revoke(terminate=True)
        with pytest.raises(TaskRevokedError):
            first.get(timeout=10)
        assert (tmp_path / "first cancelled").exists()
        (tmp_path / "gate").touch()
        assert second.get(timeout=10) == "second"
        assert worker.pids == pids


def test_a_hard_limit_ends_the_process_and_neighbours_run_again(app: Umbel, tmp_path: Path) -> None:
    @app.task(time_limit=0.5)
    async def overrun() -> None:
        await asyncio.sleep(60)

    @app.task(acks_late=True)
    async def neighbour() -> int:
        note(tmp_path / "begun", os.getpid())
        await opened(tmp_path / "gate")
        return os.getpid()

    with app.worker(pool="asyncio", slots=4):
        beside, late = neighbour.delay(), overrun.delay()
        with pytest.raises(TimeLimitExceeded):
            late.get(timeout=10)
        (tmp_path / "gate").touch()
        again = beside.get(timeout=10)
        assert [int(pid) for pid in (tmp_path / "begun").read_text().split()][-1] == again


def test_retries_handlers_and_started_states(app: Umbel) -> None:
    @app.task(
        bind=True, autoretry_for=(LookupError,), max_retries=3, retry_backoff=False, default_retry_delay=0
    )
    async def flaky(self: Any) -> int:
        await asyncio.sleep(0)
        if self.request.retries < 2:
            raise LookupError("not yet")
        return int(self.request.retries)

    @app.task(track_started=True)
    async def tracked() -> str:
        await asyncio.sleep(0.5)
        return "done"

    @app.task
    async def broken() -> None:
        raise ValueError("broken")

    with app.worker(pool="asyncio", slots=4):
        result = tracked.delay()
        assert flaky.delay().get(timeout=10) == 2
        wait_until(lambda: result.state in {"STARTED", "SUCCESS"}, what=lambda: result.state)
        assert result.state == "STARTED"
        with pytest.raises(ValueError, match="broken"):
            broken.delay().get(timeout=10)
        assert result.get(timeout=10) == "done"


def test_a_task_that_holds_up_the_loop_is_named(app: Umbel, caplog: pytest.LogCaptureFixture) -> None:
    @app.task
    async def rude() -> None:
        time.sleep(0.6)  # noqa: ASYNC251 - that is the point

    app.conf.worker_loop_block_timeout = 0.1
    with app.worker(pool="asyncio", forward_logs=True), caplog.at_level(logging.WARNING):
        result = rude.delay()
        result.get(timeout=10)
        wait_until(lambda: "turns again" in caplog.text, what="the report")
    assert f"because of {rude.name}[{result.id}]" in caplog.text
    assert "time.sleep(0.6)" in caplog.text


@pytest.mark.parametrize("pool", POOLS)
def test_lifespans_are_entered_on_the_loop_of_the_tasks(app: Umbel, pool: str, tmp_path: Path) -> None:
    resources: dict[int, asyncio.AbstractEventLoop] = {}

    @app.lifespan
    async def resource(given: Umbel) -> AsyncIterator[None]:
        assert given is app
        key = threading.get_ident()
        resources[key] = asyncio.get_running_loop()
        yield
        (tmp_path / f"closed by {os.getpid()}").touch()

    @app.task
    async def use() -> tuple[bool, int]:
        return resources[threading.get_ident()] is asyncio.get_running_loop(), os.getpid()

    with app.worker(pool=pool, concurrency=1):
        same, pid = use.delay().get(timeout=10)
        assert same
    if pool != "threads":  # whose threads end with their process
        assert (tmp_path / f"closed by {pid}").exists()


def test_a_lifespan_that_fails_keeps_the_worker_from_starting(app: Umbel) -> None:
    @app.lifespan
    async def resource(given: Umbel) -> AsyncIterator[None]:
        raise LookupError("no database today")
        yield

    with pytest.raises(Exception, match="no database today"):
        app.worker(pool="asyncio").start()
