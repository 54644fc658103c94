"""SIGKILL of a consumer and of the server in the middle of the work, with every message accounted for."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import end_session, spawn
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until
from umbel.brokers.options import BrokerOptions
from umbel.brokers.redis import RedisBroker
from umbel.core.protocol import peek
from umbel.core.records import Publication
from umbel.errors import BrokerError
from umbel.testing.contracts.support import message

pytestmark = [pytest.mark.redis, pytest.mark.processes]

ROOT = Path(__file__).parents[2]
LEASE = 1.0


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer(aof="always") as running:
        yield running


class Crew:
    """Consumer processes that are killed and replaced."""

    def __init__(self, server: RedisServer, directory: Path) -> None:
        self._server = server
        self._log = directory / "consumers.log"
        self._count = 0
        self._running = [self._start(), self._start()]

    def _start(self):  # type: ignore[no-untyped-def]
        self._count += 1
        arguments = (self._server.url(), f"consumer-{self._count}", str(LEASE))
        command = [sys.executable, "-m", "tests.support.redis_accountant", *arguments]
        return spawn(command, cwd=ROOT, output=self._log)

    def replace_one(self) -> None:
        end_session(self._running.pop(0))
        self._running.append(self._start())

    def end(self) -> None:
        for process in self._running:
            end_session(process)


@pytest.fixture
def crew(server: RedisServer, tmp_path: Path) -> Iterator[Crew]:
    crew = Crew(server, tmp_path)
    yield crew
    crew.end()


class Producer(threading.Thread):
    """Sends messages one by one and remembers which were confirmed."""

    def __init__(self, broker: RedisBroker, number: int) -> None:
        super().__init__()
        self._broker = broker
        self._messages: list[Publication] = [message(broker, str(name)) for name in range(number)]
        self.confirmed: set[str] = set()
        self.attempted: set[str] = set()

    def run(self) -> None:
        publisher = self._broker.publisher()
        for publication in self._messages:
            name = peek(publication.payload).id
            self.attempted.add(name)
            try:
                publisher.send([publication], timeout=5)
            except BrokerError:
                # It may or may not be there. The next one waits for the server: refusals come so fast that all the
                # others could be used up before it is back.
                wait_until(self._server_is_back, timeout=30, what="the server to be back")
                continue
            self.confirmed.add(name)
        publisher.close()

    def _server_is_back(self) -> bool:
        try:
            self._broker.depth("q")
        except BrokerError:
            return False
        return True


def moved(server: RedisServer) -> Counter[str]:
    with server.client() as client:
        payloads = client.lrange("done", 0, -1)
    return Counter(peek(payload).id for payload in payloads if isinstance(payload, bytes))


def settled(broker: RedisBroker) -> bool:
    return broker.depth("q") == 0 and broker.held_depth() == 0


def test_killed_consumers_lose_and_repeat_nothing(server: RedisServer, crew: Crew) -> None:
    broker = RedisBroker(server.url(), BrokerOptions())
    producer = Producer(broker, 1500)
    producer.start()
    for share in (100, 300, 500, 700, 900, 1100):
        wait_until(
            lambda share=share: broker.depth("done") >= share, timeout=60, what=f"{share} messages done"
        )
        crew.replace_one()
    producer.join()
    wait_until(lambda: broker.depth("done") >= 1500, timeout=60, what="all messages done")
    wait_until(lambda: settled(broker), timeout=30, what="nothing to be held")
    done = moved(server)
    assert producer.confirmed == producer.attempted == set(done)
    assert set(done.values()) == {1}
    broker.close()


def test_a_killed_server_keeps_what_it_confirmed(server: RedisServer, crew: Crew) -> None:
    broker = RedisBroker(server.url(), BrokerOptions())
    producer = Producer(broker, 1200)
    producer.start()
    for share in (100, 400, 700):
        wait_until(
            lambda share=share: broker.depth("done") >= share, timeout=60, what=f"{share} messages done"
        )
        server.restart()
    producer.join()
    wait_until(lambda: settled(broker), timeout=60, what="nothing to wait or be held")
    done = moved(server)
    assert producer.confirmed <= set(done) <= producer.attempted
    assert set(done.values()) == {1}
    broker.close()
