"""Routes, queues and exchanges from the settings to the worker: every task runs from the queues it belongs to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import pytest

from tests.support.waiting import wait_until
from umbel import Umbel
from umbel.core.ids import new_id
from umbel.core.queues import Broadcast
from umbel.core.routing import Exchange, Queue, binding
from umbel.errors import BrokerError, ImproperlyConfigured
from umbel.worker.worker import Worker

media = Exchange("media", type="topic")
logs = Exchange("logs", type="direct")

QUEUES = [
    Queue("default", Exchange("default"), routing_key="default"),
    Queue("critical", Exchange("critical"), routing_key="critical"),
    Queue("tenants", Exchange("tenants"), routing_key="tenants"),
    Queue("media", media, routing_key="media.#"),
    Queue("images", media, routing_key="media.image.*", bindings=[binding(media, "picture.*")]),
    Queue("errors", logs, routing_key="error"),
    Queue("alerts", logs, routing_key="error"),
]
ROUTES = {
    "app.tasks.critical.*": {"queue": "critical"},
    "app.tasks.tenant_*.process": {"queue": "tenants", "priority": 5},
    "app.tasks.encode": {"queue": "media", "routing_key": "media.video.encode"},
    "app.tasks.thumbnail": {"exchange": "media", "routing_key": "media.image.thumbnail"},
    "app.tasks.crash": {"exchange": "logs", "routing_key": "error"},
}
TASKS = ["critical.pay", "tenant_acme.process", "tenant_acme.list", "encode", "thumbnail", "crash", "other"]


class Program:
    """One application: a producer of its own, or a worker beside it in a thread."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.ran: list[tuple[str, str]] = []  #: what ran, and the worker that ran it
        self._running = ExitStack()

    def app(self, name: str, queues: list[Queue] | None = None) -> Umbel:
        app = Umbel("app", broker=self.url, backend=self.url, set_as_current=False)
        app.conf.task_default_queue = "default"
        app.conf.task_queues = queues
        app.conf.task_routes = ROUTES if queues else None
        for task in TASKS:
            self._add_task(app, task, name)
        self._running.callback(app.close)
        return app

    def _add_task(self, app: Umbel, task: str, worker: str) -> None:
        def run() -> None:
            self.ran.append((task, worker))

        app.task(name=f"app.tasks.{task}", shared=False)(run)

    @contextmanager
    def worker(self, *queues: str, own: Iterable[Queue] = ()) -> Iterator[None]:
        """A worker on some queues of all, and of its own, until the end of the block."""
        name = "+".join(queues)
        app = self.app(name, [*own, *QUEUES])
        ready = threading.Event()
        worker = Worker(app, pool="solo", queues=queues, hostname=f"{new_id()}@here", on_ready=ready.set)
        thread = threading.Thread(target=worker.start)
        thread.start()
        try:
            assert ready.wait(20)
            yield
        finally:
            worker.stop()
            thread.join(timeout=20)
            assert not thread.is_alive()

    def wait_ran(self, *expected: tuple[str, str]) -> None:
        wait_until(lambda: len(self.ran) >= len(expected), what=lambda: f"{expected}; ran: {self.ran}")
        assert sorted(self.ran) == sorted(expected)
        self.ran.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()


