"""A worker inside another program: this one."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.processes import is_alive
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until
from umbel import Umbel, current_app
from umbel.core.ids import new_id
from umbel.errors import ImproperlyConfigured, WorkerLostError
from umbel.signals import worker_process_init

pytestmark = pytest.mark.processes

MakeApp = Callable[[], Umbel]

#: Pools that have processes of their own.
PROCESSES = ["prefork", "threads"]
POOLS = [*PROCESSES, "solo"]


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[MakeApp]:
    with ExitStack() as stack:

        def make() -> Umbel:
            url = f"sqlite:///{tmp_path}/jobs.db"
            return stack.enter_context(Umbel("inside", broker=url, backend=url, set_as_current=False))

        yield make


@pytest.fixture
def app(make_app: MakeApp) -> Umbel:
    return make_app()


@pytest.mark.parametrize("pool", POOLS)
def test_tasks_of_a_test_run_in_its_worker(app: Umbel, pool: str) -> None:
    offset = 40

    @app.task
    def add(number: int) -> tuple[int, int, str | None]:
        return offset + number, os.getpid(), current_app.main

    worker = app.worker(pool=pool, concurrency=2)
    assert worker.state == "new"
    with worker:
        assert worker.state == "running"
        total, pid, name = add.delay(2).get(timeout=10)
        assert (total, name) == (42, "inside")
        assert pid in worker.pids
        assert (pid == os.getpid()) == (pool == "solo")
        assert len(worker.pids) == (2 if pool == "prefork" else 1)
        wait_until(lambda: worker.counts["SUCCESS"] == 1 == worker.totals[add.name], what="the counts")
        assert worker.held == 0
        pids = worker.pids
    assert worker.state == "stopped"
    assert worker.failure is None
    assert worker.pids == []
    if pool != "solo":
        assert not any(is_alive(pid) for pid in pids)


@pytest.mark.parametrize("pool", POOLS)
def test_it_starts_and_stops_at_once(app: Umbel, pool: str) -> None:
    with app.worker(pool=pool):
        """The first may have to import things."""
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        with app.worker(pool=pool):
            times.append(time.perf_counter() - begun)
    # Typically 0.02; the budget is 0.1, on a machine that does nothing else.
    assert min(times) < 0.1, times


def test_async_programs_have_one_too(app: Umbel) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    async def program() -> int:
        async with app.worker(pool="threads") as worker:
            result = await add.adelay(2, 2)
            # A program that holds up its own loop holds up nothing of the worker's.
            assert worker.state == "running"
            return await result.aget(timeout=10)

    assert asyncio.run(program()) == 4


def test_it_touches_neither_signals_nor_logs_nor_the_current_app(app: Umbel, make_app: MakeApp) -> None:
    other = make_app()
    other.set_current()
    before = (
        [signal.getsignal(number) for number in signal.valid_signals()],
        list(logging.root.handlers),
        logging.root.level,
        logging.getLogger("celery").handlers[:],
    )
    with app.worker(pool="solo"):
        after = (
            [signal.getsignal(number) for number in signal.valid_signals()],
            list(logging.root.handlers),
            logging.root.level,
            logging.getLogger("celery").handlers[:],
        )
        assert before == after
        assert current_app._get_current_object() is other  # type: ignore[attr-defined]


def test_several_at_a_time_have_names_and_queues_of_their_own(make_app: MakeApp) -> None:
    first, second = make_app(), make_app()

    @first.task(name="whose", shared=False)
    def of_first() -> str:
        return "first"

    @second.task(name="whose", shared=False)
    def of_second() -> str:
        return "second"

    one = first.worker(pool="solo", queues="one")
    two = second.worker(pool="threads", queues=["two"], hostname="w2@%h")
    assert one.hostname != first.worker().hostname
    assert two.hostname.startswith("w2@")
    with one, two:
        asked = [first.send_task("whose", queue=queue) for queue in ("one", "two", "one")]
        assert [result.get(timeout=10) for result in asked] == ["first", "second", "first"]


@pytest.mark.parametrize("pool", PROCESSES)
def test_log_records_of_tasks_reach_this_process(
    app: Umbel, pool: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd:
        def __repr__(self) -> str:
            return "<odd>"

    @app.task
    def complain(what: str) -> int:
        log = logging.getLogger("umbel.tests.embedded")
        log.info("%s is %s", what, Odd(), extra={"odd": Odd(), "number": 7})
        log.debug("below the level")
        try:
            raise LookupError("nothing there")
        except LookupError:
            log.exception("it failed")
        return os.getpid()

    # A logger that keeps its records to itself still does, and levels that are changed later count.
    private = logging.getLogger("umbel.tests.private")
    private.propagate = False

    @app.task
    def whisper() -> None:
        logging.getLogger("umbel.tests.private").error("psst")

    try:
        with app.worker(pool=pool, forward_logs=True), caplog.at_level("INFO"):
            pid = complain.delay("this").get(timeout=10)
            # Not waited for: what a task logs is here before its result.
            first, second = (each for each in caplog.records if each.name == "umbel.tests.embedded")
            whisper.delay().get(timeout=10)
    finally:
        private.propagate = True
    assert (first.getMessage(), first.levelname, first.process) == ("this is <odd>", "INFO", pid)
    assert (first.odd, first.number) == ("<odd>", 7)  # type: ignore[attr-defined]
    assert first.funcName == "complain"
    assert "LookupError: nothing there" in (second.exc_text or "")
    assert "psst" not in caplog.text
    assert "below the level" not in caplog.text


def test_logging_beside_a_soft_limit_breaks_no_frame(app: Umbel, caplog: pytest.LogCaptureFixture) -> None:
    @app.task(soft_time_limit=0.05)
    def chatter() -> str:
        log = logging.getLogger("umbel.tests.chatter")
        while True:
            log.info("y" * 5000)

    with app.worker(forward_logs=True), caplog.at_level("INFO", "umbel.tests.chatter"):
        for _ in range(5):
            with pytest.raises(Exception, match="SoftTimeLimitExceeded"):
                chatter.delay().get(timeout=10)
    assert "exited" not in caplog.text
    assert "no frame" not in caplog.text


def test_what_was_defined_since_is_known_after_a_reload(app: Umbel) -> None:
    with app.worker() as worker:

        @app.task
        def late() -> str:
            return "known"

        pids = worker.pids
        worker.reload()
        assert worker.state == "running"
        assert late.delay().get(timeout=10) == "known"
        assert not set(pids) & set(worker.pids)


def test_it_cannot_be_started_twice_and_stopping_twice_is_nothing(app: Umbel) -> None:
    worker = app.worker(pool="solo")
    assert worker.stop() == 0
    with worker, pytest.raises(RuntimeError, match="already"):
        worker.start()
    assert worker.stop() == 0
    with worker:
        assert worker.state == "running"


def test_stop_lets_the_running_tasks_end(app: Umbel) -> None:
    @app.task
    def hold() -> str:
        time.sleep(0.3)
        return "held"

    with app.worker(pool="prefork") as worker:
        result = hold.delay()
        wait_until(lambda: worker.held == 1, what="a running task")
    assert result.get(timeout=0.1) == "held"


@pytest.mark.parametrize("pool", PROCESSES)
def test_what_takes_longer_than_stopping_may_is_ended_and_goes_back(
    app: Umbel, pool: str, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"

    @app.task(acks_late=True)
    def hang() -> None:
        begun.touch()
        threading.Event().wait()

    worker = app.worker(pool=pool).start()
    hang.delay()
    wait_until(begun.exists, what="a running task")
    assert worker.stop(timeout=0.2) == 1
    assert worker.state == "stopped"
    assert app.broker.depth("celery") == 1


def test_what_keeps_it_from_starting_is_raised(app: Umbel, tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match="no pool"):
        app.worker(pool="carousel").start()

    def refuse(**_: object) -> None:
        raise SystemExit(3)

    worker_process_init.connect(refuse)
    try:
        worker = app.worker()
        with pytest.raises(WorkerLostError, match="exitcode 3"):
            worker.start()
        assert worker.state == "failed"
    finally:
        worker_process_init.disconnect(refuse)
    worker.start()
    worker.stop()
    with (
        Umbel("away", broker="redis://127.0.0.1:1/0", set_as_current=False) as away,
        pytest.raises(TimeoutError, match=r"0\.3 seconds"),
    ):
        away.worker(pool="solo").start(timeout=0.3)
    assert not any(thread.name == "umbel-worker" for thread in threading.enumerate())


@pytest.mark.parametrize("pool", ["solo", "threads", None])
def test_memory_brokers_are_served_by_threads(pool: str | None) -> None:
    url = f"memory://{new_id()}"
    with Umbel("inside", broker=url, backend=url, set_as_current=False) as app:

        @app.task
        def whence() -> str:
            return current_app.send_task("where").id

        @app.task(name="where")
        def where() -> int:
            return os.getpid()

        with app.worker(pool=pool, concurrency=2) as worker:
            assert worker.pids == [os.getpid()]
            second = app.AsyncResult(whence.delay().get(timeout=10))
            assert second.get(timeout=10) == os.getpid()
        with pytest.raises(ImproperlyConfigured, match="memory of one process"):
            app.worker(pool="prefork").start()


def test_a_pool_process_that_is_killed_is_replaced(app: Umbel) -> None:
    @app.task
    def pid() -> int:
        return os.getpid()

    with app.worker() as worker:
        (first,) = worker.pids
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: worker.pids not in ([], [first]), what="another process")
        assert pid.delay().get(timeout=10) != first


def test_redis_and_threads_of_the_host_do_no_harm(redis_server: RedisServer) -> None:
    """The host sends and waits in many threads while its worker forks; nobody inherits a lock or a connection."""
    url = redis_server.url(3)
    with Umbel("busy", broker=url, backend=url, set_as_current=False) as app:

        @app.task
        def add(x: int, y: int) -> int:
            return x + y

        @app.task(ignore_result=True)
        def relay(x: int) -> None:
            add.apply_async((x, x), task_id=f"relayed-{x}")

        stopped = threading.Event()

        def chatter() -> None:
            while not stopped.is_set():
                app.broker.depth("celery")
                logging.getLogger("busy").info("%s", add.AsyncResult("none").state)

        chatterers = [threading.Thread(target=chatter) for _ in range(3)]
        for each in chatterers:
            each.start()
        try:
            for round_ in range(8):
                with app.worker(concurrency=2):
                    assert [add.delay(n, n).get(timeout=10) for n in range(3)] == [0, 2, 4]
                    relay.delay(round_)
                    assert app.AsyncResult(f"relayed-{round_}").get(timeout=10) == 2 * round_
        finally:
            stopped.set()
            for each in chatterers:
                each.join()


def test_a_program_that_forgets_its_worker_ends_with_it(tmp_path: Path) -> None:
    script = tmp_path / "forgetful.py"
    script.write_text(
        textwrap.dedent(
            """
            import time
            from umbel import Umbel

            app = Umbel("forgetful", broker="sqlite:///jobs.db", backend="sqlite:///jobs.db")

            @app.task
            def slow():
                time.sleep(0.2)
                open("done", "w").close()

            worker = app.worker().start()
            slow.delay()
            while not worker.held:
                time.sleep(0.01)
            print(*worker.pids)
            """
        )
    )
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=20, check=True
    )
    assert (tmp_path / "done").exists()
    assert not any(is_alive(int(pid)) for pid in done.stdout.split())
    assert done.stderr == ""
