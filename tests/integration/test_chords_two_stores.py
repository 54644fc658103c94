"""Chords whose messages and results are in two stores: what a crash between the two steps of a completion leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.integration.test_chords import ChordStage, signature_of
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until
from umbel.core.ids import new_id

pytestmark = [pytest.mark.processes, pytest.mark.rabbitmq, pytest.mark.redis]

USER = "worker"


@pytest.fixture
def results() -> Iterator[RedisServer]:
    """A Redis server whose rights are the test's to change."""
    server = RedisServer().start()
    yield server
    server.stop()


def set_rights(client: redis.Redis, *, writes: bool) -> None:
    """What the workers may do with the results from now on, on the connections they have too."""
    keys = "~*" if writes else "%R~*"
    client.execute_command("ACL", "SETUSER", USER, "on", ">pw", "&*", "+@all", "resetkeys", keys)


@pytest.mark.parametrize("deduplicates", [False, True])
def test_a_body_that_was_published_and_not_recorded_is_published_again_under_its_id(
    tmp_path: Path, rabbitmq_url: str, results: RedisServer, deduplicates: bool
) -> None:
    settings = {"task_acks_late": True, "worker_deduplicate_successful_tasks": True} if deduplicates else {}
    with results.client(0) as client:
        set_rights(client, writes=True)
        backend = results.url(0).replace("redis://", f"redis://{USER}:pw@")
        with ChordStage(tmp_path, rabbitmq_url, backend, worker_lease_duration=1, **settings) as stage:
            group_id, body_id = new_id(), new_id()
            body = signature_of("total", task_id=body_id, group_id=group_id, queue="bodies")
            stage.app.backend.open_chord(group_id, 2)
            for index in range(2):
                stage.send("double", index, chord=body, group_id=group_id, group_index=index)
            # It has the only slot while the chord falls due, and leaves no result itself.
            stage.send("held", 0, "gate", ignore_result=True)
            first = stage.worker("-c1", "-Q", "celery")
            stage.wait_for("begun", 0, timeout=60)
            wait_until(lambda: client.keys("umbel:chords:*"), timeout=60, what="a due chord")
            set_rights(client, writes=False)
            stage.open()
            wait_until(lambda: stage.broker.depth("bodies") == 1, timeout=60, what="the body's message")
            first.wait_for_line("Chords cannot be ended", timeout=60)
            first.kill9()
            set_rights(client, writes=True)
            second = stage.worker("-c1", "-Q", "celery")
            wait_until(
                lambda: stage.broker.depth("bodies") == 2, timeout=60, what="the body's second message"
            )
            second.terminate()
            # The same task twice, of which whoever needs it done once can tell by its id.
            taker = stage.worker("-c1", "-Q", "bodies")
            if deduplicates:
                taker.wait_for_line(rf"{body_id}\] .*already completed successfully", timeout=60)
            stage.wait_for("total", 2, count=1 if deduplicates else 2, timeout=60)
            stage.wait_empty("bodies", timeout=60)
            taker.terminate()
            assert len(stage.lines("total", "2")) == (1 if deduplicates else 2)
            assert stage.app.AsyncResult(body_id).get(timeout=60) == 2
            assert not client.keys("umbel:chords:*")
