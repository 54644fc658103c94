"""What is given up, and why: messages that were lost with their workers too often, and those that tasks give up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.apps.stage import Stage, redis_stage
from umbel.core.causes import losses_of
from umbel.core.protocol import peek, read_envelope
from umbel.errors import TaskRevokedError, WorkerLostError

pytestmark = pytest.mark.processes


@pytest.fixture(params=["redis", "rabbitmq"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    match request.param:
        case "redis":
            server = request.getfixturevalue("redis_server")
            with redis_stage(tmp_path, server, worker_lease_duration=1) as found:
                yield found
        case _:
            url, backend = (request.getfixturevalue(f"{name}_url") for name in ("rabbitmq", "redis"))
            with Stage(tmp_path, url, backend) as found:
                yield found


def test_a_message_that_is_lost_with_every_worker_goes_into_quarantine(stage: Stage) -> None:
    poison = stage.send("suspect", "x")
    # RabbitMQ does not tell the first loss from a return.
    losses = 2 if stage.broker.capabilities.first_loss else 3
    for count in range(1, losses + 1):
        worker = stage.worker("-c1")
        stage.wait_for("begun", "x", count=count, timeout=30)
        worker.kill9()
    innocent = stage.send("note", "y")
    worker = stage.worker("-c1")
    with pytest.raises(WorkerLostError, match="Lost with its worker 2 times"):
        poison.get(timeout=30)
    innocent.get(timeout=30)
    [letter] = stage.wait_for_dead(1)
    assert (letter.cause.kind, letter.cause.exception) == ("quarantined", "WorkerLostError")
    assert "lost with its worker 2 times" in letter.reason
    told = losses_of(letter.payload)
    assert told.count == 2
    assert all("@" in loss.worker for loss in told.last)
    assert peek(letter.payload).id == poison.id
    assert len(stage.lines("begun", "x")) == losses
    worker.wait_for_line("was lost with its worker 2 times")
    stage.wait_empty()


@pytest.fixture
def on_redis(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    server = request.getfixturevalue("redis_server")
    with redis_stage(tmp_path, server, dead_letter_expires=86400) as found:
        yield found


def test_a_job_that_kills_its_process_every_time_goes_into_quarantine(on_redis: Stage) -> None:
    worker = on_redis.worker("-c1")
    with pytest.raises(WorkerLostError, match="Lost with its worker 3 times"):
        on_redis.send("die_always", "x", "KILL").get(timeout=30)
    [letter] = on_redis.wait_for_dead(1)
    assert letter.cause.kind == "quarantined"
    assert [loss.worker for loss in losses_of(letter.payload).last] == [letter.cause.worker] * 3
    assert len(on_redis.lines("dies", "x")) == 3
    assert worker.alive
    on_redis.wait_empty()


def test_what_tasks_give_up_is_kept_with_its_cause(on_redis: Stage) -> None:
    on_redis.worker("-c1")
    failed = on_redis.send("fail_kept", "kept ü")
    with pytest.raises(ValueError, match="kept"):
        failed.get(timeout=30)
    with pytest.raises(TaskRevokedError):
        on_redis.send("note_kept", 1, expires=-5).get(timeout=30)
    with pytest.raises(Exception, match="not this one"):
        on_redis.send("refuse", False).get(timeout=30)
    on_redis.send("there_is_no_such_task")
    on_redis.send("nothing", 1, serializer="pickle")
    letters = {letter.cause.kind: letter for letter in on_redis.wait_for_dead(5)}
    assert letters.keys() == {"failed", "expired", "rejected", "unknown", "unaccepted"}
    cause = letters["failed"].cause
    assert (cause.exception, cause.message) == ("ValueError", "kept ü")
    assert cause.traceback.startswith("Traceback")
    assert "fail_kept" in cause.traceback
    assert "@" in cause.worker
    assert read_envelope(letters["failed"].payload).headers["id"] == failed.id
    assert all(letter.cause.worker == cause.worker for letter in letters.values())


@pytest.mark.parametrize(("pool", "slots"), [("threads", 4), ("asyncio", 1)])
def test_a_poisons_neighbours_are_not_given_up_with_it(on_redis: Stage, pool: str, slots: int) -> None:
    # All of them are there when it begins, so that it takes them in one go.
    honest = [on_redis.send("steady", number, 1.5) for number in range(3)]
    poison = on_redis.send("die_after", "x", 0.3)
    on_redis.worker("-P", pool, "-c", str(slots))
    with pytest.raises(WorkerLostError, match="Lost with its worker 3 times"):
        poison.get(timeout=60)
    assert [result.get(timeout=60) for result in honest] == [0, 1, 2]
    [letter] = on_redis.wait_for_dead(1)
    assert peek(letter.payload).id == poison.id
    assert len(on_redis.lines("dies", "x")) == 3
    # It did take them along, until each had a chance by itself.
    assert max(len(on_redis.lines("steady", number)) for number in range(3)) >= 2
    # Others go on.
    assert on_redis.send("note", "after").get(timeout=30) == "after"
    on_redis.wait_empty()
