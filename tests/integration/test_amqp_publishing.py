"""Publishing to a real RabbitMQ: what is confirmed is there, and whatever goes wrong is told by the deadline."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from tests.support.proxy import TcpProxy
from tests.support.rabbitmq import RabbitMqServer
from tests.support.waiting import wait_until
from umbel import Umbel
from umbel.brokers.base import FetchPlan, PipelinedPublisher
from umbel.brokers.options import BrokerOptions
from umbel.brokers.urls import broker_from_url
from umbel.core.destination import Destination
from umbel.core.message import Call
from umbel.core.protocol import build_message, encode, peek
from umbel.core.queues import Broadcast, Exchange, Queue
from umbel.core.records import Publication
from umbel.core.topology import define
from umbel.errors import BrokerConnectionError, BrokerError, EncodeError, PublishTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from umbel.brokers.base import Broker

    Connect = Callable[..., Broker]
    Send = Callable[[Broker, list[Publication], float], None]

PATIENCE = 10.0


@pytest.fixture
def vhost(rabbitmq_url: str) -> str:
    """The test's own, unquoted."""
    return unquote(rabbitmq_url.rpartition("/")[2])


@pytest.fixture
def connect(rabbitmq_url: str) -> Iterator[Connect]:
    """Makes brokers of the test's own vhost."""
    made: list[Broker] = []

    def make(url: str = rabbitmq_url, **options: Any) -> Broker:
        made.append(broker_from_url(url, BrokerOptions(**{"connect_timeout": 4.0, **options})))
        return made[-1]

    yield make
    for broker in made:
        broker.close()


def blocking(broker: Broker, publications: list[Publication], timeout: float) -> None:
    publisher = broker.publisher()
    try:
        publisher.send(publications, timeout=timeout)
    finally:
        publisher.close()


def in_a_loop(broker: Broker, publications: list[Publication], timeout: float) -> None:
    async def send() -> None:
        publisher = broker.async_publisher()
        try:
            await publisher.send(publications, timeout=timeout)
        finally:
            await publisher.close()

    asyncio.run(send())


@pytest.fixture(params=[blocking, in_a_loop], ids=["blocking", "asyncio"])
def send(request: pytest.FixtureRequest) -> Send:
    """Both faces behave alike."""
    chosen: Send = request.param
    return chosen


def publication(
    broker: Broker, to: Destination, headers: dict[str, Any] | None = None, size: int = 2
) -> Publication:
    call = Call("t", "id", ["x" * size], origin="test", custom_headers=headers)
    return Publication(to, broker.pack(encode(build_message(call), "json", None), to))


def to_queue(name: str = "q") -> Destination:
    return Destination("", name, name)


# What is sent is there


def test_a_queue_is_made_as_celery_makes_it(
    connect: Connect, send: Send, rabbitmq_server: RabbitMqServer, vhost: str
) -> None:
    broker = connect()
    send(broker, [publication(broker, to_queue())] * 3, PATIENCE)
    assert broker.depth("q") == 3
    columns = ["name", "durable", "auto_delete", "arguments"]
    queues = rabbitmq_server.rabbitmqctl("list_queues", "--quiet", "--vhost", vhost, *columns)
    assert ["q", "true", "false", "[]"] in [line.split("\t") for line in queues.splitlines()]
    bindings = rabbitmq_server.rabbitmqctl(
        "list_bindings", "--quiet", "--vhost", vhost, "source_name", "destination_name", "routing_key"
    )
    assert ["q", "q", "q"] in [line.split("\t") for line in bindings.splitlines()]


def test_big_batches_and_big_messages(connect: Connect, send: Send) -> None:
    broker = connect()
    small, big = publication(broker, to_queue("small")), publication(broker, to_queue("big"), size=3_000_000)
    send(broker, [small] * 2500 + [big] * 3, 30)
    assert (broker.depth("small"), broker.depth("big")) == (2500, 3)
    assert (broker.purge("small"), broker.purge("small")) == (2500, 0)


def test_questions_about_queues_that_are_not_there(connect: Connect) -> None:
    broker = connect()
    assert (broker.depth("none"), broker.purge("none"), broker.dead_letters("none", 5)) == (0, 0, [])


