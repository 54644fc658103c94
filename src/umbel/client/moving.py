"""Messages taken from queues and sent elsewhere: to another queue, or another broker.

Within one broker a message goes from queue to queue in one step, as everything does here. Between two brokers it is
sent first and acknowledged then: who is killed in between leaves it in both, never in none. What is looked at and not
taken goes back to the front of its queue when the looking ends.

A message is moved as it is: nothing of it needs to be decoded here. Functions have Celery's names and arguments
(``celery.contrib.migrate``).
"""

from __future__ import annotations

import copy
import logging
from contextlib import ExitStack, closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from umbel.brokers.base import FetchPlan
from umbel.client.messages import Message, Receiving
from umbel.core.bindings import bindings_of
from umbel.core.destination import Destination
from umbel.core.envelope import read_envelope
from umbel.core.queues import Exchange, Queue
from umbel.core.records import Publication
from umbel.core.serializers import accept_set
from umbel.core.topology import define
from umbel.errors import ContentDisallowed, DecodeError
from umbel.state import get_current_app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from umbel.brokers.base import Broker
    from umbel.client.connection import Connection
    from umbel.client.messages import Producer

    #: Decides about a message, or deals with it: gets what it asks for and the message.
    Filter = Callable[[Any, Message], Any]

__all__ = [
    "State",
    "StopFiltering",
    "TaskBody",
    "migrate_task",
    "migrate_tasks",
    "move",
    "prepare_queues",
    "republish",
    "start_filter",
]

logger = logging.getLogger("celery.contrib.migrate")

#: Messages held at a time while looking.
_BATCH: Final = 100
#: Properties that say how a message came here, not what it is.
_OF_THE_WAY: Final = ("delivery_info", "delivery_tag", "body_encoding")


class StopFiltering(Exception):
    """Raised by a filter: look no further. The message that it was given counts as dealt with."""


class State:
    """How far it has come: messages looked at (``count``) and moved (``filtered``), of about ``total_apx``."""

    def __init__(self) -> None:
        self.count = 0
        self.filtered = 0
        self.total_apx = 0

    @property
    def strtotal(self) -> str:
        """The total as text; ``?`` where nobody knows."""
        return str(self.total_apx) if self.total_apx else "?"

    def __repr__(self) -> str:
        return f"^{self.filtered}" if self.filtered else f"{self.count}/{self.strtotal}"


class TaskBody(list[Any]):
    """Protocol 2's body, ``[args, kwargs, embed]``, which may be asked for headers by their names too.

    Filters are written ``body["id"]`` and ``body["task"]``, as protocol 1's body has it.
    """

    def __init__(self, body: Iterable[Any], headers: Mapping[str, Any]) -> None:
        super().__init__(body)
        self.headers = headers

    def __getitem__(self, index: Any) -> Any:
        return self.headers[index] if isinstance(index, str) else super().__getitem__(index)


def body_of(message: Message) -> Any:
    """What filters get of a message. One that cannot be decoded here is moved all the same: its body is empty then."""
    try:
        body = message.payload
    except (ContentDisallowed, DecodeError):
        body = []
    return TaskBody(body, message.headers) if isinstance(body, (list, tuple)) else body


def relay(broker: Broker, message: Message, exchange: str, routing_key: str) -> Publication:
    """A message as it is, on its way to another place of a broker."""
    envelope = read_envelope(message.delivery.payload)
    kept = {name: value for name, value in envelope.properties.items() if name not in _OF_THE_WAY}
    envelope.properties = kept
    priority = kept.get("priority")
    destination = Destination(
        exchange,
        routing_key,
        None if exchange else routing_key,
        priority=priority if isinstance(priority, int) else 0,
    )
    return Publication(destination, broker.pack(envelope, destination))


def republish(
    producer: Producer,
    message: Message,
    exchange: Any = None,
    routing_key: str | None = None,
    remove_props: Iterable[str] | None = None,
) -> None:
    """Send a message again, by default to the queue that it came from. It is not acknowledged by this.

    ``remove_props`` is accepted: what says how a message came here is never sent along.

    Raises OperationalError when the broker cannot be reached, or no queue is bound for it.
    """
    producer.send(_relayed(producer.connection.broker, message, exchange, routing_key))


