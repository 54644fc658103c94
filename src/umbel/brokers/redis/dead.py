"""Dead letters on Redis: for each queue a sorted set by the time they were given up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from umbel.brokers.base import DeadLetter
from umbel.core.causes import read_cause
from umbel.stores.redis.scripts import load_script

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from umbel.brokers.options import BrokerOptions
    from umbel.brokers.redis.layout import Layout
    from umbel.brokers.redis.routing import Routes
    from umbel.core.records import Publication
    from umbel.stores.redis.scripts import Script

    Ask = Callable[[list[tuple[Any, ...]]], list[Any]]
    Run = Callable[[Script, Sequence[bytes], Sequence[bytes | str | float]], Any]

_REPLAY: Final = load_script(("umbel.brokers.redis", "replay.lua"))
#: Letters deleted by one command: other clients wait while it runs.
_MOST: Final = 500


class DeadLetters:
    """The dead letters of one database.

    Args:
        ask: sends commands and gives their replies.
        run: runs a script.
    """

    def __init__(self, layout: Layout, routes: Routes, options: BrokerOptions, *, ask: Ask, run: Run) -> None:
        self.layout = layout
        self.routes = routes
        self.ask = ask
        self.run = run
        self._expires = options.dead_letter_expires

    def since(self) -> str:
        """The scores of what is kept begin after this; expired letters go only when the next one comes."""
        if self._expires is None:
            return "-inf"
        [(seconds, microseconds)] = self.ask([(b"TIME",)])
        return f"({int(seconds) + int(microseconds) / 1e6 - self._expires:.6f}"

    def newest(self, queue: str, limit: int) -> list[DeadLetter]:
        """The newest of a queue, newest first."""
        if limit <= 0:
            return []
        key, since = self.layout.dead_key(queue), self.since()
        query = (b"ZREVRANGEBYSCORE", key, b"+inf", since, b"WITHSCORES", b"LIMIT", 0, limit)
        return self._letters(queue, self.ask([query])[0])

    def count(self, queue: str) -> int:
        """How many there are of a queue."""
        [count] = self.ask([(b"ZCOUNT", self.layout.dead_key(queue), self.since(), b"+inf")])
        return int(count)

    def queues(self, known: Sequence[str]) -> list[str]:
        """The queues that have some: of those that are ``known``, and that anybody has given letters to."""
        [members] = self.ask([(b"SMEMBERS", self.layout.dead_queues_key)])
        names = sorted({*known, *(member.decode("utf-8", "replace") for member in members)})
        since = self.since()
        if not names:
            return []
        counts = self.ask([(b"ZCOUNT", self.layout.dead_key(name), since, b"+inf") for name in names])
        return [name for name, count in zip(names, counts, strict=True) if count]

    def page(self, queue: str, since: str, limit: int) -> list[DeadLetter]:
        """The oldest from a score on."""
        query = (
            b"ZRANGEBYSCORE",
            self.layout.dead_key(queue),
            since,
            b"+inf",
            b"WITHSCORES",
            b"LIMIT",
            0,
            limit,
        )
        return self._letters(queue, self.ask([query])[0])

    def _letters(self, queue: str, flat: Sequence[bytes]) -> list[DeadLetter]:
        return [
            _dead_letter(queue, member, float(at)) for member, at in zip(flat[::2], flat[1::2], strict=True)
        ]


def _dead_letter(queue: str, member: bytes, at: float) -> DeadLetter:
    _, length, rest = member.split(b":", 2)
    reason, cause = read_cause(rest[: int(length)].decode("utf-8", "replace"))
    return DeadLetter(queue, rest[int(length) :], reason, at, cause, member)


class RedisDeadReader:
    """As brokers.base.DeadReader. It goes on from the last score; several letters may have that."""

    def __init__(self, letters: DeadLetters, queue: str) -> None:
        self._letters = letters
        self._queue = queue
        self._key = letters.layout.dead_key(queue)
        self._score = ""
        self._at = 0.0
        self._seen: set[bytes] = set()  #: those of the last score

    def page(self, limit: int) -> list[DeadLetter]:
        """As DeadReader.page."""
        since = self._score or self._letters.since()
        found = self._letters.page(self._queue, since, limit + len(self._seen))
        new = [letter for letter in found if letter.tag not in self._seen][:limit]
        if new:
            last = new[-1].at
            if last != self._at:
                self._seen.clear()
            self._at, self._score = last, f"{last:.6f}"
            self._seen.update(letter.tag for letter in new if letter.at == last)
        return new

    def replay(self, letter: DeadLetter, publication: Publication) -> bool:
        """As DeadReader.replay."""
        to = publication.destination
        list_key = self._letters.routes.queue_key(to.queue or to.routing_key, to.priority)
        return bool(self._letters.run(_REPLAY, (self._key, list_key), (letter.tag, publication.payload)))

    def discard(self, letters: Sequence[DeadLetter]) -> int:
        """As DeadReader.discard."""
        tags = [letter.tag for letter in letters]
        pieces = [tags[start : start + _MOST] for start in range(0, len(tags), _MOST)]
        return sum(self._letters.ask([(b"ZREM", self._key, *piece)])[0] for piece in pieces)

    def close(self) -> None:
        """Nothing of its own is open."""
