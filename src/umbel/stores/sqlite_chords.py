"""Counting the parts of chords in the database file, as statements within a caller's transaction."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from umbel.core.ids import new_id
from umbel.core.records import DueChord
from umbel.stores.chords import PATIENCE, REMEMBERED, member_of, position_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from sqlite3 import Connection

    from umbel.core.records import ChordEnd, ChordPart, ResultRecord

#: Infinity stands for the places of parts without an index; SQLite keeps it as it is.
_FORGET_GONE: Final = "DELETE FROM chords WHERE group_id = ? AND gone_at <= ?"
_FORGET_PARTS: Final = "DELETE FROM chord_parts WHERE group_id = ?"
_ENSURE: Final = "INSERT OR IGNORE INTO chords (group_id) VALUES (?)"
_READ: Final = "SELECT size, extra, counted, token, ended FROM chords WHERE group_id = ?"
_ADD_PART: Final = (
    "INSERT OR IGNORE INTO chord_parts (group_id, member, position, place, entry) VALUES (?, ?, ?, ?, ?)"
)
_COUNT: Final = "UPDATE chords SET counted = ?, gone_at = ? WHERE group_id = ?"
_MAKE_DUE: Final = "UPDATE chords SET token = ?, realm = ?, body = ?, due = ? WHERE group_id = ?"
_OPEN: Final = "UPDATE chords SET size = ?, gone_at = ? WHERE group_id = ?"
_EXTEND: Final = "UPDATE chords SET extra = extra + ?, gone_at = ? WHERE group_id = ?"
_FORGET_ENDED: Final = "DELETE FROM chords WHERE group_id = ? AND ended"
_ENTRIES: Final = "SELECT entry FROM chord_parts WHERE group_id = ? ORDER BY position, place"
_SIZE: Final = "SELECT size + extra FROM chords WHERE group_id = ? AND NOT ended AND size IS NOT NULL"
_IS_ANY_DUE: Final = "SELECT 1 FROM chords WHERE realm = ? AND due <= ? LIMIT 1"
_CLAIM: Final = """
UPDATE chords SET due = ? WHERE realm = ? AND due <= ? RETURNING group_id, token, body, realm
"""
_END: Final = """
UPDATE chords SET ended = 1, due = NULL, realm = NULL, body = NULL, gone_at = ?
WHERE group_id = ? AND token = ? AND due IS NOT NULL
"""
_PUT_GROUP: Final = "INSERT OR REPLACE INTO groups (group_id, document, gone_at) VALUES (?, ?, ?)"
_GET_GROUP: Final = "SELECT document FROM groups WHERE group_id = ? AND (gone_at IS NULL OR gone_at > ?)"
_FORGET_GROUP: Final = "DELETE FROM groups WHERE group_id = ?"

_PRUNE_PARTS: Final = """
DELETE FROM chord_parts WHERE group_id IN (SELECT group_id FROM chords WHERE gone_at <= ? LIMIT ?)
"""
_PRUNE_CHORDS: Final = (
    "DELETE FROM chords WHERE group_id IN (SELECT group_id FROM chords WHERE gone_at <= ? LIMIT ?)"
)
_PRUNE_GROUPS: Final = "DELETE FROM groups WHERE gone_at <= ?"


def count_parts(
    connection: Connection, records: Iterable[ResultRecord], lifetime: float, now: float
) -> list[DueChord]:
    """Count the parts of chords among some records; gives the chords of which the last part was among them."""
    due = []
    for record in records:
        if record.chord is not None:
            chord = _count(connection, record.task_id, record.chord, _instant(now + lifetime), now)
            if chord is not None:
                due.append(chord)
    return due


def _instant(at: float) -> float | None:
    return None if at == inf else at


def _count(
    connection: Connection, task_id: str, part: ChordPart, gone_at: float | None, now: float
) -> DueChord | None:
    group_id = part.group_id
    _ensure(connection, group_id, now)
    size, extra, counted, token, ended = connection.execute(_READ, (group_id,)).fetchone()
    if ended:
        return None
    row = (group_id, member_of(task_id, part), position_of(part), counted, part.entry)
    counted += connection.execute(_ADD_PART, row).rowcount
    connection.execute(_COUNT, (counted, gone_at, group_id))
    if token is not None or size is None or counted < size + extra:
        return None
    token = new_id()
    connection.execute(_MAKE_DUE, (token, part.realm, part.body, now + PATIENCE, group_id))
    return DueChord(group_id, token.encode(), part.body, part.realm)


def _ensure(connection: Connection, group_id: str, now: float) -> None:
    """Have a row for a chord; one whose time is over begins anew."""
    if connection.execute(_FORGET_GONE, (group_id, now)).rowcount:
        connection.execute(_FORGET_PARTS, (group_id,))
    connection.execute(_ENSURE, (group_id,))


def open_chord(connection: Connection, group_id: str, size: int, lifetime: float, now: float) -> None:
    """Set a chord's size; one that was ended begins anew."""
    if connection.execute(_FORGET_ENDED, (group_id,)).rowcount:
        connection.execute(_FORGET_PARTS, (group_id,))
    _ensure(connection, group_id, now)
    connection.execute(_OPEN, (size, _instant(now + lifetime), group_id))


