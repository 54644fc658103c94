"""Workers and brokers that stand still, or go and come back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.apps.stage import Stage, redis_stage, sqlite_stage
from tests.support.processes import kill
from tests.support.proxy import TcpProxy
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes


@pytest.fixture(params=["redis", "sqlite"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    if request.param == "redis":
        with redis_stage(tmp_path, request.getfixturevalue("redis_server"), worker_lease_duration=2) as found:
            yield found
    else:
        with sqlite_stage(tmp_path, worker_lease_duration=2) as found:
            yield found


@pytest.mark.parametrize("whole_tree", [True, False])
def test_a_worker_that_stands_still_loses_its_messages_to_peers_and_does_no_harm_afterwards(
    stage: Stage, whole_tree: bool
) -> None:
    frozen = stage.worker("-c1", "-n", "frozen@%h")
    late = stage.send("late", "running")
    stage.wait_for("begun", "running")
    waiting = [stage.send("note", mark) for mark in range(3)]
    frozen.wait_for_line(rf"{waiting[2].id}\] received")
    members = frozen.members() if whole_tree else [frozen.pid]
    for pid in members:
        kill(pid, signal.SIGSTOP)
    stage.worker("-c2", "-n", "peer@%h")
    stage.wait_for("note", count=3, timeout=15)
    stage.wait_for("begun", "running", count=2, timeout=15)
    for pid in members:
        kill(pid, signal.SIGCONT)
    stage.open()
    assert late.get(timeout=10) == "running"
    stage.wait_for("ended", "running", count=2)
    stage.wait_empty()
    # It works on, under a lease of its own again, and what peers have run it does not run again.
    assert [stage.send("nothing", mark).get(timeout=10) for mark in range(20)] == list(range(20))
    assert sorted(line[1] for line in stage.lines("note")) == ["0", "1", "2"]
    assert frozen.terminate() == 0


def test_a_pool_process_that_stands_still_does_not_hold_up_the_others(stage: Stage) -> None:
    worker = stage.worker("-c2")
    stage.send("hold", "x")
    [[_, _, pid, _]] = stage.wait_for("begun", "x")
    kill(int(pid), signal.SIGSTOP)
    assert [stage.send("nothing", mark).get(timeout=10) for mark in range(50)] == list(range(50))
    kill(int(pid), signal.SIGCONT)
    stage.open()
    stage.wait_for("ended", "x")
    assert worker.terminate() == 0


@pytest.fixture
def fragile(tmp_path: Path) -> Iterator[tuple[Stage, RedisServer]]:
    with RedisServer(aof="always") as server, redis_stage(tmp_path, server, worker_lease_duration=3) as stage:
        yield stage, server


def test_a_broker_that_comes_back_finds_everything_in_its_place(fragile: tuple[Stage, RedisServer]) -> None:
    stage, server = fragile
    worker = stage.worker("-c2")
    running = [stage.send("late", "a"), stage.send("hold", "b")]
    stage.wait_for("begun", count=2)
    waiting = [stage.send("note", mark) for mark in range(20)]
    worker.wait_for_line(rf"{waiting[3].id}\] received")
    server.kill9()
    worker.wait_for_line("Connection to broker lost")
    stage.open()
    stage.wait_for("ended", count=2)
    stage.wait_for("note", count=3)  # what it had in hand it runs meanwhile
    server.restart()
    assert [result.get(timeout=20) for result in (*running, *waiting)] == ["a", "b", *range(20)]
    stage.wait_empty()
    assert len(stage.lines("begun")) == 2
    assert sorted(int(line[1]) for line in stage.lines("note")) == list(range(20))  # none of them twice


def test_a_broker_that_refuses_for_a_while_gets_it_later(fragile: tuple[Stage, RedisServer]) -> None:
    stage, server = fragile
    worker = stage.worker("-c1")
    result = stage.send("late", "x")
    stage.wait_for("begun")
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-setex")  # nobody may store a result
        stage.open()
        worker.wait_for_line("Redis refused.*Trying again in")
        client.execute_command("ACL", "SETUSER", "default", "+setex")
    assert result.get(timeout=15) == "x"
    stage.wait_empty()
    assert worker.terminate() == 0
    assert len(stage.lines("begun")) == 1


def test_a_broker_that_falls_silent_is_noticed_and_found_again(fragile: tuple[Stage, RedisServer]) -> None:
    stage, server = fragile
    worker = stage.worker("-c1")
    assert stage.send("nothing", 1).get(timeout=10) == 1
    server.freeze()
    worker.wait_for_line("Connection to broker lost", timeout=30)
    server.thaw()
    assert stage.send("nothing", 2).get(timeout=20) == 2
    assert worker.terminate() == 0


def test_a_connection_that_leads_nowhere_is_noticed_and_made_anew(tmp_path: Path) -> None:
    """Half open: the other side is gone, nobody has been told, and new connections work."""
    with RedisServer(aof="everysec") as server, TcpProxy(server.port) as proxy:
        url = proxy.url("redis") + "?socket_timeout=2"
        with Stage(tmp_path, url, server.url(), worker_lease_duration=6) as stage:
            worker = stage.worker("-c1")
            assert stage.send("nothing", 1).get(timeout=30) == 1
            proxy.abandon()
            stage.app.close()  # the sender's connections too are made anew
            worker.wait_for_line("Connection to broker lost.*did not answer within 2 seconds", timeout=60)
            assert stage.send("nothing", 2).get(timeout=60) == 2
            assert worker.terminate() == 0


def test_a_worker_that_fetches_nothing_though_messages_wait_connects_anew(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    with redis_stage(tmp_path, redis_server, worker_lease_duration=2) as stage:
        results = [stage.send("nothing", mark) for mark in range(3)]
        worker = stage.worker("-c1", env={"SABOTAGE": "fetch"})
        worker.wait_for_line("Nothing has been fetched for .* although messages wait", timeout=60)
        assert [result.get(timeout=60) for result in results] == [0, 1, 2]
        assert worker.output.count("although messages wait") == 1
        assert worker.terminate() == 0


def test_a_worker_that_fetches_nothing_is_not_ready_until_it_does(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    with redis_stage(tmp_path, redis_server, worker_lease_duration=2) as stage:
        worker = stage.worker("-c1", "-na@here", env={"SABOTAGE": "every fetch"})

        def is_ready() -> bool:
            inspect = stage.app.control.inspect(["a@here"], timeout=10)
            return bool((inspect.stats() or {})["a@here"]["ready"])

        assert is_ready()
        result = stage.send("nothing", 1)
        wait_until(lambda: not is_ready(), timeout=60, what="the worker to say that it is not ready")
        worker.wait_for_line("Nothing has been fetched for .* although messages wait")
        stage.open("sabotage")
        assert result.get(timeout=60) == 1
        assert is_ready()
        assert worker.terminate() == 0


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_a_task_that_succeeded_and_was_not_acknowledged_is_not_run_again_where_that_is_wanted(
    tmp_path: Path, redis_server: RedisServer, request: pytest.FixtureRequest, broker: str
) -> None:
    """Results are kept elsewhere, so a worker may be killed between storing one and acknowledging the message."""
    redis_url = request.getfixturevalue("redis_url")
    url = redis_url if broker == "redis" else request.getfixturevalue("rabbitmq_url")
    settings = {"worker_lease_duration": 2, "worker_deduplicate_successful_tasks": True}
    with Stage(tmp_path, url, redis_server.url(1), **settings) as stage:
        stage.open()
        result = stage.send("late", "once")
        killed = stage.worker("-c1", ready=False, env={"SABOTAGE": "settle"})
        killed.wait(timeout=60)
        assert result.get(timeout=30) == "once"
        stage.worker("-c1").wait_for_line(rf"{result.id}\] received", timeout=60)
        stage.wait_empty(timeout=60)
        assert stage.send("note", "after").get(timeout=60) == "after"
        assert len(stage.lines("begun", "once")) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_silent_broker_does_not_keep_a_worker_from_its_end(
    fragile: tuple[Stage, RedisServer], number: int
) -> None:
    stage, server = fragile
    worker = stage.worker("-c1")
    assert stage.send("nothing", 1).get(timeout=10) == 1
    server.freeze()
    worker.signal(number)
    worker.wait(timeout=30)


def test_under_load_a_broker_killed_again_and_again_has_nothing_lost_or_done_twice(
    fragile: tuple[Stage, RedisServer],
) -> None:
    stage, server = fragile
    stage.worker("-c2", "--loglevel=WARNING", ready=False)
    stage.send("nothing", 0).get(timeout=15)
    results = []
    for round_ in range(4):
        sent = [stage.send("note", 100 * round_ + mark) for mark in range(100)]
        results += sent
        stage.wait_for("note", count=100 * round_ + 30)
        server.kill9()
        server.restart()
    assert [result.get(timeout=30) for result in results] == list(range(400))
    stage.wait_empty()
    marks = [int(line[1]) for line in stage.lines("note")]
    assert set(marks) == set(range(400))
    wait_until(lambda: len(stage.lines("note")) == len(marks), what="the end")
    assert len(marks) - 400 <= 4 * 2  # at most what a process had just begun when the server died


@pytest.mark.parametrize("part", ["leases", "settlement", "reports"])
def test_a_part_that_fails_ends_the_worker_and_loses_nothing(
    tmp_path: Path, redis_server: RedisServer, part: str
) -> None:
    with redis_stage(tmp_path, redis_server, worker_lease_duration=3) as stage:
        broken = stage.worker("-c1", env={"SABOTAGE": part})
        late = stage.send("late", "x")
        stage.wait_for("begun")
        waiting = [stage.send("note", mark) for mark in range(5)]
        broken.wait_for_line(rf"{waiting[2].id}\] received")
        stage.open("gate" if part == "reports" else "sabotage")
        broken.wait_for_line(r"Unrecoverable error: RuntimeError\('sabotage'\)")
        broken.wait_for_line("Traceback")
        assert broken.wait(timeout=10) == 1
        stage.open()
        stage.worker("-c1")
        assert late.get(timeout=15) == "x"
        assert [result.get(timeout=15) for result in waiting] == list(range(5))
        stage.wait_empty()


def test_an_error_handler_that_never_returns_does_not_keep_the_worker(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    with redis_stage(tmp_path, redis_server, worker_lease_duration=2) as stage:
        worker = stage.worker("-c1")
        stage.send("die_with_stuck_handler", "KILL")
        stage.wait_for("stuck")
        assert stage.send("nothing", 1).get(timeout=10) == 1
        assert worker.terminate(timeout=10) == 0


def test_a_broker_that_is_lost_and_not_to_be_waited_for_ends_the_worker(
    fragile: tuple[Stage, RedisServer],
) -> None:
    stage, server = fragile
    stage.settings["broker_connection_retry"] = False
    worker = stage.worker("-c1")
    stage.send("late", "x")
    stage.wait_for("begun")
    server.kill9()
    worker.wait_for_line(r"app\.conf\.broker_connection_retry=False")
    assert worker.wait(timeout=10) == 1
    assert "Traceback" not in worker.output
