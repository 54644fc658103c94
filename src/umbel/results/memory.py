"""``memory://NAME``: results in the memory of one process, beside the messages of the broker of the same name."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from umbel.core.states import SUCCESS
from umbel.errors import TimeoutError as ResultTimeoutError
from umbel.results.watch import Watch
from umbel.stores.memory import Chord, StoredResult, stores

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

    from umbel.core.clock import Clock
    from umbel.core.records import ChordEnd, DueChord, ResultRecord
    from umbel.results.options import ResultOptions
    from umbel.stores.memory import MemoryStore

#: How long a wait without a timeout sleeps at a time.
_DAY: Final = 86400.0


class MemoryResultBackend:
    """The results of one named store."""

    stores_results = True
    native_chords = True

    def __init__(self, name: str, options: ResultOptions, *, clock: Clock | None = None) -> None:
        self.store = self.display_url = f"memory://{name}"
        self.serializer = options.serializer
        self.options = options
        self._store = stores.get(name, clock)

    @classmethod
    def from_url(cls, url: str, options: ResultOptions, *, clock: Clock | None = None) -> MemoryResultBackend:
        """The backend of ``memory://NAME``; the name may be empty."""
        return cls(url.partition("://")[2].strip("/"), options, clock=clock)

    def expect(self, task_ids: Sequence[str]) -> None:
        """Waiters look at the store when it changes; there is nothing to prepare."""

    def save(self, records: Sequence[ResultRecord]) -> list[DueChord]:
        with self._store.lock:
            due = self._store.put_results(records, self.options.lifetime, self.options.chord_lifetime())
            self._store.changed()
        return due

    async def asave(self, records: Sequence[ResultRecord]) -> list[DueChord]:
        return self.save(records)

    def load(self, task_ids: Sequence[str]) -> list[bytes | None]:
        with self._store.lock:
            found = map(self._store.get_result, task_ids)
            return [None if stored is None else stored.document for stored in found]

    async def aload(self, task_ids: Sequence[str]) -> list[bytes | None]:
        return self.load(task_ids)

    def wait(self, task_ids: Iterable[str], timeout: float | None) -> Iterator[tuple[str, bytes]]:
        watch, changed = Watch(task_ids), threading.Event()
        with _waking(self._store, changed.set):
            while watch.pending:
                deadline = time.monotonic() + (_DAY if timeout is None else timeout)
                while not (news := self._look(watch)):
                    left = deadline - time.monotonic()
                    if left <= 0 and timeout is not None:
                        raise ResultTimeoutError(watch.overdue(timeout))
                    changed.wait(max(left, 0.0) if timeout is not None else _DAY)
                    changed.clear()
                yield from news

    async def await_(
        self, task_ids: Iterable[str], timeout: float | None
    ) -> AsyncIterator[tuple[str, bytes]]:
        watch, changed, loop = Watch(task_ids), asyncio.Event(), asyncio.get_running_loop()

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(changed.set)

        with _waking(self._store, wake):
            while watch.pending:
                try:
                    async with asyncio.timeout(timeout):
                        while not (news := self._look(watch)):
                            await changed.wait()
                            changed.clear()
                except TimeoutError:
                    raise ResultTimeoutError(watch.overdue(timeout)) from None
                for item in news:
                    yield item

    def _look(self, watch: Watch) -> list[tuple[str, bytes]]:
        with self._store.lock:
            found = [(task_id, self._store.get_result(task_id)) for task_id in watch.pending]
        return watch.news(
            (task_id, stored.state, stored.document) for task_id, stored in found if stored is not None
        )

    def forget(self, task_ids: Sequence[str]) -> None:
        with self._store.lock:
            for task_id in task_ids:
                self._store.results.pop(task_id, None)

    def save_group(self, group_id: str, document: bytes) -> None:
        gone_at = self._store.clock.now() + self.options.lifetime(SUCCESS)
        with self._store.lock:
            self._store.groups[group_id] = StoredResult(SUCCESS, document, gone_at)

    def load_group(self, group_id: str) -> bytes | None:
        with self._store.lock:
            stored = self._store.groups.get(group_id)
            return (
                stored.document if stored is not None and stored.gone_at > self._store.clock.now() else None
            )

    def forget_group(self, group_id: str) -> None:
        with self._store.lock:
            self._store.groups.pop(group_id, None)

    def open_chord(self, group_id: str, size: int) -> None:
        with self._store.lock:
            chord = self._chord(group_id)
            if chord.ended:
                chord = self._store.chords[group_id] = Chord(chord.gone_at)
            chord.size = size

    def extend_chord(self, group_id: str, more: int = 1) -> None:
        with self._store.lock:
            self._chord(group_id).extra += more

    def _chord(self, group_id: str) -> Chord:
        chord = self._store.chord(group_id, 0.0)
        chord.gone_at = self._store.clock.now() + self.options.chord_lifetime()
        return chord

    def chord_entries(self, group_id: str) -> list[bytes]:
        with self._store.lock:
            chord = self._store.chord(group_id, 0.0)
            return [entry for _, entry in sorted(chord.parts.values(), key=lambda part: part[0])]

    def chord_size(self, group_id: str) -> int:
        with self._store.lock:
            chord = self._store.chord(group_id, 0.0)
            return 0 if chord.size is None or chord.ended else chord.size + chord.extra

    async def aclaim_chords(self, realms: Sequence[str], patience: float) -> list[DueChord]:
        with self._store.lock:
            return self._store.claim_chords(realms, patience)

    async def aend_chords(self, ends: Sequence[ChordEnd]) -> None:
        with self._store.lock:
            for end in ends:
                self._store.end_chord(end)

    def close(self) -> None:
        """Nothing is open."""


@contextmanager
def _waking(store: MemoryStore, wake: Callable[[], None]) -> Iterator[None]:
    store.on_change(wake)
    try:
        yield
    finally:
        store.forget_waker(wake)
