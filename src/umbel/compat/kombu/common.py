"""Frequent uses."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from umbel.core.ids import new_id as uuid
from umbel.core.queues import Broadcast
from umbel.errors import OperationalError

__all__ = (
    "Broadcast",
    "collect_replies",
    "drain_consumer",
    "eventloop",
    "insured",
    "itermessages",
    "maybe_declare",
    "send_reply",
    "uuid",
)


def maybe_declare(entity: Any, channel: Any = None, retry: bool = False, **retry_policy: Any) -> bool:
    """Bind a queue on a connection."""
    if channel is not None:
        channel.Producer().maybe_declare(entity)
    return True


def eventloop(
    conn: Any, limit: int | None = None, timeout: float | None = None, ignore_timeouts: bool = False
) -> Iterator[Any]:
    """Drain a connection's events, as often as ``limit`` says."""
    for _ in range(limit) if limit else count():
        try:
            yield conn.drain_events(timeout=timeout)
        except TimeoutError:
            if timeout and not ignore_timeouts:
                raise


def drain_consumer(
    consumer: Any, limit: int = 1, timeout: float | None = None, callbacks: Any = None
) -> Iterator[tuple[Any, Any]]:
    """Bodies and messages as they come."""
    arrived: deque[tuple[Any, Any]] = deque()
    consumer.callbacks = [
        *(callbacks or consumer.callbacks),
        lambda body, message: arrived.append((body, message)),
    ]
    with consumer:
        for _ in eventloop(consumer.connection, limit=limit, timeout=timeout, ignore_timeouts=True):
            while arrived:
                yield arrived.popleft()


def itermessages(
    conn: Any,
    channel: Any,
    queue: Any,
    limit: int = 1,
    timeout: float | None = None,
    callbacks: Any = None,
    **kwargs: Any,
) -> Iterator[tuple[Any, Any]]:
    """Bodies and messages of a queue as they come."""
    return drain_consumer(
        conn.Consumer(queues=[queue], **kwargs), limit=limit, timeout=timeout, callbacks=callbacks
    )


def send_reply(
    exchange: Any, req: Any, msg: Any, producer: Any = None, retry: bool = False, **props: Any
) -> Any:
    """Answer a message where it says the answer goes."""
    return producer.publish(
        msg,
        exchange=exchange,
        routing_key=req.properties["reply_to"],
        correlation_id=req.properties.get("correlation_id"),
        **props,
    )


def collect_replies(conn: Any, channel: Any, queue: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
    """Bodies of answers, acknowledged."""
    for body, message in itermessages(conn, channel, queue, *args, **kwargs):
        message.ack()
        yield body


def insured(
    pool: Any, fun: Callable[..., Any], args: Any, kwargs: Any, errback: Any = None, **opts: Any
) -> Any:
    """Call a function with a connection of a pool."""
    with pool.acquire(block=True) as connection:
        return fun(*args, connection=connection, **kwargs)


@contextmanager
def ignore_errors(conn: Any, fun: Any = None, *args: Any, **kwargs: Any) -> Iterator[None]:
    """Ignore the errors of a connection."""
    try:
        if fun:
            fun(*args, **kwargs)
        yield
    except (OperationalError, OSError):
        pass
