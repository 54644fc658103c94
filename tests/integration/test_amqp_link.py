"""The connection of an event loop to a real RabbitMQ: channels, deliveries, heartbeats, and how it ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.support.proxy import TcpProxy
from umbel.errors import BrokerConnectionError, BrokerError
from umbel.stores.amqp import requests
from umbel.stores.amqp.address import parse_addresses
from umbel.stores.amqp.failover import Failover
from umbel.stores.amqp.faults import ChannelClosedError, UnwritableMessageError
from umbel.stores.amqp.link import Confirmation, Delivered, Link, Outgoing, open_link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.support.rabbitmq import RabbitMqServer

    Open = Callable[..., Awaitable[Link]]

PATIENCE = 10.0


@pytest_asyncio.fixture
async def open_to(rabbitmq_url: str) -> AsyncIterator[Open]:
    """Opens links, to the test's own vhost by default."""
    opened: list[Link] = []

    async def open_one(url: str = rabbitmq_url, heartbeat: float = 0.0) -> Link:
        addresses, _ = parse_addresses(url, {}, connect_timeout=4.0, heartbeat=heartbeat)
        opened.append(await open_link(Failover(addresses)))
        return opened[-1]

    yield open_one
    for link in opened:
        await link.aclose()


@pytest_asyncio.fixture
async def link(open_to: Open) -> Link:
    return await open_to()


def messages(*bodies: bytes, queue: str = "q", **properties: Any) -> list[Outgoing]:
    return [Outgoing("", queue, properties, body) for body in bodies]


async def test_what_was_published_comes_as_it_was(link: Link) -> None:
    channel = await link.channel()
    await channel.declare_queue("q")
    await channel.select_confirms()
    headers = {"float": 1.5, "big": 2**40, "list": [None, True, {"deep": "é"}], "none": None}
    properties = {"content_type": "application/json", "priority": 3, "reply_to": "here", "headers": headers}
    big = b"x" * 1_000_000
    assert await channel.publish(messages(b"", big, **properties)) == Confirmation()
    first, second = [await channel.get("q", no_ack=True) for _ in "12"]
    assert first == Delivered(1, False, "", "q", b"", known=properties)
    assert second is not None
    assert second.body == big
    assert await channel.get("q") is None


async def test_deliveries_are_settled_in_runs_or_given_back(link: Link) -> None:
    channel, arrived, enough = await link.channel(), [], asyncio.Event()

    def on_delivery(delivered: Delivered) -> None:
        arrived.append(delivered)
        if len(arrived) in {5, 6}:
            enough.set()

    await channel.declare_queue("q")
    await channel.select_confirms()
    await channel.publish(messages(*[bytes([each]) for each in b"abcdefgh"]))
    await channel.set_prefetch(5)
    await channel.consume("q", on_delivery, tag="me")
    await asyncio.wait_for(enough.wait(), PATIENCE)
    assert [each.body for each in arrived] == [b"a", b"b", b"c", b"d", b"e"]
    await channel.cancel("me")
    channel.ack(arrived[2].tag, multiple=True)
    channel.nack(arrived[3].tag, requeue=True)
    await channel.aclose()  # gives back what is left
    other = await link.channel()
    assert (await other.declare_queue("q", passive=True))[1] == 5
    again = await other.get("q")
    assert again is not None
    assert (again.body, again.redelivered) == (b"d", True)


async def test_a_consumer_hears_that_its_queue_is_gone(link: Link) -> None:
    channel, gone = await link.channel(), asyncio.Event()
    await channel.declare_queue("q")
    await channel.consume("q", lambda _: None, tag="me", on_cancel=gone.set)
    await (await link.channel()).delete_queue("q")
    await asyncio.wait_for(gone.wait(), PATIENCE)
    assert channel.closed is None


async def test_a_refusal_closes_one_channel_only(link: Link) -> None:
    channel, other = await link.channel(), await link.channel()
    closed: list[BrokerError] = []
    channel.on_closed(closed.append)
    asked = [
        channel.ask_soon(request)
        for request in [
            requests.declare_queue("missing", passive=True),
            requests.declare_queue("missing", passive=True),
        ]
    ]
    for answer in asked:
        with pytest.raises(ChannelClosedError, match="no queue 'missing'") as raised:
            await answer
        assert raised.value.code == 404
    assert len(closed) == 1
    with pytest.raises(ChannelClosedError, match="missing"):
        channel.ack(1)
    assert await other.declare_queue("q") == ("q", 0, 0)


@pytest.mark.parametrize(
    "message",
    [
        Outgoing("", "k" * 256, {}, b""),
        Outgoing("", "q", {"headers": {"object": object()}}, b""),
        Outgoing("", "q", {"priority": 256}, b""),
    ],
)
async def test_what_cannot_be_written_is_not_written(link: Link, message: Outgoing) -> None:
    channel = await link.channel()
    await channel.declare_queue("q")
    await channel.select_confirms()
    with pytest.raises(UnwritableMessageError):
        channel.publish([*messages(b"1"), message])
    assert await channel.publish(messages(b"2")) == Confirmation()
    assert (await channel.declare_queue("q"))[1] == 1


async def test_both_sides_keep_heartbeats(open_to: Open) -> None:
    link = await open_to(heartbeat=1)
    before, heard = link.received, asyncio.Event()
    fed = link._dialogue.feed

    def feed(data: bytes) -> None:
        fed(data)
        if link.received >= before + 6:  # two in a second: the server would have left us after two seconds
            heard.set()

    link._dialogue.feed = feed  # type: ignore[method-assign]
    await asyncio.wait_for(heard.wait(), PATIENCE)
    assert link.lost is None


async def test_a_silent_server_is_noticed(
    open_to: Open, rabbitmq_server: RabbitMqServer, rabbitmq_url: str
) -> None:
    with TcpProxy(rabbitmq_server.port) as proxy:
        link = await open_to(proxy.url(path="/" + rabbitmq_url.rpartition("/")[2]), heartbeat=1)
        channel = await link.channel()
        lost: asyncio.Future[BrokerConnectionError] = asyncio.get_running_loop().create_future()
        link.on_lost(lost.set_result)
        proxy.freeze()
        answer = asyncio.ensure_future(channel.declare_queue("q"))
        assert "silent for 2 seconds" in str(await asyncio.wait_for(lost, PATIENCE))
        with pytest.raises(BrokerConnectionError, match="silent"):
            await answer


async def test_everyone_hears_when_the_connection_is_cut(
    open_to: Open, rabbitmq_server: RabbitMqServer, rabbitmq_url: str
) -> None:
    with TcpProxy(rabbitmq_server.port) as proxy:
        link = await open_to(proxy.url(path="/" + rabbitmq_url.rpartition("/")[2]))
        channel = await link.channel()
        await channel.declare_queue("q")
        await channel.select_confirms()
        proxy.freeze()
        waiting = [asyncio.ensure_future(channel.declare_queue("q")), channel.publish(messages(b"1"))]
        await asyncio.sleep(0)
        proxy.cut()
        for each in waiting:
            with pytest.raises(BrokerConnectionError):
                await asyncio.wait_for(each, PATIENCE)
    late: list[object] = []
    link.on_lost(late.append)
    channel.on_closed(late.append)
    assert len(late) == 2
    with pytest.raises(BrokerConnectionError):
        await link.channel()


async def test_closing_is_safe_twice(link: Link) -> None:
    channel = await link.channel()
    await channel.aclose()
    await channel.aclose()
    await link.aclose()
    await link.aclose()
    link.close()
    assert "was closed" in str(link.lost)
