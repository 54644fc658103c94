"""``umbel list``, ``graph``, ``amqp``, ``migrate`` and ``logtool`` as users run them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.rabbitmq import RabbitMqServer
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

PROJECT = """
import os
import signal
from umbel import Exchange, Queue, Umbel

app = Umbel("proj", broker=os.environ.get("B", "sqlite:///here.db"))
app.conf.task_queues = [
    Queue("celery", Exchange("celery"), routing_key="celery"),
    Queue("video", Exchange("media", type="topic"), routing_key="video.#"),
]

@app.task
def add(x, y):
    return x + y
"""


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "proj.py").write_text(PROJECT)

    def __call__(self, *words: str, broker: str = "", stdin: str = "", status: int = 0) -> str:
        """What the command prints."""
        hidden = {"CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "CELERY_CONFIG_MODULE", "APP"}
        env = {name: value for name, value in os.environ.items() if name not in hidden}
        done = subprocess.run(
            [sys.executable, "-m", "umbel", "-A", "proj", *words],
            cwd=self.path,
            env=env | ({"B": broker} if broker else {}),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == status, (done.stdout, done.stderr)
        return done.stdout + done.stderr


@pytest.fixture
def umbel(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


BINDINGS = """\
Queue                        Exchange                     Routing Key
----------------             ----------------             ----------------
celery                       celery                       celery
video                        media                        video.#
"""


def test_bindings(umbel: Folder, redis_server: RedisServer) -> None:
    redis_server.flush()
    assert umbel("list", "bindings") == BINDINGS
    assert umbel("list", "bindings", broker=redis_server.url()) == BINDINGS


def test_bindings_that_rabbitmq_does_not_tell(umbel: Folder, rabbitmq_server: RabbitMqServer) -> None:
    said = umbel("list", "bindings", broker=rabbitmq_server.url(rabbitmq_server.add_vhost()), status=1)
    assert "management plugin" in said
    assert said.count("\n") == 1


def test_migrating_copies_or_moves(umbel: Folder, redis_server: RedisServer) -> None:
    redis_server.flush()
    umbel("call", "proj.add", "-a", "[1, 2]")
    umbel("call", "proj.add", "-a", "[3, 4]", "--countdown", "3600")
    source, destination = f"sqlite:///{umbel.path}/here.db", redis_server.url()
    first = umbel("migrate", source, destination)
    assert first.startswith("Migrating task 1/")
    assert "[[1, 2], {}, {'callbacks': None, 'errbacks': None, 'chain': None, 'chord': None}]" in first
    umbel("migrate", source, destination, "-a", "-Q", "celery:moved")
    assert umbel("migrate", source, destination).count("Migrating") == 0
    with redis_server.client() as client:
        assert (client.llen("celery"), client.llen("moved")) in {(1, 1), (2, 2)}


SESSION = """\
exchange.declare things topic
queue.declare parcels
queue.bind parcels things "parcel.#"
basic.publish "This is a message!" things parcel.small
basic.get parcels
basic.ack 1
basic.get parcels
basic.publish again things parcel.big
queue.purge parcels
# a remark
basic.ack 7
nothing.like this
queue.delete parcels
exit
queue.purge never
"""


@pytest.mark.parametrize("broker", ["sqlite", "redis", "rabbitmq"])
def test_a_session_by_hand(umbel: Folder, broker: str, request: pytest.FixtureRequest) -> None:
    if broker == "redis":
        url = request.getfixturevalue("redis_server").url()
        request.getfixturevalue("redis_server").flush()
    elif broker == "rabbitmq":
        server = request.getfixturevalue("rabbitmq_server")
        url = server.url(server.add_vhost())
    else:
        url = ""
    said = umbel("amqp", broker=url, stdin=SESSION)
    assert said.startswith("-> connecting to ")
    assert "-> connected.\n" in said
    assert "queue:parcels messages:0 consumers:0\n" in said
    assert "'body': 'This is a message!'" in said
    assert "No messages in queue. basic.publish something." in said
    assert "1 messages deleted.\n" in said
    assert "no message of this session has the delivery tag 7" in said
    assert "No such command 'nothing.like'" in said
    assert "0 messages deleted.\n" in said
    assert said.count("OK\n") == 10
    assert "never" not in said


def test_one_command_at_a_time(umbel: Folder) -> None:
    umbel("amqp", "basic.publish", "hello", "", "letters")
    assert "queue:letters messages:1 consumers:0" in umbel("amqp", "queue.declare", "letters")
    assert "'hello'" in umbel("amqp", "basic.get", "letters")
    assert "messages:1 " in umbel("amqp", "queue.declare", "letters")
    assert "'hello'" in umbel("amqp", "basic.get", "letters", "true")
    assert "No messages in queue" in umbel("amqp", "basic.get", "letters")
    assert "has no exchanges" in umbel("amqp", "exchange.delete", "things", "true", status=1)
    assert "Missing argument 'TYPE'" in umbel("amqp", "exchange.declare", "a", status=2)


def test_the_fleet_is_drawn(umbel: Folder) -> None:
    drawn = umbel("graph", "workers", "nodes:w1,w2,w3,w4,w5,w6", "threads:2,5,1,1,1,1", "backend:redis://r")
    assert drawn.startswith("digraph dependencies {\n    graph [")
    assert drawn.endswith("}\n")
    for line in ('"w1" -> "redis://r"', '"w2" [shape="box"', '"W⎨…₃⎬" [', '"thr-7" -> "w6"', 'label="P⎨…₃⎬"'):
        assert f"    {line}" in drawn or line in drawn, line
    assert '"w4"' not in drawn
    generic = umbel("graph", "workers", "nodes:w1", "generic", "enumerate", "wmax:0")
    assert '"Worker₁" -> "Broker (sqlite://)"' in generic


def test_a_workers_parts_are_drawn(umbel: Folder) -> None:
    drawn = umbel("graph", "bootsteps")
    for edge in ('"intake" -> "link"', '"completion" -> "settlement"', '"leases" -> "link"'):
        assert edge in drawn


class TestLogtool:
    @pytest.fixture
    def log(self, umbel: Folder) -> Path:
        """A log of a real worker, with a task of every end."""
        (umbel.path / "proj.py").write_text(
            PROJECT
            + """
