"""Which AMQP library Umbel stands on: every candidate does the same work against one RabbitMQ.

    python benchmarks/amqp_clients.py amqp://guest:guest@localhost:5672// [LIBRARY ...] [--messages 20000]

Runs in an environment that has the candidates: ``pip install amqp pika aiormq amqpstorm uvloop``. The message is a task
as Celery writes it (19 headers, properties, a short JSON body). Each library publishes it with confirms, one by one and
then 200 at a time, and consumes all of it with a prefetch of 400, acknowledging every hundredth with ``multiple``.
The figure that counts is the client's own CPU time per message; the rate includes RabbitMQ on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self
from urllib.parse import unquote, urlsplit

QUEUE = f"umbel-clients-{os.getpid()}"
BODY = b'[[2,3],{},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]'
HEADERS = {
    "lang": "py",
    "task": "proj.tasks.add",
    "id": "0b4b6a06-5a8e-4a0e-9d1c-2f6b1d6f0a11",
    "shadow": None,
    "eta": None,
    "expires": None,
    "group": None,
    "group_index": None,
    "retries": 0,
    "timelimit": [None, None],
    "root_id": "0b4b6a06-5a8e-4a0e-9d1c-2f6b1d6f0a11",
    "parent_id": None,
    "argsrepr": "(2, 3)",
    "kwargsrepr": "{}",
    "origin": "gen14437@vm",
    "ignore_result": False,
    "replaced_task_nesting": 0,
    "stamped_headers": None,
    "stamps": {},
}
PROPERTIES = {
    "content_type": "application/json",
    "content_encoding": "utf-8",
    "correlation_id": "0b4b6a06-5a8e-4a0e-9d1c-2f6b1d6f0a11",
    "reply_to": "281c559c-6b07-3cfa-9e8f-3287eb2b77aa",
    "delivery_mode": 2,
    "priority": 0,
}
#: What Celery writes and a library must carry both ways.
ODD_HEADERS = {"seconds": 1.5, "limits": [2.5, None], "big": 2**40, "empty": None, "deep": {"list": [1, "é"]}}
WINDOW = 200
PREFETCH = 400
ACK_EVERY = 100


class Meter:
    """Wall and CPU time of this process around one piece of work."""

    def __init__(self, name: str, count: int) -> None:
        self.name, self.count = name, count

    def __enter__(self) -> Self:
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        rate, each = self.count / wall, cpu / self.count * 1e6
        print(f"  {self.name:<34} {rate:>9,.0f} /s  {each:>7.1f} us CPU per message", flush=True)


def address(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "host": parts.hostname or "localhost",
        "port": parts.port or 5672,
        "user": unquote(parts.username or "guest"),
        "password": unquote(parts.password or "guest"),
        "vhost": unquote(parts.path[1:]) or "/",
    }


def odd_headers(got: object) -> None:
    print(f"  {'headers come back unchanged':<34} {got == ODD_HEADERS or got!r}", flush=True)


def py_amqp(url: str, count: int) -> None:
    import amqp

    at = address(url)
    connection = amqp.Connection(
        f"{at['host']}:{at['port']}",
        at["user"],
        at["password"],
        virtual_host=at["vhost"],
        confirm_publish=True,
    )
    connection.connect()
    channel = connection.channel()
    channel.queue_declare(QUEUE, durable=True, auto_delete=False)
    channel.basic_publish(amqp.Message(BODY, application_headers=ODD_HEADERS), "", QUEUE)
    odd_headers(channel.basic_get(QUEUE, no_ack=True).headers)
    with Meter("publish, confirmed one by one", count // 4):
        for _ in range(count // 4):
            channel.basic_publish(amqp.Message(BODY, application_headers=HEADERS, **PROPERTIES), "", QUEUE)
    pipelined = connection.channel()
    pipelined.confirm_select()
    confirmed = 0

    def on_ack(tag: int, multiple: bool) -> None:
        nonlocal confirmed
        confirmed = tag

    pipelined.events["basic_ack"].add(on_ack)
    with Meter("publish, 200 at a time", count):
        for i in range(count):
            pipelined._basic_publish(amqp.Message(BODY, application_headers=HEADERS, **PROPERTIES), "", QUEUE)
            while i + 1 - confirmed >= WINDOW:
                connection.drain_events()
        while confirmed < count:
            connection.drain_events()
    total, got = count + count // 4, 0
    channel.basic_qos(0, PREFETCH, False)

    def on_message(message: Any) -> None:
        nonlocal got
        got += 1
        if got % ACK_EVERY == 0 or got == total:
            channel.basic_ack(message.delivery_tag, multiple=True)

    with Meter("consume, acknowledge by hundreds", total):
        consumer = channel.basic_consume(QUEUE, callback=on_message)
        while got < total:
            connection.drain_events()
    channel.basic_cancel(consumer)
    channel.queue_delete(QUEUE)
    connection.close()


class Driven(asyncio.Protocol):
    """py-amqp's connection and codec without its sockets: asyncio brings the bytes and takes them away."""

    connected = True

    def __init__(self, connection: Any) -> None:
        from amqp.method_framing import frame_handler, frame_writer
        from amqp.transport import AMQP_PROTOCOL_HEADER

        self.connection, self.unread, self.unsent = connection, b"", bytearray()
        self.loop, self.header = asyncio.get_running_loop(), AMQP_PROTOCOL_HEADER
        connection.transport = self
        connection.on_inbound_frame = frame_handler(connection, connection.on_inbound_method)
        connection.frame_writer = frame_writer(connection, self)

    def write(self, view: Any) -> None:
        if not self.unsent:
            self.loop.call_soon(self.flush)
        self.unsent += view

    def flush(self) -> None:
        unsent, self.unsent = self.unsent, bytearray()
        self.transport.write(unsent)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self.header)

    def data_received(self, data: bytes) -> None:
        data, at, unpack = self.unread + data, 0, struct.unpack_from
        on_frame, size = self.connection.on_inbound_frame, len(data)
        while size - at >= 8:
            kind, channel, length = unpack(">BHI", data, at)
            if size - at < length + 8:
                break
            on_frame((kind, channel, data[at + 7 : at + 7 + length]))
            at += length + 8
        self.unread = data[at:]


