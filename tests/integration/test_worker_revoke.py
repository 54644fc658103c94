"""Revoking tasks that wait, are delayed or run, with real workers on both brokers; and what each pool can do."""

from __future__ import annotations

import asyncio
import random
import signal as signals
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.apps.stage import Stage, redis_stage, sqlite_stage
from tests.support.processes import spawn
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until
from umbel import Umbel
from umbel.brokers.base import RevokedTasks
from umbel.errors import TaskRevokedError
from umbel.results.handles import AsyncResult
from umbel.worker.worker import Worker

pytestmark = pytest.mark.processes


@pytest.fixture(params=["redis", "sqlite"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    if request.param == "redis":
        with redis_stage(tmp_path, request.getfixturevalue("redis_server")) as found:
            yield found
    else:
        with sqlite_stage(tmp_path) as found:
            yield found


def refused(result: AsyncResult, reason: str) -> None:
    with pytest.raises(TaskRevokedError, match=reason):
        result.get(timeout=10)
    assert result.state == "REVOKED"


def test_a_task_that_waits_is_revoked_at_once_and_dropped_when_it_is_reached(stage: Stage) -> None:
    worker = stage.worker("-c1")
    running = stage.send("hold", "running")
    stage.wait_for("begun", "running")
    waiting = [
        stage.send("note", number) for number in range(60)
    ]  # some in the worker, the rest in the queue
    first, last = waiting[0], waiting[-1]
    first.revoke()
    stage.app.control.revoke([last.id, "of nobody"])
    refused(first, "revoked")  # while the worker is busy with another
    refused(last, "revoked")
    stage.open()
    assert running.get(timeout=10) == "running"
    assert waiting[1].get(timeout=10) == 1
    assert waiting[-2].get(timeout=10) == 58
    stage.wait_empty()
    worker.wait_for_line(rf"Tasks flagged as revoked: {first.id}")
    worker.wait_for_line(rf"Discarding revoked task: jobs\.note\[{first.id}\]")
    worker.wait_for_line(rf"Discarding revoked task: jobs\.note\[{last.id}\]")
    assert sorted(int(line[1]) for line in stage.lines("note")) == list(range(1, 59))
    refused(first, "revoked")
    told = stage.lines("signal", "task_revoked")
    assert sorted(line[4] for line in told) == sorted([first.id, last.id])
    assert all(line[-3:] == ["False", "None", "False"] for line in told)


def test_a_delayed_task_is_dropped_when_it_comes_up(stage: Stage) -> None:
    stage.settings["worker_delay_threshold"] = 0.5
    worker = stage.worker("-c1")
    near, far = stage.send("note", "near", countdown=0.4), stage.send("note", "far", countdown=1.0)
    worker.wait_for_line(near.id)
    wait_until(lambda: stage.broker.delayed_depth("celery") == 1, what="the far one parked in the broker")
    stage.app.control.revoke([near.id, far.id])
    refused(near, "revoked")
    refused(far, "revoked")
    worker.wait_for_line(rf"Discarding revoked task: jobs\.note\[{near.id}\]")
    worker.wait_for_line(rf"Discarding revoked task: jobs\.note\[{far.id}\]")
    stage.wait_empty()
    assert stage.lines("note") == []


def test_a_worker_that_starts_later_knows_what_was_revoked(stage: Stage) -> None:
    stage.settings["worker_delay_threshold"] = 0.5
    waiting, other = stage.send("note", "waiting"), stage.send("note", "other")
    stage.app.control.revoke(waiting.id)
    worker = stage.worker("-c1", "-na@here")
    assert other.get(timeout=10) == "other"
    refused(waiting, "revoked")
    delayed = stage.send("note", "delayed", countdown=1.5)
    wait_until(lambda: stage.broker.delayed_depth("celery") == 1, what="the delayed one parked in the broker")
    assert worker.terminate() == 0
    delayed.revoke()
    worker = stage.worker("-c1", "-nb@here")
    refused(delayed, "revoked")
    worker.wait_for_line(rf"Discarding revoked task: jobs\.note\[{delayed.id}\]")
    stage.wait_empty()
    assert [line[1] for line in stage.lines("note")] == ["other"]


def test_delayed_and_waiting_tasks_are_taken_out_of_their_queues(stage: Stage) -> None:
    """One that is due long after its revocation is forgotten would run otherwise."""
    worker = stage.worker("-c1")
    far, other = (stage.send("note", mark, countdown=10**6) for mark in ("far", "other"))
    wait_until(lambda: stage.broker.delayed_depth("celery") == 2, what="both parked in the broker")
    running = stage.send("hold", "running")
    stage.wait_for("begun", "running")
    waiting = [stage.send("note", number) for number in range(200)]  # more than the worker takes
    depth = stage.broker.depth("celery")
    stage.app.control.revoke([far.id, waiting[-1].id])
    wait_until(lambda: stage.broker.delayed_depth("celery") == 1, what="the far one taken out")
    wait_until(lambda: stage.broker.depth("celery") == depth - 1, what="the waiting one taken out")
    refused(far, "revoked")
    refused(waiting[-1], "revoked")
    worker.wait_for_line(rf"Discarding revoked task: jobs\.note\[{far.id}\]")
    stage.open()
    assert running.get(timeout=10) == "running"
    assert worker.terminate() == 0
    # One that was revoked while nobody was there is taken out by who comes first.
    other.revoke()
    assert stage.broker.delayed_depth("celery") == 1
    stage.worker("-c1", "-nlater@here")
    refused(other, "revoked")
    wait_until(lambda: stage.broker.delayed_depth("celery") == 0, what="the other one taken out")
    assert waiting[-2].get(timeout=20) == 198
    assert stage.lines("note", "199") == stage.lines("note", "far") == stage.lines("note", "other") == []


#: Takes the messages of revoked tasks out of a queue, and is killed with the first of them in its hands.
WITHDRAWER = """
import asyncio, os, signal, sys
from umbel.brokers.options import BrokerOptions
from umbel.brokers.urls import broker_from_url

async def withdraw():
    consumer = broker_from_url(sys.argv[1], BrokerOptions()).consumer("withdrawer", 1.0)
    await consumer.open()
    async for portion in consumer.withdraw(["celery"]):
        if portion:
            os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(withdraw())
"""


def test_what_was_taken_out_by_a_worker_that_is_killed_then_is_revoked_all_the_same(stage: Stage) -> None:
    stage.settings |= {"worker_delay_threshold": 0.5, "worker_lease_duration": 2}
    parker = stage.worker("-c1", "-nparker@here")
    far = [stage.send("note", "far", countdown=10**6) for _ in range(3)]
    wait_until(lambda: stage.broker.delayed_depth("celery") == 3, what="all parked in the broker")
    assert parker.terminate() == 0
    waiting, other = [stage.send("note", "waiting") for _ in range(3)], stage.send("note", "other")
    stage.app.control.revoke([each.id for each in (*far[:2], *waiting)])
    argv, said = [sys.executable, "-c", WITHDRAWER, stage.broker_url], stage.directory / "withdrawer"
    killed = 0
    while status := spawn(argv, cwd=stage.directory, output=said).wait(timeout=60):
        assert status == -signals.SIGKILL, said.read_text()
        killed += 1
    # Nothing is left to be found, and none of it has come to its end.
    assert killed > 0
    assert stage.broker.held_depth() == 5
    stage.worker("-c1", "-nlater@here")
    for result in (*far[:2], *waiting):
        refused(result, "revoked")
    assert other.get(timeout=20) == "other"
    wait_until(
        lambda: (stage.broker.depth("celery"), stage.broker.held_depth()) == (0, 0), what="an empty queue"
    )
    assert [line[1] for line in stage.lines("note")] == ["other"]
    assert stage.broker.delayed_depth("celery") == 1
    far[2].revoke()
    refused(far[2], "revoked")


def test_workers_that_are_killed_while_they_take_messages_out_leave_nothing_half_done(stage: Stage) -> None:
    rounds, each, chance = 6, 20, random.Random(5)
    stage.settings |= {"worker_delay_threshold": 0.5, "worker_lease_duration": 2}
    worker = stage.worker("-c1", "-n0@here")
    far = [stage.send("note", "far", countdown=10**6) for _ in range(rounds * each)]
    kept = [stage.send("note", "kept", countdown=10**6) for _ in range(5)]
    total = len(far) + len(kept)
    wait_until(lambda: stage.broker.delayed_depth("celery") == total, what="all parked in the broker")
    for number in range(rounds):
        ids = [result.id for result in far[number * each : (number + 1) * each]]
        stage.app.control.revoke(ids)
        time.sleep(chance.uniform(0.0, 0.05))  # somewhere in what the worker does then
        worker.kill9()
        worker = stage.worker("-c1", f"-n{number + 1}@here")
    for result in far:
        refused(result, "revoked")
    wait_until(
        lambda: (stage.broker.depth("celery"), stage.broker.held_depth()) == (0, 0), what="an empty queue"
    )
    assert stage.broker.delayed_depth("celery") == len(kept)
    assert stage.lines("note") == []
    assert {result.state for result in kept} == {"PENDING"}


def test_a_worker_that_starts_later_knows_which_stamps_were_revoked(stage: Stage) -> None:
    stamped, other = (stage.app.signature("jobs.note", (number,)) for number in (1, 2))
    stamped.stamp(customer="x")
    other.stamp(customer="y")
    first, second = stamped.apply_async(), other.apply_async()
    stage.app.control.revoke_by_stamped_headers({"customer": ["x", "z"]})
    stage.worker("-c1")
    refused(first, "revoked")
    assert second.get(timeout=10) == 2


def test_what_is_revoked_for_some_workers_only_is_not_kept(stage: Stage) -> None:
    result = stage.send("note", "mine")
    stage.app.control.revoke(result.id, ["nobody@here"])
    stage.app.control.revoke(result.id, pattern="nobody*", matcher="glob")
    stage.app.control.revoke_by_stamped_headers({"customer": "x"}, ["nobody@here"])
    assert stage.broker.revoked() == RevokedTasks()
    stage.settings["revoked_expires"] = 0
    stage.app.conf.revoked_expires = 0
    result.revoke()
    assert stage.broker.revoked() == RevokedTasks()
    stage.worker("-c1")
    assert result.get(timeout=10) == "mine"


@pytest.mark.parametrize("task", ["hold", "late"])
@pytest.mark.parametrize("signal", [None, "KILL"])
def test_a_running_task_is_ended_in_prefork(stage: Stage, task: str, signal: str | None) -> None:
    worker = stage.worker("-c2")
    other = stage.send("hold", "other")
    result = stage.send(task, "mine")
    stage.wait_for("begun", count=2)
    [answer] = result.revoke(terminate=True, signal=signal, wait=True, timeout=1)
    assert list(answer.values()) == [{"ok": f"terminate: {result.id}"}]
    refused(result, "terminated")
    worker.wait_for_line(rf"Terminating {result.id} \(Signals\.SIG{signal or 'TERM'}\)")
    after = stage.send("nothing", 1)
    assert after.get(timeout=10) == 1  # by the process that has taken its place
    stage.open()
    assert other.get(timeout=10) == "other"
    stage.wait_empty()
    assert [len(stage.lines("begun", mark)) for mark in ("mine", "other")] == [1, 1]
    assert stage.lines("ended", "mine") == []
    [told] = stage.wait_for("signal", "task_revoked")
    assert told[-3:] == ["True", "9" if signal else "15", "False"]


def test_a_running_task_is_left_alone_without_terminate(stage: Stage) -> None:
    worker = stage.worker("-c1")
    result = stage.send("hold", "mine")
    stage.wait_for("begun")
    result.revoke()
    worker.wait_for_line("Tasks flagged as revoked")
    stage.open()
    assert result.get(timeout=10) == "mine"
    stage.wait_empty()


def test_terminate_of_a_task_that_waits_only_revokes_it(stage: Stage) -> None:
    stage.worker("-c1")
    running = stage.send("hold", "running")
    stage.wait_for("begun")
    waiting = stage.send("note", 1)
    waiting.revoke(terminate=True)
    refused(waiting, "revoked")
    stage.open()
    assert running.get(timeout=10) == "running"
    stage.wait_empty()
    assert stage.lines("note") == []


def test_in_threads_the_process_ends_and_the_others_run_again(stage: Stage) -> None:
    stage.worker("-c2", "-Pthreads")
    other, result = stage.send("hold", "other"), stage.send("hold", "mine")
    stage.wait_for("begun", count=2)
    result.revoke(terminate=True, signal="KILL")
    refused(result, "terminated")
    stage.open()
    assert other.get(timeout=15) == "other"
    assert [len(stage.lines("begun", mark)) for mark in ("mine", "other")] == [1, 2]


def test_solo_says_that_it_cannot_end_what_runs(stage: Stage) -> None:
    worker = stage.worker("-Psolo")
    result = stage.send("hold", "mine")
    stage.wait_for("begun")
    [answer] = result.revoke(terminate=True, wait=True, timeout=1)
    assert "cannot end" in next(iter(answer.values()))["error"]
    worker.wait_for_line(rf"Task jobs\.hold\[{result.id}\] cannot be terminated: the pool solo")
    stage.open()
    assert result.get(timeout=10) == "mine"


def test_without_remote_control_nobody_listens(stage: Stage) -> None:
    stage.settings["worker_enable_remote_control"] = False
    stage.worker("-c1")
    result = stage.send("hold", "mine")
    stage.wait_for("begun")
    assert stage.app.control.broadcast("ping", reply=True, timeout=0.3) == []
    assert result.revoke(terminate=True, wait=True, timeout=0.3) == []
    stage.open()
    assert result.get(timeout=10) == "mine"


def test_two_workers_hear_the_same_and_destination_chooses(stage: Stage) -> None:
    for name in ("a", "b"):
        stage.worker("-c1", f"-n{name}@here")
    control = stage.app.control
    answers = control.broadcast("ping", reply=True, timeout=5, limit=2)
    assert answers is not None
    assert sorted(answers, key=str) == [{"a@here": {"ok": "pong"}}, {"b@here": {"ok": "pong"}}]
    assert control.broadcast("ping", reply=True, timeout=5, destination=["b@here"]) == [
        {"b@here": {"ok": "pong"}}
    ]
    assert control.broadcast("ping", reply=True, timeout=5, limit=1, pattern="a@*", matcher="glob") == [
        {"a@here": {"ok": "pong"}}
    ]


def test_shutdown_by_remote_control(stage: Stage) -> None:
    worker = stage.worker("-c1", "-na@here")
    stage.app.control.broadcast("shutdown", destination=["a@here"])
    assert worker.wait(timeout=10) == 0
    worker.wait_for_line("Got shutdown from remote")
    worker.wait_for_line(r"worker: Warm shutdown \(MainProcess\)")


def test_it_listens_again_after_redis_was_restarted(tmp_path: Path) -> None:
    with RedisServer() as server, redis_stage(tmp_path, server) as stage:
        worker = stage.worker("-c1")
        server.kill9()
        worker.wait_for_line("Connection to broker lost")
        server.restart()
        worker.wait_for_line("Remote control works again")
        assert stage.app.control.broadcast("ping", reply=True, timeout=5, limit=1)


def test_an_idle_worker_asks_nothing_and_leaves_nothing(tmp_path: Path, redis_server: RedisServer) -> None:
    with redis_stage(tmp_path, redis_server) as stage:
        worker = stage.worker("-c1")
        stage.app.control.broadcast("ping", reply=True, timeout=5, limit=1)
        assert worker.terminate() == 0
        with redis_server.client() as client:
            left = {key.decode() for key in client.keys("*")}
            assert not {key for key in left if "pidbox" in key}
            assert client.pubsub_numpat() == 0


async def test_a_worker_beside_its_producer_in_one_process() -> None:
    app = Umbel("inside", broker="memory://revoke", backend="memory://revoke", set_as_current=False)
    gate, begun = threading.Event(), threading.Event()

    @app.task(name="hold")
    def hold() -> str:
        begun.set()
        gate.wait(20)
        return "held"

    app.finalize()
    worker = Worker(app, pool="solo", hostname="inside@here")
    working = asyncio.create_task(worker.run())
    running = hold.delay()
    await asyncio.to_thread(begun.wait, 20)
    waiting = hold.delay()
    answers = await asyncio.to_thread(lambda: waiting.revoke(wait=True, timeout=1))
    assert answers == [{"inside@here": {"ok": f"tasks {[waiting.id]} flagged as revoked"}}]
    with pytest.raises(TaskRevokedError):
        await asyncio.to_thread(lambda: waiting.get(timeout=10))
    gate.set()
    assert await asyncio.to_thread(lambda: running.get(timeout=10)) == "held"
    await asyncio.to_thread(lambda: app.control.broadcast("shutdown"))
    assert await working == 0
    assert waiting.id in worker.revoked  # beside what other workers of this process were told
    app.close()
