"""One AMQP connection without its socket: what to write, and what it means that something was read.

py-amqp does the handshake, and reads and writes every frame; bytes come from and go to whoever drives the dialogue: an
event loop (``link``) or the threads of a program (``blocking``). One driver at a time, and no waiting in here.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import lru_cache
from struct import unpack_from
from typing import TYPE_CHECKING, Any, Final

import amqp
from amqp import spec
from amqp.method_framing import frame_handler, frame_writer
from amqp.serialization import dumps, loads
from amqp.transport import AMQP_PROTOCOL_HEADER

from umbel.errors import BrokerConnectionError, BrokerError
from umbel.stores.amqp.confirms import Confirms
from umbel.stores.amqp.consumers import Consumers, Delivered
from umbel.stores.amqp.contents import Content, pack_properties, publish_frames
from umbel.stores.amqp.deliveries import DELIVER, Part, read_delivery
from umbel.stores.amqp.faults import (
    LIBRARY_ERRORS,
    UNWRITABLE,
    ChannelClosedError,
    UnwritableMessageError,
    as_channel_error,
    as_connection_error,
)
from umbel.stores.amqp.requests import Request, close_channel, open_channel
from umbel.stores.amqp.shapes import PropertyReader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from umbel.stores.amqp.address import Address
    from umbel.stores.amqp.confirms import Batch, Outgoing, Pending

logger = logging.getLogger("umbel.amqp")

__all__ = ["Channel", "Dialogue"]

#: Bytes of a frame beside its payload: type, channel, size; and the mark at its end.
_FRAME_HEADER, _FRAME_END = 7, 1
_END_MARK: Final = 0xCE
#: The same, and what is in front of properties.
_FRAME_OVERHEAD: Final = 8 + 12
_METHOD: Final = 1  #: kind of a frame


class _Connection(amqp.Connection):  # type: ignore[misc]
    """py-amqp's connection as a state machine: told of frames, it writes what the protocol wants."""

    # py-amqp passes over the reason that RabbitMQ gives.
    _METHODS = {
        **amqp.Connection._METHODS,
        spec.Connection.Blocked: spec.method(spec.Connection.Blocked, "s"),
    }
    library_properties = {"product": "umbel", "platform": "Python", "product_version": "py-amqp"}

    def _on_blocked(self, reason: str = "") -> None:
        self.on_blocked(reason)

    # py-amqp would close its transport before it tells why.

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        self.send_method(spec.Connection.CloseOk)
        raise amqp.exceptions.error_for_code(
            reply_code, reply_text, (class_id, method_id), amqp.exceptions.ConnectionError
        )

    def _on_close_ok(self) -> None:
        raise BrokerConnectionError("the connection was closed")