class DrivenChannel:
    """The few methods the work needs, on py-amqp's tables of formats."""

    def __init__(self, connection: Any, number: int) -> None:
        import amqp
        from amqp import spec
        from amqp.serialization import dumps, loads

        self.connection, self.number, self.spec, self.dumps, self.loads = (
            connection,
            number,
            spec,
            dumps,
            loads,
        )
        self.formats = amqp.Channel._METHODS
        self.replies: list[asyncio.Future[None]] = []
        self.confirmed, self.on_confirm, self.on_message = 0, asyncio.Event(), lambda _tag, _content: None
        connection.channels[number] = self

    def dispatch_method(self, sig: Any, payload: bytes, content: Any) -> None:
        if sig == self.spec.Basic.Deliver:
            args, _ = self.loads("sLbss", payload, 4)
            self.on_message(args[1], content)
        elif sig == self.spec.Basic.Ack:
            self.confirmed = struct.unpack_from(">Q", payload, 4)[0]
            self.on_confirm.set()
        elif self.replies:
            self.replies.pop(0).set_result(None)

    def send(self, sig: Any, form: str, args: Any, content: Any = None) -> None:
        self.connection.frame_writer(1, self.number, sig, self.dumps(form, args), content)

    async def call(self, sig: Any, form: str, args: Any) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.replies.append(done)
        self.send(sig, form, args)
        await done

    async def confirm(self, upto: int) -> None:
        while self.confirmed < upto:
            self.on_confirm.clear()
            await self.on_confirm.wait()


