"""The outbox: a file that takes messages while the broker is away."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.integration.apps.stage import Stage
from tests.support.processes import spawn
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until
from umbel import Umbel
from umbel.client.outbox import _BATCH as BATCH
from umbel.client.outbox import OutboxFullError
from umbel.core.protocol import peek, read_envelope
from umbel.core.repeats import REPEATED
from umbel.errors import BrokerConnectionError, BrokerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.redis]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer(aof="always") as running:
        yield running


def make_app(server: RedisServer, directory: Path, **settings: object) -> Umbel:
    app = Umbel("posts", broker=server.url(), set_as_current=False)
    app.conf.update(broker_outbox=str(directory / "outbox.db"), **settings)
    return app


def names(server: RedisServer, queue: str = "celery") -> list[str]:
    """The ids of what waits, the oldest first."""
    with server.client() as client:
        payloads = client.lrange(queue, 0, -1)
    return [peek(payload).id for payload in reversed(payloads)]  # type: ignore[call-overload]


def send(app: Umbel, start: int, count: int) -> list[str]:
    return [app.send_task("t", task_id=str(number)).id for number in range(start, start + count)]


def test_what_is_sent_while_the_broker_is_away_arrives_in_order_once(
    server: RedisServer, tmp_path: Path
) -> None:
    app = make_app(server, tmp_path)
    outbox = app.sender.client.outbox
    assert outbox is not None
    sent = send(app, 0, 3)
    assert outbox.depth() == 0
    server.kill9()
    sent += send(app, 3, 120)
    assert outbox.depth() == 120
    server.restart()
    sent += send(app, 123, 5)  # before or after the forwarding, and never between
    wait_until(lambda: len(names(server)) >= len(sent), timeout=30, what="all messages")
    wait_until(lambda: outbox.depth() == 0, timeout=30, what="an empty outbox")
    sent += send(app, 128, 1)
    assert names(server) == sent
    app.close()


async def test_coroutines_use_it_too(server: RedisServer, tmp_path: Path) -> None:
    app = make_app(server, tmp_path)

    @app.task(name="t")
    def t() -> None: ...

    await t.adelay()
    server.kill9()
    await t.adelay()
    await t.adelay()
    assert app.sender.client.outbox is not None
    assert app.sender.client.outbox.depth() == 2
    server.restart()
    wait_until(lambda: len(names(server)) == 3, timeout=30, what="all messages")
    app.close()


def test_it_takes_no_more_than_it_may_and_says_so(server: RedisServer, tmp_path: Path) -> None:
    app = make_app(server, tmp_path, broker_outbox_limit=3)
    server.kill9()
    send(app, 0, 3)
    with pytest.raises(OutboxFullError, match=r"it has 3 of at most 3 messages \(broker_outbox_limit\)"):
        send(app, 3, 1)
    app.close()


def test_orders_to_workers_do_not_wait_in_it(server: RedisServer, tmp_path: Path) -> None:
    app = make_app(server, tmp_path)
    server.kill9()
    with pytest.raises(BrokerConnectionError):
        app.control.broadcast("shutdown")
    app.close()


PRODUCER = """
import os, pathlib, signal, sys
from umbel import Umbel
app = Umbel("posts", broker=sys.argv[1])
app.conf.broker_outbox = sys.argv[2]
for number in sys.argv[3:]:
    app.send_task("t", task_id=number)
print("sent", flush=True)
signal.pause()
"""


def test_what_killed_producers_left_behind_is_forwarded_by_the_next(
    server: RedisServer, tmp_path: Path
) -> None:
    server.kill9()
    output, processes = tmp_path / "output", []
    for start in (0, 100):
        numbers = [str(number) for number in range(start, start + 20)]
        argv = [sys.executable, "-c", PRODUCER, server.url(), str(tmp_path / "outbox.db"), *numbers]
        processes.append(spawn(argv, cwd=tmp_path, output=output))
    wait_until(
        lambda: output.exists() and output.read_text().count("sent") == 2, timeout=60, what="both producers"
    )
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    server.restart()
    app = make_app(server, tmp_path)
    send(app, 200, 1)
    wait_until(lambda: len(names(server)) == 41, timeout=30, what=lambda: f"all messages: {names(server)}")
    order = [int(name) for name in names(server)]
    assert [number for number in order if number < 100] == list(range(20))
    assert [number for number in order if number >= 100] == [*range(100, 120), 200]
    assert order[-1] == 200
    app.close()


def test_without_it_nothing_stands_in_the_way_of_the_publisher(server: RedisServer) -> None:
    app = Umbel("posts", broker=server.url(), set_as_current=False)
    client = app.sender.client
    assert client.outbox is None
    assert client._send == client.publisher.send
    app.close()


FORWARDERS = """
import os, random, signal, sys, time
from umbel import Umbel
chance = random.Random(7)
app = Umbel("posts", broker=sys.argv[1])
app.conf.broker_outbox = sys.argv[2]
for _ in range(int(sys.argv[3])):
    begun, told = os.pipe()
    pid = os.fork()
    if not pid:
        app.send_task("t", task_id="kept too")  # what is left goes first, so this waits as well
        os.write(told, b".")
        signal.pause()
    os.read(begun, 1)
    time.sleep(chance.uniform(0.0, 0.04))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""


