"""Chords with real workers: counted once, completed once, whoever is killed and whoever runs the parts.

``FAULTS_ROUNDS=50 pytest -o faulthandler_timeout=0 -k killed tests/integration/test_chords.py`` for the long form.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.integration.apps.stage import Stage
from tests.support.peers import celery_worker, interop_python
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess, umbel_worker
from umbel.core.ids import new_id
from umbel.errors import ChordError
from umbel.results.handles import AsyncResult, GroupResult

pytestmark = pytest.mark.processes

APP = Path(__file__).parent / "apps" / "chords.py"
#: How many workers are killed.
KILLS = int(os.environ.get("FAULTS_ROUNDS", "6"))


class ChordStage(Stage):
    """A stage for the application in ``chords``, which sends chords part by part."""

    def worker(self, *options: str, ready: bool = True, env: dict[str, str] | None = None) -> WorkerProcess:
        environment = {
            "STAGE": str(self.directory),
            "BROKER": self.broker_url,
            "BACKEND": self.backend_url,
            "SETTINGS": json.dumps(self.settings),
        }
        worker = self._running.enter_context(umbel_worker(APP, *options, env=environment | (env or {})))
        return worker.ready() if ready else worker

    def send(self, name: str, *args: object, **options: Any) -> AsyncResult[Any]:
        return self.app.send_task(f"chords.{name}", args, **options)

    def chord(
        self, parts: list[tuple[Any, ...]], body: str = "total", **options: Any
    ) -> tuple[str, AsyncResult[Any]]:
        """Send a chord of (task name, argument...) and a body; the group's id and the body's result."""
        group_id, body_id = new_id(), new_id()
        signature = signature_of(body, task_id=body_id, group_id=group_id, **options)
        self.app.backend.open_chord(group_id, len(parts))
        for index, (name, *args) in enumerate(parts):
            self.send(name, *args, chord=signature, group_id=group_id, group_index=index)
        return group_id, self.app.AsyncResult(body_id)


def signature_of(name: str, *args: object, **options: Any) -> dict[str, Any]:
    return {
        "task": f"chords.{name}",
        "args": list(args),
        "kwargs": {},
        "options": options,
        "subtask_type": None,
        "immutable": False,
    }


Place = Callable[..., ChordStage]


@pytest.fixture(params=["redis", "sqlite", "redis and sqlite", "two redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Makes stages whose broker and backend are one store, or two."""
    file = f"sqlite:///{tmp_path}/jobs.db"
    urls = [file, file]
    if "redis" in request.param:
        server: RedisServer = request.getfixturevalue("redis_server")
        for database in range(2):
            with server.client(database) as client:
                client.flushdb()
        urls = {
            "redis": [server.url(0), server.url(0)],
            "redis and sqlite": [server.url(0), file],
            "two redis": [server.url(0), server.url(1)],
        }[request.param]
    with ExitStack() as stages:

        def make(**settings: Any) -> ChordStage:
            return stages.enter_context(ChordStage(tmp_path, *urls, **settings))

        yield make


def test_the_body_gets_the_results_in_order_once(place: Place) -> None:
    stage = place()
    _, result = stage.chord([("double", number) for number in range(20)], body="collect")
    stage.worker("-c2")
    assert result.get(timeout=15) == [2 * number for number in range(20)]
    assert len(stage.lines("collect")) == 1


def test_parts_whose_results_are_ignored_count_too(place: Place) -> None:
    stage = place()
    group_id, result = stage.chord([("double_quietly", 1), ("double", 2)])
    stage.worker("-c1")
    assert result.get(timeout=15) == 6
    assert stage.app.backend.chord_entries(group_id) == []  # nothing is left of it


def test_a_failed_part_fails_the_body_and_calls_its_error_callbacks(place: Place) -> None:
    stage = place()
    errbacks = [signature_of("told_id"), signature_of("told_error")]
    group_id, result = stage.chord([("double", 1), ("fail", "no")], link_error=errbacks)
    stage.worker("-c1")
    with pytest.raises(ChordError, match=r"Dependency \S+ raised ValueError\('no'\)"):
        result.get(timeout=15)
    assert stage.wait_for("told", result.id)
    assert stage.wait_for("told_error", result.id, "ChordError")
    assert len(stage.app.backend.chord_entries(group_id)) == 2  # kept, as Celery keeps them
    assert not stage.lines("total")