def extend_chord(connection: Connection, group_id: str, more: int, lifetime: float, now: float) -> None:
    """Expect more parts than a chord's size says."""
    _ensure(connection, group_id, now)
    connection.execute(_EXTEND, (more, _instant(now + lifetime), group_id))


def chord_entries(connection: Connection, group_id: str) -> list[bytes]:
    """What was counted of a chord, in order."""
    return [entry for (entry,) in connection.execute(_ENTRIES, (group_id,))]


def chord_size(connection: Connection, group_id: str) -> int:
    """How many parts a chord has; 0 where nobody has said, or it was ended."""
    row = connection.execute(_SIZE, (group_id,)).fetchone()
    return int(row[0]) if row else 0


def is_any_due(connection: Connection, realms: Sequence[str], now: float) -> bool:
    """Whether there is something to claim; a reader need not wait for its turn to write."""
    return any(connection.execute(_IS_ANY_DUE, (realm, now)).fetchone() for realm in realms)


def claim_chords(
    connection: Connection, realms: Sequence[str], patience: float, now: float
) -> list[DueChord]:
    """Take chords that nobody has completed in time, for ``patience`` seconds."""
    return [
        DueChord(group_id, token.encode(), body, owner)
        for realm in realms
        for group_id, token, body, owner in connection.execute(
            _CLAIM, (now + patience, realm, now)
        ).fetchall()
    ]


def end_chord(connection: Connection, end: ChordEnd, lifetime: float, now: float) -> bool:
    """Mark a due chord as dealt with; false, and nothing is done, when it is not due any more."""
    gone_at = _instant(now + lifetime) if end.failed else now + REMEMBERED
    if not connection.execute(_END, (gone_at, end.group_id, end.token.decode())).rowcount:
        return False
    if not end.failed:
        connection.execute(_FORGET_PARTS, (end.group_id,))
        connection.execute(_FORGET_GROUP, (end.group_id,))
    return True


def put_group(connection: Connection, group_id: str, document: bytes, gone_at: float) -> None:
    """Keep a group's document."""
    connection.execute(_PUT_GROUP, (group_id, document, _instant(gone_at)))


def get_group(connection: Connection, group_id: str, now: float) -> bytes | None:
    """A group's document, unless it is gone."""
    row = connection.execute(_GET_GROUP, (group_id, now)).fetchone()
    return None if row is None else row[0]


def forget_group(connection: Connection, group_id: str) -> None:
    """Delete a group's document."""
    connection.execute(_FORGET_GROUP, (group_id,))


def prune(connection: Connection, now: float, rows: int) -> int:
    """Delete what has expired, of ``rows`` chords at most; says of how many."""
    connection.execute(_PRUNE_PARTS, (now, rows))
    connection.execute(_PRUNE_GROUPS, (now,))
    return connection.execute(_PRUNE_CHORDS, (now, rows)).rowcount
