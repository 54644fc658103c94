"""Publishers: messages go out together, and the broker's confirmations are waited for together.

Whoever sends at the same time shares a connection and one stream of confirmations. A message that no queue gets comes
back and is an error for its sender; one that the broker did not confirm by the deadline is a ``PublishTimeout``, which
says so when the broker takes none because it is short of memory or disk.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from umbel.brokers.amqp.placing import Placing
from umbel.brokers.amqp.topology import Placed
from umbel.core.bindings import no_queue_bound
from umbel.errors import BrokerConnectionError, BrokerError, PublishTimeout
from umbel.stores.amqp import requests
from umbel.stores.amqp.blocking import open_blocking_link
from umbel.stores.amqp.faults import NOT_FOUND, ChannelClosedError
from umbel.stores.amqp.link import open_link

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from umbel.brokers.amqp.topology import Steps, Topology
    from umbel.core.records import Publication
    from umbel.stores.amqp import dialogue
    from umbel.stores.amqp.blocking import BlockingLink, Waiter
    from umbel.stores.amqp.confirms import Confirmation, Outgoing
    from umbel.stores.amqp.consumers import Delivered
    from umbel.stores.amqp.failover import Failover
    from umbel.stores.amqp.link import Channel, Link

__all__ = ["AmqpAsyncPublisher", "AmqpPublisher"]

#: Messages are written in pieces of this many, so that a big batch does not fill every buffer.
_PIECE = 1000
#: Messages asked for in one go.
_GETS = 100


def _pieces(messages: Sequence[Outgoing]) -> list[Sequence[Outgoing]]:
    if len(messages) <= _PIECE:
        return [messages]
    return [messages[start : start + _PIECE] for start in range(0, len(messages), _PIECE)]


class _Session:
    """One connection of a blocking publisher: its link, its channels, and what it has in place."""

    def __init__(self, link: BlockingLink, topology: Topology, *, confirm: bool) -> None:
        self.link = link
        self.placed = Placed(topology)
        self._confirm = confirm
        self._placing = threading.Lock()
        self._channel: dialogue.Channel | None = None
        self._retired: dialogue.Channel | None = None
        self._asking: dialogue.Channel | None = None

    def place(self, publications: Sequence[Publication], deadline: float) -> None:
        """Put in place what publications need. Raises BrokerError, TimeoutError."""
        if self.placed.missing(publications):
            with self._placing:
                for to in self.placed.missing(publications):
                    self._take(self.placed.steps(to), deadline)

    def place_delays(self, deadline: float) -> None:
        """Put in place what delayed messages need. Raises BrokerError, TimeoutError."""
        with self._placing:
            self._take(self.placed.delay_steps(), deadline)

    def _take(self, steps: Steps, deadline: float) -> None:
        try:
            request = next(steps)
            while True:
                if self._asking is None or self._asking.closed is not None:
                    self._asking = self.link.open_channel(deadline)
                try:
                    fields = self.link.ask(self._asking, request, deadline)
                except BrokerConnectionError:
                    raise
                except BrokerError as error:
                    request = steps.throw(error)
                else:
                    request = steps.send(fields)
        except StopIteration:
            return

    def peek(self, queue: str, limit: int, deadline: float) -> list[Delivered]:
        """The last messages of a queue, in order; all go back to where they were."""
        kept: deque[Delivered] = deque(maxlen=limit)
        channel = self.link.open_channel(deadline)
        while True:
            # Closed or not, the channel holds them only for as long as this takes.
            answers = [self.link.begin(channel, requests.get(queue), deadline) for _ in range(_GETS)]
            arrived = [
                fields[-1] for answer in answers if len(fields := self.link.wait(answer, deadline)) > 1
            ]
            kept += arrived
            if len(arrived) < _GETS:
                self.link.ask(channel, requests.close_channel(), deadline)
                return list(kept)

    def ask(self, request: requests.Request, deadline: float) -> tuple[object, ...]:
        """The fields of an answer. Raises ChannelClosedError when it is refused."""
        with self._placing:
            if self._asking is None or self._asking.closed is not None:
                self._asking = self.link.open_channel(deadline)
            return self.link.ask(self._asking, request, deadline)

    def channel(self, deadline: float) -> dialogue.Channel:
        """The channel that everything is published on; a new one where the server closed the last."""
        channel = self._channel
        if channel is not None and channel.closed is None:
            return channel
        with self._placing:
            if self._channel is None or self._channel.closed is not None:
                if self._channel is not None:
                    self.placed.forget()
                channel = self.link.open_channel(deadline)
                if self._confirm:
                    self.link.ask(channel, requests.select_confirms(), deadline)
                self._channel = channel
            return self._channel

    def retire(self, channel: dialogue.Channel, deadline: float) -> None:
        """Publish no more on a channel that has refused messages; what others wait for on it still comes.

        A channel keeps to the leader that a quorum queue had when it was first used, and refuses for ever when that
        is dead.
        """
        with self._placing:
            if self._channel is not channel:
                return
            self._channel = None
            before, self._retired = self._retired, channel
        if before is not None and before.closed is None:
            self.link.ask(before, requests.close_channel(), deadline)


class _Sending:
    """Publications on their way: written, and then waited for."""

    __slots__ = (
        "_channel",
        "_deadline",
        "_origins",
        "_publications",
        "_receipt",
        "_received",
        "_session",
        "_timeout",
        "_waiters",
    )

    def __init__(
        self,
        session: _Session,
        publications: Sequence[Publication],
        deadline: float,
        timeout: float,
        receipt: Outgoing | None,
    ) -> None:
        self._session = session
        self._publications = publications
        self._deadline = deadline
        self._timeout = timeout
        self._receipt = receipt
        self._received = session.link.received
        self._channel: dialogue.Channel
        self._origins: Sequence[Publication] = ()
        self._waiters: list[Waiter] = []

    def write(self, *, confirm: bool) -> None:
        """Write them. Raises as ``Publisher.send``."""
        session, deadline, link = self._session, self._deadline, self._session.link
        try:
            if link.blocked is not None:
                link.wait_unblocked(deadline)
            self._channel = session.channel(deadline)
            session.place(self._publications, deadline)
            messages, self._origins = compose_all(self._publications, session.placed.compose)
            if session.placed.new_delays:
                session.place_delays(deadline)
            if self._receipt is not None and self._is_meant(self._receipt):
                messages, self._origins = [*messages, self._receipt], [*self._origins, *self._origins]
            self._publish(messages, confirm=confirm)
        except TimeoutError as error:
            raise self._overdue() from error

    def _is_meant(self, receipt: Outgoing) -> bool:
        """Whether a receipt is for what is sent."""
        return len(self._origins) == 1 and receipt.body in self._origins[0].payload

    def _publish(self, messages: Sequence[Outgoing], *, confirm: bool) -> None:
        link, channel, deadline = self._session.link, self._channel, self._deadline
        if not confirm:
            for piece in _pieces(messages):
                link.publish_unconfirmed(channel, piece, deadline)
            return
        try:
            if messages:
                self._waiters = [link.publish(channel, piece, deadline) for piece in _pieces(messages)]
        except ChannelClosedError as error:
            raise explain_closed(error, self._publications) from error

    def finish(self) -> None:
        """Wait until the broker has them. Raises as ``Publisher.send``."""
        session, deadline, waiters = self._session, self._deadline, self._waiters
        if not waiters:
            return
        try:
            outcomes = [session.link.wait(waiter, deadline) for waiter in waiters]
            if any(outcome.refused for outcome in outcomes):
                session.retire(self._channel, deadline)
        except ChannelClosedError as error:
            raise explain_closed(error, self._publications) from error
        except TimeoutError as error:
            raise self._overdue() from error
        check_outcomes(outcomes, self._origins)

    def _overdue(self) -> PublishTimeout:
        link = self._session.link
        if link.received == self._received and link.blocked is None:
            link.abandon(f"RabbitMQ was silent for {self._timeout:g} seconds")
        return PublishTimeout(explain_timeout(len(self._publications), self._timeout, link.blocked))


def _nothing() -> None:
    """Where nothing is to be waited for."""


class AmqpPublisher:
    """A blocking publisher. Safe for use by several threads, in handlers of signals, and after a fork.

    Args:
        failover: where to connect to.
        topology: what was declared.
        confirm: whether to wait until the broker has confirmed what was sent.
    """

    def __init__(self, failover: Failover, topology: Topology, *, confirm: bool = True) -> None:
        self._failover = failover
        self._topology = topology
        self._confirm = confirm
        self._pid = os.getpid()
        self._connecting = threading.Lock()
        self._session: _Session | None = None
        self._inside: set[int] = set()
        self._inner: AmqpPublisher | None = None
        #: What is written right behind the message in which it occurs; see ``Receipts``.
        self.receipt: Outgoing | None = None

    def send(self, publications: Sequence[Publication], *, timeout: float) -> None:
        """As Publisher.send. A connection that died while nobody used it is replaced without a word."""
        self.begin(publications, timeout=timeout)()

    def begin(self, publications: Sequence[Publication], *, timeout: float) -> Callable[[], None]:
        """As PipelinedPublisher.begin."""
        if not publications:
            return _nothing
        if os.getpid() != self._pid:
            # The parent goes on using the inherited connection: it is forgotten here, not closed.
            self._start_afresh()
        me = threading.get_ident()
        if me in self._inside:
            # A signal's handler, or a finalizer, interrupts this thread's own send, with its locks held.
            return self._interrupting().begin(publications, timeout=timeout)
        self._inside.add(me)
        try:
            deadline = time.monotonic() + timeout
            session = self._reached(deadline, timeout)
            sending = _Sending(session, publications, deadline, timeout, self.receipt)
            sending.write(confirm=self._confirm)
        finally:
            self._inside.discard(me)
        return partial(self._finish, sending)

    def _finish(self, sending: _Sending) -> None:
        me = threading.get_ident()
        self._inside.add(me)
        try:
            sending.finish()
        finally:
            self._inside.discard(me)

    def _interrupting(self) -> AmqpPublisher:
        """Another publisher, with a connection of its own."""
        if self._inner is None:
            self._inner = AmqpPublisher(self._failover, self._topology, confirm=self._confirm)
        return self._inner

    def ask(self, request: requests.Request, timeout: float) -> tuple[object, ...]:
        """The fields of the answer to any request.

        Raises ChannelClosedError when it is refused, BrokerConnectionError when there is no answer in time.
        """
        deadline = time.monotonic() + timeout
        session = self._connected(deadline)
        try:
            return session.ask(request, deadline)
        except TimeoutError as error:
            raise BrokerConnectionError(f"RabbitMQ did not answer within {timeout:g} seconds") from error

    def peek(self, queue: str, limit: int, timeout: float) -> list[Delivered]:
        """The last ``limit`` messages of a queue, in order, without taking them; none of a queue that is not there.

        Raises BrokerError when the queue may not be read, BrokerConnectionError when that takes too long.
        """
        deadline = time.monotonic() + timeout
        try:
            return self._connected(deadline).peek(queue, limit, deadline)
        except TimeoutError as error:
            raise BrokerConnectionError(f"RabbitMQ did not answer within {timeout:g} seconds") from error
        except ChannelClosedError as error:
            if error.code == NOT_FOUND:
                return []
            raise

    def _reached(self, deadline: float, timeout: float) -> _Session:
        """As ``_connected``; a connection that is not made in time is a publish that was not."""
        try:
            return self._connected(deadline)
        except BrokerConnectionError as error:
            if time.monotonic() < deadline:
                raise
            raise PublishTimeout(f"RabbitMQ was not reached within {timeout:g} seconds: {error}") from error

    def _connected(self, deadline: float) -> _Session:
        if os.getpid() != self._pid:
            # The parent goes on using the inherited connection: it is forgotten here, not closed.
            self._start_afresh()
        session = self._session
        if session is not None and session.link.refresh():
            return session
        if not self._connecting.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
            raise PublishTimeout("another thread is still connecting to RabbitMQ")
        try:
            if self._session is None or self._session.link.lost is not None:
                self._session = None
                link = open_blocking_link(self._failover, deadline)
                self._session = _Session(link, self._topology, confirm=self._confirm)
            return self._session
        finally:
            self._connecting.release()

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        self._connecting = threading.Lock()
        self._session = None
        self._inside = set()
        self._inner = None

    def close(self) -> None:
        """Give the connection back. Safe twice; the publisher may be used again."""
        if os.getpid() != self._pid:
            self._start_afresh()
        session, self._session = self._session, None
        if session is not None:
            session.link.close()
        inner, self._inner = self._inner, None
        if inner is not None:
            inner.close()


class AmqpAsyncPublisher:
    """A publisher for one event loop; coroutines share its one connection."""

    def __init__(self, failover: Failover, topology: Topology, *, confirm: bool = True) -> None:
        self._failover = failover
        self._topology = topology
        self._confirm = confirm
        self._session: _LoopSession | None = None
        self._opening: asyncio.Task[_LoopSession] | None = None

    async def send(self, publications: Sequence[Publication], *, timeout: float) -> None:
        """As Publisher.send."""
        if not publications:
            return
        link: Link | None = None
        received = 0
        try:
            async with asyncio.timeout(timeout):
                session = await self._connected()
                link, received = session.link, session.link.received
                await self._send(session, publications)
        except TimeoutError as error:
            if link is not None and link.received == received and link.blocked is None:
                link.close(f"RabbitMQ was silent for {timeout:g} seconds")
            blocked = link.blocked if link is not None else None
            raise PublishTimeout(explain_timeout(len(publications), timeout, blocked)) from error

    async def _send(self, session: _LoopSession, publications: Sequence[Publication]) -> None:
        if session.link.blocked is not None:
            await session.link.wait_unblocked()
        channel = await session.channel()
        await session.placing.for_publications(publications)
        messages, origins = compose_all(publications, session.placing.compose)
        await session.placing.for_delays()
        if not self._confirm:
            channel.publish_unconfirmed(messages)
            return
        if not messages:
            return
        try:
            futures = [channel.publish(piece) for piece in _pieces(messages)]
            outcomes = [await future for future in futures]
        except ChannelClosedError as error:
            raise explain_closed(error, publications) from error
        if any(outcome.refused for outcome in outcomes):
            await session.retire(channel)
        check_outcomes(outcomes, origins)

    async def _connected(self) -> _LoopSession:
        session = self._session
        if session is not None and session.link.lost is None:
            return session
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(self._opened)
        # Many coroutines may wait for the one connection; a cancelled one must not take it from the others.
        return await asyncio.shield(self._opening)

    async def _open(self) -> _LoopSession:
        link = await open_link(self._failover)
        return _LoopSession(link, self._topology, confirm=self._confirm)

    def _opened(self, opening: asyncio.Task[_LoopSession]) -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._session = opening.result()

    async def close(self) -> None:
        """Give the connection back. Safe twice; the publisher may be used again."""
        if self._opening is not None:
            await asyncio.wait([self._opening])
        session, self._session = self._session, None
        if session is not None:
            await session.link.aclose()


class _LoopSession:
    """One connection of a publisher in an event loop."""

    def __init__(self, link: Link, topology: Topology, *, confirm: bool) -> None:
        self.link = link
        self.placing = Placing(link, topology)
        self._confirm = confirm
        self._channel: Channel | None = None
        self._retired: Channel | None = None
        self._opening = asyncio.Lock()

    async def channel(self) -> Channel:
        """The channel that everything is published on; a new one where the server closed the last."""
        channel = self._channel
        if channel is not None and channel.closed is None:
            return channel
        async with self._opening:
            if self._channel is None or self._channel.closed is not None:
                if self._channel is not None:
                    self.placing.forget()
                channel = await self.link.channel()
                if self._confirm:
                    await channel.select_confirms()
                self._channel = channel
            return self._channel

    async def retire(self, channel: Channel) -> None:
        """As ``_Session.retire``."""
        if self._channel is channel:
            self._channel = None
            before, self._retired = self._retired, channel
            if before is not None:
                await before.aclose()


def compose_all(
    publications: Sequence[Publication], compose: Callable[[Publication], Outgoing | None]
) -> tuple[list[Outgoing], Sequence[Publication]]:
    """Publications as they are sent, and those that each of them came from."""
    messages = [message for message in map(compose, publications) if message is not None]
    if len(messages) == len(publications):
        return messages, publications
    return messages, [each for each in publications if compose(each) is not None]


def check_outcomes(outcomes: Sequence[Confirmation], origins: Sequence[Publication]) -> None:
    """Raise BrokerError for the first message that no queue got, or that the broker refused."""
    for piece, outcome in enumerate(outcomes):
        if outcome.accepted:
            continue
        at = piece * _PIECE
        if outcome.returned:
            raise BrokerError(no_queue_bound(origins[at + min(outcome.returned)].destination))
        to = origins[at + outcome.refused[0]].destination
        where = f"queue {to.queue!r}" if to.queue is not None else f"exchange {to.exchange!r}"
        raise BrokerError(
            f"RabbitMQ refused {len(outcome.refused)} message(s) for {where}: the queue is full, or it failed inside"
        )


def explain_timeout(count: int, timeout: float, blocked: str | None) -> str:
    """What to say of messages that were not confirmed by their deadline."""
    if blocked is not None:
        return (
            f"RabbitMQ takes no messages at present ({blocked}): {count} message(s) were not confirmed within"
            f" {timeout:g} seconds; free memory or disk on the server, or raise broker_publish_timeout"
        )
    return f"RabbitMQ did not confirm {count} message(s) within {timeout:g} seconds"


def explain_closed(error: ChannelClosedError, publications: Sequence[Publication]) -> BrokerError:
    """What the end of the channel means for those who were sending: it concerns one exchange, and hits all."""
    for publication in publications:
        to = publication.destination
        if to.exchange and f"exchange '{to.exchange}'" in error.text:
            return BrokerError(no_queue_bound(to)) if error.code == NOT_FOUND else BrokerError(str(error))
    return BrokerConnectionError(f"another message ended the channel before these were confirmed: {error}")
