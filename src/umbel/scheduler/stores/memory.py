"""A schedule store in the memory of a process: the contract in a few lines, for tests."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from umbel.core.clock import SystemClock
from umbel.scheduler.stores.base import Standing, VersionConflictError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from umbel.core.clock import Clock
    from umbel.scheduler.stores.base import Run, StoredEntry

__all__ = ["MemoryScheduleStore"]


class MemoryScheduleStore:
    """The store of whoever holds this object."""

    display_url = "memory://"

    scope = ""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._leaders: dict[str, tuple[str, float]] = {}
        self._runs: dict[str, tuple[Run, str]] = {}
        self._entries: dict[str, StoredEntry] = {}
        self._revision = 0

    def now(self) -> float:
        return self._clock.now()

    def lead(self, role: str, identity: str, lease: float, over: str = "") -> Standing:
        with self._lock:
            leader, ends = self._leaders.get(role, ("", 0.0))
            if ends <= self._clock.now() or leader in {identity, over}:
                leader = identity
                self._leaders[role] = identity, self._clock.now() + lease
            return Standing(leader, self._revision)

    def resign(self, role: str, identity: str) -> None:
        with self._lock:
            if self._leaders.get(role, ("", 0.0))[0] == identity:
                del self._leaders[role]

    def claim(self, name: str, run: Run, identity: str) -> bool:
        with self._lock:
            known = self._runs.get(name)
            if known is None or known[0].serial == run.serial - 1:
                self._runs[name] = run, identity
                return True
            return known[0].serial == run.serial and known[1] == identity

    def confirm(self, name: str, serial: int) -> None:
        with self._lock:
            run, identity = self._runs.get(name, (None, ""))
            if run is not None and run.serial == serial:
                self._runs[name] = msgspec.structs.replace(run, sent=True), identity

    @contextmanager
    def confirming(
        self, publisher: object, name: str, serial: int, task_id: str
    ) -> Iterator[Callable[[], bool]]:
        yield lambda: False

    def runs(self) -> dict[str, Run]:
        with self._lock:
            return {name: run for name, (run, _) in self._runs.items()}

    def entries(self) -> dict[str, StoredEntry]:
        with self._lock:
            return dict(self._entries)

    def put(self, entry: StoredEntry) -> StoredEntry:
        with self._lock:
            self._expect(entry.name, entry.version)
            self._revision += 1
            made = self._entries[entry.name] = msgspec.structs.replace(entry, version=self._revision)
            return made

    def remove(self, name: str, version: int) -> None:
        with self._lock:
            self._expect(name, version)
            self._revision += 1
            self._entries.pop(name, None)
            self._runs.pop(name, None)

    def _expect(self, name: str, version: int) -> None:
        known = self._entries.get(name)
        if version != (known.version if known is not None else 0):
            raise VersionConflictError(f"the entry {name!r} has been changed; read it again")

    def close(self) -> None:
        """There is nothing to close."""
