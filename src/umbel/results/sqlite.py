"""``sqlite:///path``: results in a file, beside the messages of the broker of the same path."""

from __future__ import annotations

import asyncio
import json
import time
from math import inf
from typing import TYPE_CHECKING, Final

from umbel.core.states import SUCCESS
from umbel.errors import OperationalError
from umbel.errors import TimeoutError as ResultTimeoutError
from umbel.results.watch import Watch
from umbel.stores import sqlite_chords as chords
from umbel.stores.doorbell import LOOK_EVERY, RESULTS, rung, wait_rung
from umbel.stores.sqlite import Database, locate, put_results, ring_results

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
    from sqlite3 import Connection

    from umbel.core.clock import Clock
    from umbel.core.records import ChordEnd, DueChord, ResultRecord
    from umbel.results.options import ResultOptions
    from umbel.stores.doorbell import Doorbell
    from umbel.stores.sqlite import Location

_BY_ID: Final = """
SELECT task_id, state, document FROM results
WHERE task_id IN (SELECT value FROM json_each(?)) AND (gone_at IS NULL OR gone_at > ?)
"""
_SINCE: Final = "SELECT id, task_id, state, document FROM results WHERE id > ? ORDER BY id LIMIT 2000"
_LAST: Final = "SELECT max(id) FROM results"
_FORGET: Final = "DELETE FROM results WHERE task_id = ?"

#: Who waits for more tasks than this reads what is new rather than asking for each task again.
_FEW: Final = 100


class SqliteResultBackend:
    """The results in one file."""

    stores_results = True
    native_chords = True

    def __init__(self, location: Location, options: ResultOptions, *, clock: Clock | None = None) -> None:
        self.store = self.display_url = location.url
        self.serializer = options.serializer
        self.options = options
        self._database = Database(location, clock=clock, failure=OperationalError)

    @classmethod
    def from_url(cls, url: str, options: ResultOptions, *, clock: Clock | None = None) -> SqliteResultBackend:
        """The backend of ``sqlite:///relative`` or ``sqlite:////absolute``. Raises ImproperlyConfigured."""
        return cls(locate(url, options.transport), options, clock=clock)

    def expect(self, task_ids: Sequence[str]) -> None:
        """Waiters look at the file when they are rung; there is nothing to prepare."""

    def save(self, records: Sequence[ResultRecord]) -> list[DueChord]:
        now = self._database.clock.now()

        def work(connection: Connection) -> list[DueChord]:
            put_results(connection, records, self.options.lifetime, now)
            return chords.count_parts(connection, records, self.options.chord_lifetime(), now)

        due = self._database.write(work)
        ring_results(self._database.ringer, [record.task_id for record in records if record.document])
        return due

    async def asave(self, records: Sequence[ResultRecord]) -> list[DueChord]:
        return await asyncio.to_thread(self.save, records)

    def load(self, task_ids: Sequence[str]) -> list[bytes | None]:
        found = {task_id: document for task_id, _, document in self._find(task_ids)}
        return [found.get(task_id) for task_id in task_ids]

    async def aload(self, task_ids: Sequence[str]) -> list[bytes | None]:
        return await asyncio.to_thread(self.load, task_ids)

    def _find(self, task_ids: Iterable[str]) -> list[tuple[str, str, bytes]]:
        parameters = (json.dumps(list(task_ids)), self._database.clock.now())
        return self._database.read(lambda connection: connection.execute(_BY_ID, parameters).fetchall())

    def wait(self, task_ids: Iterable[str], timeout: float | None) -> Iterator[tuple[str, bytes]]:
        waiting = _Waiting(self, task_ids)
        try:
            while waiting.pending:
                deadline = time.monotonic() + (inf if timeout is None else timeout)
                while not (news := waiting.look()):
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise ResultTimeoutError(waiting.overdue(timeout))
                    if waiting.listen():
                        wait_rung(waiting.bell, min(left, LOOK_EVERY))
                yield from news
        finally:
            waiting.close()

    async def await_(
        self, task_ids: Iterable[str], timeout: float | None
    ) -> AsyncIterator[tuple[str, bytes]]:
        waiting = _Waiting(self, task_ids)
        try:
            while waiting.pending:
                deadline = time.monotonic() + (inf if timeout is None else timeout)
                while not (news := await asyncio.to_thread(waiting.look)):
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise ResultTimeoutError(waiting.overdue(timeout))
                    if waiting.listen():
                        await rung(waiting.bell, min(left, LOOK_EVERY))
                for item in news:
                    yield item
        finally:
            waiting.close()

    def forget(self, task_ids: Sequence[str]) -> None:
        self._database.write(
            lambda connection: connection.executemany(_FORGET, [(task_id,) for task_id in task_ids])
        )

    def save_group(self, group_id: str, document: bytes) -> None:
        gone_at = self._database.clock.now() + self.options.lifetime(SUCCESS)
        self._database.write(lambda connection: chords.put_group(connection, group_id, document, gone_at))

    def load_group(self, group_id: str) -> bytes | None:
        now = self._database.clock.now()
        return self._database.read(lambda connection: chords.get_group(connection, group_id, now))

    def forget_group(self, group_id: str) -> None:
        self._database.write(lambda connection: chords.forget_group(connection, group_id))

    def open_chord(self, group_id: str, size: int) -> None:
        now, lifetime = self._database.clock.now(), self.options.chord_lifetime()
        self._database.write(lambda connection: chords.open_chord(connection, group_id, size, lifetime, now))

    def extend_chord(self, group_id: str, more: int = 1) -> None:
        now, lifetime = self._database.clock.now(), self.options.chord_lifetime()
        self._database.write(
            lambda connection: chords.extend_chord(connection, group_id, more, lifetime, now)
        )

    def chord_entries(self, group_id: str) -> list[bytes]:
        return self._database.read(lambda connection: chords.chord_entries(connection, group_id))

    def chord_size(self, group_id: str) -> int:
        return self._database.read(lambda connection: chords.chord_size(connection, group_id))

    async def aclaim_chords(self, realms: Sequence[str], patience: float) -> list[DueChord]:
        return await asyncio.to_thread(self._claim_chords, realms, patience)

    def _claim_chords(self, realms: Sequence[str], patience: float) -> list[DueChord]:
        now = self._database.clock.now()
        if not self._database.read(lambda connection: chords.is_any_due(connection, realms, now)):
            return []
        return self._database.write(lambda connection: chords.claim_chords(connection, realms, patience, now))

    async def aend_chords(self, ends: Sequence[ChordEnd]) -> None:
        now, lifetime = self._database.clock.now(), self.options.chord_lifetime()

        def work(connection: Connection) -> None:
            for end in ends:
                chords.end_chord(connection, end, lifetime, now)

        await asyncio.to_thread(self._database.write, work)

    def close(self) -> None:
        self._database.close()


