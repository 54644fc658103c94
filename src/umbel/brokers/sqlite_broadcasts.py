"""Broadcasts in the database file: rows that are gone after a minute, and subscribers who read what is new.

Whoever sends one deletes those whose time is over, so that the table holds what the last minute brought and no more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from umbel.brokers.arrivals import Arrivals
from umbel.core.destination import BROADCAST_TYPES
from umbel.errors import BrokerConnectionError
from umbel.stores.doorbell import BROADCASTS, LOOK_EVERY, rung, topic_bits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from sqlite3 import Connection

    from umbel.core.destination import Destination
    from umbel.core.records import Publication
    from umbel.stores.doorbell import Doorbell, Ringer
    from umbel.stores.sqlite import Database

#: Seconds for which a subscriber can still read a broadcast: one that was rung does at once.
_KEPT: Final = 60.0
#: A subscriber looks by itself after so many seconds, should a ring have been lost.
_LOOK_AGAIN: Final = 30.0
#: Rows that are read at a time.
_ROWS: Final = 100

#: The bell of those who listen to a pattern.
_PATTERN: Final = "#"

_DELETE_OLD: Final = "DELETE FROM broadcasts WHERE gone_at <= ?"
_INSERT: Final = "INSERT INTO broadcasts (exchange, routing_key, payload, gone_at) VALUES (?, ?, ?, ?)"
#: Not the greatest id that is there: that one may have been deleted.
_NEWEST: Final = "SELECT seq FROM sqlite_sequence WHERE name = 'broadcasts'"
_SELECT: Final = """
SELECT id, payload FROM broadcasts WHERE id > ? AND gone_at > ? AND ({}) ORDER BY id LIMIT ?
"""
_ONE_OF: Final = "exchange = ? AND routing_key GLOB ?"


def insert(connection: Connection, publications: Sequence[Publication], now: float) -> None:
    """Store those publications that are broadcasts."""
    connection.execute(_DELETE_OLD, (now,))
    for publication in publications:
        to = publication.destination
        if _is_broadcast(to):
            connection.execute(_INSERT, (to.exchange, to.routing_key, publication.payload, now + _KEPT))


def ring(ringer: Ringer, publications: Sequence[Publication]) -> None:
    """Wake who listens; to be called after the commit."""
    destinations = [publication.destination for publication in publications]
    heard = [to for to in destinations if _is_broadcast(to)]
    topics = {_topic(to.exchange, to.routing_key) for to in heard}
    topics |= {_topic(to.exchange, _PATTERN) for to in heard if to.exchange_type == "broadcast"}
    ringer.ring(BROADCASTS, topic_bits(topics))


def _is_broadcast(destination: Destination) -> bool:
    return destination.exchange_type in BROADCAST_TYPES


def _as_glob(pattern: str) -> str:
    """A routing key in which ``#`` stands for any text, for SQLite; its own wildcards are taken literally."""
    return "".join("*" if each == "#" else f"[{each}]" if each in "*?[" else each for each in pattern)


def _topic(exchange: str, routing_key: str) -> str:
    return f"{exchange}\x00{routing_key}"


class SqliteSubscription:
    """Reads what is sent to some exchanges and routing keys.

    Readers wait for nobody in SQLite's log mode; still the file may be away or being repaired, so that every look is
    made in another thread.
    """

    def __init__(self, database: Database, addresses: Sequence[tuple[str, str]]) -> None:
        self._database = database
        self._topics = [
            _topic(exchange, _PATTERN if "#" in routing_key else routing_key)
            for exchange, routing_key in addresses
        ]
        self._select = _SELECT.format(" OR ".join([_ONE_OF] * len(addresses)))
        self._wanted = [
            each for exchange, routing_key in addresses for each in (exchange, _as_glob(routing_key))
        ]
        self._arrivals = Arrivals()
        self._bell: Doorbell | None = None
        self._last = 0
        self._is_open = False

    async def open(self) -> None:
        await self.close()
        # First the bell, then the look: what comes between the two rings.
        self._bell = self._database.ringer.doorbell(BROADCASTS, self._topics)
        self._last = await asyncio.to_thread(self._newest)
        self._arrivals.clear()
        self._is_open = True

    def _newest(self) -> int:
        found = self._database.read(lambda connection: connection.execute(_NEWEST).fetchone())
        return int(found[0]) if found else 0

    async def get(self) -> bytes:
        while not self._arrivals:
            if not self._is_open:
                raise BrokerConnectionError("the subscription is not open")
            rows = await asyncio.to_thread(self._look)
            for number, payload in rows:
                self._last = number
                self._arrivals.put(payload)
            if not rows:
                # Without a bell a look a second has to do: nobody's task waits for this.
                await (asyncio.sleep(LOOK_EVERY) if self._bell is None else rung(self._bell, _LOOK_AGAIN))
        return await self._arrivals.get()

    def _look(self) -> list[tuple[int, bytes]]:
        """What is new. It is noted as read by whoever called, who may have been cancelled meanwhile."""
        parameters = (self._last, self._database.clock.now(), *self._wanted, _ROWS)
        return self._database.read(lambda connection: connection.execute(self._select, parameters).fetchall())

    async def close(self) -> None:
        self._is_open = False
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.close()
