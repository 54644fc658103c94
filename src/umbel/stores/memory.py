"""Messages and results in the memory of one process.

Stores have names, and everyone in the process who opens ``memory://NAME`` gets the same one. So there is a registry,
the one module-level state of the adapters: a producer and a worker of one process hold nothing in common but the URL.
"""

from __future__ import annotations

import heapq
import threading
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Final

import msgspec

from umbel.core.bindings import Bindings
from umbel.core.causes import Cause
from umbel.core.clock import SystemClock
from umbel.core.records import DueChord
from umbel.core.states import SUCCESS
from umbel.stores.chords import PATIENCE, REMEMBERED, member_of, position_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from umbel.core.clock import Clock
    from umbel.core.records import ChordEnd, ChordPart, ResultRecord


class Entry(msgspec.Struct, order=True):
    """A message in its place in line. ``position`` grows towards the back; negative ones went to the front."""

    priority: int
    position: int
    payload: bytes
    redelivered: bool = False


class Held(msgspec.Struct):
    """A message that a consumer holds; ``begun`` says that it was redelivered and work on it began."""

    queue: str
    entry: Entry
    begun: bool = False


class Letter(msgspec.Struct):
    """A message given up at ``at``, epoch seconds."""

    payload: bytes
    reason: str
    at: float
    number: int
    cause: Cause


class StoredResult(msgspec.Struct):
    """A document, gone at ``gone_at``."""

    state: str
    document: bytes
    gone_at: float


class Chord(msgspec.Struct):
    """The parts of one chord that were counted, and how many there are to be. ``parts`` are by task id and index."""

    gone_at: float
    size: int | None = None
    extra: int = 0
    parts: dict[str, tuple[float, bytes]] = {}
    token: bytes = b""  #: of the completion, once there was a last part
    ended: bool = False

    def is_complete(self) -> bool:
        """Whether every part was counted."""
        return self.size is not None and len(self.parts) >= self.size + self.extra


class MemoryStore:
    """The tables. Whoever reads or changes them holds ``lock`` and after a change calls ``changed``."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        self.waiting: defaultdict[str, list[Entry]] = defaultdict(list)  #: a heap for each queue
        self.delayed: defaultdict[str, list[tuple[float, int, Entry]]] = defaultdict(
            list
        )  #: heaps by due time
        self.held: defaultdict[str, dict[bytes, Held]] = defaultdict(dict)  #: by consumer, then tag
        self.leases: dict[str, float] = {}  #: when each consumer's lease ends
        self.dead: defaultdict[str, deque[Letter]] = defaultdict(deque)
        self.results: dict[str, StoredResult] = {}
        self.groups: dict[str, StoredResult] = {}
        self.chords: dict[str, Chord] = {}
        #: Chords to be completed, by group, each with the instant from which on anyone may do so.
        self.due: dict[str, tuple[float, DueChord]] = {}
        self.revoked: dict[str, float] = {}  #: ids of revoked tasks, and when they are forgotten
        self.revoked_stamps: dict[str, float] = {}  #: revoked stamps as text, likewise
        self.bindings = Bindings()
        #: Who listens, by exchange and routing key; called with each payload.
        self.listeners: defaultdict[tuple[str, str], set[Callable[[bytes], None]]] = defaultdict(set)
        self._wakers: set[Callable[[], None]] = set()
        self._back = 0
        self._front = 0

    def back(self) -> int:
        """The next position at the back of any queue."""
        self._back += 1
        return self._back

    def front(self) -> int:
        """The next position at the front of any queue."""
        self._front -= 1
        return self._front

    def on_change(self, wake: Callable[[], None]) -> None:
        """Call ``wake``, from whichever thread makes a change, until ``forget_waker``."""
        with self.lock:
            self._wakers.add(wake)

    def forget_waker(self, wake: Callable[[], None]) -> None:
        """Undo ``on_change``."""
        with self.lock:
            self._wakers.discard(wake)

    def changed(self) -> None:
        """Wake everyone who waits."""
        for wake in tuple(self._wakers):
            wake()

    def push(self, queue: str, entry: Entry) -> None:
        """Put an entry in line."""
        heapq.heappush(self.waiting[queue], entry)

    def put_results(
        self, records: Iterable[ResultRecord], lifetime: Callable[[str], float], chord_lifetime: float
    ) -> list[DueChord]:
        """Store documents and count parts; a SUCCESS that is still there is never replaced by another state.

        Gives the chords that are due now.
        """
        now = self.clock.now()
        due = []
        for record in records:
            old = self.results.get(record.task_id)
            keeps = old is not None and old.state == SUCCESS and old.gone_at > now
            if record.document and (not keeps or record.state == SUCCESS):
                gone_at = now + lifetime(record.state)
                self.results[record.task_id] = StoredResult(record.state, record.document, gone_at)
            if record.chord is not None:
                chord = self._count(record.task_id, record.chord, now, now + chord_lifetime)
                if chord is not None:
                    due.append(chord)
        return due

    def _count(self, task_id: str, part: ChordPart, now: float, gone_at: float) -> DueChord | None:
        chord = self.chord(part.group_id, gone_at)
        if chord.ended:
            return None
        chord.gone_at = gone_at
        chord.parts.setdefault(member_of(task_id, part), (position_of(part), part.entry))
        if chord.token or not chord.is_complete():
            return None
        chord.token = b"%d" % self.back()
        due = DueChord(part.group_id, chord.token, part.body, part.realm)
        self.due[part.group_id] = (now + PATIENCE, due)
        return due

    def chord(self, group_id: str, gone_at: float) -> Chord:
        """What was counted of a chord; a new one where there is none any more."""
        chord = self.chords.get(group_id)
        if chord is None or chord.gone_at <= self.clock.now():
            chord = self.chords[group_id] = Chord(gone_at)
        return chord

    def claim_chords(self, realms: Collection[str], patience: float) -> list[DueChord]:
        """The chords that nobody has completed in time, now the caller's for ``patience`` seconds."""
        now = self.clock.now()
        claimed = [due for at, due in self.due.values() if at <= now and due.realm in realms]
        for due in claimed:
            self.due[due.group_id] = (now + patience, due)
        return claimed

    def end_chord(self, end: ChordEnd) -> bool:
        """Forget a due chord; false when it is not due any more, or again."""
        at_and_due = self.due.get(end.group_id)
        if at_and_due is None or at_and_due[1].token != end.token:
            return False
        del self.due[end.group_id]
        chord = self.chord(end.group_id, self.clock.now() + REMEMBERED)
        chord.ended = True
        if not end.failed:
            chord.parts = {}
            chord.gone_at = self.clock.now() + REMEMBERED
            self.groups.pop(end.group_id, None)
        return True

    def get_result(self, task_id: str) -> StoredResult | None:
        """The document of a task, unless it is gone."""
        stored = self.results.get(task_id)
        if stored is not None and stored.gone_at <= self.clock.now():
            del self.results[task_id]
            return None
        return stored


class MemoryStores:
    """The stores of one process, by name."""

    def __init__(self) -> None:
        self._stores: dict[str, MemoryStore] = {}
        self._lock = threading.Lock()

    def get(self, name: str, clock: Clock | None = None) -> MemoryStore:
        """The store of this name, made on first use; ``clock`` is the new one's, by default the machine's."""
        with self._lock:
            if name not in self._stores:
                self._stores[name] = MemoryStore(clock or SystemClock())
            return self._stores[name]

    def drop(self, name: str) -> None:
        """Forget a store; who has it open keeps it."""
        with self._lock:
            self._stores.pop(name, None)


#: Where the memory brokers and backends of this process meet.
stores: Final = MemoryStores()
