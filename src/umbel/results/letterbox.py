"""What has arrived for a process whose results are sent to it: kept for those who ask later, handed to those who wait.

Any thread may put documents in, and any number of threads and event loops may wait for them.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from umbel.core.states import SUCCESS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["Letter", "Letterbox", "Slot"]

logger = logging.getLogger("umbel.results")

#: Documents kept for those who may ask for them later. Celery's limit for the same is 8,192.
CAPACITY: Final = 100_000


class Letter(NamedTuple):
    """A document that arrived."""

    task_id: str
    state: str
    document: bytes


class Slot:
    """What has arrived for one waiter and was not taken yet. ``wake`` is called, by any thread, when there is more."""

    def __init__(self, task_ids: Iterable[str], wake: Callable[[], None]) -> None:
        self.task_ids = list(dict.fromkeys(task_ids))
        self._wake = wake
        self._letters: list[Letter] = []
        self._error: Exception | None = None

    def put(self, letters: Iterable[Letter]) -> None:
        """Let the waiter have these."""
        self._letters += letters
        self._wake()

    def fail(self, error: Exception) -> None:
        """Let the waiter know that nothing more will come."""
        self._error = error
        self._wake()

    def take(self) -> list[Letter]:
        """All that has arrived, in order. Raises the error that ended the arrivals, after what came before it."""
        letters, self._letters = self._letters, []
        if self._error is not None and not letters:
            raise self._error
        return letters


class Letterbox:
    """The documents of one process, the latest of each task. A SUCCESS is never replaced by another state."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Letter] = OrderedDict()
        self._slots: dict[str, list[Slot]] = {}
        self._told = False

    def put(self, letters: Sequence[Letter]) -> None:
        """Keep documents, and hand them to those who wait for them."""
        with self._lock:
            for letter in letters:
                known = self._kept.get(letter.task_id)
                if known is not None and known.state == SUCCESS != letter.state:
                    continue
                self._kept[letter.task_id] = letter
                for slot in self._slots.get(letter.task_id, ()):
                    slot.put((letter,))
            self._make_room()

    def _make_room(self) -> None:
        while len(self._kept) > self._capacity:
            self._kept.popitem(last=False)
            if not self._told:
                self._told = True
                logger.warning(
                    "More than %d results were sent to this process that nobody has forgotten; the oldest are dropped. "
                    "Use ignore_result for tasks whose results nobody reads, or forget() them when they are read.",
                    self._capacity,
                )

    def get(self, task_ids: Iterable[str]) -> list[bytes | None]:
        """The documents of some tasks, in order; None where none has arrived."""
        with self._lock:
            found = [self._kept.get(task_id) for task_id in task_ids]
        return [None if letter is None else letter.document for letter in found]

    def forget(self, task_ids: Iterable[str]) -> None:
        """Drop what is kept of some tasks."""
        with self._lock:
            for task_id in task_ids:
                self._kept.pop(task_id, None)

    def join(self, task_ids: Iterable[str], wake: Callable[[], None]) -> Slot:
        """A slot for these tasks, with what has arrived of them already; leave it when the wait ends."""
        slot = Slot(task_ids, wake)
        with self._lock:
            known = [self._kept[task_id] for task_id in slot.task_ids if task_id in self._kept]
            for task_id in slot.task_ids:
                self._slots.setdefault(task_id, []).append(slot)
            if known:
                slot.put(known)
        return slot

    def leave(self, slot: Slot) -> None:
        """Put nothing more into a slot."""
        with self._lock:
            for task_id in slot.task_ids:
                others = [other for other in self._slots.get(task_id, ()) if other is not slot]
                if others:
                    self._slots[task_id] = others
                else:
                    self._slots.pop(task_id, None)

    def fail(self, error: Exception) -> bool:
        """Tell everybody who waits that nothing more will come; whether there was anybody."""
        with self._lock:
            slots = {id(slot): slot for waiting in self._slots.values() for slot in waiting}
            for slot in slots.values():
                slot.fail(error)
            return bool(slots)

    @property
    def is_awaited(self) -> bool:
        """Whether anybody waits."""
        with self._lock:
            return bool(self._slots)