def _relayed(broker: Broker, message: Message, exchange: Any, routing_key: str | None) -> Publication:
    if exchange is None and routing_key is None:
        return relay(broker, message, "", message.delivery.queue)
    name = exchange.name if isinstance(exchange, Exchange) else exchange
    info = message.delivery_info
    return relay(
        broker,
        message,
        info["exchange"] if name is None else name,
        info["routing_key"] if routing_key is None else routing_key,
    )


def migrate_task(
    producer: Producer, body_: Any, message: Message, queues: Mapping[str, str] | None = None
) -> None:
    """Send a message to the queue that ``queues`` has for its own, else to the one of the same name."""
    name = message.delivery.queue
    republish(producer, message, exchange="", routing_key=(queues or {}).get(name, name))


def migrate_tasks(
    source: Connection,
    dest: Connection,
    migrate: Callable[..., Any] = migrate_task,
    app: Any = None,
    queues: Any = None,
    **kwargs: Any,
) -> State:
    """Send what waits at one broker to another one, and with ``ack_messages`` take it from the first.

    Args:
        source, dest: the two brokers.
        migrate: called with a producer, the body, the message and ``queues``.
        app: whose queues; None: the current application.
        queues: which queues: ``"a,b"``, or with their new names ``"a:b,c:d"``, a list or mapping of such; None: all
            that the application takes tasks from.
        kwargs: see ``start_filter``.

    Messages that wait for their time (an eta far away) and dead letters stay where they are.
    """
    app = app or get_current_app()
    renamed = prepare_queues(queues)

    def declare(queue: Any) -> None:
        made = _renamed(queue, renamed.get(queue.name, queue.name))
        dest.broker.declare(bindings_of(made), [define(made)])

    with dest.Producer() as producer:
        return start_filter(
            app,
            source,
            partial(migrate, producer, queues=renamed),
            queues=renamed,
            on_declare_queue=declare,
            **kwargs,
        )


def _renamed(queue: Any, name: str) -> Any:
    """A queue under another name; its exchange and key go along where they were called as the queue was."""
    if name == queue.name:
        return queue
    made = copy.copy(queue)
    made.name = name
    if made.routing_key == queue.name:
        made.routing_key = name
    if made.exchange is not None and made.exchange.name == queue.name:
        made.exchange = copy.copy(made.exchange)
        made.exchange.name = name
    return made


def move(
    predicate: Filter,
    connection: Any = None,
    exchange: Any = None,
    routing_key: str | None = None,
    source: Iterable[Any] | None = None,
    app: Any = None,
    callback: Callable[[State, Any, Message], object] | None = None,
    limit: int | None = None,
    transform: Callable[[Any], Any] | None = None,
    **kwargs: Any,
) -> State:
    """Move the messages that a predicate chooses to another queue of the broker, each in one step.

    Args:
        predicate: ``predicate(body, message)`` answers where to: a ``Queue``, a queue's name, a pair of exchange and
            routing key, or any other true value for ``exchange`` and ``routing_key``. Nothing: it stays.
        connection: to the broker; None: one of the application's.
        source: queues to look through, or their names; None: all that the application takes tasks from.
        app: None: the current application.
        callback: ``callback(state, body, message)`` for each that was moved.
        limit: move so many at most.
        transform: applied to what the predicate answers.
        kwargs: see ``start_filter``.
    """
    app = app or get_current_app()
    state: State = kwargs.pop("state", None) or State()
    with ExitStack() as borrowed:
        used = borrowed.enter_context(app.connection_or_acquire(connection, pool=False))
        broker = used.broker

        def move_one(body: Any, message: Message) -> None:
            answer = predicate(body, message)
            if not answer:
                return
            to = transform(answer) if transform is not None else answer
            message.forward([_placed(broker, message, to, exchange, routing_key)])
            state.filtered += 1
            if callback is not None:
                callback(state, body, message)
            if limit and state.filtered >= limit:
                raise StopFiltering

        return start_filter(app, used, move_one, consume_from=source, state=state, **kwargs)