class _Waiting(Watch):
    """One wait: looks at the file, and has a doorbell from the second look on."""

    def __init__(self, backend: SqliteResultBackend, task_ids: Iterable[str]) -> None:
        super().__init__(task_ids)
        self.bell: Doorbell | None = None
        self._backend = backend
        self._database = backend._database
        self._listening = False
        self._seen: int | None = None  #: the newest result that was read; None: none yet

    def look(self) -> list[tuple[str, bytes]]:
        """The news since the last look."""
        if self._seen is not None and len(self.pending) > _FEW:
            return self._look_at_new(self._seen)
        if len(self.pending) > _FEW:
            self._seen = self._database.read(_last_result)
        return self.news(self._backend._find(self.pending))

    def _look_at_new(self, seen: int) -> list[tuple[str, bytes]]:
        rows = self._database.read(lambda connection: connection.execute(_SINCE, (seen,)).fetchall())
        while rows:
            self._seen = rows[-1][0]
            if news := self.news(row[1:] for row in rows):
                return news
            rows = self._database.read(
                lambda connection: connection.execute(_SINCE, (self._seen,)).fetchall()
            )
        return []

    def listen(self) -> bool:
        """Whether there was a doorbell already. If not there is one now, and one must look again before waiting."""
        listened, self._listening = self._listening, True
        if not listened:
            self.bell = self._database.ringer.doorbell(RESULTS, self.pending)
        return listened

    def close(self) -> None:
        if self.bell is not None:
            self.bell.close()


def _last_result(connection: Connection) -> int:
    [[last]] = connection.execute(_LAST).fetchall()
    return int(last or 0)