def test_a_revoked_part_fails_the_body(place: Place) -> None:
    stage = place()
    signature = signature_of("total", task_id=new_id(), group_id="g1")
    stage.app.backend.open_chord("g1", 2)
    for index in range(2):
        stage.send(
            "double",
            1,
            chord=signature,
            group_id="g1",
            group_index=index,
            expires=datetime.now(UTC) - timedelta(seconds=10) if index else None,
        )
    stage.worker("-c1")
    with pytest.raises(ChordError, match="TaskRevokedError"):
        stage.app.AsyncResult(signature["options"]["task_id"]).get(timeout=15)


def test_groups_in_the_header_are_lists_of_the_body(place: Place) -> None:
    stage = place()
    group_id, ids = new_id(), [new_id() for _ in range(4)]
    inner = GroupResult(new_id(), [AsyncResult(ids[1]), AsyncResult(ids[2])])
    whole = GroupResult(group_id, [AsyncResult(ids[0]), inner, AsyncResult(ids[3])], app=stage.app)
    whole.save()
    stage.app.backend.open_chord(group_id, 4)
    signature = signature_of("collect", task_id=new_id(), group_id=group_id)
    for index, task_id in enumerate(ids):
        stage.send("double", index, task_id=task_id, chord=signature, group_id=group_id, group_index=index)
    stage.worker("-c2")
    body = stage.app.AsyncResult(signature["options"]["task_id"])
    assert body.get(timeout=15) == [0, [2, 4], 6]


def test_a_chain_that_fails_early_fails_every_part_it_would_have_become(place: Place) -> None:
    stage = place()
    group_id, body_id = new_id(), new_id()
    body = signature_of("total", task_id=body_id, group_id=group_id)
    stage.app.backend.open_chord(group_id, 3)
    place_in = {"chord": body, "group_id": group_id}
    members = [signature_of("double", task_id=new_id(), group_index=index, **place_in) for index in (1, 2)]
    group = signature_of("group", task_id=new_id()) | {
        "task": "celery.group",
        "kwargs": {"tasks": members},
        "subtask_type": "group",
    }
    stage.send("double", 1, group_index=0, **place_in)
    stage.send("fail", "early", chain=[group])
    stage.worker("-c1")
    with pytest.raises(ChordError, match="early"):
        stage.app.AsyncResult(body_id).get(timeout=15)
    for member in members:
        assert stage.app.AsyncResult(member["options"]["task_id"]).state == "FAILURE"


def test_the_members_of_a_group_body_fail_each(place: Place) -> None:
    stage = place()
    group_id = new_id()
    members = [signature_of("double", task_id=new_id(), link_error=[signature_of("told_id")]) for _ in "ab"]
    body = signature_of("", task_id=new_id()) | {
        "task": "celery.group",
        "kwargs": {"tasks": members},
        "subtask_type": "group",
    }
    stage.app.backend.open_chord(group_id, 1)
    stage.send("fail", "no", chord=body, group_id=group_id, group_index=0)
    stage.worker("-c1")
    for member in members:
        with pytest.raises(ValueError, match="no"):
            stage.app.AsyncResult(member["options"]["task_id"]).get(timeout=15)
        stage.wait_for("told", member["options"]["task_id"])


@pytest.mark.parametrize("place", ["redis", "sqlite"], indirect=True)
def test_a_worker_completes_what_the_counter_of_the_last_part_did_not(place: Place) -> None:
    stage = place()
    group_id = new_id()
    body = signature_of("total", task_id=new_id(), group_id=group_id)
    stage.app.backend.set_chord_size(group_id, 2)
    # As by a worker that is killed between the two steps: counted, and nobody there to complete it.
    for index in range(2):
        request = {"id": f"{group_id}-{index}", "group": group_id, "group_index": index, "chord": body}
        stage.app.backend.on_chord_part_return(request, "SUCCESS", index + 1)
    stage.worker("-c1")
    stage.worker("-c1")
    assert stage.app.AsyncResult(body["options"]["task_id"]).get(timeout=20) == 3
    assert len(stage.lines("total")) == 1


@pytest.mark.timeout(120 + 10 * KILLS)
def test_every_chord_completes_once_while_workers_are_killed(place: Place) -> None:
    # A message that is lost with its worker for the third time is not to blame here.
    stage = place(worker_lease_duration=1, worker_prefetch_multiplier=2, task_quarantine_after=0)
    dice = random.Random(20261122)
    chords, parts = max(50, 4 * KILLS), 4
    workers = [stage.worker("-c2"), stage.worker("-c2")]
    results = [
        # A body that is acknowledged when it begins ends with the worker that is killed then, as any such task.
        stage.chord([("late", number, dice.uniform(0, 0.06)) for number in range(parts)], "total_late")[1]
        for _ in range(chords)
    ]
    for kill in range(KILLS):
        ended = chords * (kill + 1) // (KILLS + 2)
        wait_until(
            lambda ended=ended: sum(result.ready() for result in results) >= ended,
            timeout=40,
            what=f"{ended} chords to be completed",
        )
        victim = dice.randrange(2)
        workers[victim].kill9()
        workers[victim] = stage.worker("-c2", ready=False)
    for result in results:
        assert result.get(timeout=60) == sum(range(parts))
    stage.wait_empty()
    # A body is published once. It runs again only where it was killed itself before it was acknowledged.
    assert chords <= len(stage.lines("total")) <= chords + 2 * KILLS
    for result in results:
        assert stage.app.AsyncResult(result.id).state == "SUCCESS"