@pytest.fixture(params=["memory", "sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Program]:
    urls: dict[str, Callable[[], str]] = {
        "memory": lambda: f"memory://{new_id()}",
        "sqlite": lambda: f"sqlite:///{tmp_path}/umbel.db",
        "redis": lambda: request.getfixturevalue("redis_url"),
    }
    with Program(urls[request.param]()) as program:
        yield program


def depths(app: Umbel) -> dict[str, int]:
    found = {queue.name: app.broker.depth(queue.name) for queue in QUEUES}
    return {name: depth for name, depth in found.items() if depth}


@pytest.mark.parametrize(
    ("task", "options", "queues"),
    [
        ("critical.pay", {}, ["critical"]),
        ("tenant_acme.process", {}, ["tenants"]),
        ("tenant_acme.list", {}, ["default"]),
        ("other", {}, ["default"]),
        ("other", {"queue": "critical"}, ["critical"]),
        ("critical.pay", {"queue": "default"}, ["default"]),
        ("encode", {}, ["media"]),
        ("thumbnail", {}, ["images", "media"]),
        ("crash", {}, ["alerts", "errors"]),
        ("other", {"queue": "media"}, ["media"]),
        ("other", {"queue": "media", "routing_key": "media.image.x"}, ["images", "media"]),
        ("other", {"exchange": "media", "routing_key": "picture.x"}, ["images"]),
        ("other", {"exchange": media, "routing_key": "media.text"}, ["media"]),
        ("other", {"exchange": "critical", "routing_key": "critical"}, ["critical"]),
    ],
)
def test_the_routing_matrix(
    program: Program, task: str, options: dict[str, object], queues: list[str]
) -> None:
    """No worker has ever run: what the producer knows is enough."""
    app = program.app("producer", QUEUES)
    app.tasks[f"app.tasks.{task}"].apply_async(**options)
    assert depths(app) == dict.fromkeys(queues, 1)


def test_messages_arrive_at_the_workers_of_their_queues(program: Program) -> None:
    app = program.app("producer", QUEUES)
    with program.worker("media"), program.worker("images", "critical"), program.worker("errors"):
        for task in ("thumbnail", "encode", "crash", "critical.pay"):
            app.send_task(f"app.tasks.{task}")
        program.wait_ran(
            ("thumbnail", "media"),
            ("thumbnail", "images+critical"),
            ("encode", "media"),
            ("crash", "errors"),
            ("critical.pay", "images+critical"),
        )
    assert depths(app) == {"alerts": 1}


def test_a_producer_without_queues_reaches_what_workers_have_declared(program: Program) -> None:
    app = program.app("stranger")
    with program.worker("media", "images"):
        app.send_task("app.tasks.other", queue="media")
        program.wait_ran(("other", "media+images"))
        app.send_task("app.tasks.other", exchange="media", routing_key="media.image.x")
        program.wait_ran(("other", "media+images"), ("other", "media+images"))
    app.send_task("app.tasks.other", exchange="media", routing_key="media.later")
    assert depths(app) == {"media": 1}


def test_a_message_for_no_queue_is_refused(program: Program) -> None:
    app = program.app("producer", QUEUES)
    with pytest.raises(BrokerError, match="topic exchange 'media' for routing key 'music"):
        app.send_task("app.tasks.other", exchange="media", routing_key="music.mp3")
    with pytest.raises(BrokerError, match="exchange 'typo' for routing key 'media"):
        app.send_task("app.tasks.other", exchange="typo", routing_key="media.x")
    assert depths(app) == {}


def test_a_link_for_no_queue_is_kept(program: Program) -> None:
    app = program.app("producer", QUEUES)
    link = app.signature("app.tasks.other", exchange="media", routing_key="music.mp3", immutable=True)
    with program.worker("default"):
        result = app.send_task("app.tasks.other", link=link)
        assert result.get(timeout=10) is None
        [letter] = wait_until(lambda: app.broker.dead_letters("default", 5), what="the dead letter")
    assert "'music.mp3'" in letter.reason
    assert app.broker.held_depth() == 0


def test_every_worker_runs_what_is_broadcast(program: Program) -> None:
    app = program.app("producer", [Broadcast("everybody"), *QUEUES])
    with (
        program.worker("everybody", own=[Broadcast("everybody")]),
        program.worker("everybody", "critical", own=[Broadcast("everybody")]),
    ):
        for number in range(2):
            app.send_task("app.tasks.other", queue="everybody", countdown=number / 10)
        app.send_task("app.tasks.critical.pay")
        program.wait_ran(
            *[("other", "everybody"), ("other", "everybody+critical")] * 2,
            ("critical.pay", "everybody+critical"),
        )
    assert app.broker.held_depth() == 0


class TestQueuesThatNobodyDeclared:
    def test_they_are_made(self) -> None:
        app = Umbel("app", broker=f"memory://{new_id()}", set_as_current=False)
        worker = Worker(app, pool="solo", queues=["new"])
        assert worker.queues == ("new",)
        assert app.amqp.queues["new"].exchange.name == "new"

    def test_unless_that_is_off(self) -> None:
        app = Umbel("app", broker=f"memory://{new_id()}", set_as_current=False)
        app.conf.task_create_missing_queues = False
        app.conf.task_queues = [Queue("known", alias="k")]
        assert Worker(app, pool="solo", queues=["k"]).queues == ("known",)
        with pytest.raises(ImproperlyConfigured, match=r"'new'.*task_create_missing_queues"):
            Worker(app, pool="solo", queues=["known", "new"])