def test_headers_exchanges_take_messages(connect: Connect, send: Send) -> None:
    broker = connect()
    exchange = Exchange("media", "headers")
    broker.declare(
        (),
        [
            define(
                Queue("both", exchange, binding_arguments={"x-match": "all", "kind": "video", "size": "big"})
            ),
            define(
                Queue(
                    "either", exchange, binding_arguments={"x-match": "any", "kind": "video", "size": "big"}
                )
            ),
        ],
    )
    to = Destination("media", "", None, "headers")
    send(broker, [publication(broker, to, {"kind": "video", "size": "big"})], PATIENCE)
    send(broker, [publication(broker, to, {"kind": "video"})], PATIENCE)
    assert (broker.depth("both"), broker.depth("either")) == (1, 2)
    with pytest.raises(BrokerError, match="headers exchange 'media'"):
        send(broker, [publication(broker, to, {"kind": "audio"})], PATIENCE)


def test_fanout_exchanges_take_messages_for_their_queues(connect: Connect, send: Send) -> None:
    broker = connect()
    exchange = Exchange("all", "fanout")
    broker.declare((), [define(Queue(name, exchange)) for name in ("one", "two")])
    send(broker, [publication(broker, Destination("all", "", None, "fanout"))], PATIENCE)
    assert (broker.depth("one"), broker.depth("two")) == (1, 1)


def test_broadcasts_reach_who_listens_and_are_no_error_otherwise(connect: Connect, send: Send) -> None:
    broker = connect()
    broker.declare((), [define(Broadcast("news"))])
    for exchange in ("news", "celery.pidbox"):
        send(broker, [publication(broker, Destination(exchange, "", None, "fanout"))], PATIENCE)
    send(broker, [publication(broker, Destination("celeryev", "task.sent", None, "broadcast"))], PATIENCE)


# What cannot be sent is told


def test_what_no_queue_is_bound_for_is_named(connect: Connect, send: Send) -> None:
    broker = connect()
    broker.declare((), [define(Queue("q", Exchange("topics", "topic"), "a.#"))])
    lost = publication(broker, Destination("topics", "b.c", None, "topic"))
    with pytest.raises(BrokerError, match=r"topic exchange 'topics' for routing key 'b.c'") as raised:
        send(broker, [publication(broker, to_queue()), lost, publication(broker, to_queue())], PATIENCE)
    assert not isinstance(raised.value, BrokerConnectionError)
    assert broker.depth("q") == 2
    with pytest.raises(BrokerError, match="'nowhere' for routing key 'k'"):
        send(broker, [publication(broker, Destination("nowhere", "k", None, "direct"))], PATIENCE)


def test_a_full_queue_that_refuses_is_an_error(connect: Connect, send: Send) -> None:
    broker = connect()
    limit = {"x-max-length": 1, "x-overflow": "reject-publish"}
    broker.declare((), [define(Queue("q", Exchange("q"), "q", queue_arguments=limit))])
    send(broker, [publication(broker, to_queue())], PATIENCE)
    with pytest.raises(BrokerError, match=r"refused 2 message.*queue 'q'"):
        send(broker, [publication(broker, to_queue())] * 2, PATIENCE)


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        (
            Queue("q", Exchange("q"), "q"),
            Queue("q", Exchange("q"), "q", max_priority=5),
            "x-max-priority none.* 5",
        ),
        (
            Queue("q", Exchange("q"), "q"),
            Queue("q", Exchange("q"), "q", durable=False),
            "durable true.* false",
        ),
        (Queue("q", Exchange("x"), "q"), Queue("q", Exchange("x", "topic"), "q"), "'x'.*type direct.* topic"),
    ],
)
def test_a_conflicting_declaration_names_the_difference(
    connect: Connect, send: Send, first: Queue, then: Queue, said: str
) -> None:
    early, late = connect(), connect()
    early.declare((), [define(first)])
    late.declare((), [define(then)])
    blocking(early, [publication(early, to_queue())], PATIENCE)
    with pytest.raises(BrokerError, match=said):
        send(late, [publication(late, to_queue())], PATIENCE)
    assert early.depth("q") == 1


def test_a_conflict_leaves_the_connection_usable(connect: Connect) -> None:
    blocking(connect(), [publication(connect(), to_queue())], PATIENCE)
    broker = connect()
    broker.declare((), [define(Queue("q", Exchange("q"), "q", durable=False))])
    publisher = broker.publisher()
    for _ in range(2):
        with pytest.raises(BrokerError, match="durable"):
            publisher.send([publication(broker, to_queue())], timeout=PATIENCE)
        publisher.send([publication(broker, to_queue("other"))], timeout=PATIENCE)
    assert broker.depth("other") == 2


