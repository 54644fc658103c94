"""``celery.bootsteps``: steps as Celery's documentation has them, in a worker that the command starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.rabbitmq import RabbitMqServer
from tests.support.waiting import wait_until
from umbel import Exchange, Queue, Umbel

PROJECT = '''
import os
import umbel
umbel.install_as_celery()

from celery import Celery, bootsteps
from click import Option
from kombu import Consumer, Exchange, Queue

my_queue = Queue("custom", Exchange("custom"), "routing_key")
app = Celery("proj", broker=os.environ["BROKER"], worker_redirect_stdouts=False)
app.user_options["worker"].add(Option(("--enable-my-option",), is_flag=True, help="Enable custom option."))


def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())


class Example(bootsteps.StartStopStep):
    requires = {"celery.worker.components:Pool"}

    def __init__(self, worker, enable_my_option=False, **kwargs):
        say("init", worker.hostname, enable_my_option)

    def create(self, worker):
        return self

    def start(self, worker):
        say("start", worker.pool is not None)

    def stop(self, worker):
        say("stop")

    def terminate(self, worker):
        say("terminate")


class Heartbeat(bootsteps.StartStopStep):
    """Has no **kwargs, as one of the documentation's has none."""

    requires = {"celery.worker.components:Timer", Example}

    def __init__(self, worker, deadlock_timeout=3600):
        self.tref = None
        self.beats = 0

    def start(self, worker):
        say("heartbeat starts after the example")
        self.tref = worker.timer.call_repeatedly(0.05, self.beat, (worker,), priority=10)

    def stop(self, worker):
        self.tref.cancel()

    def beat(self, worker):
        self.beats += 1
        if self.beats == 3:
            say("three beats", len(worker.active_requests))


class MyConsumerStep(bootsteps.ConsumerStep):
    def get_consumers(self, channel):
        say("get consumers")
        return [Consumer(channel, queues=[my_queue], callbacks=[self.handle_message], accept=["json"])]

    def handle_message(self, body, message):
        say(f"received message: {body!r}")
        message.ack()


class Ends(bootsteps.StartStopStep):
    def start(self, consumer):
        say("consumer", consumer.hostname, consumer.connection is not None, consumer.controller.hostname)

    def shutdown(self, consumer):
        say("shutdown")


app.steps["worker"].update([Heartbeat, Example])
app.steps["consumer"].add(MyConsumerStep)
app.steps["consumer"].add(Ends)
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "proj.py").write_text(PROJECT)
    return tmp_path


class Running:
    """The worker, and what its steps have said."""

    def __init__(self, project: Path, broker: str) -> None:
        self.log = project / "worker.log"
        command = [
            sys.executable,
            "-m",
            "umbel",
            "-A",
            "proj",
            "worker",
            "-n",
            "w@here",
            "-P",
            "threads",
            "-c",
            "1",
        ]
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [*command, "--enable-my-option"],
                cwd=project,
                env={**os.environ, "BROKER": broker},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def has_said(self, line: str, times: int = 1) -> None:
        def said() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return self.log.read_text().splitlines().count(line) >= times

        wait_until(said, what=line, timeout=60)

    def end(self, how: int) -> list[str]:
        self.process.send_signal(how)
        self.process.wait(60)
        return self.log.read_text().splitlines()


@pytest.fixture
def start(project: Path) -> Iterator[Any]:
    started: list[Running] = []

    def start(broker: str) -> Running:
        started.append(Running(project, broker))
        return started[-1]

    yield start
    for running in started:
        running.process.kill()
        running.process.wait()


def send(broker: str, **body: Any) -> None:
    queue = Queue("custom", Exchange("custom"), "routing_key")
    with (
        Umbel("sender", broker=broker, set_as_current=False) as app,
        app.producer_or_acquire() as producer,
    ):
        producer.publish(
            body,
            serializer="json",
            exchange=queue.exchange,
            routing_key="routing_key",
            declare=[queue],
            retry=True,
        )


def test_steps_are_made_started_and_stopped_with_the_worker(start: Any, project: Path) -> None:
    broker = f"sqlite:///{project}/broker.db"
    worker = start(broker)
    worker.has_said("three beats 0")
    worker.has_said("get consumers")
    send(broker, hello="world!")
    worker.has_said("received message: {'hello': 'world!'}")
    said = worker.end(signal.SIGTERM)
    assert worker.process.returncode == 0
    assert "consumer w@here True w@here" in said
    order = ["init w@here True", "start True", "heartbeat starts after the example", "stop"]
    assert [line for line in said if line in order] == order
    assert said.count("shutdown") == 1


def test_a_cold_shutdown_terminates_them(start: Any, project: Path) -> None:
    worker = start(f"sqlite:///{project}/broker.db")
    worker.has_said("get consumers")
    said = worker.end(signal.SIGQUIT)
    assert "terminate" in said
    assert "stop" not in said


@pytest.mark.rabbitmq
def test_a_lost_connection_is_made_again(
    start: Any, rabbitmq_server: RabbitMqServer, rabbitmq_url: str
) -> None:
    worker = start(rabbitmq_url)
    worker.has_said("get consumers")
    rabbitmq_server.close_connections()
    worker.has_said("get consumers", 2)
    send(rabbitmq_url, hello="again")
    worker.has_said("received message: {'hello': 'again'}")
    worker.end(signal.SIGTERM)
