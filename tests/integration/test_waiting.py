"""Waiting for results in many threads of a program, and in a child that was forked from between them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.apps.stage import Stage
from tests.support.datastores import MariaDbServer, PostgresServer
from tests.support.processes import kill_tree, tree
from tests.support.servers import RedisServer

pytestmark = pytest.mark.processes

#: Arguments: the broker, the result store, and how many threads wait on either side of the fork.
PROGRAM = """
import os, sys, threading, warnings
from concurrent.futures import ThreadPoolExecutor
from umbel import Umbel

# Python says since 3.12 that forking a program with threads may go wrong, which is what is tried here.
warnings.simplefilter("ignore", DeprecationWarning)
broker, backend, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
app = Umbel("waiting", broker=broker, backend=backend)


def send(first):
    return [app.send_task("jobs.note", (first + number,)) for number in range(threads)]


def read(pool, sent):
    return [pool.submit(result.get, timeout=40) for result in sent]


mine = send(0)
shared = [] if "rpc" in backend else send(1000)  # replies come to the process that asked
with ThreadPoolExecutor(threads * 4) as pool:
    waiting = read(pool, mine) + read(pool, shared)
    # Each is in the wait by now, or on its way into it: no task has run, so none of them has ended.
    child = os.fork()
    if not child:
        pool = ThreadPoolExecutor(threads * 4)
        mine = send(2000)
        os.write(1, b"child\\n")  # in one piece: both write to one pipe
        waiting = read(pool, mine) + read(pool, shared)
        first = 2000
    else:
        os.write(1, b"parent\\n")
        more = send(3000)
        waiting += read(pool, more)
        first = 0
    wanted = [first + number for number in range(threads)] + [1000 + number for number in range(len(shared))]
    if child:
        wanted += [3000 + number for number in range(threads)]
    assert [future.result() for future in waiting] == wanted
    if not child:
        app.close()
        os._exit(0)  # the parent's threads are none of the child's, and nobody may wait for them
app.close()
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.fixture(
    params=[
        "redis",
        "sqlite",
        "db+sqlite",
        "postgres_server",
        "mariadb_server",
        "memcached_server",
        "files",
        "rpc on redis",
        pytest.param("rpc on rabbitmq", marks=pytest.mark.rabbitmq),
    ]
)
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    broker = backend = f"sqlite:///{tmp_path}/jobs.db"
    if "redis" in request.param:
        server: RedisServer = request.getfixturevalue("redis_server")
        with server.client(0) as client:
            client.flushdb()
        broker = backend = server.url(0)
    elif "rabbitmq" in request.param:
        broker = request.getfixturevalue("rabbitmq_url")
    if "rpc" in request.param:
        backend = "rpc://"
    elif request.param == "db+sqlite":
        backend = f"db+sqlite:///{tmp_path}/results.db"
    elif request.param == "memcached_server":
        backend = request.getfixturevalue("memcached_server").url()
    elif request.param.endswith("_server"):
        database: PostgresServer | MariaDbServer = request.getfixturevalue(request.param)
        backend = f"db+{database.url(database.add_database())}"
    elif request.param == "files":
        (tmp_path / "results").mkdir()
        backend = f"file://{tmp_path}/results"
    with Stage(tmp_path, broker, backend) as made:
        yield made


def test_threads_wait_on_both_sides_of_a_fork(stage: Stage) -> None:
    command = [sys.executable, "-c", PROGRAM, stage.broker_url, stage.backend_url, "8"]
    with subprocess.Popen(
        command, cwd=stage.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        try:
            assert program.stdout is not None
            assert {program.stdout.readline().strip() for _ in range(2)} == {"child", "parent"}
            stage.worker("-c2")
            _, errors = program.communicate(timeout=60)
        finally:
            kill_tree(tree(program.pid))  # the child too, where it hangs
    assert (program.returncode, errors) == (0, "")
