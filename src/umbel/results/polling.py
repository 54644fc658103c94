"""Waiting where the store cannot wake: ask, wait a little longer each time, ask again."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from math import inf
from typing import TYPE_CHECKING, Final

from umbel.errors import TimeoutError as ResultTimeoutError
from umbel.results.watch import Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

    from umbel.core.records import ChordEnd, DueChord, ResultRecord

#: Seconds between the first two looks, how much each wait is longer than the one before, and the longest: Celery's.
_FIRST: Final = 0.004
_GROWTH: Final = 1.5
_LONGEST: Final = 0.5


#: What a backend that does not count says when it is asked to.
_NO_CHORDS: Final = "this result backend does not count the parts of chords: ask native_chords first"


class PollingResults(ABC):
    """The faces of a backend that follow from reading and writing: an adapter brings ``save`` and ``_find``."""

    stores_results = True
    native_chords = False

    @abstractmethod
    def save(self, records: Sequence[ResultRecord]) -> None: ...

    @abstractmethod
    def _find(self, task_ids: Sequence[str]) -> list[tuple[str, str, bytes]]:
        """(task id, state, document) of those tasks that have one, in any order."""

    def expect(self, task_ids: Sequence[str]) -> None:  # noqa: B027 - nothing is what is to be done
        """Waiters look at the store again and again; there is nothing to prepare."""

    async def asave(self, records: Sequence[ResultRecord]) -> None:
        await asyncio.to_thread(self.save, records)

    def load(self, task_ids: Sequence[str]) -> list[bytes | None]:
        found = {task_id: document for task_id, _, document in self._find(task_ids)}
        return [found.get(task_id) for task_id in task_ids]

    async def aload(self, task_ids: Sequence[str]) -> list[bytes | None]:
        return await asyncio.to_thread(self.load, task_ids)

    def wait(self, task_ids: Iterable[str], timeout: float | None) -> Iterator[tuple[str, bytes]]:
        watch = Watch(task_ids)
        while watch.pending:
            pace = _Pace(timeout)
            while not (news := watch.news(self._find(list(watch.pending)))):
                time.sleep(pace.next(watch))
            yield from news

    async def await_(
        self, task_ids: Iterable[str], timeout: float | None
    ) -> AsyncIterator[tuple[str, bytes]]:
        watch = Watch(task_ids)
        while watch.pending:
            pace = _Pace(timeout)
            while not (news := watch.news(await asyncio.to_thread(self._find, list(watch.pending)))):  # noqa: ASYNC110
                await asyncio.sleep(pace.next(watch))  # the store cannot set an event
            for item in news:
                yield item

    def open_chord(self, group_id: str, size: int) -> None:
        raise NotImplementedError(_NO_CHORDS)

    def extend_chord(self, group_id: str, more: int = 1) -> None:
        raise NotImplementedError(_NO_CHORDS)

    def chord_entries(self, group_id: str) -> list[bytes]:
        raise NotImplementedError(_NO_CHORDS)

    def chord_size(self, group_id: str) -> int:
        raise NotImplementedError(_NO_CHORDS)

    async def aclaim_chords(self, realms: Sequence[str], patience: float) -> list[DueChord]:
        raise NotImplementedError(_NO_CHORDS)

    async def aend_chords(self, ends: Sequence[ChordEnd]) -> None:
        raise NotImplementedError(_NO_CHORDS)


class _Pace:
    """How long to wait before each next look, until the time is up."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._end = time.monotonic() + (inf if timeout is None else timeout)
        self._delay = _FIRST

    def next(self, watch: Watch) -> float:
        """Seconds to wait now. Raises TimeoutError when none are left."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise ResultTimeoutError(watch.overdue(self._timeout))
        delay = min(self._delay, left)
        self._delay = min(self._delay * _GROWTH, _LONGEST)
        return delay
