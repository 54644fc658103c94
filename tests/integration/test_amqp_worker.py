"""Whole workers on RabbitMQ with results in Redis: acknowledgements, delays, priorities, losses, leaving."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import amqp
import pytest

from tests.integration.apps.stage import Stage
from tests.support.rabbitmq import RabbitMqServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.processes, pytest.mark.rabbitmq, pytest.mark.redis]


class RabbitMqStage(Stage):
    """A stage in a virtual host of its own."""

    server: RabbitMqServer
    vhost: str

    def unacknowledged(self) -> int:
        """Messages that workers hold, of all queues that are not for delays."""
        ready = self.server.ready(self.vhost)
        return sum(
            count - ready[name]
            for name, count in self.server.queues(self.vhost).items()
            if not name.startswith("celery_delayed_")
        )

    def channel(self) -> amqp.Channel:
        connection = amqp.Connection(f"127.0.0.1:{self.server.port}", virtual_host=self.vhost)
        connection.connect()
        return connection.channel()


@pytest.fixture
def impatient(rabbitmq_server: RabbitMqServer) -> Iterator[None]:
    """The server's consumer_timeout is short for channels that are opened now, and it looks often."""

    def limit(timeout: int, tick: int) -> None:
        for name, value in (("consumer_timeout", timeout), ("channel_tick_interval", tick)):
            rabbitmq_server.evaluate(f"application:set_env(rabbit, {name}, {value})")

    limit(2000, 200)
    yield
    limit(1_800_000, 60_000)


@pytest.fixture
def stage(
    tmp_path: Path, rabbitmq_server: RabbitMqServer, rabbitmq_url: str, redis_url: str
) -> Iterator[RabbitMqStage]:
    settings = {"broker_native_delayed_delivery_queue_type": "classic", "task_queue_max_priority": 10}
    with RabbitMqStage(tmp_path, rabbitmq_url, redis_url, **settings) as stage:
        stage.app.conf.update(settings)
        stage.server = rabbitmq_server
        stage.vhost = rabbitmq_url.rpartition("/")[2]
        yield stage


def test_tasks_run_and_nothing_is_left(stage: RabbitMqStage) -> None:
    stage.worker("-c2")
    results = [stage.send("note", mark) for mark in range(200)]
    assert [result.get(timeout=20) for result in results] == list(range(200))
    wait_until(lambda: stage.unacknowledged() == 0, what="acknowledgements")
    assert sorted(int(line[1]) for line in stage.lines("note")) == list(range(200))


def test_a_killed_workers_late_jobs_run_again_at_once_marked_redelivered(stage: RabbitMqStage) -> None:
    first = stage.worker("-c1")
    result = stage.send("late", "x")
    [[*_, redelivered]] = stage.wait_for("begun", "x")
    assert redelivered == "False"
    stage.worker("-c1")
    first.kill9()
    stage.open()
    assert result.get(timeout=5) == "x"
    assert [line[-1] for line in stage.lines("begun", "x")] == ["False", "True"]


def test_an_early_job_that_takes_long_is_acknowledged_while_it_runs(stage: RabbitMqStage) -> None:
    stage.worker("-c1")
    result = stage.send("hold", "x")
    stage.wait_for("begun", "x")
    wait_until(lambda: stage.unacknowledged() == 0, what="the acknowledgement")
    stage.open()
    assert result.get(timeout=10) == "x"


def test_a_busy_worker_leaves_messages_to_others(stage: RabbitMqStage) -> None:
    stage.worker("-c1", "--prefetch-multiplier", "1")
    held = [stage.send("late", "long")]
    stage.wait_for("begun", "long")
    rest = [stage.send("late", mark, "open") for mark in range(5)]
    wait_until(lambda: stage.broker.depth("celery") == 5, what="five messages that wait")
    stage.open("open")
    stage.worker("-c1", "--prefetch-multiplier", "1")
    assert [result.get(timeout=10) for result in rest] == list(range(5))
    stage.open()
    assert held[0].get(timeout=10) == "long"


