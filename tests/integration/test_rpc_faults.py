"""Results on their way to their caller when connections end, or RabbitMQ does."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.support.proxy import TcpProxy
from tests.support.rabbitmq import RabbitMqServer
from tests.support.waiting import wait_until
from umbel.errors import OperationalError
from umbel.results.options import ResultOptions, SendingOptions
from umbel.results.posts import post_for
from umbel.results.rpc import RpcResultBackend
from umbel.testing.contracts.results import document, record

pytestmark = pytest.mark.rabbitmq


@pytest.fixture
def queue() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def connect(queue: str) -> Iterator[Callable[..., RpcResultBackend]]:
    """Make a backend whose caller's queue is ``queue``."""
    made: list[RpcResultBackend] = []

    def make(url: str, *, persistent: bool = False) -> RpcResultBackend:
        sending = SendingOptions(reply_to=lambda: queue, urls=url, persistent=persistent)
        options = ResultOptions(sending=sending)
        made.append(RpcResultBackend(post_for("rpc://", options), options))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


class Waiting:
    """Somebody who waits for one result in a thread."""

    def __init__(self, backend: RpcResultBackend, task_id: str) -> None:
        self.found: list[tuple[str, bytes]] = []
        self._thread = threading.Thread(target=lambda: self.found.extend(backend.wait([task_id], 20)))
        self._thread.start()

    def end(self) -> list[tuple[str, bytes]]:
        self._thread.join(20)
        return self.found


def test_who_waits_gets_it_though_every_connection_was_closed(
    rabbitmq_server: RabbitMqServer, rabbitmq_url: str, connect, queue: str
) -> None:
    reader, saver = connect(rabbitmq_url), connect(rabbitmq_url)
    reader.expect(["a"])
    for number in range(3):
        task_id = f"task {number}"
        waiting = Waiting(reader, task_id)
        vhost = rabbitmq_url.rpartition("/")[2]
        wait_until(lambda vhost=vhost: rabbitmq_server.consumers(vhost) == {queue: 1}, what="a reader")
        assert rabbitmq_server.close_connections() >= 2
        saver.save([record(task_id, reply_to=queue)])
        assert waiting.end() == [(task_id, document(task_id))]


def test_what_came_while_its_reader_was_cut_off_is_still_there(
    rabbitmq_server: RabbitMqServer, rabbitmq_url: str, connect, queue: str
) -> None:
    """Celery's queue would be gone with its reader's connection."""
    with TcpProxy(rabbitmq_server.port) as proxy:
        reader, saver = connect(proxy.url(path=rabbitmq_url.rpartition("/")[2])), connect(rabbitmq_url)
        reader.expect(["a"])
        assert reader.load(["a"]) == [None]
        waiting = Waiting(reader, "a")
        proxy.refuse()
        assert proxy.cut() >= 2
        saver.save([record("a", reply_to=queue), record("b", reply_to=queue)])
        proxy.accept()
        assert waiting.end() == [("a", document("a"))]
        assert reader.load(["b"]) == [document("b")]


def test_persistent_ones_outlive_the_server(connect, queue: str) -> None:
    with RabbitMqServer() as server:
        saver = connect(server.url(), persistent=True)
        saver.expect(["a"])
        saver.save([record("a", reply_to=queue)])
        saver_of_what_is_lost = connect(server.url())
        saver_of_what_is_lost.save([record("b", reply_to=queue)])
        server.kill9()
        server.restart()
        assert saver.load(["a", "b"]) == [document("a"), None]
        for backend in (saver, saver_of_what_is_lost):
            backend.close()


def test_without_a_server_those_who_wait_are_told(
    connect, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("umbel.stores.collecting.PATIENCE", 0.3)
    monkeypatch.setattr("umbel.results.rpc._RETRY_DELAY", 0)
    with TcpProxy(1) as proxy:
        proxy.refuse()
        backend = connect(proxy.url())
        with pytest.raises(OperationalError, match="cannot connect to amqp://guest"):
            backend.expect(["a"])
        with pytest.raises(OperationalError, match="cannot connect to amqp://guest"):
            backend.save([record("a", reply_to=queue)])


def test_a_reader_that_loses_the_server_for_good_gives_up_and_may_try_again(
    rabbitmq_server: RabbitMqServer, rabbitmq_url: str, connect, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("umbel.stores.collecting.PATIENCE", 0.5)
    with TcpProxy(rabbitmq_server.port) as proxy:
        backend = connect(proxy.url(path=rabbitmq_url.rpartition("/")[2]))
        backend.expect(["a"])
        assert backend.load(["a"]) == [None]
        proxy.refuse()
        proxy.cut()
        with pytest.raises(OperationalError, match="cannot connect"):
            list(backend.wait(["a"], 20))
        proxy.accept()
        connect(rabbitmq_url).save([record("a", reply_to=queue)])
        assert list(backend.wait(["a"], 20)) == [("a", document("a"))]
