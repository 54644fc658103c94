"""Queues, their exchanges and bindings in full, for brokers that keep them as objects of their own (RabbitMQ).

A ``Binding`` says where messages go; the definitions here say how each thing is to be made. They are read off queues by
their attributes, so that kombu's own objects serve too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from umbel.core.bindings import Binding

__all__ = [
    "BindingDefinition",
    "ExchangeDefinition",
    "QueueDefinition",
    "define",
    "define_bindings",
    "queue_arguments",
]

#: RabbitMQ's own exchanges, which are always there and which nobody may declare.
_INTERNAL: Final = "amq."


class ExchangeDefinition(msgspec.Struct, frozen=True):
    """How an exchange is to be made."""

    name: str
    type: str = "direct"
    durable: bool = True
    auto_delete: bool = False
    arguments: dict[str, Any] = {}
    no_declare: bool = False  #: somebody else makes it
    passive: bool = False  #: it has to be there

    @property
    def is_declared(self) -> bool:
        """Whether we make it."""
        return bool(self.name) and not self.no_declare and not self.name.startswith(_INTERNAL)


class BindingDefinition(msgspec.Struct, frozen=True):
    """An exchange and what a message there must have to go to the queue: a key, and for ``headers`` arguments."""

    exchange: ExchangeDefinition
    routing_key: str = ""
    arguments: dict[str, Any] = {}


class QueueDefinition(msgspec.Struct, frozen=True):
    """How a queue is to be made, and which exchanges lead to it.

    ``arguments`` are RabbitMQ's (``x-max-priority``, ``x-queue-type``, …), with those that Celery's queues have as
    attributes. ``of_consumer``: only who consumes from it makes it, because it belongs to one connection or is one
    listener's share of what is broadcast.
    """

    name: str
    bindings: tuple[BindingDefinition, ...] = ()
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    arguments: dict[str, Any] = {}
    consumer_arguments: dict[str, Any] = {}
    no_ack: bool = False
    no_declare: bool = False
    of_consumer: bool = False


def define(queue: Any) -> QueueDefinition:
    """The definition of a queue, ours or kombu's."""
    found = _values(queue)
    pairs = [(found.get("exchange"), found.get("routing_key"), found.get("binding_arguments"))]
    pairs += [(each.exchange, each.routing_key, each.arguments) for each in found.get("bindings") or ()]
    exclusive = bool(found.get("exclusive", False))
    return QueueDefinition(
        queue.name,
        tuple(
            BindingDefinition(_define_exchange(exchange), key or "", dict(arguments or {}))
            for exchange, key, arguments in pairs
            if exchange is not None and exchange.name
        ),
        durable=bool(found.get("durable", True)),
        exclusive=exclusive,
        auto_delete=bool(found.get("auto_delete", False)) or exclusive,
        arguments=queue_arguments(found),
        consumer_arguments=dict(found.get("consumer_arguments") or {}),
        no_ack=bool(found.get("no_ack", False)),
        no_declare=bool(found.get("no_declare", False)),
        of_consumer=exclusive or type(queue).__name__ == "Broadcast",
    )


def define_bindings(queue: str, bindings: Iterable[Binding]) -> QueueDefinition:
    """The definition of a queue of which nothing but bindings is known: durable, like its exchanges."""
    return QueueDefinition(
        queue,
        tuple(
            BindingDefinition(ExchangeDefinition(each.exchange, each.exchange_type), each.routing_key)
            for each in bindings
            if each.queue == queue and each.exchange
        ),
    )


def _define_exchange(exchange: Any) -> ExchangeDefinition:
    found = _values(exchange)
    return ExchangeDefinition(
        exchange.name,
        exchange.type or "direct",
        durable=bool(found.get("durable", True)),
        auto_delete=bool(found.get("auto_delete", False)),
        arguments=dict(found.get("arguments") or {}),
        no_declare=bool(found.get("no_declare", False)),
        passive=bool(found.get("passive", False)),
    )


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


#: Attributes of a queue that stand for an argument of RabbitMQ's.
_ARGUMENTS: Final[dict[str, tuple[str, Callable[[Any], int]]]] = {
    "expires": ("x-expires", _milliseconds),
    "message_ttl": ("x-message-ttl", _milliseconds),
    "max_length": ("x-max-length", int),
    "max_length_bytes": ("x-max-length-bytes", int),
    "max_priority": ("x-max-priority", int),
}


def queue_arguments(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """RabbitMQ's arguments of a queue with these attributes; durations become milliseconds."""
    named = {
        argument: convert(attributes[name])
        for name, (argument, convert) in _ARGUMENTS.items()
        if attributes.get(name) is not None
    }
    return {**(attributes.get("queue_arguments") or {}), **named}


#: What is read of queues and exchanges. kombu's objects have some of these on their class only.
_READ: Final = (
    "exchange",
    "routing_key",
    "bindings",
    "binding_arguments",
    "consumer_arguments",
    "durable",
    "exclusive",
    "auto_delete",
    "no_ack",
    "no_declare",
    "queue_arguments",
    "arguments",
    "passive",
    *_ARGUMENTS,
)


def _values(made: Any) -> dict[str, Any]:
    """The attributes that an object of kombu's shape has; each may be missing."""
    return {name: value for name in _READ if (value := getattr(made, name, None)) is not None}