@app.task
def fail():
    raise KeyError("gone")
"""
        )
        for words in (["proj.add", "-a", "[1, 2]"], ["proj.fail"], ["proj.add", "-a", "[3, 4]"]):
            umbel("call", *words)
        log = umbel.path / "worker.log"
        script = "import proj\nproj.app.worker_main(['worker', '-Psolo', '-linfo', '-f', 'worker.log'])\n"
        process = subprocess.Popen([sys.executable, "-c", script], cwd=umbel.path, stderr=subprocess.DEVNULL)
        try:
            wait_until(
                lambda: log.exists() and log.read_text().count("succeeded in") == 2,
                timeout=60,
                what="two successes",
            )
        finally:
            process.terminate()
            process.wait(timeout=30)
        return log

    def test_it_reads_a_workers_log(self, umbel: Folder, log: Path) -> None:
        with log.open("a") as more:
            more.write("[2026-11-22 12:00:01,001: INFO/MainProcess] Task proj.add[lost-id] received\n")
        counted = umbel("logtool", "stats", "worker.log")
        assert "Task total: 4\nTask errors: 1\nTask success: 2\nTask completed: 3\n" in counted
        assert "proj.add: 3\nproj.fail: 1\n" in counted
        assert umbel("logtool", "incomplete", "worker.log") == "Did not complete: lost-id\n"
        [error] = umbel("logtool", "errors", "worker.log").splitlines()
        assert "proj.fail[" in error
        assert "KeyError" in umbel("logtool", "traces", "worker.log")
        assert "ready." in umbel("logtool", "debug", "worker.log")
        assert "proj.add" not in umbel("logtool", "debug", "worker.log")
        assert "Task total: 4" in umbel("logtool", "stats", stdin=log.read_text())


def test_a_camera_in_the_background(umbel: Folder) -> None:
    (umbel.path / "cam.py").write_text(
        "from umbel.events.snapshot import Polaroid\n"
        "class Camera(Polaroid):\n"
        "    def on_shutter(self, state):\n"
        "        open('shots', 'a').write('x')\n"
    )
    pidfile = umbel.path / "cam.pid"
    umbel("events", "-c", "cam.Camera", "-F", "0.1", "--detach", f"--pidfile={pidfile}", "-f", "cam.log")
    wait_until((umbel.path / "shots").exists, timeout=60, what="a shot")
    pid = int(pidfile.read_text())
    said = umbel("events", "-c", "cam.Camera", f"--pidfile={pidfile}", status=73)
    assert "already running" in said
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not pidfile.exists(), timeout=60, what="its end")