class Dialogue:
    """A connection's state.

    Args:
        address: where it leads, and how to log in.
        on_output: called when there is something to write where there was nothing; ``take`` gives it.
    """

    connected = True  #: py-amqp asks

    def __init__(self, address: Address, on_output: Callable[[], None]) -> None:
        self._out = bytearray()
        self._unread = b""
        self._properties = PropertyReader()
        self._on_output = on_output
        self._on_lost: list[Callable[[BrokerConnectionError], None]] = []
        self._opened = False
        self._heartbeat_rate = address.heartbeat_rate
        self.on_open: Callable[[], None] = _do_nothing
        self.on_blocked: Callable[[str | None], None] = _do_nothing
        self.lost: BrokerConnectionError | None = None  #: why it is over
        self.blocked: str | None = None  #: why the server takes no messages at present
        self.received = 0  #: how often something came: the server is not silent while this grows
        self.channels: dict[int, Channel] = {}
        self._connection = connection = _Connection(
            on_open=self._opened_now,
            on_blocked=self._blocked_now,
            on_unblocked=self._unblocked_now,
            **address.login_arguments(),
        )
        connection.transport = self
        connection.on_inbound_frame = self._on_frame = frame_handler(connection, connection.on_inbound_method)
        connection.frame_writer = self.write_frame = frame_writer(connection, self)

    def begin(self) -> None:
        """Greet the server; ``on_open`` is called when it has let us in."""
        self.write(AMQP_PROTOCOL_HEADER)

    @property
    def heartbeat(self) -> float:
        """Seconds of silence after which either side may take the other for dead; 0: never."""
        return float(self._connection.heartbeat or 0)

    @property
    def room(self) -> int:
        """Bytes of a body, or of properties, that one frame has room for."""
        return int(self._connection.frame_max) - _FRAME_OVERHEAD

    @property
    def beats_every(self) -> float:
        """Seconds between two calls of ``beat``; 0: none are due."""
        return self.heartbeat / self._heartbeat_rate

    def beat(self) -> None:
        """Show that we are there, and give the connection up where the server does not."""
        try:
            self._connection.heartbeat_tick(rate=self._heartbeat_rate)
        except amqp.exceptions.ConnectionForced:
            self.fail(BrokerConnectionError(f"RabbitMQ was silent for {2 * self.heartbeat:g} seconds"))

    def on_lost(self, call: Callable[[BrokerConnectionError], None]) -> None:
        """Call this when the connection is over, in the order they were given."""
        self._on_lost.append(call)

    def channel(self, pending: Pending) -> Channel:
        """Open a channel; ``pending`` is told when it may be used. Raises BrokerConnectionError when it is over."""
        self.check()
        number = next(n for n in range(1, self._connection.channel_max + 1) if n not in self.channels)
        channel = self.channels[number] = self._connection.channels[number] = Channel(self, number)
        channel.ask(open_channel(), pending)
        return channel

    def say_goodbye(self) -> None:
        """Tell the server that we go."""
        if self.lost is None and self._opened:
            self._connection.send_method(spec.Connection.Close, "BsBB", (0, "", 0, 0))

    def check(self) -> None:
        """Raises BrokerConnectionError when it is over."""
        if self.lost is not None:
            raise BrokerConnectionError(str(self.lost))

    def fail(self, error: BaseException) -> None:
        """It is over: tell everyone who waits. Safe twice."""
        if self.lost is not None:
            return
        self.lost = as_connection_error(error)
        channels, self.channels = self.channels, {}
        for channel in channels.values():
            channel.fail(BrokerConnectionError(str(self.lost)))
        for call in self._on_lost:
            call(self.lost)
        # What the application sees now must not keep the whole conversation alive.
        self._connection.channels = {0: self._connection}

    # What is to be written.

    def write(self, data: bytes | memoryview) -> None:
        """Called by py-amqp; what it gives is its own buffer, so it is copied."""
        if not self._out:
            self._on_output()
        self._out += data

    def wrote(self) -> None:
        """Something was written past py-amqp: its heartbeats ask for that."""
        self._connection.bytes_sent += 1

    def take(self) -> bytearray:
        """Everything that is to be written now."""
        out, self._out = self._out, bytearray()
        return out

    def put_back(self, rest: bytearray) -> None:
        """The socket did not take all of it."""
        rest += self._out
        self._out = rest

    @property
    def has_output(self) -> bool:
        """Whether there is something to write."""
        return bool(self._out)

    def mark(self) -> int:
        """Where the output ends, for ``cut``."""
        return len(self._out)

    def cut(self, mark: int) -> None:
        """Take back what was written since."""
        del self._out[mark:]

    # What was read.

    def feed(self, data: bytes) -> None:
        """Bytes from the server. Errors end the connection, see ``lost``; nothing is raised."""
        self.received += 1
        if self._unread:
            data = self._unread + data
        on_frame, at, size, room = self._on_frame, 0, len(data), self.room
        try:
            while size - at > _FRAME_HEADER:
                kind, number, length = unpack_from(">BHI", data, at)
                end = at + _FRAME_HEADER + length
                if end >= size:
                    break
                if kind == _METHOD and data.startswith(DELIVER, at + _FRAME_HEADER):
                    found = read_delivery(data, at, end, room, self._properties)
                    if type(found) is tuple:
                        delivered, consumer, at = found
                        self._connection.bytes_recv += 1  # heartbeats ask whether it grows
                        self.channels[number].deliver(consumer, delivered)
                        continue
                    if found is Part.REST_TO_COME:
                        break
                if data[end] != _END_MARK:
                    raise ValueError("a frame does not end where it should")
                on_frame((kind, number, data[at + _FRAME_HEADER : end]))
                at = end + _FRAME_END
        except (*LIBRARY_ERRORS, BrokerConnectionError) as error:
            self.fail(self._explain(error, data[:8]))
        self._unread = data[at:] if at else data

    def _explain(self, error: BaseException, began: bytes) -> BaseException:
        if not self._opened and began.startswith(b"AMQP"):
            return BrokerConnectionError(f"the server speaks another protocol than AMQP 0-9-1: {began!r}")
        return error

    def closed_by_peer(self, error: Exception | None) -> None:
        """The socket was closed."""
        if not self._opened and error is None:
            error = BrokerConnectionError("the server closed the connection during the login")
        self.fail(error or BrokerConnectionError("the connection to RabbitMQ is lost: closed by the server"))

    def _opened_now(self, _connection: Any) -> None:
        self._opened = True
        self.on_open()

    def _blocked_now(self, reason: str) -> None:
        self.blocked = reason or "it is short of a resource"
        self.on_blocked(self.blocked)

    def _unblocked_now(self) -> None:
        self.blocked = None
        self.on_blocked(None)


