"""What a client asks of RabbitMQ, as values: a method, its arguments, and the methods that answer it.

The names and the order of the fields are AMQP's; py-amqp's codec writes them. Nothing here talks to a server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from amqp import spec

if TYPE_CHECKING:
    from collections.abc import Mapping

Method = tuple[int, int]

_NO_WAIT: Final = False


class Request(NamedTuple):
    """A method with its arguments in the library's format, and the methods one of which is the answer."""

    method: Method
    format: str
    arguments: tuple[Any, ...]
    answers: tuple[Method, ...]


def open_channel() -> Request:
    """Begin a channel."""
    return Request(spec.Channel.Open, "s", ("",), (spec.Channel.OpenOk,))


def close_channel() -> Request:
    """End a channel."""
    return Request(spec.Channel.Close, "BsBB", (0, "", 0, 0), (spec.Channel.CloseOk,))


def declare_exchange(
    name: str,
    exchange_type: str = "direct",
    *,
    durable: bool = True,
    auto_delete: bool = False,
    passive: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> Request:
    """Make an exchange unless it is there; ``passive`` only asks whether it is."""
    fields = (0, name, exchange_type, passive, durable, auto_delete, False, _NO_WAIT, dict(arguments or {}))
    return Request(spec.Exchange.Declare, "BssbbbbbF", fields, (spec.Exchange.DeclareOk,))


def delete_exchange(name: str, *, if_unused: bool = False) -> Request:
    """Delete an exchange."""
    return Request(spec.Exchange.Delete, "Bsbb", (0, name, if_unused, _NO_WAIT), (spec.Exchange.DeleteOk,))


def bind_exchange(
    destination: str, source: str, routing_key: str = "", arguments: Mapping[str, Any] | None = None
) -> Request:
    """Have an exchange pass messages on to another."""
    fields = (0, destination, source, routing_key, _NO_WAIT, dict(arguments or {}))
    return Request(spec.Exchange.Bind, "BsssbF", fields, (spec.Exchange.BindOk,))


def declare_queue(
    name: str = "",
    *,
    durable: bool = True,
    exclusive: bool = False,
    auto_delete: bool = False,
    passive: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> Request:
    """Make a queue unless it is there; ``passive`` only asks. Answered by name, messages ready, consumers."""
    fields = (0, name, passive, durable, exclusive, auto_delete, _NO_WAIT, dict(arguments or {}))
    return Request(spec.Queue.Declare, "BsbbbbbF", fields, (spec.Queue.DeclareOk,))


def bind_queue(
    queue: str, exchange: str, routing_key: str = "", arguments: Mapping[str, Any] | None = None
) -> Request:
    """Have an exchange put messages into a queue."""
    fields = (0, queue, exchange, routing_key, _NO_WAIT, dict(arguments or {}))
    return Request(spec.Queue.Bind, "BsssbF", fields, (spec.Queue.BindOk,))


def unbind_queue(
    queue: str, exchange: str, routing_key: str = "", arguments: Mapping[str, Any] | None = None
) -> Request:
    """Take a binding back."""
    fields = (0, queue, exchange, routing_key, dict(arguments or {}))
    return Request(spec.Queue.Unbind, "BsssF", fields, (spec.Queue.UnbindOk,))


def delete_queue(name: str, *, if_unused: bool = False, if_empty: bool = False) -> Request:
    """Delete a queue with what is in it. Answered by how many messages that were."""
    fields = (0, name, if_unused, if_empty, _NO_WAIT)
    return Request(spec.Queue.Delete, "Bsbbb", fields, (spec.Queue.DeleteOk,))


def purge_queue(name: str) -> Request:
    """Delete what waits in a queue. Answered by how many messages that were."""
    return Request(spec.Queue.Purge, "Bsb", (0, name, _NO_WAIT), (spec.Queue.PurgeOk,))


def set_prefetch(count: int, *, shared: bool = False) -> Request:
    """How many unacknowledged messages each consumer started from now on may have (``shared``: all together).

    0 is no limit.
    """
    return Request(spec.Basic.Qos, "lBb", (0, count, shared), (spec.Basic.QosOk,))


def consume(
    queue: str,
    tag: str = "",
    *,
    no_ack: bool = False,
    exclusive: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> Request:
    """Have a queue's messages delivered. Answered by the consumer's tag."""
    fields = (0, queue, tag, False, no_ack, exclusive, _NO_WAIT, dict(arguments or {}))
    return Request(spec.Basic.Consume, "BssbbbbF", fields, (spec.Basic.ConsumeOk,))


def cancel(tag: str) -> Request:
    """Have no more messages delivered to a consumer."""
    return Request(spec.Basic.Cancel, "sb", (tag, _NO_WAIT), (spec.Basic.CancelOk,))


def get(queue: str, *, no_ack: bool = False) -> Request:
    """Take one message."""
    return Request(spec.Basic.Get, "Bsb", (0, queue, no_ack), (spec.Basic.GetOk, spec.Basic.GetEmpty))


def select_confirms() -> Request:
    """Have what is published on the channel confirmed."""
    return Request(spec.Confirm.Select, "b", (_NO_WAIT,), (spec.Confirm.SelectOk,))
