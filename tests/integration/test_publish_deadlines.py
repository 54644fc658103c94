"""No publish hangs: on a frozen server it ends with PublishTimeout, connected or not, blocking or awaited."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self

import pytest

from tests.support.proxy import TcpProxy
from tests.support.servers import HOST, RedisServer
from umbel import Umbel
from umbel.core.protocol import read_envelope
from umbel.core.repeats import REPEATED
from umbel.errors import OperationalError, PublishTimeout

#: Seconds: what a publish may take here, and the bound that says it did not take some other timeout instead.
TIMEOUT, BOUND = 0.5, 3.5


class Frozen:
    """A broker's URL, and how to have it fall silent."""

    def __init__(self, url: str, freeze: Callable[[], None], thaw: Callable[[], None]) -> None:
        self.url = url
        self._freeze = freeze
        self.thaw = thaw

    def freeze(self) -> float:
        """Give no answer from now on; says when that was."""
        self._freeze()
        return time.monotonic()


@pytest.fixture(params=["redis", "rabbitmq"])
def server(request: pytest.FixtureRequest) -> Iterator[Frozen]:
    if request.param == "redis":
        with RedisServer() as server:
            yield Frozen(server.url(), server.freeze, server.thaw)
            server.thaw()
        return
    path = "/" + request.getfixturevalue("rabbitmq_url").rpartition("/")[2]
    with TcpProxy(request.getfixturevalue("rabbitmq_server").port) as proxy:
        yield Frozen(proxy.url(path=path), proxy.freeze, proxy.thaw)


@pytest.fixture
def app(server: Frozen) -> Iterator[Umbel]:
    with Umbel("frozen", broker=server.url, set_as_current=False) as app:
        app.conf.broker_publish_timeout = TIMEOUT
        yield app
        server.thaw()


@pytest.mark.parametrize("connected", [True, False])
def test_a_publish_to_a_frozen_server_ends(app: Umbel, server: Frozen, connected: bool) -> None:
    if connected:
        app.conf.broker_publish_timeout = 30
        app.send_task("a")
        app.conf.broker_publish_timeout = TIMEOUT
    began = server.freeze()
    with pytest.raises(PublishTimeout, match=r"within 0\.5 seconds"):
        app.send_task("a")
    assert time.monotonic() - began < BOUND


@pytest.mark.parametrize("connected", [True, False])
async def test_an_awaited_publish_to_a_frozen_server_ends(
    app: Umbel, server: Frozen, connected: bool
) -> None:
    if connected:
        app.conf.broker_publish_timeout = 30
        await app.asend_task("a")
        app.conf.broker_publish_timeout = TIMEOUT
    began = server.freeze()
    with pytest.raises(PublishTimeout, match=r"within 0\.5 seconds"):
        await app.asend_task("a")
    assert time.monotonic() - began < BOUND


def do_nothing() -> None:
    """A task."""


class Closing:
    """Takes connections, counts them, and closes each at once."""

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0))
        self._serving = threading.Thread(target=self._serve, daemon=True)
        self.url = f"redis://{HOST}:{self._listener.getsockname()[1]}/0"
        self.accepted = 0

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # __exit__ has shut it down
            self.accepted += 1
            connection.close()

    def __enter__(self) -> Self:
        self._serving.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._serving.join()
        self._listener.close()


def test_a_publish_may_take_ten_seconds_where_nothing_is_said() -> None:
    with Umbel("plain", broker="memory://", set_as_current=False) as app:
        assert app.conf.broker_publish_timeout == 10


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize(("retry", "attempts"), [(True, 4), (False, 1)])
async def test_a_broker_that_is_away_is_tried_as_often_as_the_policy_says(
    retry: bool, attempts: int, awaited: bool
) -> None:
    policy = {"max_retries": 3, "interval_start": 0, "interval_step": 0.01, "interval_max": 0.02}
    with Closing() as nobody:
        app = Umbel("away", broker=nobody.url, set_as_current=False)
        t = app.task(name="t")(do_nothing)
        options = {"retry": retry, "retry_policy": policy}
        with pytest.raises(OperationalError, match=r"Redis|redis://"):
            await t.aapply_async(**options) if awaited else t.apply_async(**options)
        assert nobody.accepted == attempts
        app.close()


@pytest.mark.parametrize("awaited", [False, True])
async def test_what_is_sent_again_because_its_answer_was_lost_says_so(
    redis_server: RedisServer, redis_url: str, awaited: bool
) -> None:
    with TcpProxy(redis_server.port) as proxy:
        app = Umbel(
            "again",
            broker=proxy.url("redis", redis_url.rpartition("/")[2]),
            backend=None,
            set_as_current=False,
        )
        t = app.task(name="t")(do_nothing)

        async def send() -> None:
            await t.adelay() if awaited else t.delay()

        await send()
        # What the server says next is cut off after its first byte: it has the message.
        proxy.cut_after(1, towards="client")
        await send()
        proxy.wait_cut()
        with redis_server.client(int(redis_url.rpartition("/")[2])) as client:
            payloads: list[bytes] = list(reversed(client.lrange("celery", 0, -1)))  # type: ignore[call-overload]
        found = [read_envelope(payload).headers for payload in payloads]
        assert [REPEATED in headers for headers in found] == [False, False, True]
        assert found[1]["id"] == found[2]["id"] != found[0]["id"]
        app.close()