async def py_amqp_driven(url: str, count: int) -> None:
    import amqp

    spec, at, loop = amqp.spec, address(url), asyncio.get_running_loop()
    ready = loop.create_future()
    connection = amqp.Connection(
        f"{at['host']}:{at['port']}",
        at["user"],
        at["password"],
        virtual_host=at["vhost"],
        on_open=lambda _: ready.set_result(None),
    )
    await loop.create_connection(lambda: Driven(connection), at["host"], at["port"])
    await ready
    channel = DrivenChannel(connection, 1)
    await channel.call(spec.Channel.Open, "s", ("",))
    await channel.call(spec.Confirm.Select, "b", (False,))
    await channel.call(spec.Queue.Declare, "BsbbbbbF", (0, QUEUE, False, True, False, False, False, {}))

    def publish(headers: Any, properties: Any) -> None:
        message = amqp.Message(BODY, application_headers=headers, **properties)
        channel.send(spec.Basic.Publish, "Bssbb", (0, "", QUEUE, True, False), message)

    one_by_one, sent = count // 4, 0
    with Meter("publish, confirmed one by one", one_by_one):
        for _ in range(one_by_one):
            publish(HEADERS, PROPERTIES)
            sent += 1
            await channel.confirm(sent)
    with Meter("publish, 200 at a time", count):
        for _ in range(count):
            publish(HEADERS, PROPERTIES)
            sent += 1
            await channel.confirm(sent - WINDOW)
        await channel.confirm(sent)
    got, done = 0, loop.create_future()

    def on_message(tag: int, content: Any) -> None:
        nonlocal got
        got += 1
        if got % ACK_EVERY == 0 or got == sent:
            channel.send(spec.Basic.Ack, "Lb", (tag, True))
        if got == sent:
            done.set_result(None)

    channel.on_message = on_message
    await channel.call(spec.Basic.Qos, "lBb", (0, PREFETCH, False))
    with Meter("consume, acknowledge by hundreds", sent):
        await channel.call(spec.Basic.Consume, "BssbbbbF", (0, QUEUE, "t", False, False, False, False, {}))
        await done
    await channel.call(spec.Queue.Delete, "Bsbbb", (0, QUEUE, False, False, False))
    asyncio.get_running_loop().call_soon(connection._transport.transport.close)


