"""``celery.contrib.migrate``: messages by id and by task name, on brokers of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from umbel import Umbel
from umbel.compat.celery.contrib.migrate import (
    filter_status,
    migrate_tasks,
    move,
    move_by_idmap,
    move_by_taskmap,
    move_direct_by_id,
    move_task_by_id,
    task_id_eq,
    task_id_in,
)
from umbel.core.queues import Queue


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("amqp", marks=pytest.mark.rabbitmq),
    ]
)
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/source.db"
    url: str = request.getfixturevalue("redis_url" if request.param == "redis" else "rabbitmq_url")
    return url


@pytest.fixture
def app(broker: str) -> Iterator[Umbel]:
    with Umbel("moving", broker=broker, backend="disabled://", set_as_current=False) as app:
        yield app


def waiting(app: Umbel, queue: str = "celery") -> list[str]:
    with app.connection() as connection:
        simple = connection.SimpleQueue(queue)
        return [simple.get_nowait().headers["task"] for _ in range(simple.qsize())]


def test_tasks_go_where_their_ids_and_names_say(app: Umbel) -> None:
    ids = [app.send_task(name).id for name in ("a", "b", "c", "d", "e")]
    assert move_task_by_id(ids[1], Queue("urgent"), app=app).filtered == 1
    assert move_by_idmap({ids[2]: Queue("urgent")}, app=app).filtered == 1
    assert move_by_taskmap({"d": Queue("late")}, app=app).filtered == 1
    assert waiting(app, "urgent") == ["b", "c"]
    assert waiting(app, "late") == ["d"]
    assert waiting(app) == ["a", "e"]


def test_a_task_goes_to_one_worker(app: Umbel) -> None:
    task_id = app.send_task("a").id
    move_direct_by_id(task_id, "w@here", app=app)
    assert waiting(app, "w@here.dq2") == ["a"]


def test_filters_choose_by_id(app: Umbel, capsys: Any) -> None:
    ids = [app.send_task(name).id for name in ("a", "b")]

    def chosen(body: Any, message: Any) -> Any:
        return (
            Queue("urgent") if task_id_eq(ids[0], body, message) and task_id_in(ids, body, message) else None
        )

    move(chosen, app=app, callback=filter_status)
    assert waiting(app, "urgent") == ["a"]
    assert capsys.readouterr().out == f"Moving task 1/2: a[{ids[0]}]\n"


def test_a_broker_is_emptied_into_another(app: Umbel, tmp_path: Path) -> None:
    for name in ("a", "b"):
        app.send_task(name)
    with Umbel("other", broker=f"sqlite:///{tmp_path}/other.db", set_as_current=False) as other:
        with app.connection() as source, other.connection() as destination:
            assert migrate_tasks(source, destination, app=app, ack_messages=True).count == 2
        assert waiting(other) == ["a", "b"]
    assert waiting(app) == []
