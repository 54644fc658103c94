"""The test tools themselves: servers, processes, waiting, budgets, lock files."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from scripts import budgets
from scripts.environments import ROOT
from tests.support import order
from tests.support.processes import cpu_seconds, is_alive, pss_bytes, session, tree, wait_gone
from tests.support.servers import RedisServer, ServerDiedError, ServerProcess, free_port
from tests.support.waiting import NeverHappenedError, wait_until, wait_until_async
from tests.support.workers import WorkerProcess

#: Works for a while before it says that it is up, so that there is time of it to be measured.
FORKS = """
import os, time
os.fork()
while time.process_time() < 0.05: pass
print('up', os.getpid(), flush=True)
time.sleep(60)
"""


def program(source: str, tmp_path: Path) -> WorkerProcess:
    return WorkerProcess([sys.executable, "-c", source], cwd=tmp_path, name="program")


def test_wait_until_returns_what_the_predicate_gave() -> None:
    answers = iter([0, "", None, 7])
    assert wait_until(lambda: next(answers), what="a number") == 7


def test_wait_until_says_what_it_waited_for_and_saw() -> None:
    with pytest.raises(NeverHappenedError, match=r"waited 0.01 s for the moon; the last answer was \[\]"):
        wait_until(list, timeout=0.01, what=lambda: "the moon")


async def test_wait_until_async_takes_coroutine_functions() -> None:
    answers = iter([False, True])

    async def ask() -> bool:
        return next(answers)

    assert await wait_until_async(ask, what="true")


def test_lines_are_waited_for_and_missing_ones_show_the_output(tmp_path: Path) -> None:
    with program("print('one'); print('two 2')", tmp_path) as process:
        assert process.wait_for_line(r"two (\d)").group(1) == "2"
        with pytest.raises(AssertionError, match=r"(?s)never printed 'three' \(it ended\).*one"):
            process.wait_for_line("three")
        assert process.wait() == 0


def test_a_tree_is_killed_whole(tmp_path: Path) -> None:
    with program(FORKS, tmp_path) as process:
        wait_until(lambda: process.line_count == 2, what="both processes")
        members = process.members()
        assert len(members) == 2
        assert pss_bytes(members) > 1_000_000
        assert cpu_seconds(members) > 0
        process.kill9()
        assert not any(is_alive(pid) for pid in members)


def test_orphans_are_ended_too(tmp_path: Path) -> None:
    process = program(FORKS, tmp_path).start()
    wait_until(lambda: process.line_count == 2, what="both processes")
    (orphan,) = process.children()
    process.kill9(whole_tree=False)
    assert is_alive(orphan)
    assert tree(process.pid) == []
    process.close()
    assert not is_alive(orphan)


def test_terminate_gives_the_exit_status(tmp_path: Path) -> None:
    with program(FORKS, tmp_path) as process:
        wait_until(lambda: process.line_count == 2, what="both processes")
        (child,) = process.children()
        os.kill(child, signal.SIGTERM)
        assert process.terminate() == -signal.SIGTERM


def test_spawned_processes_die_with_a_killed_test_run(tmp_path: Path) -> None:
    source = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path; from tests.support.servers import RedisServer\n"
        "server = RedisServer().start(); print('server', server.pid, server.directory, flush=True)\n"
        "import signal; signal.pause()"
    )
    with program(source, tmp_path) as run:
        server = run.wait_for_line(r"server (\d+) (\S+)")
        run.kill9(whole_tree=False)
        wait_gone([int(server[1])])
        assert session(int(server[1])) == []
        shutil.rmtree(server[2])


@pytest.mark.redis
def test_a_killed_redis_comes_back_with_its_data() -> None:
    with RedisServer(aof="always") as server:
        with server.client() as client:
            client.set("kept", "yes")
        server.kill9()
        server.restart()
        with server.client() as client:
            assert client.get("kept") == b"yes"
        assert not session(server.port)


@pytest.mark.redis
def test_a_frozen_redis_answers_nothing_until_it_thaws() -> None:
    with RedisServer() as server:
        assert server.answers()
        server.freeze()
        assert not server.answers()
        server.thaw()
        wait_until(server.answers, what="the answer of a thawed server")


@pytest.mark.redis
def test_a_server_that_ends_at_once_shows_its_log() -> None:
    server = RedisServer("--no-such-option", "1")
    try:
        with pytest.raises(ServerDiedError, match=r"(?s)no-such-option"):
            server.start()
    finally:
        server.stop()
    assert not server.directory.exists()


class SilentServer(ServerProcess):
    """One that starts and never answers."""

    program = "sleep"
    patience = 0.2

    def command(self) -> list[str]:
        return [self.program, "60"]

    def answers(self) -> bool:
        return False


def test_a_server_that_never_answers_does_not_stay() -> None:
    server = SilentServer()
    with pytest.raises(NeverHappenedError, match="sleep on port"), server:
        raise AssertionError("unreachable")
    assert not server.running
    assert not server.directory.exists()


@pytest.mark.redis
def test_the_redis_url_is_an_empty_database(redis_url: str, redis_server: RedisServer) -> None:
    assert redis_url == redis_server.url()
    with redis_server.client() as client:
        assert client.dbsize() == 0
    assert redis_server.unix_socket.is_socket()


@pytest.mark.parametrize(
    "lock", [*ROOT.glob("*.lock"), *ROOT.glob("benchmarks/peers/*.lock")], ids=lambda path: path.stem
)
def test_lock_files_hold_versions_and_hashes_only(lock: Path) -> None:
    for line in lock.read_text().splitlines():
        assert not {"://", "file:", "--index-url", "--find-links", " @ "} & {
            part for part in ("://", "file:", "--index-url", "--find-links", " @ ") if part in line
        }
        assert line.startswith("    --hash=sha256:") or "==" in line


def test_long_files_begin_first_and_unit_tests_last() -> None:
    files = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}
    first = [files[name] for name in order.LONGEST]
    others = [path for path in files.values() if path not in first]
    in_order = sorted(files.values(), key=order.rank)
    assert in_order[: len(first)] == first
    assert in_order[-1].parent.name == "unit"
    assert max(map(order.rank, first)) < min(map(order.rank, others))


def test_budgets_name_what_is_too_long_and_too_tangled(tmp_path: Path) -> None:
    body = "".join(f"    if x == {number}:\n        x += 1\n" for number in range(31))
    file = tmp_path / "long.py"
    file.write_text(f'def tangled(x):\n    """Docstrings\n    are free."""\n\n    # so are comments\n{body}')
    offenders = budgets.measure([file]).offenders
    assert [offender.split(": ", 1)[1] for offender in offenders] == [
        "tangled: 63 lines of code, the budget is 60",
        "tangled: cyclomatic complexity 32, the budget is 12",
    ]


def test_budgets_count_attribute_access_by_name() -> None:
    tree_of = ast.parse("getattr(a, 'b')\nsetattr(a, 'b', 1)\na.getattr()\n")
    assert list(budgets.dynamic_calls(tree_of)) == ["1: getattr()", "2: setattr()"]


def test_a_server_that_comes_back_does_not_find_its_port_taken_by_a_connection() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(1024 < free_port() < first for _ in range(50))
