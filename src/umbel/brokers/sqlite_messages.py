"""The moves of messages between their places, as statements within a caller's transaction.

A held message's tag is ``id.deliveries``: taken again, it has another tag, so an old one settles nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from umbel.brokers import sqlite_broadcasts as broadcasts
from umbel.brokers.base import Delivery
from umbel.brokers.lost import tell_lost
from umbel.brokers.redelivery import mark_redelivered
from umbel.brokers.turns import take_turns
from umbel.core.bindings import no_queue_bound
from umbel.core.causes import Cause, write_cause
from umbel.core.destination import BROADCAST_TYPES
from umbel.core.textrepr import utf8_text
from umbel.stores.doorbell import MESSAGES, topic_bits

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from sqlite3 import Connection

    from umbel.brokers.base import Disposition
    from umbel.core.records import Publication
    from umbel.stores.doorbell import Ringer

_INSERT: Final = "INSERT INTO messages (queue, priority, payload) VALUES (?, ?, ?)"

_IS_ANY_READY: Final = """
SELECT 1 FROM messages WHERE queue = ?1 AND owner IS NULL AND due IS NULL
UNION ALL
SELECT 1 FROM messages WHERE queue = ?1 AND due IS NOT NULL AND due <= ?2
LIMIT 1
"""
_NEXT_DUE: Final = "SELECT min(due) FROM messages WHERE queue = ? AND due IS NOT NULL"

_FIND_DUE: Final = "SELECT id FROM messages WHERE queue = ? AND due IS NOT NULL AND due <= ? ORDER BY due, id"
_PROMOTE: Final = "UPDATE messages SET due = NULL, place = ? WHERE id = ?"
_TAKE_PLACES: Final = "UPDATE counters SET value = value - ? WHERE name = 'front' RETURNING value"

_FIRST_IN_LINE: Final = """
SELECT priority, id FROM messages WHERE queue = ? AND owner IS NULL AND due IS NULL
ORDER BY priority, place, id LIMIT ?
"""
_HOLD: Final = """
UPDATE messages SET owner = ?, deliveries = deliveries + 1 WHERE id = ?
RETURNING id, deliveries, queue, payload, redelivered
"""

_FREE: Final = (
    "SELECT id FROM messages WHERE id IN (SELECT value FROM json_each(?)) AND owner IS NULL ORDER BY id"
)
_UNDELAY: Final = "UPDATE messages SET due = NULL WHERE id = ?"

# Each of these does nothing unless the message is held, by this owner, since this delivery.
_ACK: Final = "DELETE FROM messages WHERE id = ? AND deliveries = ? AND owner = ?"
_TO_BACK: Final = """
INSERT INTO messages (queue, priority, deliveries, redelivered, payload)
SELECT queue, priority, deliveries, 1, coalesce(?, payload) FROM messages
WHERE id = ? AND deliveries = ? AND owner = ?
"""
_TO_FRONT: Final = """
UPDATE messages SET owner = NULL, redelivered = 1, place = ?, payload = coalesce(?, payload)
WHERE id = ? AND deliveries = ? AND owner = ?
"""
_DELAY: Final = """
UPDATE messages SET owner = NULL, due = ?, payload = coalesce(?, payload)
WHERE id = ? AND deliveries = ? AND owner = ?
"""
_BURY: Final = "INSERT INTO dead_letters (queue, payload, reason, at) VALUES (?, ?, ?, ?) RETURNING id"
_EXPLAIN: Final = "INSERT OR REPLACE INTO dead_causes (id, cause) VALUES (?, ?)"

_FIND_HELD: Final = "SELECT queue, payload FROM messages WHERE id = ? AND deliveries = ? AND owner = ?"

_HELD: Final = "SELECT id, deliveries FROM messages WHERE owner = ?"
_QUEUES_OF: Final = "SELECT DISTINCT queue FROM messages WHERE id IN (SELECT value FROM json_each(?))"
#: Returned messages keep their order among themselves: they get the places before all others, from ?2 + 1 on.
_GIVE_BACK: Final = """
UPDATE messages SET owner = NULL, redelivered = max(redelivered, ?3), place = ?2 + line.rank
FROM (
    SELECT id, row_number() OVER (ORDER BY place, id) AS rank FROM messages
    WHERE id IN (SELECT value FROM json_each(?1))
) AS line
WHERE messages.id = line.id
"""


def lines_of(publications: Sequence[Publication]) -> list[str | None]:
    """The queue of each publication, None for a broadcast."""
    destinations = [publication.destination for publication in publications]
    return [None if to.exchange_type in BROADCAST_TYPES else to.queue for to in destinations]


def insert(
    connection: Connection, publications: Sequence[Publication], queues: Sequence[str | None], now: float
) -> None:
    """Put publications at the back of their queues, and broadcasts where subscribers look."""
    rows = [
        (queue, p.destination.priority, p.payload)
        for queue, p in zip(queues, publications, strict=True)
        if queue is not None
    ]
    connection.executemany(_INSERT, rows)
    if len(rows) < len(publications):
        broadcasts.insert(connection, publications, now)


def ring(ringer: Ringer, publications: Sequence[Publication], queues: Collection[str | None]) -> None:
    """Wake who waits for what was inserted; to be called after the commit."""
    ringer.ring(MESSAGES, topic_bits({queue for queue in queues if queue is not None}))
    if None in queues:
        broadcasts.ring(ringer, publications)


def is_any_ready(connection: Connection, queues: Sequence[str], now: float) -> bool:
    """Whether there is something to take; a reader need not wait for its turn to write."""
    return any(connection.execute(_IS_ANY_READY, (queue, now)).fetchone() for queue in queues)


def next_due(connection: Connection, queues: Sequence[str]) -> float | None:
    """When the first delayed message of some queues is due."""
    instants = [connection.execute(_NEXT_DUE, (queue,)).fetchone()[0] for queue in queues]
    return min((at for at in instants if at is not None), default=None)


def promote(connection: Connection, queue: str, now: float) -> None:
    """Move what is due to the front of its queue, the earliest first in line."""
    due = connection.execute(_FIND_DUE, (queue, now)).fetchall()
    if due:
        before = _take_places(connection, len(due))
        moves = [(before + rank, row) for rank, (row,) in enumerate(due, 1)]
        connection.executemany(_PROMOTE, moves)


def _take_places(connection: Connection, number: int) -> int:
    """Reserve places before all others; the first is one above what is returned."""
    [[front]] = connection.execute(_TAKE_PLACES, (number,)).fetchall()
    return int(front) - 1


def take(connection: Connection, queues: Sequence[str], limit: int, owner: str) -> list[Delivery]:
    """Take up to ``limit`` messages out of line and record who holds them."""
    lines = [connection.execute(_FIRST_IN_LINE, (queue, limit)).fetchall() for queue in queues]
    chosen = take_turns([line for line in lines if line], limit)
    return [_hold(connection, owner, row) for row in chosen]


def take_out(connection: Connection, rows: Sequence[int], owner: str) -> list[Delivery]:
    """Take messages that wait or are delayed, whatever their turn; those that somebody holds by now are left out."""
    free = connection.execute(_FREE, (json.dumps(list(rows)),)).fetchall()
    connection.executemany(_UNDELAY, free)
    return [_hold(connection, owner, row) for (row,) in free]


def _hold(connection: Connection, owner: str, row: int) -> Delivery:
    [[row, deliveries, queue, payload, redelivered]] = connection.execute(_HOLD, (owner, row)).fetchall()
    if redelivered:
        payload = mark_redelivered(payload)
    return Delivery(b"%d.%d" % (row, deliveries), queue, payload, bool(redelivered))


def end(connection: Connection, owner: str, disposition: Disposition, now: float) -> bool:
    """Let one delivery leave the held set by its action; False, and nothing done, when ``owner`` does not hold it."""
    mine = parse_tag(disposition.tag, owner)
    if mine is None:
        return False
    payload = disposition.payload
    match disposition.action:
        case "ack":
            return connection.execute(_ACK, mine).rowcount > 0
        case "requeue" if disposition.front:
            place = _take_places(connection, 1) + 1
            return connection.execute(_TO_FRONT, (place, payload, *mine)).rowcount > 0
        case "retry_later":
            return connection.execute(_DELAY, (disposition.due, payload, *mine)).rowcount > 0
        case "requeue":
            connection.execute(_TO_BACK, (payload, *mine))
        case "dead_letter":
            for queue, stored in connection.execute(_FIND_HELD, mine).fetchall():
                kept = stored if payload is None else payload
                bury(connection, queue, kept, disposition.reason, disposition.cause, now)
    return connection.execute(_ACK, mine).rowcount > 0


def bury_beside(
    connection: Connection, owner: str, disposition: Disposition, lost: Sequence[Publication], now: float
) -> None:
    """Keep what a delivery publishes and no queue is bound for, among the dead letters of the delivery's queue."""
    for publication in lost:
        reason, queue = no_queue_bound(publication.destination), disposition.queue
        if not disposition.unheld:
            mine = parse_tag(disposition.tag, owner) or (0, 0, "")
            [queue, _] = connection.execute(_FIND_HELD, mine).fetchone() or ["", b""]
        if tell_lost(reason, queue):
            bury(connection, queue, publication.payload, reason, Cause("unroutable"), now)