def test_an_exchange_that_is_deleted_under_a_sender(
    connect: Connect, rabbitmq_server: RabbitMqServer, vhost: str
) -> None:
    broker = connect()
    broker.declare((), [define(Queue("q", Exchange("x", "topic"), "k"))])
    publisher, to = broker.publisher(), Destination("x", "k", None, "topic")
    publisher.send([publication(broker, to)], timeout=PATIENCE)
    deleted = f'rabbit_exchange:delete(rabbit_misc:r(<<"{vhost}">>, exchange, <<"x">>), false, <<"test">>)'
    assert rabbitmq_server.evaluate(deleted) == "ok"
    with pytest.raises(BrokerError, match="'x'"):
        publisher.send([publication(broker, to)], timeout=PATIENCE)
    publisher.send([publication(broker, to)], timeout=PATIENCE)  # declared anew
    assert broker.depth("q") == 2


# Connections


def test_one_stream_of_confirms_serves_many_threads(
    connect: Connect, rabbitmq_server: RabbitMqServer
) -> None:
    broker = connect()
    publisher, failures = broker.publisher(), []
    publisher.send([publication(broker, to_queue())], timeout=PATIENCE)
    before = rabbitmq_server.connections()

    def work() -> None:
        try:
            for _ in range(40):
                publisher.send([publication(broker, to_queue())], timeout=PATIENCE)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert rabbitmq_server.connections() == before
    assert broker.depth("q") == 1001


async def test_one_connection_serves_many_coroutines(connect: Connect) -> None:
    broker = connect()
    publisher = broker.async_publisher()
    message = [publication(broker, to_queue())]
    await asyncio.gather(*(publisher.send(message, timeout=PATIENCE) for _ in range(500)))
    assert await asyncio.to_thread(broker.depth, "q") == 500
    await publisher.close()
    await publisher.close()
    await publisher.send(message, timeout=PATIENCE)
    await publisher.close()


