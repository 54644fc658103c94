"""Revoked tasks in the database file: which they are, and finding their messages where they wait.

A message has no column for its task's id, so that none costs more than it did: a search reads the payloads, a few
hundred at a time and in no transaction; writing is for those that are found.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple

from umbel.brokers.base import RevokedTasks
from umbel.brokers.revoking import BEYOND_DELAYS, task_id_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from sqlite3 import Connection

__all__ = ["Portion", "begin_search", "end_search", "keep", "kept", "look"]

#: Messages that are looked at in one go.
_PORTION: Final = 300

_FORGET: Final = "DELETE FROM {} WHERE gone_at <= ?"
_KEEP: Final = """
INSERT INTO {} VALUES (?, ?) ON CONFLICT DO UPDATE SET gone_at = max(gone_at, excluded.gone_at)
"""
_LAST_DUE: Final = "SELECT max(due) FROM messages"
_KEPT: Final = "SELECT * FROM {} WHERE gone_at > ?"
_TABLES: Final = ("revoked", "revoked_stamps")

#: What the last revocation is called, and for each queue the last one that was searched for.
_LAST: Final = "revocations"
_SWEPT: Final = "swept:"
_COUNT: Final = """
INSERT INTO counters VALUES (?, 1) ON CONFLICT DO UPDATE SET value = value + 1
"""
_SET: Final = "INSERT OR REPLACE INTO counters VALUES (?, ?)"
_GET: Final = "SELECT value FROM counters WHERE name = ?"

_LOOK: Final = """
SELECT id, payload FROM messages WHERE queue = ? AND id > ? AND owner IS NULL ORDER BY id LIMIT ?
"""
_WHICH: Final = """
SELECT task_id FROM revoked WHERE task_id IN (SELECT value FROM json_each(?)) AND gone_at > ?
"""


def keep(
    connection: Connection, task_ids: Sequence[str], stamps: Sequence[str], now: float, gone_at: float
) -> float:
    """Note ids and stamps until ``gone_at``, and forget those whose time is over.

    Nobody searches for stamps: with them all are kept until the last delayed message is due. Gives when they are
    forgotten.
    """
    if stamps:
        (last_due,) = connection.execute(_LAST_DUE).fetchone()
        gone_at = max(gone_at, last_due + BEYOND_DELAYS) if last_due else gone_at
    for table, names in zip(_TABLES, (task_ids, stamps), strict=True):
        connection.execute(_FORGET.format(table), (now,))
        connection.executemany(_KEEP.format(table), [(name, gone_at) for name in names])
    if task_ids:
        connection.execute(_COUNT, (_LAST,))
    return gone_at


def kept(connection: Connection, now: float) -> RevokedTasks:
    """What is kept, each with the seconds that are left to it."""
    rows = [connection.execute(_KEPT.format(table), (now,)).fetchall() for table in _TABLES]
    return RevokedTasks(*({name: gone_at - now for name, gone_at in each} for each in rows))


def begin_search(connection: Connection, queue: str) -> int:
    """The revocation that a queue is to be searched for; 0: it was, or there is none."""
    last, swept = (
        (connection.execute(_GET, (name,)).fetchone() or (0,))[0] for name in (_LAST, _SWEPT + queue)
    )
    return 0 if last == swept else int(last)


def end_search(connection: Connection, queue: str, revocation: int) -> None:
    """Note what a queue was searched for."""
    connection.execute(_SET, (_SWEPT + queue, revocation))


class Portion(NamedTuple):
    """What was looked at: the rows of revoked tasks, and after which row to go on; None at the end."""

    rows: list[int]
    after: int | None


def look(connection: Connection, queue: str, after: int, now: float) -> Portion:
    """Look at the messages of a queue that nobody holds, from the one after a row on."""
    found = connection.execute(_LOOK, (queue, after, _PORTION)).fetchall()
    ids = {row: task_id_of(payload) for row, payload in found}
    wanted = json.dumps(list(ids.values()))
    revoked = {task_id for (task_id,) in connection.execute(_WHICH, (wanted, now))}
    rows = [row for row, task_id in ids.items() if task_id in revoked]
    return Portion(rows, found[-1][0] if len(found) == _PORTION else None)