def test_ten_thousand_parts_complete_within_seconds(redis_server: RedisServer, tmp_path: Path) -> None:
    with redis_server.client(0) as client:
        client.flushdb()
    with ChordStage(tmp_path, redis_server.url(0)) as stage:
        stage.worker("-c2", "--loglevel", "WARNING", ready=False)
        _, result = stage.chord([("double", number) for number in range(10_000)])
        begun = time.monotonic()
        assert result.get(timeout=60) == 10_000 * 9_999
        assert time.monotonic() - begun < 30


@pytest.fixture
def mixed(redis_server: RedisServer, tmp_path: Path) -> Iterator[ChordStage]:
    """A worker of each library; each takes from the queue of its name."""
    with redis_server.client(0) as client:
        client.flushdb()
    python = interop_python()
    with ChordStage(tmp_path, redis_server.url(0)) as stage, ExitStack() as others:
        stage.worker("-c1", "-Q", "umbel")
        environment = {
            "STAGE": str(tmp_path),
            "BROKER": stage.broker_url,
            "BACKEND": stage.backend_url,
            "LIBRARY": "celery",
        }
        options = ("-c1", "-Q", "celery", "--without-mingle", "--without-gossip")
        others.enter_context(celery_worker(python, APP, *options, env=environment)).ready()
        yield stage


@pytest.mark.interop
@pytest.mark.parametrize("order", ["umbel celery umbel celery", "celery umbel celery umbel"])
def test_the_parts_of_a_chord_run_on_celery_and_umbel_alternately(mixed: ChordStage, order: str) -> None:
    for round_ in range(4):
        queues = order.split()
        group_id, body_id = new_id(), new_id()
        body = signature_of(
            "collect", task_id=body_id, group_id=group_id, queue="celery" if round_ % 2 else "umbel"
        )
        mixed.app.backend.open_chord(group_id, len(queues))
        for index, queue in enumerate(queues):
            part = mixed.send("double", index, queue=queue, chord=body, group_id=group_id, group_index=index)
            part.get(timeout=15)  # so that the last one is who it is
        assert mixed.app.AsyncResult(body_id).get(timeout=15) == [2 * index for index in range(len(queues))]
    assert len(mixed.lines("collect")) == 4


@pytest.mark.interop
@pytest.mark.parametrize("last", ["umbel", "celery"])
def test_a_part_that_failed_on_the_other_library_fails_the_body(mixed: ChordStage, last: str) -> None:
    first = "celery" if last == "umbel" else "umbel"
    group_id, body_id = new_id(), new_id()
    body = signature_of("total", task_id=body_id, group_id=group_id, queue="umbel")
    mixed.app.backend.open_chord(group_id, 2)
    options: dict[str, Any] = {"chord": body, "group_id": group_id}
    mixed.send("fail", "no", queue=first, group_index=0, **options).get(timeout=15, propagate=False)
    mixed.send("double", 1, queue=last, group_index=1, **options).get(timeout=15)
    with pytest.raises(ChordError, match=r"Dependency \S+ raised ValueError\('no'\)"):
        mixed.app.AsyncResult(body_id).get(timeout=15)


@pytest.mark.interop
def test_a_repeated_part_counts_once_whichever_library_repeats_it(mixed: ChordStage) -> None:
    group_id, body_id, task_id = new_id(), new_id(), new_id()
    body = signature_of("total", task_id=body_id, group_id=group_id, queue="umbel")
    mixed.app.backend.open_chord(group_id, 2)
    options: dict[str, Any] = {"chord": body, "group_id": group_id}
    for queue in ("umbel", "celery", "umbel"):
        mixed.send("double", 5, queue=queue, task_id=task_id, group_index=0, **options).get(timeout=15)
    mixed.send("double", 1, queue="umbel").get(timeout=15)
    mixed.send("double", 1, queue="celery").get(timeout=15)
    assert len(mixed.app.backend.chord_entries(group_id)) == 1
    mixed.send("double", 6, queue="celery", group_index=1, **options)
    assert mixed.app.AsyncResult(body_id).get(timeout=15) == 22
