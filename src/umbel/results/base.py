"""The contract of a result backend: where outcomes are kept.

A result is kept as a *document*: Celery's result mapping, serialized (see ``results.documents``). Pool processes make
the bytes, so that the supervisor and the backends only move them. ``umbel.testing.contracts.results`` judges an
adapter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

    from umbel.core.records import ChordEnd, DueChord, ResultRecord


class ResultBackend(Protocol):
    """Where outcomes are kept: a blocking and an asynchronous face over one store.

    Safe for use by several threads, and after a fork. ``expires`` seconds after it was stored a document is gone.
    """

    #: Identity of the store behind it, see ``Broker.store``. Empty: shares its store with no broker.
    store: str
    #: Content type of the documents it holds (``result_serializer``), for those that make them.
    serializer: str
    #: False for the disabled backend: nothing is stored and ``get`` raises.
    stores_results: bool
    #: Whether it counts the parts of chords itself, atomically with ``save`` (and ``Consumer.settle``, where it shares
    #: the broker's store). Where it does not, a task that looks at the results again and again sends a chord's body,
    #: and the methods of chords must not be called.
    native_chords: bool
    #: URL without its password, for banners and logs.
    display_url: str

    def expect(self, task_ids: Sequence[str]) -> None:
        """Told before the messages go out that their results may be waited for. Most backends need not know."""

    def save(self, records: Sequence[ResultRecord]) -> Sequence[DueChord] | None:
        """Store documents, wake whoever waits for them, and count the parts of chords among them.

        A record and its part are one step. Gives the chords of which the last part came with these records: they are
        recorded as due, so that another worker completes them should the caller not. None is as good as none.
        """

    async def asave(self, records: Sequence[ResultRecord]) -> Sequence[DueChord] | None:
        """As ``save``; used by the worker where broker and backend do not share a store."""

    def load(self, task_ids: Sequence[str]) -> list[bytes | None]:
        """The documents of some tasks, in order; None where there is none."""

    async def aload(self, task_ids: Sequence[str]) -> list[bytes | None]:
        """As ``load``."""

    def wait(self, task_ids: Iterable[str], timeout: float | None) -> Iterator[tuple[str, bytes]]:
        """Yield (task id, document) of each task as it reaches a ready state, those that are ready already first.

        Documents of other states are yielded too as they pass (progress). Ends when all are ready; raises
        ``errors.TimeoutError`` when ``timeout`` seconds pass without the next. Woken by the store, not by polling,
        where it can wake.
        """

    def await_(self, task_ids: Iterable[str], timeout: float | None) -> AsyncIterator[tuple[str, bytes]]:
        """As ``wait``, for a coroutine."""

    def forget(self, task_ids: Sequence[str]) -> None:
        """Delete documents; those who wait for them go on waiting."""

    def save_group(self, group_id: str, document: bytes) -> None:
        """Keep the document that says which results make up a group; ``{"result": GroupResult.as_tuple()}``."""

    def load_group(self, group_id: str) -> bytes | None:
        """The document of a group; None where there is none."""

    def forget_group(self, group_id: str) -> None:
        """Delete the document of a group."""

    def open_chord(self, group_id: str, size: int) -> None:
        """Say how many parts a chord has; before the last of them is sent, at the latest.

        For a chord that was ended before it begins a new run of it. May raise NotImplementedError.
        """

    def extend_chord(self, group_id: str, more: int = 1) -> None:
        """Say that a chord has ``more`` parts than its size says."""

    def chord_entries(self, group_id: str) -> list[bytes]:
        """``ChordPart.entry`` of every part that was counted, in order of their indices."""

    def chord_size(self, group_id: str) -> int:
        """How many parts a chord has, with those that were added; 0 where nobody has said, or it was ended."""

    async def aclaim_chords(self, realms: Sequence[str], patience: float) -> list[DueChord]:
        """Chords that have been due for longer than whoever took them up was given, for the caller to complete.

        They are the caller's for ``patience`` seconds; then others may claim them.
        """

    async def aend_chords(self, ends: Sequence[ChordEnd]) -> None:
        """Forget due chords and what was counted for them. Those that are not due any more are passed over."""

    def close(self) -> None:
        """Close every connection made through this object. Safe twice."""
