"""Who is told of deliveries on a channel."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

from umbel.stores.amqp.faults import LIBRARY_ERRORS
from umbel.stores.amqp.shapes import PropertyReader

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("umbel.amqp")

__all__ = ["Consumers", "Delivered"]


class Delivered(msgspec.Struct, gc=False):
    """A message that the server handed out; ``tag`` settles it, on the channel it came on.

    ``raw`` are AMQP's properties as they came; empty where they have been read already.
    """

    tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    body: bytes
    raw: bytes = b""
    reader: PropertyReader | None = None
    known: dict[str, Any] | None = None

    @property
    def properties(self) -> dict[str, Any]:
        """AMQP's properties by name, without those that were not set; ``headers`` is always there.

        They are read when they are asked for first. What nobody can read is taken for a message without properties.
        """
        if self.known is None:
            self.known = {"headers": {}} if self.reader is None else self._read(self.reader)
        return self.known

    def _read(self, reader: PropertyReader) -> dict[str, Any]:
        try:
            return reader.read(self.raw, 0, len(self.raw))
        except LIBRARY_ERRORS as error:
            logger.warning("A message came with properties that are none of AMQP's: %s", error)
            return {"headers": {}}

    def may_have(self, header: bytes) -> bool:
        """False when there is certainly no header of this name; that costs less than reading them."""
        return header in self.raw if self.known is None else True


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