def test_leaving_returns_what_had_not_begun_at_once(stage: RabbitMqStage) -> None:
    first = stage.worker("-c1")
    stage.send("late", "runs")
    stage.wait_for("begun", "runs")
    rest = [stage.send("note", mark) for mark in range(3)]
    first.wait_for_line(rf"{rest[-1].id}\] received")
    first.signal(signal.SIGTERM)
    wait_until(lambda: stage.broker.depth("celery") == 3, what="three messages given back", timeout=5)
    stage.open()
    first.wait()
    stage.worker("-c1")
    assert [result.get(timeout=10) for result in rest] == [0, 1, 2]
    assert len(stage.lines("begun", "runs")) == 1


def test_more_urgent_messages_go_first(stage: RabbitMqStage) -> None:
    for priority in (0, 5, 9, 1):
        stage.send("note", f"p{priority}", priority=priority)
    stage.worker("-c1", "--prefetch-multiplier", "1")
    stage.wait_for("note", count=4)
    assert [line[1] for line in stage.lines("note")] == ["p9", "p5", "p1", "p0"]


def test_a_countdown_waits_in_the_broker(stage: RabbitMqStage) -> None:
    sent = time.time()
    result = stage.send("note", "later", countdown=5.4)
    assert stage.broker.depth("celery") == 0
    worker = stage.worker("-c1")
    assert result.get(timeout=15) == "later"
    assert time.time() - sent >= 5.4
    worker.wait_for_line(r"received")


def test_a_retry_waits_and_is_tried_again(stage: RabbitMqStage) -> None:
    stage.worker("-c1")
    soon = stage.send("retry", 2, "soon", 0.1)
    later = stage.send("retry", 1, "later", 2.5)
    assert soon.get(timeout=10) == 2
    assert later.get(timeout=15) == 1
    wait_until(lambda: stage.unacknowledged() == 0, what="acknowledgements")


def test_celerys_plain_eta_is_parked_in_the_broker(stage: RabbitMqStage) -> None:
    """Celery sends to classic queues at once, whatever the eta: the worker has it wait elsewhere, and is not busy."""
    stage.worker("-c1")
    channel = stage.channel()
    due = int(time.time()) + 7
    eta = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(due))
    headers = {"lang": "py", "task": "jobs.note", "id": "parked", "eta": eta, "retries": 0}
    properties = {"content_type": "application/json", "content_encoding": "utf-8", "correlation_id": "parked"}
    channel.basic_publish(
        amqp.Message('[["parked"], {}, {}]', application_headers=headers, **properties), "", "celery"
    )
    wait_until(
        lambda: sum(
            n for name, n in stage.server.queues(stage.vhost).items() if name.startswith("celery_delayed")
        ),
        what="a message that waits in a delay",
    )
    assert stage.unacknowledged() == 0
    stage.wait_for("note", "parked", timeout=15)
    assert time.time() >= due
    channel.connection.close()


def test_what_cannot_be_read_is_a_dead_letter_with_its_reason(stage: RabbitMqStage) -> None:
    worker = stage.worker("-c1")
    channel = stage.channel()
    channel.basic_publish(amqp.Message(b"\xff not json", content_type="application/json"), "", "celery")
    [letter] = stage.wait_for_dead(1)
    assert letter.reason
    assert stage.send("nothing", 1).get(timeout=10) == 1
    assert worker.alive
    channel.connection.close()


def test_a_connection_that_is_cut_is_made_again(stage: RabbitMqStage) -> None:
    worker = stage.worker("-c1")
    assert stage.send("nothing", 1).get(timeout=10) == 1
    stage.server.close_connections()
    worker.wait_for_line("Connection to broker lost")
    assert stage.send("nothing", 2).get(timeout=15) == 2


