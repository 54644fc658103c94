"""Messages moved between queues and brokers: none is lost, none is changed, what was only looked at stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from umbel import Umbel
from umbel.client.connection import Connection
from umbel.client.moving import (
    State,
    StopFiltering,
    migrate_tasks,
    move,
    prepare_queues,
    republish,
    start_filter,
)
from umbel.core.queues import Exchange, Queue


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Umbel]:
    app = Umbel(
        "moving", broker=f"sqlite:///{tmp_path}/source.db", backend="disabled://", set_as_current=False
    )
    yield app
    app.close()


@pytest.fixture
def source(app: Umbel) -> Iterator[Connection]:
    with app.connection() as connection:
        yield connection


@pytest.fixture
def destination(tmp_path: Path) -> Iterator[Connection]:
    with Connection(f"sqlite:///{tmp_path}/destination.db") as connection:
        yield connection


def send(app: Umbel, *names: str, **options: Any) -> list[str]:
    return [app.send_task(name, (name,), **options).id for name in names]


def ids(connection: Connection, queue: str = "celery") -> list[str]:
    """The ids of the tasks that wait, in their order; they go on waiting."""
    with connection.clone() as reading:
        taken = []
        simple = reading.SimpleQueue(queue)
        while simple.qsize():
            taken.append(simple.get_nowait().headers["id"])
        return taken


def test_a_copy_leaves_what_it_copied(app: Umbel, source: Connection, destination: Connection) -> None:
    sent = send(app, "a", "b", "c")
    seen: list[str] = []
    state = migrate_tasks(
        source,
        destination,
        app=app,
        timeout=0.05,
        callback=lambda state, body, message: seen.append(f"{state!r} {body[0]} {body['task']}"),
    )
    assert ids(source) == ids(destination) == sent
    assert (state.count, state.strtotal) == (3, "3")
    assert seen == ["1/3 ['a'] a", "2/3 ['b'] b", "3/3 ['c'] c"]


def test_acknowledged_messages_are_only_at_the_destination(
    app: Umbel, source: Connection, destination: Connection
) -> None:
    """The last one within the limit too: Celery copies that one and leaves it."""
    sent = send(app, "a", "b", "c")
    migrate_tasks(source, destination, app=app, timeout=0.05, ack_messages=True, limit=2)
    assert ids(destination) == sent[:2]
    assert ids(source) == sent[2:]


def test_only_the_chosen_tasks_are_taken(app: Umbel, source: Connection, destination: Connection) -> None:
    sent = send(app, "a", "b", "a", "c")
    state = migrate_tasks(source, destination, app=app, timeout=0.05, ack_messages=True, tasks="a,c")
    assert state.count == 3
    assert ids(destination) == [sent[0], sent[2], sent[3]]
    assert ids(source) == [sent[1]]


def test_queues_are_renamed(app: Umbel, source: Connection, destination: Connection) -> None:
    sent = send(app, "a") + send(app, "b", queue="video") + send(app, "c", queue="left")
    migrate_tasks(source, destination, app=app, timeout=0.05, queues="video:film,celery", ack_messages=True)
    assert ids(destination) == sent[:1]
    assert ids(destination, "film") == sent[1:2]
    assert ids(source, "left") == sent[2:]


def test_a_message_arrives_as_it_was(app: Umbel, source: Connection, destination: Connection) -> None:
    """Its priority, its expiry and a body that nobody here may decode are kept."""
    options = {"priority": 3, "expires": 600, "compression": "zlib", "serializer": "pickle"}
    send(app, "a", **options)
    state = migrate_tasks(source, destination, app=app, timeout=0.05, ack_messages=True)
    assert state.count == 1
    with destination.clone() as reading:
        message = reading.SimpleQueue("celery").get_nowait()
        assert (message.content_type, message.content_encoding) == (
            "application/x-python-serialize",
            "binary",
        )
        assert message.properties["priority"] == 3
        assert message.headers["compression"] == "application/x-gzip"
        assert message.headers["task"] == "a"


def test_moving_by_what_a_predicate_says(app: Umbel, source: Connection) -> None:
    first, second, third, fourth = send(app, "a", "b", "c", "d")
    video = Queue("video", Exchange("media", type="topic"), routing_key="video.#")
    places = {first: video, second: "films", third: ("", "pair"), fourth: True}
    state = move(
        lambda body, message: places[body["id"]], app=app, routing_key="rest", timeout=0.05, exchange=""
    )
    assert state.filtered == 4
    assert [ids(source, name) for name in ("celery", "video", "films", "pair", "rest")] == [
        [],
        [first],
        [second],
        [third],
        [fourth],
    ]


def test_moving_stops_at_its_limit_and_leaves_the_rest_in_order(app: Umbel, source: Connection) -> None:
    sent = send(app, "a", "b", "c", "d")
    told: list[str] = []
    state = move(
        lambda body, message: body["task"] != "a",
        app=app,
        transform=lambda answer: "other",
        limit=2,
        timeout=0.05,
        callback=lambda state, body, message: told.append(f"{state!r}{body['task']}"),
    )
    assert (state.filtered, told) == (2, ["^1b", "^2c"])
    assert ids(source, "other") == sent[1:3]
    assert ids(source) == [sent[0], sent[3]]


def test_a_filter_that_fails_leaves_everything(app: Umbel, source: Connection) -> None:
    sent = send(app, "a", "b")

    def fail(body: Any, message: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        start_filter(app, source, fail, timeout=0.05)
    assert ids(source) == sent


def test_a_filter_may_end_it(app: Umbel, source: Connection, destination: Connection) -> None:
    sent = send(app, "a", "b")
    producer = destination.Producer()

    def first_only(body: Any, message: Any) -> None:
        republish(producer, message, routing_key="elsewhere")
        raise StopFiltering

    state = start_filter(app, source, first_only, timeout=0.05, state=State())
    producer.close()
    assert state.count == 1
    assert ids(source) == sent
    assert ids(destination, "elsewhere") == sent[:1]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, {}),
        ("a", {"a": "a"}),
        ("a:b,c", {"a": "b", "c": "c"}),
        (["a:b"], {"a": "b"}),
        ({"a": "b"}, {"a": "b"}),
    ],
)
def test_names_of_queues(given: Any, expected: dict[str, str]) -> None:
    assert prepare_queues(given) == expected
