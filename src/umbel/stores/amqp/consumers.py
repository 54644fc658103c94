"""Who is told of deliveries on a channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Consumers", "Delivered"]


class Delivered(msgspec.Struct, gc=False):
    """A message that the server handed out; ``tag`` settles it, on the channel it came on.

    ``properties`` are AMQP's by name, without those that were not set; ``headers`` is always there.
    """

    tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    properties: dict[str, Any]
    body: bytes


class Consumers:
    """The consumers of one channel."""

    def __init__(self) -> None:
        self._consumers: dict[str, tuple[Callable[[Delivered], None], Callable[[], None]]] = {}

    def add(self, tag: str, on_delivery: Callable[[Delivered], None], on_cancel: Callable[[], None]) -> None:
        """Tell of a consumer's deliveries; ``on_cancel`` is for when the server ends it: its queue is gone."""
        self._consumers[tag] = (on_delivery, on_cancel)

    def remove(self, tag: str) -> None:
        """Tell no more."""
        self._consumers.pop(tag, None)

    def deliver(self, tag: str, delivered: Delivered) -> bool:
        """Hand a message over; false when nobody is there for it."""
        consumer = self._consumers.get(tag)
        if consumer is None:
            return False
        consumer[0](delivered)
        return True

    def cancelled(self, tag: str) -> None:
        """The server ended a consumer."""
        consumer = self._consumers.pop(tag, None)
        if consumer is not None:
            consumer[1]()
