"""The dead letters of a store in memory, and going through them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from umbel.brokers.base import DeadLetter
from umbel.core.causes import Cause
from umbel.stores.memory import Entry, Letter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from umbel.brokers.options import BrokerOptions
    from umbel.core.records import Publication
    from umbel.stores.memory import MemoryStore


def bury(
    store: MemoryStore,
    queue: str,
    payload: bytes,
    reason: str,
    cause: Cause | None,
    options: BrokerOptions,
) -> None:
    """Keep a payload as a dead letter, and no more of them than the options say."""
    letters = store.dead[queue]
    letters.append(Letter(payload, reason, store.clock.now(), store.back(), cause or Cause("rejected")))
    limit = options.dead_letter_limit
    while limit is not None and len(letters) > limit:
        letters.popleft()


def forget_expired(store: MemoryStore, queue: str, expires: float | None) -> None:
    """Forget the dead letters whose time is over."""
    letters = store.dead[queue]
    while letters and expires is not None and letters[0].at <= store.clock.now() - expires:
        letters.popleft()


def letters_of(store: MemoryStore, queue: str, expires: float | None) -> list[DeadLetter]:
    """What is kept of a queue, the oldest first."""
    forget_expired(store, queue, expires)
    return [
        DeadLetter(queue, each.payload, each.reason, each.at, each.cause, b"%d" % each.number)
        for each in store.dead[queue]
    ]


class MemoryDeadReader:
    """As brokers.base.DeadReader."""

    def __init__(self, store: MemoryStore, queue: str, expires: float | None) -> None:
        self._store = store
        self._queue = queue
        self._expires = expires
        self._seen = 0

    def page(self, limit: int) -> list[DeadLetter]:
        with self._store.lock:
            every = letters_of(self._store, self._queue, self._expires)
        found = [letter for letter in every if int(letter.tag) > self._seen][:limit]
        if found:
            self._seen = int(found[-1].tag)
        return found

    def replay(self, letter: DeadLetter, publication: Publication) -> bool:
        to = publication.destination
        store = self._store
        with store.lock:
            if not self._take(letter):
                return False
            store.push(to.queue or to.routing_key, Entry(to.priority, store.back(), publication.payload))
            store.changed()
        return True

    def discard(self, letters: Sequence[DeadLetter]) -> int:
        with self._store.lock:
            return sum(self._take(letter) for letter in letters)

    def _take(self, letter: DeadLetter) -> bool:
        kept = self._store.dead[self._queue]
        for each in kept:
            if b"%d" % each.number == letter.tag:
                kept.remove(each)
                return True
        return False

    def close(self) -> None:
        """Nothing is open."""