def bury_unheld(connection: Connection, disposition: Disposition, now: float) -> None:
    """Keep a dead letter whose delivery was acknowledged early."""
    payload = disposition.payload or b""
    bury(connection, disposition.queue, payload, disposition.reason, disposition.cause, now)


def bury(
    connection: Connection, queue: str, payload: bytes, reason: str, cause: Cause | None, now: float
) -> None:
    """Keep a payload as a dead letter, and what led to that beside it."""
    [[number]] = connection.execute(_BURY, (queue, payload, utf8_text(reason), now)).fetchall()
    if cause is not None:
        connection.execute(_EXPLAIN, (number, write_cause("", cause)))


def parse_tag(tag: bytes, owner: str) -> tuple[int, int, str] | None:
    """What a tag says, with the owner as statements take it; None for what is no tag of ours."""
    row, _, deliveries = tag.partition(b".")
    if not (row.isdigit() and deliveries.isdigit() and len(tag) < 37):
        return None
    return int(row), int(deliveries), owner


def unknown_rows(connection: Connection, owner: str, known: Collection[bytes]) -> list[int]:
    """What ``owner`` holds and ``known`` does not name."""
    tags = frozenset(known)
    return [row for row, taken in connection.execute(_HELD, (owner,)) if b"%d.%d" % (row, taken) not in tags]


def give_back(connection: Connection, rows: Sequence[int], *, redelivered: bool) -> list[str]:
    """Put held messages back to the front of their queues, in the order they had; says which queues."""
    if not rows:
        return []
    chosen = json.dumps(rows)
    queues = [queue for (queue,) in connection.execute(_QUEUES_OF, (chosen,))]
    before = _take_places(connection, len(rows))
    connection.execute(_GIVE_BACK, (chosen, before, redelivered))
    return queues