def test_forwarders_that_are_killed_lose_nothing_and_keep_the_order(
    server: RedisServer, tmp_path: Path
) -> None:
    app = make_app(server, tmp_path)
    outbox = app.sender.client.outbox
    assert outbox is not None
    server.kill9()
    sent = send(app, 0, 600)
    app.close()
    server.restart()
    rounds, file = 20, tmp_path / "outbox.db"
    argv = [sys.executable, "-c", FORWARDERS, server.url(), str(file), str(rounds)]
    assert spawn(argv, cwd=tmp_path, output=tmp_path / "output").wait(timeout=60) == 0
    killed_at = len(set(names(server)) & set(sent))
    app = make_app(server, tmp_path)
    outbox = app.sender.client.outbox
    assert outbox is not None
    send(app, 600, 1)
    wait_until(lambda: outbox.depth() == 0, timeout=60, what="an empty outbox")
    arrived = [name for name in names(server) if name != "kept too"]
    assert list(dict.fromkeys(arrived)) == [*sent, "600"]
    # A batch that was sent and not taken out yet comes again, under the same ids.
    assert len(arrived) - len(set(arrived)) <= rounds * BATCH
    assert killed_at > 0
    app.close()


#: Forwards what is in the outbox, and is killed when the broker has a batch and the file has it still.
FATAL = """
import os, signal, sys
from umbel import Umbel

class Fatal:
    def __init__(self, publisher):
        self._publisher = publisher

    def send(self, publications, *, timeout):
        self._publisher.send(publications, timeout=timeout)
        os.kill(os.getpid(), signal.SIGKILL)

    def close(self):
        self._publisher.close()

app = Umbel("posts", broker=sys.argv[1])
app.conf.broker_outbox = sys.argv[2]
outbox = app.sender.client.outbox
outbox._publisher = Fatal(outbox._publisher)
app.send_task("jobs.note", ("kept too",))
signal.pause()
"""


@pytest.mark.processes
def test_what_went_out_before_its_forwarder_was_killed_says_so_and_is_done_once(
    server: RedisServer, tmp_path: Path
) -> None:
    file, rounds, count = tmp_path / "outbox.db", 2, BATCH + 10
    with Stage(tmp_path, server.url(), worker_deduplicate_successful_tasks=True) as stage:
        stage.app.conf.broker_outbox = str(file)
        outbox = stage.app.sender.client.outbox
        assert outbox is not None
        server.kill9()
        sent = [stage.send("late", mark).id for mark in range(count)]
        outbox.close()
        server.restart()
        for _ in range(rounds):
            argv = [sys.executable, "-c", FATAL, server.url(), str(file)]
            assert spawn(argv, cwd=tmp_path, output=tmp_path / "output").wait(timeout=60) == -signal.SIGKILL
        assert names(server) == sent[:BATCH] * rounds
        stage.send("note", "last")
        wait_until(lambda: outbox.depth() == 0, timeout=60, what="an empty outbox")
        assert [name for name in names(server) if name in sent] == sent[:BATCH] * rounds + sent
        marks = [(name, repeats) for name, repeats in marked(server) if name in sent]
        # The first time some say so too: they may have been on their way when the broker went.
        said = [repeats for _, repeats in marks]
        assert said[BATCH:] == [True] * (BATCH * rounds) + [False] * (count - BATCH)
        stage.open()
        stage.worker("-c1")
        stage.wait_for("note", "last")
        assert [int(line[1]) for line in stage.lines("ended")] == list(range(count))
        stage.wait_empty()


def marked(server: RedisServer) -> list[tuple[str, bool]]:
    """The ids of what waits, the oldest first, each with whether it may have been sent before."""
    with server.client() as client:
        payloads: list[bytes] = list(reversed(client.lrange("celery", 0, -1)))  # type: ignore[call-overload]
    return [(peek(payload).id, REPEATED in read_envelope(payload).headers) for payload in payloads]


def test_a_file_that_cannot_be_used_is_an_error_that_names_it(server: RedisServer, tmp_path: Path) -> None:
    app = make_app(server, tmp_path / "nowhere")
    with pytest.raises(
        BrokerError, match=r"nowhere/outbox\.db cannot be used: unable to open .*\(broker_outbox\)"
    ):
        send(app, 0, 1)
    app.close()


def test_a_file_of_an_earlier_version_is_forwarded(server: RedisServer, tmp_path: Path) -> None:
    app = make_app(server, tmp_path)
    outbox = app.sender.client.outbox
    assert outbox is not None
    server.kill9()
    sent = send(app, 0, 3)
    outbox.close()
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as file:
        file.execute("DROP TABLE begun")
    server.restart()
    sent += send(app, 3, 1)
    wait_until(lambda: names(server) == sent, timeout=30, what="all messages")
    app.close()
