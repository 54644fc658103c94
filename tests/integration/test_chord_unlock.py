"""Chords where nobody counts the parts: the task ``celery.chord_unlock`` looks at them again and again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_canvas_worker import CanvasStage
from tests.support.datastores import MemcachedServer
from tests.support.servers import RedisServer
from umbel import chord
from umbel.errors import ChordError

pytestmark = [pytest.mark.processes, pytest.mark.redis]


@pytest.fixture(params=["file system", "database", "memcached"])
def stage(request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path) -> Iterator[CanvasStage]:
    with redis_server.client(5) as client:
        client.flushdb()
    backend = make_backend(request, tmp_path)
    settings: dict[str, Any] = {
        "result_chord_retry_interval": 0.1,
        "worker_lease_duration": 1,
    }
    with CanvasStage(tmp_path, redis_server.url(5), backend, **settings) as made:
        made.app.conf.update(settings)
        assert not made.app.backend.native_chords
        yield made


def make_backend(request: pytest.FixtureRequest, directory: Path) -> str:
    """The address of an empty store that does not count."""
    match request.param:
        case "memcached":
            server: MemcachedServer = request.getfixturevalue("memcached_server")
            server.flush()
            return server.url()
        case "database":
            return f"db+sqlite:///{directory}/results.db"
    (directory / "results").mkdir()
    return f"file://{directory}/results"


def test_the_body_gets_the_parts_results(stage: CanvasStage) -> None:
    result = chord([stage.s("add", number, number) for number in range(5)], stage.s("total")).apply_async()
    stage.worker("-c2")
    assert result.get(timeout=60) == 20
    stage.wait_empty(timeout=60)


def test_a_failed_part_fails_the_body_with_its_reason(stage: CanvasStage) -> None:
    result = chord([stage.s("add", 1, 1), stage.s("fail")], stage.s("total")).apply_async()
    stage.worker("-c2")
    with pytest.raises(ChordError, match=r"Dependency \S+ raised ValueError\('no'\)"):
        stage.app.AsyncResult(result.id).get(timeout=60)
    stage.wait_empty(timeout=60)


def test_the_unlock_outlives_its_worker(stage: CanvasStage) -> None:
    """The last part waits while a worker that looks for it is killed; another goes on looking."""
    slow = stage.s("add", 3, 4).set(queue="later", immutable=True)
    result = chord([stage.s("add", 1, 1), slow], stage.s("total")).apply_async()
    assert stage.app.tasks["celery.chord_unlock"].acks_late
    first = stage.worker("-c2", "-Q", "celery")
    assert result.parent[0].get(timeout=60) == 2
    first.kill9()
    assert not result.ready()
    stage.worker("-c2", "-Q", "celery,later")
    assert result.get(timeout=60) == 9
    stage.wait_empty(timeout=60)