class Channel:
    """One channel's state: what was asked and awaits its answer, what was published, who consumes."""

    def __init__(self, dialogue: Dialogue, number: int) -> None:
        self._dialogue = dialogue
        self.number = number
        self._waiting: deque[tuple[tuple[tuple[int, int], ...], Pending]] = deque()
        self.confirms = Confirms()
        self.consumers = Consumers()
        self.closed: BrokerError | None = None  #: why it is over
        self._on_closed: list[Callable[[BrokerError], None]] = []

    def on_closed(self, call: Callable[[BrokerError], None]) -> None:
        """Call this when the channel is over, also when its connection is."""
        self._on_closed.append(call)

    def ask(self, request: Request, pending: Pending) -> None:
        """Send a method; ``pending`` gets the fields of its answer. Raises BrokerError when the channel is over."""
        self.post(request.method, request.format, request.arguments)
        self._waiting.append((request.answers, pending))

    def post(self, method: tuple[int, int], form: str, arguments: tuple[Any, ...]) -> None:
        """Send a method that has no answer. Raises BrokerError when the channel is over, or it cannot be written."""
        self.check()
        try:
            packed = dumps(form, arguments)
        except UNWRITABLE as error:
            raise UnwritableMessageError(f"AMQP has no form for {arguments[1:4]!r}: {error}") from error
        self._dialogue.write_frame(1, self.number, method, packed, None)

    def publish(self, messages: Sequence[Outgoing], pending: Pending | None) -> Batch | None:
        """Write messages; on a channel with confirms ``pending`` gets their ``Confirmation``.

        Raises BrokerError, and writes nothing, when the channel is over or one of them cannot be written.
        """
        self.check()
        dialogue = self._dialogue
        mark, write, write_frame, number = dialogue.mark(), dialogue.write, dialogue.write_frame, self.number
        room = dialogue.room
        # Counted before they are written, so that not even an interrupted write leaves the numbers wrong.
        batch = self.confirms.add(messages, pending) if pending is not None else None
        try:
            for exchange, routing_key, properties, body, mandatory, packed in messages:
                arguments = _publish_arguments(exchange, routing_key, mandatory)
                header = pack_properties(properties) if packed is None else packed
                if 0 < len(body) <= room and len(header) <= room:
                    write(publish_frames(number, arguments, header, body))
                else:
                    write_frame(1, number, spec.Basic.Publish, arguments, Content(header, body))
        except BaseException as error:
            dialogue.cut(mark)
            if batch is not None:
                self.confirms.drop_last(batch)
            if isinstance(error, UNWRITABLE):
                raise UnwritableMessageError(f"a message cannot be written as AMQP: {error}") from error
            raise
        dialogue.wrote()
        return batch

    def acknowledge(self, tag: int, *, multiple: bool = False) -> None:
        """Settle a delivery, or all up to one. Raises BrokerError when the channel is over."""
        self.post(spec.Basic.Ack, "Lb", (tag, multiple))

    def reject(self, tag: int, *, multiple: bool = False, requeue: bool) -> None:
        """Give a delivery back to its queue, or have it dead-lettered."""
        self.post(spec.Basic.Nack, "Lbb", (tag, multiple, requeue))

    def close(self, pending: Pending) -> None:
        """End the channel; everything it held goes back to the queues. Safe twice."""
        if self.closed is None:
            self.ask(close_channel(), pending)
        else:
            pending.set_result(())

    def check(self) -> None:
        """Raises BrokerError when the channel is over."""
        closed = self.closed
        if closed is not None:
            raise _again(closed)

    def fail(self, error: BrokerError) -> None:
        """It is over: tell everyone who waits."""
        if self.closed is not None:
            return
        self.closed = error
        waiting, self._waiting = self._waiting, deque()
        for _, pending in waiting:
            if not pending.done():
                pending.set_exception(_again(error))
        self.confirms.fail(_again(error))
        for call in self._on_closed:
            call(error)

    def deliver(self, consumer: str, delivered: Delivered) -> None:
        """Hand a message over; it goes back where nobody is there for it."""
        if not self.consumers.deliver(consumer, delivered):
            self.reject(delivered.tag, requeue=True)

    def dispatch_method(self, method: tuple[int, int], payload: bytes, content: Any) -> None:
        """Called by py-amqp for every method that comes on this channel."""
        if method == spec.Basic.Deliver:
            tag, number, redelivered, exchange, routing_key = loads("sLbss", payload, 4)[0]
            self.deliver(tag, _delivered(number, redelivered, exchange, routing_key, content))
        elif method == spec.Basic.Ack:
            number, multiple = unpack_from(">Q?", payload, 4)
            self.confirms.answered(number, multiple, refused=False)
        else:
            self._dispatch_rest(method, payload, content)

    def _dispatch_rest(self, method: tuple[int, int], payload: bytes, content: Any) -> None:
        form = amqp.Channel._METHODS[method].args
        fields = tuple(loads(form, payload, 4)[0]) if form else ()
        if method == spec.Basic.Return:
            code, text, exchange, routing_key = fields
            self.confirms.came_back(exchange, routing_key, content.body or b"", f"{code} {text}")
        elif method == spec.Basic.Nack:
            self.confirms.answered(fields[0], fields[1], refused=True)
        elif method == spec.Basic.Cancel:
            self.consumers.cancelled(fields[0])
        elif method == spec.Channel.Close:
            self._dialogue.write_frame(1, self.number, spec.Channel.CloseOk, b"", None)
            self._over(as_channel_error(*fields))
        elif method == spec.Channel.CloseOk:
            self._answered(method, ())
            self._over(ChannelClosedError(0, "it was closed"))
        else:
            if method == spec.Basic.GetOk:
                number, redelivered, exchange, routing_key, _ = fields
                fields = (*fields, _delivered(number, redelivered, exchange, routing_key, content))
            self._answered(method, fields)

    def _answered(self, method: tuple[int, int], fields: tuple[Any, ...]) -> None:
        # Mostly the first; RabbitMQ has its queues answer basic.consume and basic.cancel, and goes on meanwhile.
        waiting = self._waiting
        place = next((place for place, (answers, _) in enumerate(waiting) if method in answers), None)
        if place is None:
            raise LookupError(f"method {method} answers nothing that was asked")
        pending = waiting[place][1]
        del waiting[place]
        if not pending.done():
            pending.set_result(fields)

    def _over(self, error: ChannelClosedError) -> None:
        self._dialogue.channels.pop(self.number, None)
        self._dialogue._connection.channels.pop(self.number, None)
        self.fail(error)


def _again(error: BrokerError) -> BrokerError:
    """A fresh exception of the same kind: each who waits raises one of his own."""
    if isinstance(error, ChannelClosedError):
        return ChannelClosedError(error.code, error.text, error.method)
    return type(error)(str(error))


@lru_cache(maxsize=1024)
def _publish_arguments(exchange: str, routing_key: str, mandatory: bool) -> bytes:
    packed: bytes = dumps("Bssbb", (0, exchange, routing_key, mandatory, False))
    return packed


def _delivered(number: int, redelivered: bool, exchange: str, routing_key: str, content: Any) -> Delivered:
    properties = content.properties
    properties["headers"] = properties.pop("application_headers", None) or {}
    return Delivered(number, redelivered, exchange, routing_key, content.body or b"", known=properties)


def _do_nothing(*_: Any) -> None:
    """Where nobody asked to be told."""