def _placed(broker: Broker, message: Message, to: Any, exchange: Any, routing_key: str | None) -> Publication:
    if isinstance(to, str):
        return relay(broker, message, "", to)
    if isinstance(to, tuple) and len(to) == 2:
        return _relayed(broker, message, *to)
    if hasattr(to, "exchange") and hasattr(to, "routing_key"):  # a queue, ours or kombu's
        broker.declare(bindings_of(to), [define(to)])
        return relay(broker, message, "", to.name)
    return _relayed(broker, message, exchange, routing_key)


def start_filter(
    app: Any,
    conn: Connection,
    filter: Filter,
    limit: int | None = None,
    timeout: float | None = 1.0,
    ack_messages: bool = False,
    tasks: Any = None,
    queues: Any = None,
    callback: Callable[[State, Any, Message], object] | None = None,
    forever: bool = False,
    on_declare_queue: Callable[[Any], object] | None = None,
    consume_from: Iterable[Any] | None = None,
    state: State | None = None,
    accept: Iterable[str] | None = None,
    **_: Any,
) -> State:
    """Show the messages that wait, one after another, to ``filter(body, message)``; how far it came.

    Args:
        app: whose queues.
        conn: to the broker.
        filter: looks at one; it may settle it, and raise StopFiltering.
        limit: look at so many at most.
        timeout: seconds without a message after which it ends.
        ack_messages: acknowledge what the filter has seen and not settled; otherwise it goes back at the end.
        tasks: names of tasks, as a list or with commas between them: others are passed over.
        queues, consume_from: which queues, see ``migrate_tasks``; None: all that the application takes tasks from.
        callback: ``callback(state, body, message)`` after each.
        forever: go on waiting until killed.
        on_declare_queue: called with each queue first.
        state: counts; None: a new one.
        accept: content types that may be decoded; None: the application's.
    """
    state = state or State()
    wanted = _as_list(tasks)
    names = _prepare_sources(app, conn, consume_from or prepare_queues(queues), state, on_declare_queue)
    accepted = conn.accept or app.accept if accept is None else accept_set(accept)
    with closing(Receiving(conn.broker)) as receiving, suppress(StopFiltering):
        for message in _messages(receiving, names, accepted, timeout or 1.0, forever, state, limit):
            if wanted and message.headers.get("task") not in wanted:
                continue
            state.count += 1
            body = body_of(message)
            filter(body, message)
            if ack_messages:
                message.ack()
            if callback is not None:
                callback(state, body, message)
    return state


def _prepare_sources(
    app: Any,
    conn: Connection,
    wanted: Iterable[Any],
    state: State,
    on_declare_queue: Callable[[Any], object] | None,
) -> tuple[str, ...]:
    """Declare the queues and count what waits in them; their names."""
    table = app.amqp.queues
    conn.broker.declare(table.bindings(), table.definitions())
    named = [table[each] if isinstance(each, str) else each for each in wanted]
    sources: list[Queue] = named or list(table.consume_from.values())
    for queue in sources:
        if on_declare_queue is not None:
            on_declare_queue(queue)
        state.total_apx += conn.broker.depth(queue.name)
    return tuple(queue.name for queue in sources)


def _messages(
    receiving: Receiving,
    queues: tuple[str, ...],
    accept: frozenset[str],
    timeout: float,
    forever: bool,
    state: State,
    limit: int | None,
) -> Iterator[Message]:
    plan = FetchPlan(queues)
    while not limit or state.count < limit:
        deliveries = receiving.fetch(plan, _BATCH, timeout)
        if not deliveries and not forever:
            return
        for delivery in deliveries:
            try:
                message = Message(receiving, delivery, accept)
            except DecodeError as error:
                logger.warning("What is no message stays in queue %s: %s", delivery.queue, error)
                continue
            yield message
            if limit and state.count >= limit:
                return


def prepare_queues(queues: Any) -> dict[str, str]:
    """Queues and their new names, from ``"a,b:c"``, a list of such or a mapping; None is none."""
    if isinstance(queues, str):
        queues = queues.split(",")
    if isinstance(queues, (list, tuple)):
        pairs = [each.partition(":") for each in queues]
        return {name: new or name for name, _, new in pairs}
    return dict(queues or {})


def _as_list(names: Any) -> list[str]:
    return names.split(",") if isinstance(names, str) else list(names or ())
