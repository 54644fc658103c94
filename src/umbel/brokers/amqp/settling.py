"""A batch of dispositions as what has to be published, and what may be acknowledged once that is safe.

AMQP has no step that does both. What follows is published and confirmed first, then the delivery is acknowledged: a
crash in between has it delivered and worked on again, and what follows is published again under the same ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from umbel.brokers.amqp.dead import bury
from umbel.brokers.amqp.delayed import DELIVERY, delay_message, without_delay
from umbel.brokers.amqp.messages import DELAYED_PREFIX, REST, from_wire, to_wire
from umbel.brokers.lost import tell_lost
from umbel.brokers.redelivery import mark_redelivered
from umbel.core.bindings import no_queue_bound
from umbel.core.causes import Cause
from umbel.stores.amqp.confirms import Outgoing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from umbel.brokers.amqp.supply import Taken
    from umbel.brokers.base import Disposition
    from umbel.core.destination import Destination
    from umbel.core.records import Publication
    from umbel.stores.amqp.confirms import Confirmation
    from umbel.stores.amqp.consumers import Delivered

__all__ = ["Batch", "Step", "came_before", "payload_of"]


def payload_of(taken: Taken) -> bytes:
    """The payload of a message that came."""
    delivered = taken.delivered
    exchange, key = delivered.exchange, delivered.routing_key
    if exchange.startswith(DELAYED_PREFIX):
        # Ours say where they were sent; of Celery's the key tells, and this exchange leads there again.
        key = without_delay(key)
        exchange = "" if key == taken.queue else DELIVERY
    return from_wire(delivered.properties, delivered.body, exchange, key, redelivered=came_before(delivered))


def came_before(delivered: Delivered) -> bool:
    """Whether a message may have been handed out before: RabbitMQ says so, or whoever put it back on its queue."""
    if delivered.redelivered:
        return True
    return delivered.may_have(b"redelivered") and delivered.properties["headers"].get("redelivered") is True


class Step:
    """What one disposition needs: messages to be published, and then the end of a delivery if there is one."""

    __slots__ = ("disposition", "front", "messages", "reject", "taken")

    def __init__(self, disposition: Disposition, taken: Taken | None) -> None:
        self.disposition = disposition
        self.taken = taken
        self.messages: list[Outgoing] = []
        self.front = False  #: back to where it was in its queue
        self.reject = False  #: to the dead-letter exchange that its queue names


class Batch:
    """Dispositions that are settled together.

    Args:
        now: epoch seconds.
        compose: a publication as it is sent; None: nobody would get it, and nobody has to.
        refused: the destinations that cannot be had, and why.
        has_dead_letter_exchange: whether a queue names an exchange of its own for what is given up.
        dead_letter_expires: seconds that dead letters are kept; None: for ever.
    """

    def __init__(
        self,
        now: float,
        compose: Callable[[Publication], Outgoing | None],
        refused: Mapping[Destination, str],
        has_dead_letter_exchange: Callable[[str], bool],
        dead_letter_expires: float | None,
    ) -> None:
        self._now = now
        self._compose = compose
        self._refused = refused
        self._has_own = has_dead_letter_exchange
        self._expires = dead_letter_expires
        self.steps: list[Step] = []
        self.dead_queues: set[str] = set()  #: whose dead letters are among the messages
        self.delays: set[str] = set()  #: queues whose messages are sent to wait
        self._owners: list[tuple[Step, Publication | None]] = []

    def add(self, disposition: Disposition, taken: Taken | None) -> None:
        """Add one; ``taken`` is its delivery."""
        step = Step(disposition, taken)
        self.steps.append(step)
        for publication in disposition.publish:
            self._publish(step, publication)
        before = len(step.messages)
        if taken is not None:
            self._end(step, taken)
        elif disposition.action == "dead_letter":
            step.messages.append(
                self._bury(
                    disposition.queue, disposition.payload or b"", disposition.reason, disposition.cause
                )
            )
        self._owners += [(step, None)] * (len(step.messages) - before)

    def _publish(self, step: Step, publication: Publication) -> None:
        reason = self._refused.get(publication.destination)
        if reason is not None:
            letter = self._lost(step, publication, reason)
            step.messages += letter
            self._owners += [(step, None)] * len(letter)
        elif (message := self._compose(publication)) is not None:
            step.messages.append(message)
            self._owners.append((step, publication))

    def _lost(self, step: Step, publication: Publication, reason: str) -> list[Outgoing]:
        """What no queue is bound for, as a dead letter if somebody looks there."""
        queue = step.disposition.queue if step.taken is None else step.taken.queue
        if not tell_lost(reason, queue):
            return []
        return [self._bury(queue, publication.payload, reason, Cause("unroutable"))]

    def _end(self, step: Step, taken: Taken) -> None:
        disposition, queue = step.disposition, taken.queue
        match disposition.action:
            case "requeue":
                step.front = disposition.front and disposition.payload is None
                if not step.front:
                    step.messages.append(self._again(taken, _payload(disposition, taken), repeat=True))
            case "retry_later" if disposition.due <= self._now and disposition.payload is None:
                step.front = True
            case "retry_later":
                again = self._again(taken, _payload(disposition, taken), repeat=False)
                step.messages.append(delay_message(again, queue, disposition.due, self._now))
                self.delays.add(queue)
            case "dead_letter":
                step.reject = self._has_own(queue)
                if not step.reject:
                    payload = _payload(disposition, taken)
                    step.messages.append(self._bury(queue, payload, disposition.reason, disposition.cause))

    def _again(self, taken: Taken, payload: bytes, *, repeat: bool) -> Outgoing:
        properties, body = to_wire(mark_redelivered(payload) if repeat else payload)
        if repeat and taken.due is not None:
            properties["headers"][REST] = 0  # it has waited, whatever the clock says of whoever takes it next
        return Outgoing("", taken.queue, properties, body)

    def _bury(self, queue: str, payload: bytes, reason: str, cause: Cause | None) -> Outgoing:
        self.dead_queues.add(queue)
        return bury(queue, payload, reason, cause, self._now, self._expires)

    @property
    def messages(self) -> list[Outgoing]:
        """All that is to be published, in order."""
        return [message for step in self.steps for message in step.messages]

    def judge(self, outcome: Confirmation) -> tuple[list[Outgoing], list[Step]]:
        """What became of the messages: dead letters of those that no queue got, and the steps that failed.

        A message that the broker refused leaves its delivery where it is.
        """
        failed = {id(self._owners[place][0]): self._owners[place][0] for place in outcome.refused}
        letters = []
        for place in outcome.returned:
            step, publication = self._owners[place]
            if publication is None:
                # Its own queue is gone, or the dead letters' is: nothing but the delivery itself is left of it.
                failed[id(step)] = step
                continue
            letters += self._lost(step, publication, no_queue_bound(publication.destination))
        return letters, list(failed.values())


def _payload(disposition: Disposition, taken: Taken) -> bytes:
    return payload_of(taken) if disposition.payload is None else disposition.payload