def test_a_failing_send_does_not_trouble_the_others(connect: Connect) -> None:
    broker = connect()
    broker.declare((), [define(Queue("q", Exchange("topics", "topic"), "a.#"))])
    publisher, outcomes = broker.publisher(), []
    lost = publication(broker, Destination("topics", "b", None, "topic"))

    def work(message: Publication) -> None:
        for _ in range(30):
            try:
                publisher.send([message], timeout=PATIENCE)
                outcomes.append("sent")
            except BrokerError as error:
                outcomes.append("lost" if "'topics'" in str(error) else repr(error))

    threads = [
        threading.Thread(target=work, args=(message,))
        for message in [lost, publication(broker, to_queue())] * 4
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["lost"] * 120 + ["sent"] * 120
    assert broker.depth("q") == 120


def test_a_connection_that_was_closed_while_idle_is_replaced(
    connect: Connect, rabbitmq_server: RabbitMqServer
) -> None:
    broker = connect()
    publisher = broker.publisher()
    publisher.send([publication(broker, to_queue())], timeout=PATIENCE)
    assert rabbitmq_server.close_connections() >= 1
    link = publisher._session.link  # type: ignore[attr-defined]
    assert link._socket.is_readable(PATIENCE)
    link._used_at = 0.0  # long ago
    publisher.send([publication(broker, to_queue())], timeout=PATIENCE)
    assert broker.depth("q") == 2


def test_a_connection_that_is_closed_gives_its_socket_back_at_once(connect: Connect) -> None:
    """With the next garbage collection a program that connects often would have many of them."""
    broker = connect()
    publisher = broker.publisher()
    publisher.send([publication(broker, to_queue())], timeout=PATIENCE)
    link = publisher._session.link  # type: ignore[attr-defined]
    publisher.close()
    assert link._socket._socket.fileno() == -1


async def test_the_loops_connection_is_replaced_too(
    connect: Connect, rabbitmq_server: RabbitMqServer
) -> None:
    broker = connect()
    publisher = broker.async_publisher()
    await publisher.send([publication(broker, to_queue())], timeout=PATIENCE)
    await asyncio.to_thread(rabbitmq_server.close_connections)
    session = publisher._session  # type: ignore[attr-defined]
    lost = asyncio.Event()
    session.link.on_lost(lambda _: lost.set())
    await asyncio.wait_for(lost.wait(), PATIENCE)
    await publisher.send([publication(broker, to_queue())], timeout=PATIENCE)
    assert await asyncio.to_thread(broker.depth, "q") == 2
    await publisher.close()


def test_nobody_there(connect: Connect, send: Send) -> None:
    broker = connect("amqp://127.0.0.1:1")
    with pytest.raises(BrokerConnectionError, match=r"cannot connect to amqp://guest:.*@127.0.0.1:1//"):
        send(broker, [publication(broker, to_queue())], PATIENCE)


def test_a_wrong_password_and_a_vhost_that_is_not_there(
    connect: Connect, send: Send, rabbitmq_server: RabbitMqServer
) -> None:
    for url, said in [
        (f"amqp://guest:wrong@127.0.0.1:{rabbitmq_server.port}//", "ACCESS_REFUSED"),
        (f"amqp://127.0.0.1:{rabbitmq_server.port}/nowhere", "vhost nowhere not found"),
    ]:
        broker = connect(url)
        with pytest.raises(BrokerConnectionError, match=said) as raised:
            send(broker, [publication(broker, to_queue())], PATIENCE)
        assert "wrong" not in str(raised.value)


@pytest.mark.parametrize("method", ["PLAIN", "AMQPLAIN"])
def test_login_methods(connect: Connect, send: Send, method: str) -> None:
    broker = connect(login_method=method)
    send(broker, [publication(broker, to_queue())], PATIENCE)
    assert broker.depth("q") == 1


def test_the_next_address_is_used_when_one_fails(connect: Connect, send: Send, rabbitmq_url: str) -> None:
    broker = connect(f"amqp://127.0.0.1:1//;{rabbitmq_url}")
    send(broker, [publication(broker, to_queue())], PATIENCE)
    assert broker.depth("q") == 1


def test_a_cut_connection_is_an_error_and_the_next_send_goes_elsewhere(
    connect: Connect, rabbitmq_server: RabbitMqServer, rabbitmq_url: str
) -> None:
    path = "/" + rabbitmq_url.rpartition("/")[2]
    with TcpProxy(rabbitmq_server.port) as proxy:
        broker = connect(f"{proxy.url(path=path)};{rabbitmq_url}")
        publisher = broker.publisher()
        publisher.send([publication(broker, to_queue())], timeout=PATIENCE)
        proxy.cut_after(10_000, towards="server")
        with pytest.raises(BrokerConnectionError, match="lost"):
            publisher.send([publication(broker, to_queue(), size=100_000)], timeout=PATIENCE)
        proxy.refuse()
        publisher.send([publication(broker, to_queue())], timeout=PATIENCE)


def test_a_silent_connection_is_given_up_at_the_deadline(
    connect: Connect, rabbitmq_server: RabbitMqServer, rabbitmq_url: str
) -> None:
    path = "/" + rabbitmq_url.rpartition("/")[2]
    with TcpProxy(rabbitmq_server.port) as proxy:
        broker = connect(proxy.url(path=path))
        publisher = broker.publisher()
        publisher.send([publication(broker, to_queue())], timeout=PATIENCE)
        proxy.freeze()
        began = time.monotonic()
        with pytest.raises(PublishTimeout, match=r"did not confirm 1 message.* within 0.3 seconds"):
            publisher.send([publication(broker, to_queue())], timeout=0.3)
        assert time.monotonic() - began < 2
        proxy.cut()
        proxy.thaw()
        publisher.send([publication(broker, to_queue())], timeout=PATIENCE)


async def test_a_silent_connection_of_a_loop_is_given_up_too(
    connect: Connect, rabbitmq_server: RabbitMqServer, rabbitmq_url: str
) -> None:
    path = "/" + rabbitmq_url.rpartition("/")[2]
    with TcpProxy(rabbitmq_server.port) as proxy:
        broker = connect(f"{proxy.url(path=path)}")
        publisher = broker.async_publisher()
        await publisher.send([publication(broker, to_queue())], timeout=PATIENCE)
        proxy.freeze()
        with pytest.raises(PublishTimeout, match=r"did not confirm 1 message.* within 0.3 seconds"):
            await publisher.send([publication(broker, to_queue())], timeout=0.3)
        proxy.cut()
        proxy.thaw()
        await publisher.send([publication(broker, to_queue())], timeout=PATIENCE)
        await publisher.close()


def test_a_fork_gets_a_connection_of_its_own(connect: Connect) -> None:
    broker = connect()
    publisher = broker.publisher()
    publisher.send([publication(broker, to_queue())], timeout=PATIENCE)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for _ in range(50):
                publisher.send([publication(broker, to_queue())], timeout=PATIENCE)
            status = 0
        finally:
            os._exit(status)
    for _ in range(50):
        publisher.send([publication(broker, to_queue())], timeout=PATIENCE)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert broker.depth("q") == 101


def test_a_handler_of_a_signal_may_send_while_its_thread_sends(connect: Connect) -> None:
    broker = connect()
    publisher = broker.publisher()
    message = publication(broker, to_queue())
    publisher.send([message], timeout=PATIENCE)
    sent, failures, inside = 1, [], False

    def interrupt(_number: int, _frame: object) -> None:
        nonlocal sent, inside
        if inside:  # one send interrupts another, and is not interrupted itself
            return
        inside = True
        try:
            publisher.send([message], timeout=PATIENCE)
            sent += 1
        except Exception as error:
            failures.append(error)
        finally:
            inside = False

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0007)
    try:
        for _ in range(200):
            publisher.send([message], timeout=PATIENCE)
            sent += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert failures == []
    assert sent > 201, "nothing was interrupted"
    assert broker.depth("q") == sent


