"""A SQLite file that several processes use at once: opening it, transactions, and trying again while others have it.

SQLite lets one of them write at a time and refuses the others. Transactions last a fraction of a millisecond, so short
random pauses win against SQLite's own longer ones.
"""

from __future__ import annotations

import random
import sqlite3
import time
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

__all__ = ["insist", "is_busy", "open_file", "transact"]

#: SQLite's primary result codes for "somebody else has it": BUSY and LOCKED.
_BUSY_CODES: Final = frozenset({5, 6})


def open_file(
    path: str | Path, synchronous: str, prepare: Callable[[sqlite3.Connection], object]
) -> sqlite3.Connection:
    """A new connection, in autocommit mode, of which ``prepare`` has made the tables.

    It waits for nobody: see ``insist``.
    """
    connection = sqlite3.connect(
        path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=64
    )
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before the first table, or without effect
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def transact(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """Do ``work`` in one writing transaction, all or nothing, and return what it returns."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # some errors have ended it already
            connection.execute("ROLLBACK")
        raise
    return result


def is_busy(error: sqlite3.Error) -> bool:
    """Whether others have the file just now."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY_CODES


def insist(work: Callable[[], T], deadline: float) -> T:
    """Do ``work`` as soon as nobody else has the file; ``deadline`` is by ``time.monotonic``."""
    pause = 0.0002
    while True:
        try:
            return work()
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() >= deadline:
                raise
        time.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(pause * 1.2, 0.002)
