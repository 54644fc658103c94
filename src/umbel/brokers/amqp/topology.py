"""What was declared through one broker object, and how it is put in place on a connection.

RabbitMQ's queues and exchanges have to be there before they are used, and a declaration that names them again, as they
are, changes nothing. So each connection declares what it uses once, before it uses it. The steps are generators of
requests: whoever drives the connection, a thread or an event loop, asks them one after another.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any, Final

import msgspec

from umbel.brokers.amqp.delayed import (
    SHORTEST,
    WITH_WORKER,
    delay_by_eta,
    exchange_bindings,
    placing,
    queue_binding,
)
from umbel.brokers.amqp.messages import to_wire
from umbel.brokers.amqp.translations import PayloadWriter
from umbel.core.bindings import no_queue_bound
from umbel.core.clock import BrokerClock
from umbel.core.topology import BindingDefinition, ExchangeDefinition, QueueDefinition, define_bindings
from umbel.errors import BrokerError
from umbel.stores.amqp import requests
from umbel.stores.amqp.confirms import Outgoing
from umbel.stores.amqp.faults import NOT_FOUND, PRECONDITION_FAILED, RESOURCE_LOCKED, ChannelClosedError
from umbel.stores.forks import renew_in_children

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from umbel.core.bindings import Binding
    from umbel.core.destination import Destination
    from umbel.core.records import Publication
    from umbel.stores.amqp.requests import Request

    #: Requests to be asked one after another; each is answered by its fields, or by a ChannelClosedError thrown in.
    Steps = Generator[Request, tuple[Any, ...], Any]

__all__ = ["MissingQueues", "Placed", "Topology", "explain_refusal"]

#: Types of bindings that are declared without a definition; see ``Broker.declare``.
_BOUND: Final = frozenset({"direct", "topic"})
_MANY: Final = 10_000


class MissingQueues(msgspec.Struct, frozen=True):
    """How a queue is made that nobody defined; the settings ``task_create_missing_queue_...``."""

    queue_type: str | None = None
    exchange_type: str | None = None
    max_priority: int | None = None

    def define(self, name: str) -> QueueDefinition:
        """Celery's: durable, bound to the exchange of its name."""
        arguments: dict[str, Any] = {}
        if self.queue_type == "quorum":
            arguments["x-queue-type"] = "quorum"
        if self.max_priority is not None:
            arguments["x-max-priority"] = self.max_priority
        exchange = ExchangeDefinition(name, self.exchange_type or "direct")
        return QueueDefinition(name, (BindingDefinition(exchange, name),), arguments=arguments)


class Topology:
    """Everything declared. Safe for use by several threads: a change replaces the tables, and raises ``version``."""

    def __init__(
        self,
        missing: MissingQueues | None = None,
        delayed_queue_type: str = "quorum",
        clock: BrokerClock | None = None,
    ) -> None:
        self._missing = missing or MissingQueues()
        #: What delays are counted by.
        self.clock = clock or BrokerClock()
        #: Of the queues in which delayed messages wait: ``classic`` or ``quorum``.
        self.delayed_queue_type = delayed_queue_type
        self._lock = threading.Lock()
        renew_in_children(self, _lock=threading.Lock)
        self._bindings: frozenset[Binding] = frozenset()
        self._defined: dict[str, QueueDefinition] = {}
        self._queues: dict[str, QueueDefinition] = {}
        self._by_exchange: dict[str, tuple[QueueDefinition, ...]] = {}
        self.version = 0

    def declare(self, bindings: Iterable[Binding], queues: Iterable[QueueDefinition]) -> None:
        """See ``Broker.declare``."""
        new_bindings = [
            each for each in bindings if each not in self._bindings and each.exchange_type in _BOUND
        ]
        new_queues = [each for each in queues if self._defined.get(each.name) is not each]
        if not new_bindings and not new_queues:
            return
        with self._lock:
            self._bindings |= set(new_bindings)
            self._defined = {**self._defined, **{each.name: each for each in new_queues}}
            bound = sorted({each.queue for each in self._bindings} - self._defined.keys())
            known = {name: self._bound_definition(name) for name in bound}
            self._queues = {**known, **self._defined}
            self._by_exchange = _by_exchange(self._queues.values())
            self.version += 1

    def _bound_definition(self, name: str) -> QueueDefinition:
        made = define_bindings(
            name, sorted(self._bindings, key=lambda each: (each.exchange, each.routing_key))
        )
        known = self._queues.get(name)
        return known if known == made else made

    def queue(self, name: str) -> QueueDefinition:
        """How a queue is made; the default where nobody said."""
        known = self._queues.get(name)
        return self._missing.define(name) if known is None else known

    def defines(self, name: str) -> bool:
        """Whether somebody said how a queue is made, or what is bound to it."""
        return name in self._queues

    def queues_of(self, to: Destination) -> tuple[QueueDefinition, ...]:
        """The queues known to be bound to a destination's exchange."""
        found = self._by_exchange.get(to.exchange, ())
        if not found and to.exchange == to.routing_key and to.exchange_type == self._missing.exchange_type:
            return (self._missing.define(to.exchange),)
        return found

    def has_dead_letter_exchange(self, name: str) -> bool:
        """Whether a queue names an exchange of its own for what is given up."""
        return bool(self.queue(name).arguments.get("x-dead-letter-exchange"))

    def counts_returns(self, name: str) -> bool:
        """Whether a queue counts what is given back to it: some versions drop what has come back too often."""
        return _is_quorum(self.queue(name))

    def __iter__(self) -> Iterator[QueueDefinition]:
        return iter(tuple(self._queues.values()))

    def is_mandatory(self, to: Destination) -> bool:
        """Whether it is an error when no queue gets a message: not for what is broadcast to whoever listens."""
        if to.queue is not None or to.exchange_type not in {"fanout", "broadcast"}:
            return True
        return any(not queue.of_consumer for queue in self.queues_of(to))