def test_batches_that_are_begun_arrive_in_order(connect: Connect) -> None:
    broker = connect()
    publisher = broker.publisher()
    assert isinstance(publisher, PipelinedPublisher)
    batches = [[publication(broker, to_queue(), size=size)] * 3 for size in range(5)]
    waits = [publisher.begin(batch, timeout=PATIENCE) for batch in [*batches, []]]
    for wait in waits:
        wait()

    async def take() -> list[int]:
        consumer = broker.consumer("worker", 30.0)
        await consumer.open()
        try:
            taken = await consumer.fetch(FetchPlan(("q",)), 15, PATIENCE)
            return [len(peek(delivery.payload).argsrepr or "") for delivery in taken]
        finally:
            await consumer.close()

    sizes = asyncio.run(take())
    assert len(sizes) == 15
    assert sizes == sorted(sizes)


def test_a_batch_that_was_begun_fails_when_it_is_waited_for(connect: Connect) -> None:
    broker = connect()
    publisher = broker.publisher()
    assert isinstance(publisher, PipelinedPublisher)
    broker.declare((), [define(Queue("q", Exchange("topics", "topic"), "a.#"))])
    nowhere = Destination("topics", "b.nowhere", None, "topic")
    wait = publisher.begin([publication(broker, nowhere)], timeout=PATIENCE)
    publisher.send([publication(broker, to_queue())], timeout=PATIENCE)
    with pytest.raises(BrokerError, match="nowhere"):
        wait()


def test_what_was_sent_before_a_call_that_cannot_be_written_is_there(rabbitmq_url: str) -> None:
    app = Umbel("bulk", broker=rabbitmq_url, task_default_queue="q")
    add = app.task(name="add")(lambda value: value)
    try:
        with pytest.raises(EncodeError):
            add.delay_many((number if number < 1100 else object(),) for number in range(1200))
        assert app.broker.depth("q") == 1000
        add.delay_many((number,) for number in range(1200))
        assert app.broker.depth("q") == 2200
    finally:
        app.close()


def test_without_confirms_nothing_is_waited_for(connect: Connect, send: Send) -> None:
    broker = connect(transport={"confirm_publish": False})
    send(broker, [publication(broker, to_queue())] * 200, PATIENCE)
    wait_until(lambda: broker.depth("q") == 200, what="200 messages")


# A broker that is short of memory


@pytest.fixture
def short_of_memory() -> Iterator[RabbitMqServer]:
    """A server of its own: the alarm blocks every connection that publishes."""
    with RabbitMqServer() as server:
        yield server


def test_a_blocked_connection_has_a_deadline(connect: Connect, short_of_memory: RabbitMqServer) -> None:
    broker = connect(short_of_memory.url())
    publisher = broker.publisher()
    publisher.send([publication(broker, to_queue())], timeout=PATIENCE)
    short_of_memory.raise_memory_alarm()
    for _ in range(2):  # the second time nothing is even written
        began = time.monotonic()
        with pytest.raises(
            PublishTimeout, match=r"takes no messages at present \(low on memory\).*0\.5 seconds"
        ):
            publisher.send([publication(broker, to_queue())], timeout=0.5)
        assert time.monotonic() - began < 2

    async def in_loop() -> None:
        publisher = broker.async_publisher()
        for _ in range(2):
            with pytest.raises(PublishTimeout, match=r"low on memory"):
                await publisher.send([publication(broker, to_queue())], timeout=0.5)
        short_of_memory.clear_memory_alarm()
        await publisher.send([publication(broker, to_queue())], timeout=PATIENCE)
        await publisher.close()

    asyncio.run(in_loop())
    publisher.send([publication(broker, to_queue())], timeout=PATIENCE)
    # Those written while it was blocked arrived later: one of each kind, and those that were confirmed.
    wait_until(lambda: broker.depth("q") == 5, what="five messages")