def test_what_waited_when_the_connection_was_cut_runs_once(stage: RabbitMqStage) -> None:
    worker = stage.worker("-c1")
    held = stage.send("hold", "x")
    stage.wait_for("begun", "x")
    wait_until(lambda: stage.unacknowledged() == 0, what="the acknowledgement")
    rest = [stage.send("note", mark) for mark in range(3)]
    worker.wait_for_line(rf"{rest[-1].id}\] received")
    stage.server.close_connections()
    worker.wait_for_line(r"3 message\(s\) that had not begun are on their queues again")
    stage.open()
    assert held.get(timeout=10) == "x"
    assert [result.get(timeout=10) for result in rest] == [0, 1, 2]
    wait_until(lambda: stage.unacknowledged() == 0, what="the end of every delivery")
    assert sorted(stage.lines("note")) == [["note", str(mark)] for mark in range(3)]


def test_a_queue_that_is_deleted_is_made_again(stage: RabbitMqStage) -> None:
    stage.worker("-c1")
    assert stage.send("nothing", 1).get(timeout=10) == 1
    channel = stage.channel()
    channel.queue_delete("celery")
    wait_until(lambda: "celery" in stage.server.queues(stage.vhost), what="the queue, made again")
    assert stage.send("nothing", 2).get(timeout=15) == 2
    channel.connection.close()


def test_revoking_reaches_every_worker(stage: RabbitMqStage) -> None:
    stage.worker("-c1")
    assert stage.app.control.ping(timeout=2) != []
    later = stage.send("note", "never", countdown=3)
    stage.app.control.revoke(later.id)
    wait_until(lambda: later.state == "REVOKED", what="the state REVOKED")
    assert stage.send("nothing", 1).get(timeout=10) == 1
    wait_until(lambda: stage.unacknowledged() == 0, what="an empty queue", timeout=10)
    assert stage.lines("note", "never") == []


def test_a_worker_that_starts_later_knows_what_was_revoked(stage: RabbitMqStage) -> None:
    waiting, other = stage.send("note", "never"), stage.send("note", "other")
    stage.app.control.revoke(waiting.id)
    stage.worker("-c1")
    assert other.get(timeout=10) == "other"
    wait_until(lambda: waiting.state == "REVOKED", what="the state REVOKED")
    assert stage.lines("note", "never") == []


@pytest.mark.usefixtures("impatient")
def test_a_job_longer_than_the_servers_patience_does_not_end_the_worker(stage: RabbitMqStage) -> None:
    worker = stage.worker("-c3")
    early, late = stage.send("hold", "early"), stage.send("late", "late")
    stage.wait_for("begun", count=2)
    worker.wait_for_line("not acknowledged within its consumer_timeout")
    # The one that was acknowledged when it began is not touched; the other is taken back, and begun again.
    assert stage.wait_for("begun", "late", count=2)[1][-1] == "True"
    stage.open()
    assert (early.get(timeout=10), late.get(timeout=10)) == ("early", "late")
    assert len(stage.lines("begun", "early")) == 1
    assert stage.send("note", "next").get(timeout=10) == "next"
    wait_until(lambda: stage.unacknowledged() == 0, what="acknowledgements")
    assert worker.alive


def test_a_consumer_that_the_server_has_forgotten_is_made_anew(stage: RabbitMqStage) -> None:
    """What the watchdog is for: messages wait, and nobody tells the worker. What it holds stays its own."""
    stage.settings["worker_lease_duration"] = 3  # twice that is how long the watchdog takes
    worker = stage.worker("-c2")
    stage.send("late", "held")
    stage.wait_for("begun", "held")
    stage.server.evaluate(
        f'Name = rabbit_misc:r(<<"{stage.vhost}">>, queue, <<"celery">>), {{ok, Q}} = rabbit_amqqueue:lookup(Name), '
        "[gen_server2:call(amqqueue:get_pid(Q), {basic_cancel, element(1, C), element(2, C), undefined, <<>>}) || "
        "C <- rabbit_amqqueue:consumers(Q)]"
    )
    missed = stage.send("note", "missed")
    worker.wait_for_line("Nothing has been fetched for")
    assert missed.get(timeout=10) == "missed"
    stage.open()
    wait_until(lambda: stage.unacknowledged() == 0, what="acknowledgements")
    assert [line[-1] for line in stage.lines("begun", "held")] == ["False"]
    assert "the connection to" not in worker.output
