"""Bindings: which queues an exchange leads to.

Direct exchanges compare the routing key. Topic exchanges compare it word by word (words are separated by dots): ``*``
stands for one word, ``#`` for any text between its dots. That is how kombu reads them on every transport of its own,
so ``media.#`` does not match ``media`` alone.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from umbel.core.destination import BROADCAST_TYPES
from umbel.core.records import Publication
from umbel.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from umbel.core.destination import Destination

__all__ = [
    "Binding",
    "Bindings",
    "bindings_of",
    "bound_queues",
    "is_named",
    "no_queue_bound",
    "spread",
    "spread_or_refuse",
    "topic_pattern",
]

#: Types whose messages wait in queues.
_QUEUEING: Final = frozenset({"direct", "topic"})
_WILDCARDS: Final = {"*": r"[^\.]+", "#": r".*?"}


class Binding(msgspec.Struct, frozen=True):
    """A queue, and the exchange and routing key (of type ``topic``: pattern) that lead to it."""

    queue: str
    exchange: str
    exchange_type: str = "direct"
    routing_key: str = ""

    @property
    def pattern(self) -> str:
        """The regular expression that kombu stores with it: of topic bindings only."""
        return topic_pattern(self.routing_key) if self.exchange_type == "topic" else ""

    def matches(self, routing_key: str) -> bool:
        """Whether a message with this routing key goes to the queue."""
        if self.exchange_type != "topic":
            return self.routing_key == routing_key
        return _compile(self.pattern).match(routing_key) is not None


@lru_cache(maxsize=1024)
def topic_pattern(routing_key: str) -> str:
    """A topic binding's key as kombu's regular expression; other processes read it, so every character counts."""
    words = "".join(_escape(character) for character in routing_key).split(".")
    return "^" + r"\.".join(_WILDCARDS.get(word, word) for word in words) + "$"


def _escape(character: str) -> str:
    if character.isalnum() or character in ".#*":
        return character
    return r"\000" if character == "\0" else f"\\{character}"


_compile = lru_cache(maxsize=1024)(re.compile)


class Bindings:
    """What was declared through one broker object, for its connections to put in place. Only ever grows.

    Safe for use by several threads: a change replaces the table.
    """

    def __init__(self) -> None:
        self._known: frozenset[Binding] = frozenset()
        self._by_exchange: dict[str, frozenset[Binding]] = {}

    def add(self, bindings: Iterable[Binding]) -> None:
        """Remember those of exchanges whose messages wait in queues."""
        new = [each for each in bindings if each not in self._known and each.exchange_type in _QUEUEING]
        if new:
            self._known |= set(new)
            by_exchange: dict[str, set[Binding]] = {}
            for each in self._known:
                by_exchange.setdefault(each.exchange, set()).add(each)
            self._by_exchange = {exchange: frozenset(found) for exchange, found in by_exchange.items()}

    def to(self, exchange: str) -> frozenset[Binding]:
        """Those of one exchange."""
        return self._by_exchange.get(exchange, frozenset())

    def __iter__(self) -> Iterator[Binding]:
        return iter(self._known)


def bindings_of(queue: Any) -> list[Binding]:
    """All bindings of a queue, ours or kombu's: the one it has by its exchange, then its ``bindings``."""
    pairs = [(queue.exchange, queue.routing_key)]
    pairs += [(more.exchange, more.routing_key) for more in getattr(queue, "bindings", None) or ()]
    return [
        Binding(queue.name, exchange.name, exchange.type or "direct", key or "")
        for exchange, key in pairs
        if exchange is not None and exchange.name
    ]


def is_named(destination: Destination) -> bool:
    """Whether its bindings have to be looked up: no queue is known and it is no broadcast."""
    return destination.queue is None and destination.exchange_type not in BROADCAST_TYPES


def bound_queues(destination: Destination, bindings: Iterable[Binding]) -> list[str]:
    """The queues that its exchange's bindings lead to, each once, in a stable order."""
    if not destination.exchange:
        return [destination.routing_key]
    return sorted({each.queue for each in bindings if each.matches(destination.routing_key)})


def spread(
    publications: Sequence[Publication], bindings_to: Callable[[str], Iterable[Binding]]
) -> tuple[Sequence[Publication], list[Publication]]:
    """Publications with one for each queue in the place of those to named exchanges, and those that no queue gets.

    ``bindings_to`` finds the bindings of an exchange; it is asked only where there are named ones.
    """
    if not [None for publication in publications if publication.destination.queue is None]:
        return publications, []
    routed: list[Publication] = []
    lost: list[Publication] = []
    for publication in publications:
        to = publication.destination
        if not is_named(to):
            routed.append(publication)
            continue
        queues = bound_queues(to, bindings_to(to.exchange) if to.exchange else ())
        routed += [
            Publication(msgspec.structs.replace(to, queue=queue), publication.payload) for queue in queues
        ]
        if not queues:
            lost.append(publication)
    return routed, lost


def spread_or_refuse(
    publications: Sequence[Publication], bindings_to: Callable[[str], Iterable[Binding]]
) -> Sequence[Publication]:
    """As ``spread``. Raises BrokerError when there is a publication that no queue gets."""
    routed, lost = spread(publications, bindings_to)
    if lost:
        raise BrokerError(no_queue_bound(lost[0].destination))
    return routed


def no_queue_bound(destination: Destination) -> str:
    """What to say of a message that no queue gets."""
    return (
        f"no queue is bound to the {destination.exchange_type} exchange {destination.exchange!r} for routing key"
        f" {destination.routing_key!r}: declare it in task_queues, or send to a queue by its name"
    )
