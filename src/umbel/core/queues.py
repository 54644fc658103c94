"""Exchanges and queues as values, and the table of an application's queues.

The shapes are kombu's: ``Queue('video', Exchange('media', type='topic'), routing_key='video.#')`` reads the same, and
kombu's own objects are taken wherever these are, by their attributes. Nothing here talks to a broker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from umbel.core.bindings import Binding, bindings_of
from umbel.core.ids import new_id
from umbel.core.topology import QueueDefinition, define
from umbel.errors import ImproperlyConfigured

__all__ = ["Broadcast", "Exchange", "ExchangeLike", "Queue", "QueueLike", "QueueTable", "as_queue", "binding"]


class ExchangeLike(Protocol):
    """What is read of an exchange, whoever made it."""

    name: str
    type: str
    delivery_mode: Any


class QueueLike(Protocol):
    """What is read of a queue, whoever made it."""

    name: str
    exchange: Any
    routing_key: str
    queue_arguments: Any
    alias: str | None


class Exchange:
    """Where messages are published to; its ``type`` says how it finds the queues bound to it.

    ``type`` is ``direct`` (routing keys equal), ``topic`` (patterns with ``*`` and ``#``), ``fanout`` (every queue) or
    ``headers``. ``delivery_mode`` 2 or ``persistent`` survives a restart of the broker, 1 or ``transient`` does not;
    None leaves it to the application.
    """

    def __init__(
        self,
        name: str = "",
        type: str = "",
        channel: object = None,
        *,
        durable: bool = True,
        auto_delete: bool = False,
        delivery_mode: int | str | None = None,
        arguments: Mapping[str, Any] | None = None,
        no_declare: bool = False,
        passive: bool = False,
    ) -> None:
        self.name = name
        self.type = type or "direct"
        self.durable = durable
        self.auto_delete = auto_delete
        self.delivery_mode = delivery_mode
        self.arguments = dict(arguments or {})
        self.no_declare = no_declare
        self.passive = passive

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<Exchange {self.name}({self.type})>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Exchange) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.name, self.type))


class binding:  # noqa: N801 -- kombu's name
    """One more exchange and routing key that lead to a queue."""

    def __init__(
        self,
        exchange: Exchange | None = None,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
        unbind_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.arguments = arguments
        self.unbind_arguments = unbind_arguments

    def __repr__(self) -> str:
        return f"<binding: {self.exchange}->{self.routing_key}>"


class Queue:
    """A queue and the exchange and routing key that lead to it.

    Args:
        name: of the queue.
        exchange: an ``Exchange`` or its name; None: the application's default exchange.
        routing_key: the binding key; empty: the application's default routing key.
        queue_arguments: handed to brokers that know such (RabbitMQ's ``x-...``).
        max_priority, message_ttl, expires, max_length, max_length_bytes: short for the arguments of those names;
            durations are seconds.
        alias: another name under which tasks may be sent to it.
    """

    def __init__(
        self,
        name: str = "",
        exchange: Exchange | str | None = None,
        routing_key: str = "",
        channel: object = None,
        bindings: Iterable[binding] | None = None,
        on_declared: object = None,
        *,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        no_ack: bool = False,
        alias: str | None = None,
        queue_arguments: Mapping[str, Any] | None = None,
        binding_arguments: Mapping[str, Any] | None = None,
        consumer_arguments: Mapping[str, Any] | None = None,
        no_declare: bool | None = None,
        expires: float | None = None,
        message_ttl: float | None = None,
        max_length: int | None = None,
        max_length_bytes: int | None = None,
        max_priority: int | None = None,
    ) -> None:
        self.name = name
        self.exchange = Exchange(exchange) if isinstance(exchange, str) else exchange
        self.routing_key = routing_key
        self.bindings = set(bindings or ())
        self.durable = durable
        self.exclusive = exclusive
        self.auto_delete = auto_delete or exclusive
        self.no_ack = no_ack
        self.alias = alias
        self.queue_arguments: dict[str, Any] = dict(queue_arguments or {})
        self.binding_arguments = binding_arguments
        self.consumer_arguments = consumer_arguments
        self.no_declare = no_declare
        self.expires = expires
        self.message_ttl = message_ttl
        self.max_length = max_length
        self.max_length_bytes = max_length_bytes
        self.max_priority = max_priority

    @classmethod
    def from_dict(cls, queue: str, **options: Any) -> Queue:
        """A queue from the options of ``task_queues`` in its mapping form.

        ``exchange`` and ``exchange_type`` describe the exchange, ``binding_key`` and ``routing_key`` both mean the key.
        """
        exchange = options.pop("exchange", None)
        exchange_type = options.pop("exchange_type", None)
        key = options.pop("binding_key", None) or options.pop("routing_key", None) or queue
        options.pop("routing_key", None)
        if isinstance(exchange, str) or (exchange is None and exchange_type):
            exchange = Exchange(exchange or queue, exchange_type or "")
        arguments = {name: options.pop(name) for name in list(options) if name in _QUEUE_OPTIONS}
        if options:
            raise ImproperlyConfigured(f"task_queues: queue {queue!r} has unknown options {sorted(options)}")
        return cls(queue, exchange, key, **arguments)

    def __repr__(self) -> str:
        return f"<Queue {self.name} -> {self.exchange!r} -> {self.routing_key}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Queue) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(self.name)


class Broadcast(Queue):
    """A queue of this process's own that gets a copy of all that is sent to a fanout exchange.

    Every worker that lists it runs each task sent to it. It is gone when its worker is; where nobody listens, what is
    sent is gone.

    Args:
        name: of the exchange, and the name under which tasks are sent to it.
        queue: name of the queue; None: ``bcast.`` and something unique.
        unique: add something unique to ``queue``.
        auto_delete: whether the queue goes with its last consumer.
        exchange: another one than the fanout exchange called ``name``.
        alias: another name than ``name`` under which tasks are sent to it.
    """

    def __init__(
        self,
        name: str | None = None,
        queue: str | None = None,
        unique: bool = False,
        auto_delete: bool = True,
        exchange: Exchange | str | None = None,
        alias: str | None = None,
        **options: Any,
    ) -> None:
        own = f"{queue or 'bcast'}.{new_id()}" if unique or not queue else queue
        if exchange is None:
            exchange = Exchange(name or "", type="fanout")
        super().__init__(own, exchange, auto_delete=auto_delete, alias=alias or name, **options)


_QUEUE_OPTIONS = frozenset(
    {
        "alias",
        "auto_delete",
        "binding_arguments",
        "bindings",
        "consumer_arguments",
        "durable",
        "exclusive",
        "expires",
        "max_length",
        "max_length_bytes",
        "max_priority",
        "message_ttl",
        "no_ack",
        "no_declare",
        "queue_arguments",
    }
)


def as_queue(value: Any) -> Any:
    """``value`` if it is a queue: one of ours, or an object with a queue's attributes. Raises ImproperlyConfigured."""
    if isinstance(value, Queue):
        return value
    try:
        _ = value.name, value.exchange, value.routing_key, value.alias, value.queue_arguments
    except AttributeError:
        raise ImproperlyConfigured(
            f"expected a Queue, a queue's name or a mapping of its options, got {value!r}"
        ) from None
    return value


class QueueTable(dict[str, Any]):
    """The queues of an application by name (``app.amqp.queues``).

    A name that is not declared is made on demand, with a direct exchange of its own name, unless ``create_missing`` is
    off. ``consume_from`` is what a worker listens to.

    Args:
        queues: what ``task_queues`` holds: queues, or a mapping of names to options; None: only the default queue.
        default_exchange, default_routing_key: for queues that name none.
        create_missing: see ``task_create_missing_queues``.
        missing_type: ``classic`` or ``quorum``, see ``task_create_missing_queue_type``.
        missing_exchange_type: see ``task_create_missing_queue_exchange_type``.
        max_priority: ``x-max-priority`` of queues without one.
    """

    def __init__(
        self,
        queues: Mapping[str, Any] | Iterable[Any] | None = None,
        *,
        default_exchange: Exchange | None = None,
        default_routing_key: str | None = None,
        create_missing: bool = True,
        missing_type: str | None = None,
        missing_exchange_type: str | None = None,
        max_priority: int | None = None,
    ) -> None:
        super().__init__()
        self.aliases: dict[str, Any] = {}
        self.default_exchange = default_exchange
        self.default_routing_key = default_routing_key
        self.create_missing = create_missing
        self.missing_type = missing_type
        self.missing_exchange_type = missing_exchange_type
        self.max_priority = max_priority
        self._selected: dict[str, Any] | None = None
        self._bindings: tuple[int, dict[str, tuple[Binding, ...]]] | None = None
        self._definitions: dict[str, QueueDefinition] = {}
        self._given: dict[str, Any] = {}
        if not isinstance(queues, Mapping):
            for queue in queues or ():
                self.add(queue)
        else:
            for name, options in queues.items():
                self.add(name, **options) if isinstance(options, Mapping) else self.add(options)
        self._declared: dict[str, Any] = dict(self)

    def __missing__(self, name: str) -> Any:
        if name in self.aliases:
            return self.aliases[name]
        if not self.create_missing:
            raise KeyError(name)
        return self.add(self.new_missing(name))

    def __setitem__(self, name: str, queue: Any) -> None:
        if self.default_exchange is not None and not (queue.exchange and queue.exchange.name):
            queue.exchange = self.default_exchange
        if not queue.routing_key:
            queue.routing_key = self.default_routing_key or name
        if self.max_priority is not None:
            queue.queue_arguments = {"x-max-priority": self.max_priority, **(queue.queue_arguments or {})}
        super().__setitem__(name, queue)
        self._bindings = None
        self._definitions.pop(name, None)
        if queue.alias:
            self.aliases[queue.alias] = queue

    def add(self, queue: Any, **options: Any) -> Any:
        """Declare a queue: a ``Queue``, or a name with the options of ``Queue.from_dict``. Returns the queue."""
        made = Queue.from_dict(queue, **options) if isinstance(queue, str) else as_queue(queue)
        self[made.name] = made
        return made

    def bindings(self) -> list[Binding]:
        """Every binding of every queue."""
        return [binding for bound in self._by_exchange().values() for binding in bound]

    def bindings_to(self, exchange: str) -> tuple[Binding, ...]:
        """The bindings of one exchange, as far as they are declared here."""
        return self._by_exchange().get(exchange, ())

    def definitions(self) -> list[QueueDefinition]:
        """How every queue is to be made."""
        return [definition for name in list(self) if (definition := self.definition(name)) is not None]

    def definitions_to(self, exchange: str) -> list[QueueDefinition]:
        """Those of the queues bound to one exchange."""
        names = dict.fromkeys(each.queue for each in self.bindings_to(exchange))
        return [definition for name in names if (definition := self.definition(name)) is not None]

    def definition(self, name: str) -> QueueDefinition | None:
        """How a queue is to be made; None where nobody declared one of this name. The same object as long as it is."""
        known = self._definitions.get(name)
        if known is None:
            queue = self.get(name)
            queue = self._given.get(name) if queue is None else queue
            if queue is None:
                return None
            known = self._definitions[name] = define(queue)
        return known

    def note_given(self, queue: Any) -> None:
        """Remember how to make a queue that a call gave as an object; it does not join the table."""
        if queue.name not in self and self._given.get(queue.name) is not queue:
            if len(self._given) > 1000:  # names may be made up by the application
                self._given.clear()
            self._given[queue.name] = queue
            self._definitions.pop(queue.name, None)

    def _by_exchange(self) -> dict[str, tuple[Binding, ...]]:
        known = self._bindings
        if known is None or known[0] != len(self):
            found: dict[str, tuple[Binding, ...]] = {}
            for queue in self.values():
                for each in bindings_of(queue):
                    found[each.exchange] = (*found.get(each.exchange, ()), each)
            known = self._bindings = (len(self), found)
        return known[1]

    def new_missing(self, name: str) -> Queue:
        """The queue that a name stands for which nobody declared."""
        if self.missing_type not in {None, "", "classic", "quorum"}:
            raise ImproperlyConfigured(
                f"task_create_missing_queue_type: expected 'classic' or 'quorum', got {self.missing_type!r}"
            )
        arguments = {"x-queue-type": "quorum"} if self.missing_type == "quorum" else {}
        return Queue(name, Exchange(name, self.missing_exchange_type or ""), name, queue_arguments=arguments)

    @property
    def consume_from(self) -> dict[str, Any]:
        """The queues a worker listens to: the selected ones, else all that were declared."""
        return self._declared if self._selected is None else self._selected

    def select(self, include: str | Iterable[str] | None) -> None:
        """Listen to these queues only; the others are then for routing."""
        if include:
            names = [include] if isinstance(include, str) else include
            self._selected = {queue.name: queue for queue in map(self.__getitem__, names)}

    def select_add(self, queue: Any, **options: Any) -> Any:
        """Declare a queue and listen to it too."""
        added = self.add(queue, **options)
        self.consume_from[added.name] = added
        return added

    def deselect(self, exclude: str | Iterable[str] | None) -> None:
        """Stop listening to these queues."""
        for name in [exclude] if isinstance(exclude, str) else exclude or ():
            alias = self.aliases.get(name)
            self.consume_from.pop(name if alias is None else alias.name, None)
