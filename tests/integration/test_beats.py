"""Several beats: one leads, another takes over when it is killed or stands still, and each tick is sent once.

``BEAT_SECONDS`` in the environment lets them be killed by turns for so many seconds; the long form, which pytest's own
watch must not end, is ``BEAT_SECONDS=300 pytest -o faulthandler_timeout=0 -k turns tests/integration/test_beats.py``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import amqp
import pytest

from tests.support.rabbitmq import RabbitMqServer
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess
from umbel.core.protocol import read_envelope
from umbel.scheduler.sharing import DUE_HEADER

pytestmark = pytest.mark.processes

SECONDS = float(os.environ.get("BEAT_SECONDS", "5"))
#: What a user is promised.
TAKE_OVER = 15.0

PROJECT = """
import os
import signal
from umbel import Umbel
from umbel.signals import after_task_publish, before_task_publish

app = Umbel("proj", broker=os.environ["BROKER"], backend=os.environ["BACKEND"] or None)
app.conf.beat_schedule = {
    "all": {"task": "proj.all", "schedule": 1.0, "missed": "all"},
    "once": {"task": "proj.once", "schedule": 1.0},
}
app.conf.beat_max_loop_interval = 5

def die(**kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

if os.environ.get("DIE") == "before":
    before_task_publish.connect(die, weak=False)
if os.environ.get("DIE") == "after":
    after_task_publish.connect(die, weak=False)
"""


class Place(ABC):
    """Where the beats meet and their messages go."""

    url: str

    #: Where results are; "": nowhere.
    backend = ""

    @abstractmethod
    def sent(self) -> list[dict[str, Any]]:
        """The headers of all messages that were ever put into the queue."""


class RedisPlace(Place):
    def __init__(self, server: RedisServer) -> None:
        self.url = server.url()
        self._server = server

    def sent(self) -> list[dict[str, Any]]:
        with self._server.client() as client:
            return [read_envelope(payload).headers for payload in client.lrange("celery", 0, -1)]


class RabbitMqPlace(Place):
    """The beats meet in Redis, where results are, and their messages go to RabbitMQ."""

    def __init__(self, server: RabbitMqServer, redis: RedisServer) -> None:
        self.vhost = server.add_vhost()
        self.url, self.backend = server.url(self.vhost), redis.url()
        self._server = server
        self._taking = threading.Lock()
        self._taken: list[dict[str, Any]] = []
        self.connection = amqp.Connection(f"127.0.0.1:{server.port}", virtual_host=self.vhost)
        self.connection.connect()
        self._channel = self.connection.channel()
        self._channel.queue_declare("celery", durable=True, auto_delete=False)

    def sent(self) -> list[dict[str, Any]]:
        with self._taking:
            while message := self._channel.basic_get("celery", no_ack=True):
                self._taken.append(message.headers)
            return list(self._taken)

    def close(self) -> None:
        self.connection.close()
        self._server.delete_vhost(self.vhost)


class SqlitePlace(Place):
    def __init__(self, folder: Path) -> None:
        self._path = folder / "broker.db"
        self.url = f"sqlite:///{self._path}"

    def sent(self) -> list[dict[str, Any]]:
        with contextlib.closing(sqlite3.connect(self._path, timeout=20)) as connection:
            rows = connection.execute("SELECT payload FROM messages").fetchall()
        return [read_envelope(payload).headers for (payload,) in rows]


class Watch(threading.Thread):
    """Notes when messages came: how long the longest time without any was."""

    def __init__(self, place: Place) -> None:
        super().__init__(daemon=True)
        self._place = place
        self._done = threading.Event()
        self.longest_gap = 0.0

    def run(self) -> None:
        count, since = 0, time.monotonic()
        while not self._done.wait(0.1):
            now, before = time.monotonic(), count
            count = len(self._place.sent())
            self.longest_gap = max(self.longest_gap, now - since)
            if count != before:
                since = now

    def stop(self) -> None:
        self._done.set()
        self.join()


class Beats:
    """Beats in one folder, with one schedule file, as if started by mistake."""

    def __init__(self, place: Place, folder: Path, running: contextlib.ExitStack) -> None:
        self.place = place
        self._folder = folder
        self._running = running
        (folder / "proj.py").write_text(PROJECT)
        self.environment = {
            "BROKER": place.url,
            "BACKEND": place.backend,
            **dict.fromkeys(("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "APP"), ""),
        }

    def start(self, die: str = "") -> WorkerProcess:
        argv = [sys.executable, "-m", "umbel", "-A", "proj", "beat", "-l", "INFO"]
        env = {**self.environment, "DIE": die}
        return self._running.enter_context(WorkerProcess(argv, cwd=self._folder, env=env, name="beat"))

    def leader(self) -> WorkerProcess:
        leader = self.start()
        sends(leader)
        return leader

    def standby(self) -> WorkerProcess:
        beat = self.start()
        beat.wait_for_line("beat: Standing by for")
        return beat

    def judge(self) -> None:
        """Each tick was sent once, and of the entry that makes up for missed ones none is missing."""
        ids = [headers["id"] for headers in self.place.sent()]
        assert len(ids) == len(set(ids))
        for name, all_dues in self.dues().items():
            steps = [later - earlier for earlier, later in pairwise(all_dues)]
            assert min(steps) > 0.9, name
            if name == "all":
                assert max(steps) == pytest.approx(1.0, abs=0.001)

    def dues(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for headers in self.place.sent():
            found.setdefault(headers["task"].removeprefix("proj."), []).append(headers[DUE_HEADER])
        return {name: sorted(dues) for name, dues in found.items()}


def sends(beat: WorkerProcess) -> None:
    """Wait until a beat has sent something more of either entry."""
    for entry in ("all", "once"):
        beat.wait_for_line(f"Sending due task {entry} ", since=beat.line_count, timeout=TAKE_OVER + 5)


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("rabbitmq", marks=[pytest.mark.redis, pytest.mark.rabbitmq]),
    ]
)
def beats(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Beats]:
    with contextlib.ExitStack() as running:
        if request.param == "redis":
            place: Place = RedisPlace(running.enter_context(RedisServer()))
        elif request.param == "rabbitmq":
            server: RabbitMqServer = request.getfixturevalue("rabbitmq_server")
            place = RabbitMqPlace(server, running.enter_context(RedisServer()))
            running.callback(place.close)
        else:
            place = SqlitePlace(tmp_path)
        yield Beats(place, tmp_path, running)


@pytest.mark.timeout(SECONDS + 120)
def test_two_beats_killed_by_turns(beats: Beats) -> None:
    leader = beats.leader()
    watch = Watch(beats.place)
    watch.start()
    end, kills = time.monotonic() + SECONDS, 0
    while time.monotonic() < end or not kills:
        standby = beats.standby()
        leader.kill9()
        kills += 1
        sends(standby)
        assert "No longer leading" not in standby.output
        leader = standby
    watch.stop()
    assert leader.terminate() == 0
    beats.judge()
    assert watch.longest_gap < TAKE_OVER
    print(f"{kills} kills, {len(beats.place.sent())} messages, longest gap {watch.longest_gap:.1f} s")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_around_the_sending_of_a_tick(beats: Beats, moment: str) -> None:
    """It is claimed by then: who comes next sends it if it was not sent, under the same id, and not if it was."""
    beats.leader().kill9()  # the server knows the scripts from now on
    before = len(beats.place.sent())
    for killed in (1, 2):
        assert beats.start(die=moment).wait() == -signal.SIGKILL
        # The second dies of the tick that the first has claimed, or of the next one.
        assert len(beats.place.sent()) == before + (killed if moment == "after" else 0)
    leader = beats.leader()
    assert leader.terminate() == 0
    beats.judge()


@pytest.mark.redis
@pytest.mark.parametrize("beats", ["redis"], indirect=True)
def test_a_beat_that_stands_still_is_followed_and_sends_nothing_when_it_goes_on(beats: Beats) -> None:
    """As seen from another machine: nobody knows whether it is dead, so its lease has to end."""
    leader = beats.leader()
    standby = beats.standby()
    watch = Watch(beats.place)
    watch.start()
    leader.signal(signal.SIGSTOP)
    standby.wait_for_line("beat: Leading now", timeout=TAKE_OVER)
    sends(standby)
    seen = leader.line_count
    leader.signal(signal.SIGCONT)
    leader.wait_for_line("beat: No longer leading")
    leader.wait_for_line("beat: Standing by for", since=seen)
    sends(standby)
    watch.stop()
    assert standby.terminate() == 0
    sends(leader)
    assert leader.terminate() == 0
    beats.judge()
    assert watch.longest_gap < TAKE_OVER


@pytest.mark.redis
@pytest.mark.rabbitmq
@pytest.mark.parametrize("beats", ["rabbitmq"], indirect=True)
def test_a_beat_that_may_give_no_receipts_goes_on_without(beats: Beats) -> None:
    assert isinstance(beats.place, RabbitMqPlace)
    channel = beats.place.connection.channel()
    channel.queue_declare("umbel.receipts.beat.proj", durable=True, auto_delete=False)
    leader = beats.leader()
    leader.wait_for_line("Without the queue umbel.receipts.beat.proj a message may be sent twice")
    sends(leader)
    assert leader.terminate() == 0
    assert channel.basic_get("umbel.receipts.beat.proj") is None
    beats.judge()


def test_the_lead_is_left_to_another_at_the_end(beats: Beats) -> None:
    leader = beats.leader()
    standby = beats.standby()
    assert beats.standby().terminate() == 0
    assert "Sending due task" not in standby.output
    assert leader.terminate() == 0
    begun = time.monotonic()
    sends(standby)
    assert time.monotonic() - begun < 5
    assert standby.terminate() == 0
    beats.judge()


def test_entries_change_while_beat_runs(beats: Beats) -> None:
    leader = beats.leader()

    def umbel(*words: str) -> str:
        argv = [sys.executable, "-m", "umbel", "-A", "proj", "schedule", *words]
        with WorkerProcess(argv, cwd=beats._folder, env=beats.environment, name="schedule") as process:
            assert process.wait() == 0, process.output
            return process.output

    umbel("add", "new", "proj.other", "1s", "-a", "[1]")
    leader.wait_for_line(r"Sending due task new \(proj\.other\)", timeout=10)
    assert "new: proj.other, 1, last 2" in umbel("list")
    umbel("change", "new", "--task", "proj.changed")
    leader.wait_for_line(r"Sending due task new \(proj\.changed\)", timeout=10)
    umbel("pause", "all")
    umbel("remove", "new")
    wait_until(lambda: quiet(leader), timeout=20, what="the end of two entries")
    umbel("resume", "all")
    leader.wait_for_line(r"Sending due task all ", since=leader.line_count, timeout=10)
    ran = umbel("run", "once").split()[-1]
    ids = [headers["id"] for headers in beats.place.sent()]
    assert ran in ids
    assert leader.terminate() == 0
    assert len(ids) == len(set(ids))


def quiet(beat: WorkerProcess) -> bool:
    """Whether the last few lines name the entry only that goes on."""
    lines = [line for line in beat.output.splitlines() if "Sending due task" in line]
    return all("task once " in line for line in lines[-3:])
