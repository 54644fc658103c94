"""Which published messages the server has confirmed.

A channel numbers what is published on it. Confirmations come for one number or for all up to one, mostly in order; a
message that no queue got comes back first and is confirmed like the others. What was published together is one
``Batch``: it is done when each of its messages was answered.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Batch", "Confirmation", "Confirms", "Outgoing", "Pending"]


class Pending(Protocol):
    """Where an answer is put: an asyncio future, or what a blocked thread looks at."""

    def done(self) -> bool:
        """Whether nobody waits any more."""

    def set_result(self, result: Any, /) -> None:
        """Here it is."""

    def set_exception(self, error: Any, /) -> None:
        """There will be none."""


class Outgoing(NamedTuple):
    """A message to be published. ``properties`` are AMQP's by name, the header table among them as ``headers``.

    ``packed`` are the properties as bytes, where somebody has them; ``properties`` are not looked at then.
    """

    exchange: str
    routing_key: str
    properties: Mapping[str, Any]
    body: bytes
    mandatory: bool = True
    packed: bytes | None = None


class Confirmation(msgspec.Struct):
    """What became of messages published together, by their place among them.

    ``returned``: no queue was bound for them, with the server's reason. ``refused``: the server could not or would not
    take them (a full queue with ``reject-publish``, an internal error). All others are on the broker.
    """

    returned: dict[int, str] = {}
    refused: list[int] = []

    @property
    def accepted(self) -> bool:
        """Whether the broker has all of them."""
        return not self.returned and not self.refused


class Batch:
    """Messages published together and numbered ``first`` to ``last``."""

    def __init__(self, first: int, messages: Sequence[Outgoing], pending: Pending) -> None:
        self.messages = messages
        self.pending = pending
        self.outcome = Confirmation()
        self.first = first
        self.last = first + len(messages) - 1
        self._next = first  #: everything below is answered
        self._early: set[int] = set()  #: what is answered above it

    @property
    def is_done(self) -> bool:
        """Whether every message was answered."""
        return self._next > self.last

    def answer(self, number: int, *, refused: bool) -> None:
        """One message was answered."""
        if refused:
            self.outcome.refused.append(number - self.first)
        if number == self._next:
            self._next += 1
            while self._early and self._next in self._early:
                self._early.discard(self._next)
                self._next += 1
        elif number > self._next:
            self._early.add(number)

    def answer_up_to(self, number: int, *, refused: bool) -> None:
        """All messages up to a number were answered."""
        upto = min(number, self.last)
        if refused:
            fresh = (each for each in range(self._next, upto + 1) if each not in self._early)
            self.outcome.refused += [each - self.first for each in fresh]
        self._next = max(self._next, upto + 1)
        while self._early and self._next in self._early:
            self._next += 1

    def take_back(self, exchange: str, routing_key: str, body: bytes, reason: str) -> bool:
        """Find the message that came back; it carries no number, but they come back in the order they were sent."""
        returned = self.outcome.returned
        for place, message in enumerate(self.messages):
            if (
                place not in returned
                and message.mandatory
                and message.exchange == exchange
                and message.routing_key == routing_key
                and message.body == body
            ):
                returned[place] = reason
                return True
        return False


class Confirms:
    """The unconfirmed batches of one channel, in the order they were published."""

    def __init__(self) -> None:
        self._next = 1
        self._batches: deque[Batch] = deque()

    def add(self, messages: Sequence[Outgoing], pending: Pending) -> Batch:
        """Number messages that are being published."""
        batch = Batch(self._next, messages, pending)
        self._next += len(messages)
        self._batches.append(batch)
        return batch

    def drop_last(self, batch: Batch) -> None:
        """Take back the numbers of messages that were not written after all."""
        if self._batches and self._batches[-1] is batch:
            self._batches.pop()
            self._next = batch.first

    def answered(self, number: int, multiple: bool, *, refused: bool) -> None:
        """The server confirmed or refused one message, or all up to one."""
        batches = self._batches
        if multiple:
            for batch in batches:
                if batch.first > number:
                    break
                batch.answer_up_to(number, refused=refused)
        else:
            self._answer_one(number, refused=refused)
        while batches and batches[0].is_done:
            _resolve(batches.popleft())

    def _answer_one(self, number: int, *, refused: bool) -> None:
        for batch in self._batches:
            if batch.last >= number:
                batch.answer(number, refused=refused)
                if batch.is_done:
                    _resolve(batch)
                return

    def came_back(self, exchange: str, routing_key: str, body: bytes, reason: str) -> None:
        """A message was returned because no queue is bound for it; its confirmation follows."""
        for batch in self._batches:
            if batch.take_back(exchange, routing_key, body, reason):
                return

    def fail(self, error: Exception) -> None:
        """No more answers will come."""
        batches, self._batches = self._batches, deque()
        for batch in batches:
            if not batch.pending.done():
                batch.pending.set_exception(error)


def _resolve(batch: Batch) -> None:
    if not batch.pending.done():
        batch.pending.set_result(batch.outcome)