def pika(url: str, count: int) -> None:
    import pika as library

    at = address(url)
    credentials = library.PlainCredentials(at["user"], at["password"])
    connection = library.BlockingConnection(
        library.ConnectionParameters(at["host"], at["port"], at["vhost"], credentials)
    )
    channel = connection.channel()
    channel.queue_declare(QUEUE, durable=True)
    try:
        channel.basic_publish("", QUEUE, BODY, library.BasicProperties(headers=ODD_HEADERS))
        odd_headers(channel.basic_get(QUEUE, auto_ack=True)[1].headers)
    except library.exceptions.UnsupportedAMQPFieldException as error:
        print(f"  headers cannot be written: {type(error).__name__} {error.args[-1]!r}")
    channel.confirm_delivery()

    def properties() -> Any:
        return library.BasicProperties(headers=HEADERS, **PROPERTIES)

    with Meter("publish, confirmed one by one", count // 4):
        for _ in range(count // 4):
            channel.basic_publish("", QUEUE, BODY, properties(), mandatory=True)
    connection.close()
    pika_asyncio(library, at, credentials, properties, count)


def pika_asyncio(library: Any, at: Any, credentials: Any, properties: Any, count: int) -> None:
    from pika.adapters.asyncio_connection import AsyncioConnection

    async def run() -> None:
        loop = asyncio.get_running_loop()
        opened, ready, state = loop.create_future(), loop.create_future(), {"confirmed": 0, "got": 0}
        AsyncioConnection(
            library.ConnectionParameters(at["host"], at["port"], at["vhost"], credentials),
            on_open_callback=opened.set_result,
        )
        connection = await opened
        connection.channel(on_open_callback=ready.set_result)
        channel = await ready
        confirmed = asyncio.Event()

        def on_confirm(frame: Any) -> None:
            state["confirmed"] = frame.method.delivery_tag
            confirmed.set()

        selected = loop.create_future()
        channel.confirm_delivery(on_confirm, callback=lambda _: selected.set_result(None))
        await selected
        with Meter("publish, 200 at a time (asyncio)", count):
            for i in range(count):
                channel.basic_publish("", QUEUE, BODY, properties(), mandatory=True)
                while i + 1 - state["confirmed"] >= WINDOW:
                    confirmed.clear()
                    await confirmed.wait()
            while state["confirmed"] < count:
                confirmed.clear()
                await confirmed.wait()
        total, done = count + count // 4, loop.create_future()

        def on_message(ch: Any, method: Any, _properties: Any, _body: bytes) -> None:
            state["got"] += 1
            if state["got"] % ACK_EVERY == 0 or state["got"] == total:
                ch.basic_ack(method.delivery_tag, multiple=True)
            if state["got"] == total:
                done.set_result(None)

        channel.basic_qos(prefetch_count=PREFETCH)
        with Meter("consume, acknowledge by hundreds", total):
            channel.basic_consume(QUEUE, on_message)
            await done
        deleted = loop.create_future()
        channel.queue_delete(QUEUE, callback=deleted.set_result)
        await deleted
        connection.close()

    asyncio.run(run())


async def aiormq(url: str, count: int) -> None:
    import aiormq as library
    from pamqp.commands import Basic

    connection = await library.connect(url.rstrip("/") + "/%2f" if url.endswith("//") else url)
    channel = await connection.channel()
    await channel.queue_declare(QUEUE, durable=True)
    await channel.basic_publish(BODY, routing_key=QUEUE, properties=Basic.Properties(headers=ODD_HEADERS))
    message = await channel.basic_get(QUEUE, no_ack=True)
    odd_headers(message.header.properties.headers)

    def publish() -> Awaitable[Any]:
        properties = Basic.Properties(headers=HEADERS, **PROPERTIES)
        return channel.basic_publish(BODY, routing_key=QUEUE, properties=properties, mandatory=True)

    with Meter("publish, confirmed one by one", count // 4):
        for _ in range(count // 4):
            await publish()
    with Meter("publish, 200 at a time", count):
        for _ in range(count // WINDOW):
            await asyncio.gather(*(publish() for _ in range(WINDOW)))
    total, got, done = count // 4 + count // WINDOW * WINDOW, 0, asyncio.get_running_loop().create_future()

    async def on_message(message: Any) -> None:
        nonlocal got
        got += 1
        if got % ACK_EVERY == 0 or got == total:
            await channel.basic_ack(message.delivery.delivery_tag, multiple=True)
        if got == total:
            done.set_result(None)

    await channel.basic_qos(prefetch_count=PREFETCH)
    with Meter("consume, acknowledge by hundreds", total):
        await channel.basic_consume(QUEUE, on_message)
        await done
    await channel.queue_delete(QUEUE)
    await connection.close()


def amqpstorm(url: str, count: int) -> None:
    import amqpstorm as library

    at = address(url)
    connection = library.Connection(
        at["host"], at["user"], at["password"], port=at["port"], virtual_host=at["vhost"]
    )
    channel = connection.channel()
    channel.queue.declare(QUEUE, durable=True)
    try:
        channel.basic.publish(BODY, QUEUE, properties={"headers": dict(ODD_HEADERS)})
        odd_headers(channel.basic.get(QUEUE, no_ack=True).properties["headers"])
    except library.AMQPError as error:
        print(f"  headers cannot be written: {error!r}")
    channel.confirm_deliveries()
    with Meter("publish, confirmed one by one", count // 4):
        for _ in range(count // 4):
            channel.basic.publish(BODY, QUEUE, properties={**PROPERTIES, "headers": HEADERS}, mandatory=True)
    plain = connection.channel()
    with Meter("publish, no confirms (it has no other)", count):
        for _ in range(count):
            plain.basic.publish(BODY, QUEUE, properties={**PROPERTIES, "headers": HEADERS})
    total, got = count + count // 4, 0

    def on_message(message: Any) -> None:
        nonlocal got
        got += 1
        if got % ACK_EVERY == 0 or got == total:
            plain.basic.ack(message.delivery_tag, multiple=True)
        if got == total:
            plain.stop_consuming()

    plain.basic.qos(PREFETCH)
    with Meter("consume, acknowledge by hundreds", total):
        plain.basic.consume(on_message, QUEUE)
        plain.start_consuming(auto_decode=False)
    plain.queue.delete(QUEUE)
    connection.close()


def on_uvloop(work: Callable[[str, int], Any]) -> Callable[[str, int], None]:
    def run(url: str, count: int) -> None:
        import uvloop

        uvloop.run(work(url, count))

    return run


LIBRARIES: dict[str, Callable[[str, int], None]] = {
    "py-amqp": py_amqp,
    "py-amqp-driven": on_uvloop(py_amqp_driven),
    "pika": pika,
    "aiormq": on_uvloop(aiormq),
    "amqpstorm": amqpstorm,
}


def main() -> None:
    """Measure the named libraries, all by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("libraries", nargs="*", default=list(LIBRARIES), metavar="LIBRARY")
    parser.add_argument("--messages", type=int, default=20000)
    given = parser.parse_args()
    for name in given.libraries:
        print(name)
        LIBRARIES[name](given.url, given.messages)


if __name__ == "__main__":
    main()
