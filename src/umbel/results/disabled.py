"""The backend of applications without one: results are dropped, and asking for one is an error, as in Celery."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

    from umbel.core.clock import Clock
    from umbel.core.records import ChordEnd, DueChord, ResultRecord
    from umbel.results.options import ResultOptions

#: Celery's words.
_NO_CHORDS: Final = """
Starting chords requires a result backend to be configured.

Note that a group chained with a task is also upgraded to be a chord,
as this pattern requires synchronization.

Result backends that supports chords: Redis, Database, Memcached, and more.
""".strip()
_NONE: Final = "No result backend is configured: set result_backend, for example to sqlite:///umbel.db"


class DisabledResultBackend:
    """Stores nothing. Whatever reads raises NotImplementedError, as Celery's does."""

    store = ""
    stores_results = False
    native_chords = False
    display_url = "disabled://"

    def __init__(self, options: ResultOptions) -> None:
        self.serializer = options.serializer

    @classmethod
    def from_url(
        cls, url: str, options: ResultOptions, *, clock: Clock | None = None
    ) -> DisabledResultBackend:
        """The backend of ``disabled`` and of an empty URL."""
        return cls(options)

    def expect(self, task_ids: Sequence[str]) -> None:
        """Nobody can wait."""

    def save(self, records: Sequence[ResultRecord]) -> None:
        """Drop the documents."""

    async def asave(self, records: Sequence[ResultRecord]) -> None:
        """Drop the documents."""

    def load(self, task_ids: Sequence[str]) -> list[bytes | None]:
        raise NotImplementedError(_NONE)

    async def aload(self, task_ids: Sequence[str]) -> list[bytes | None]:
        raise NotImplementedError(_NONE)

    def wait(self, task_ids: Iterable[str], timeout: float | None) -> Iterator[tuple[str, bytes]]:
        raise NotImplementedError(_NONE)

    def await_(self, task_ids: Iterable[str], timeout: float | None) -> AsyncIterator[tuple[str, bytes]]:
        raise NotImplementedError(_NONE)

    def forget(self, task_ids: Sequence[str]) -> None:
        """There is nothing to delete."""

    def save_group(self, group_id: str, document: bytes) -> None:
        raise NotImplementedError(_NONE)

    def load_group(self, group_id: str) -> bytes | None:
        raise NotImplementedError(_NONE)

    def forget_group(self, group_id: str) -> None:
        """There is nothing to delete."""

    def open_chord(self, group_id: str, size: int) -> None:
        raise NotImplementedError(_NO_CHORDS)

    def extend_chord(self, group_id: str, more: int = 1) -> None:
        raise NotImplementedError(_NO_CHORDS)

    def chord_entries(self, group_id: str) -> list[bytes]:
        raise NotImplementedError(_NO_CHORDS)

    def chord_size(self, group_id: str) -> int:
        raise NotImplementedError(_NO_CHORDS)

    async def aclaim_chords(self, realms: Sequence[str], patience: float) -> list[DueChord]:
        return []

    async def aend_chords(self, ends: Sequence[ChordEnd]) -> None:
        """There is nothing to forget."""

    def close(self) -> None:
        """Nothing is open."""
