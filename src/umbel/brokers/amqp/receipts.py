"""Receipts: which messages a program has sent, noted in a queue in the very write that sends them.

Problem: beat notes in another store that a tick was sent. One that is killed between sending and noting leaves a tick
of which nobody knows whether it was sent.

Solution: a note with the task's id goes to a queue of RabbitMQ's right behind the message, in one write of a few bytes
to the socket. Whoever has to know looks through that queue. It keeps the newest only, and nobody takes from it.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from umbel.errors import BrokerConnectionError, BrokerError
from umbel.stores.amqp import requests
from umbel.stores.amqp.confirms import Outgoing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from umbel.brokers.amqp.publisher import AmqpPublisher

__all__ = ["Receipts"]

logger = logging.getLogger("celery.beat")

#: Receipts that are kept: a program sends one message at a time, and its last few are all that may be in doubt.
_KEPT: Final = 100
#: Seconds that an answer may take.
_TIMEOUT: Final = 10.0


class Receipts:
    """The receipts of one purpose.

    Args:
        publisher: sends the messages; its program has one thread that does.
        name: of the purpose; it becomes part of the queue's.
    """

    def __init__(self, publisher: AmqpPublisher, name: str) -> None:
        self._publisher = publisher
        self._queue = f"umbel.receipts.{name}"
        self._refused = False

    def read(self) -> frozenset[str]:
        """The ids of the tasks that were sent last. Raises BrokerConnectionError when RabbitMQ cannot be reached."""
        try:
            arguments = {"x-max-length": _KEPT}
            self._publisher.ask(requests.declare_queue(self._queue, arguments=arguments), _TIMEOUT)
            kept = self._publisher.peek(self._queue, _KEPT, _TIMEOUT)
        except BrokerConnectionError:
            raise
        except BrokerError as error:
            self._refused = True
            logger.warning(
                "Without the queue %s a message may be sent twice by who takes over: %s", self._queue, error
            )
            return frozenset()
        return frozenset(delivered.body.decode(errors="replace") for delivered in kept)

    @contextmanager
    def given(self, task_id: str) -> Iterator[None]:
        """Within it, the message of a task is sent with its receipt, unless the queue was refused."""
        if self._refused:
            yield
            return
        note = task_id.encode()
        # Where the queue is not, the receipt is dropped, and the message's sender is none the wiser.
        receipt = Outgoing("", self._queue, {"delivery_mode": 2}, note, mandatory=False)
        self._publisher.receipt = receipt
        try:
            yield
        finally:
            self._publisher.receipt = None
