"""Going through a queue of dead letters.

RabbitMQ has no looking at the middle of a queue. The reader takes one page after another and keeps what it has taken
unacknowledged, so that the next page is the next; leaving puts everything back where it was. Nothing but the page in
hand is kept here.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from umbel.brokers.amqp.dead import dead_queue, exhume
from umbel.errors import BrokerConnectionError, BrokerError
from umbel.stores.amqp import requests
from umbel.stores.amqp.blocking import open_blocking_link
from umbel.stores.amqp.faults import NOT_FOUND, ChannelClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from umbel.brokers.base import DeadLetter
    from umbel.core.records import Publication
    from umbel.stores.amqp.blocking import BlockingLink
    from umbel.stores.amqp.dialogue import Channel
    from umbel.stores.amqp.failover import Failover

__all__ = ["AmqpDeadReader"]

T = TypeVar("T")

#: Seconds that a page, or a replay, may take.
_TIMEOUT: Final = 30.0
#: Letters asked for in one go.
_GETS: Final = 100


class _Sends(Protocol):
    def send(self, publications: Sequence[Publication], *, timeout: float) -> None:
        """As brokers.base.Publisher."""


class AmqpDeadReader:
    """As brokers.base.DeadReader. It has a connection of its own while it reads.

    Args:
        failover: where to connect to.
        queue: whose letters.
        publisher: sends what is replayed; a replay is confirmed before its letter goes.
    """

    def __init__(self, failover: Failover, queue: str, publisher: _Sends) -> None:
        self._failover = failover
        self._queue = queue
        self._publisher = publisher
        self._link: BlockingLink | None = None
        self._channel: Channel | None = None
        self._open: set[bytes] = set()  #: tags of letters that were looked at and are still there
        self._at_end = False

    def page(self, limit: int) -> list[DeadLetter]:
        """As DeadReader.page."""
        deadline = time.monotonic() + _TIMEOUT
        letters: list[DeadLetter] = []
        while len(letters) < limit and not self._at_end:
            count = min(limit - len(letters), _GETS)
            letters += _in_time(partial(self._get, count, deadline))
        return letters

    def _get(self, count: int, deadline: float) -> list[DeadLetter]:
        letters: list[DeadLetter] = []
        link, channel = self._connected(deadline)
        request = requests.get(dead_queue(self._queue))
        answers = [link.begin(channel, request, deadline) for _ in range(count)]
        for answer in answers:
            try:
                fields = link.wait(answer, deadline)
            except ChannelClosedError as error:
                self._at_end = True
                if error.code == NOT_FOUND:
                    return letters
                raise
            if len(fields) < 2:
                self._at_end = True
                continue
            delivered = fields[-1]
            letter = exhume(self._queue, delivered.properties, delivered.body)
            letter.tag = b"%d" % delivered.tag
            self._open.add(letter.tag)
            letters.append(letter)
        return letters

    def _connected(self, deadline: float) -> tuple[BlockingLink, Channel]:
        if self._link is None or self._channel is None:
            self._link = open_blocking_link(self._failover)
            self._channel = self._link.open_channel(deadline)
        return self._link, self._channel

    def replay(self, letter: DeadLetter, publication: Publication) -> bool:
        """As DeadReader.replay."""
        if letter.tag not in self._open:
            return False
        self._check()
        self._publisher.send([publication], timeout=_TIMEOUT)
        self._acknowledge(letter)
        return True

    def discard(self, letters: Sequence[DeadLetter]) -> int:
        """As DeadReader.discard."""
        mine = [letter for letter in letters if letter.tag in self._open]
        for letter in mine:
            self._acknowledge(letter)
        return len(mine)

    def _check(self) -> None:
        """What was looked at is on its queue again when the connection is lost: replaying it would be one too many."""
        link, channel = self._link, self._channel
        if link is None or channel is None or not link.refresh() or channel.closed is not None:
            raise BrokerConnectionError("the connection to RabbitMQ was lost while reading dead letters")

    def _acknowledge(self, letter: DeadLetter) -> None:
        self._check()
        self._open.discard(letter.tag)
        link, channel = self._connected(time.monotonic() + _TIMEOUT)
        _in_time(lambda: link.acknowledge(channel, int(letter.tag), time.monotonic() + _TIMEOUT))

    def close(self) -> None:
        """As DeadReader.close."""
        link, channel = self._link, self._channel
        self._link = self._channel = None
        if link is None:
            return
        try:
            if channel is not None and channel.closed is None and link.lost is None:
                self._leave(link, channel)
        finally:
            self._open.clear()
            link.close()

    def _leave(self, link: BlockingLink, channel: Channel) -> None:
        deadline = time.monotonic() + _TIMEOUT
        for tag in sorted(map(int, self._open)):
            link.give_back(channel, tag, deadline)
        # Whatever was asked before has happened when this is answered.
        _in_time(lambda: link.ask(channel, requests.set_prefetch(0), deadline))


def _in_time(work: Callable[[], T]) -> T:
    try:
        return work()
    except TimeoutError as error:
        raise BrokerConnectionError(f"RabbitMQ did not answer within {_TIMEOUT:g} seconds") from error
    except ChannelClosedError as error:
        raise BrokerError(f"cannot read dead letters: {error}") from error