def _is_quorum(queue: QueueDefinition) -> bool:
    return bool(queue.arguments.get("x-queue-type") == "quorum")


def _by_exchange(queues: Iterable[QueueDefinition]) -> dict[str, tuple[QueueDefinition, ...]]:
    found: dict[str, list[QueueDefinition]] = {}
    for queue in queues:
        for exchange in dict.fromkeys(binding.exchange.name for binding in queue.bindings):
            found.setdefault(exchange, []).append(queue)
    return {exchange: tuple(bound) for exchange, bound in found.items()}


class Placed:
    """What one connection has in place. To be used by one thread, or event loop, at a time."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._payloads = PayloadWriter()
        self._version = topology.version
        self._ready: dict[Destination, bool] = {}
        self._queues: dict[str, QueueDefinition] = {}
        self._exchanges: dict[str, ExchangeDefinition] = {}
        #: Fanout exchanges that nobody has made. They are looked for again each time.
        self._unheard: set[Destination] = set()
        #: Destinations that delayed messages can reach; None: the levels in which they wait are there.
        self._delays: set[Destination | None] = set()
        #: Destinations of delayed messages for which ``delay_steps`` have to be taken before they are published.
        self.new_delays: list[Destination] = []

    def missing(self, publications: Sequence[Publication]) -> list[Destination]:
        """The destinations that ``steps`` have to be taken for first; mostly none."""
        if self._version != self._topology.version:
            self._version = self._topology.version
            self._ready.clear()
        ready = self._ready
        if len(publications) == 1:
            to = publications[0].destination
            return [] if to in ready else [to]
        return [to for to in {publication.destination for publication in publications} if to not in ready]

    def forget(self) -> None:
        """Something that was in place is gone: declare everything again."""
        self._ready.clear()
        self._queues.clear()
        self._exchanges.clear()
        self._unheard.clear()
        self._delays.clear()

    def compose(self, publication: Publication) -> Outgoing | None:
        """A publication as it is sent; None: a broadcast that nobody listens to."""
        to = publication.destination
        mandatory = self._ready.get(to)
        if mandatory is None:
            if to in self._unheard:
                return None
            mandatory = self._topology.is_mandatory(to)
        key = to.routing_key if to.exchange else to.queue or to.routing_key
        payload = publication.payload
        if (made := self._payloads.write(payload)) is not None:
            return Outgoing(to.exchange, key, {}, made[1], mandatory, made[0])
        properties, body = to_wire(payload, to.priority)
        message = Outgoing(to.exchange, key, properties, body, mandatory)
        if properties["headers"].get("eta") is not None:
            return self._delay(message, to)
        self._payloads.learn(payload, properties)
        return message

    def _delay(self, message: Outgoing, to: Destination) -> Outgoing:
        """A message that is not due yet waits in the broker, if the queues it is for are known."""
        queues = self._topology.queues_of(to) if to.queue is None else (self._topology.queue(to.queue),)
        if not queues:
            return message
        patience = SHORTEST if any(map(_is_quorum, queues)) else WITH_WORKER
        delayed = delay_by_eta(message, to, self._topology.clock.now(), patience)
        if delayed is None:
            return message
        if to not in self._delays:
            self.new_delays.append(to)
        return delayed

    def delay_steps(self) -> Steps:
        """What the delayed messages need that were composed, see ``new_delays``."""
        while self.new_delays:
            to = self.new_delays[-1]
            if None not in self._delays:
                yield from placing(self._topology.delayed_queue_type)
                self._delays.add(None)
            if to.queue is not None:
                yield queue_binding(to.queue)
            else:
                for queue in self._topology.queues_of(to):
                    for binding in queue.bindings:
                        if binding.exchange.name == to.exchange:
                            yield from exchange_bindings(queue.name, to.exchange, binding.routing_key)
            self._delays.add(to)
            self.new_delays.remove(to)

    def consumer_steps(self, queue: QueueDefinition) -> Steps:
        """What leads the messages to a queue that Celery's producers send to wait, once any queue is a quorum queue.

        They take it for granted: a worker of Celery's has it in place before it takes messages.
        """
        if not any(map(_is_quorum, (queue, *self._topology))):
            return
        if None not in self._delays:
            yield from placing(self._topology.delayed_queue_type)
            self._delays.add(None)
        for binding in queue.bindings:
            if binding.exchange.name and binding.exchange.type in {"topic", "fanout"}:
                yield from exchange_bindings(queue.name, binding.exchange.name, binding.routing_key)

    def steps(self, to: Destination) -> Steps:
        """What has to be asked before the first message to a destination.

        Raises BrokerError when something exists and differs, or a message there would reach nothing.
        """
        topology = self._topology
        if to.queue is not None:
            yield from self.queue_steps(topology.queue(to.queue), consumes=False)
            if (
                to.exchange
                and to.exchange not in self._exchanges
                and not (yield from self._is_there(to.exchange))
            ):
                raise BrokerError(no_queue_bound(to))
        elif to.exchange_type == "broadcast":
            yield from self._exchange_steps(ExchangeDefinition(to.exchange, "topic"))
        elif to.exchange:
            queues = topology.queues_of(to)
            for queue in queues:
                yield from self.queue_steps(queue, consumes=False)
            if not queues and not (yield from self._is_there(to.exchange)):
                if to.exchange_type == "fanout":
                    self._unheard.add(to)
                    return
                raise BrokerError(no_queue_bound(to))
        if len(self._ready) > _MANY:  # names may be made up by the application
            self.forget()
        self._ready[to] = topology.is_mandatory(to)
        self._unheard.discard(to)

    def queue_steps(self, queue: QueueDefinition, *, consumes: bool) -> Steps:
        """What makes a queue, its exchanges and its bindings, unless they were made on this connection before.

        ``consumes``: for who is going to consume from it; others leave a queue alone that belongs to its consumer.
        """
        if self._queues.get(queue.name) is queue or queue.no_declare:
            return
        for binding in queue.bindings:
            yield from self._exchange_steps(binding.exchange)
        if queue.of_consumer and not consumes:
            return
        known = self._queues.get(queue.name)
        if known is None or msgspec.structs.replace(known, bindings=queue.bindings) != queue:
            yield from _asked(
                requests.declare_queue(
                    queue.name,
                    durable=queue.durable,
                    exclusive=queue.exclusive,
                    auto_delete=queue.auto_delete,
                    arguments=queue.arguments,
                ),
                # Who has only heard of a queue need not know that others gave it priorities.
                as_it_is=not self._topology.defines(queue.name),
            )
        for binding in queue.bindings:
            yield from _asked(
                requests.bind_queue(queue.name, binding.exchange.name, binding.routing_key, binding.arguments)
            )
        self._queues[queue.name] = queue

    def _exchange_steps(self, exchange: ExchangeDefinition) -> Steps:
        if not exchange.is_declared or self._exchanges.get(exchange.name) == exchange:
            return
        yield from _asked(
            requests.declare_exchange(
                exchange.name,
                exchange.type,
                durable=exchange.durable,
                auto_delete=exchange.auto_delete,
                passive=exchange.passive,
                arguments=exchange.arguments,
            )
        )
        self._exchanges[exchange.name] = exchange

    def _is_there(self, exchange: str) -> Steps:
        """Whether an exchange exists of which nothing but its name is known."""
        try:
            yield requests.declare_exchange(exchange, passive=True)
        except ChannelClosedError as error:
            if error.code == NOT_FOUND:
                return False
            raise explain_refusal(error) from error
        return True


def _asked(request: Request, *, as_it_is: bool = False) -> Steps:
    """Ask; ``as_it_is``: what exists serves, whatever it is like."""
    try:
        return (yield request)
    except ChannelClosedError as error:
        if as_it_is and error.code == PRECONDITION_FAILED:
            return ()
        raise explain_refusal(error) from error


_DIFFERENCE = re.compile(
    r"inequivalent arg '(?P<argument>[^']*)' for (?P<kind>queue|exchange) '(?P<name>.*?)' in vhost '.*?': "
    r"received (?P<received>.*?) but current is (?P<current>.*)$"
)
_LOCKED = re.compile(r"locked queue '(?P<name>.*?)' in vhost")


def explain_refusal(error: ChannelClosedError) -> BrokerError:
    """Why the server would not make a queue, an exchange or a binding: what differs from what exists."""
    if error.code == PRECONDITION_FAILED and (found := _DIFFERENCE.search(error.text)):
        kind, name, argument = found["kind"], found["name"], found["argument"]
        return BrokerError(
            f"{kind} {name!r} exists with {argument} {_plain(found['current'])}, but is declared here with"
            f" {_plain(found['received'])}: declare it in task_queues as it is, or delete it on the server"
        )
    if error.code == RESOURCE_LOCKED and (found := _LOCKED.search(error.text)):
        return BrokerError(
            f"queue {found['name']!r} is exclusive to another connection, or exists and is not exclusive"
        )
    return BrokerError(f"RabbitMQ refused a declaration: {error.text or error.code}")


def _plain(value: str) -> str:
    """A value as the server words it: ``the value '10' of type 'signedint'``, ``'true'``, ``none``."""
    return value.removeprefix("the value ").partition(" of type ")[0].strip("'")
