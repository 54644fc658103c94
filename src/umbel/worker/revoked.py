"""The ids of revoked tasks, as many as Celery remembers for as long as Celery does, and revoked stamps."""

from __future__ import annotations

import os
import time
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Self

from umbel.core.stamps import as_values, read_stamps
from umbel.state import revoked_ids, revoked_stamps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence


class RevokedIds:
    """A set that forgets: the oldest ids beyond ``most``, and those older than ``expires`` seconds when others come.

    ``table`` has the ids as keys; it is always the same mapping, so that the question whether an id is revoked, which
    is asked for every job, is one look-up.
    """

    def __init__(
        self,
        most: int = 50_000,
        expires: float = 10_800.0,
        now: Callable[[], float] = time.monotonic,
        table: dict[str, float] | None = None,
    ) -> None:
        #: When each was revoked, the oldest first.
        self.table: dict[str, float] = {} if table is None else table
        self._most = most
        self._expires = expires
        self._now = now

    @classmethod
    def of_process(cls, kept: float = 0.0) -> Self:
        """Those of this process's workers, which programs see too (``celery.worker.state.revoked``).

        With Celery's bounds, ``CELERY_WORKER_REVOKES_MAX`` and ``CELERY_WORKER_REVOKE_EXPIRES`` (seconds; without it
        three hours, or ``kept`` where the broker keeps ids for longer).
        """
        most = int(os.environ.get("CELERY_WORKER_REVOKES_MAX", "50000"))
        expires = os.environ.get("CELERY_WORKER_REVOKE_EXPIRES")
        return cls(most, max(10_800.0, kept) if expires is None else float(expires), table=revoked_ids())

    def add(self, task_id: str) -> None:
        """Remember an id, as the newest."""
        self.update((task_id,))

    def update(self, task_ids: Iterable[str], kept: float = 0.0) -> None:
        """Remember some ids, as the newest; for ``kept`` seconds where that is longer than others are remembered."""
        table, now = self.table, self._now()
        for task_id in task_ids:
            table.pop(task_id, None)
            table[task_id] = now + max(kept - self._expires, 0.0)
        self._forget(now)

    def recall(self, kept: Mapping[str, float]) -> None:
        """Remember ids that are to be forgotten in so many seconds; those that are known stay as they are."""
        table, now = self.table, self._now()
        for task_id, left in sorted(kept.items(), key=itemgetter(1)):
            table.setdefault(task_id, now - (self._expires - left))
        self._forget(now)

    def discard(self, task_id: str) -> None:
        """Forget an id."""
        self.table.pop(task_id, None)

    def clear(self) -> None:
        """Forget all ids."""
        self.table.clear()

    def as_dict(self) -> dict[str, float]:
        """A copy of the table."""
        return dict(self.table)

    def purge(self) -> None:
        """Forget what is too old or too much, as happens whenever ids are added."""
        self._forget(self._now())

    def _forget(self, now: float) -> None:
        table = self.table
        surplus = len(table) - self._most
        forgotten: list[str] = []
        for task_id, at in table.items():
            if surplus > len(forgotten) or now - at >= self._expires:
                forgotten.append(task_id)
            elif at <= now:  # what is remembered for longer stands between the others
                break
        for task_id in forgotten:
            del table[task_id]

    def __contains__(self, task_id: object) -> bool:
        return task_id in self.table

    def __iter__(self) -> Iterator[str]:
        return iter(list(self.table))

    def __len__(self) -> int:
        return len(self.table)


class RevokedStamps:
    """The stamps whose tasks must not run: for each stamp's name the values that are revoked.

    ``table`` is the process's one mapping; Celery's programs clear it (``celery.worker.state.revoked_stamps``). What is
    kept for a time is forgotten after it, when others come.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.table = revoked_stamps()
        self._now = now
        #: When to forget what is not remembered for ever: name, value, instant.
        self._until: list[tuple[str, Any, float]] = []

    def add(self, stamps: Mapping[str, Sequence[Any]], kept: float = 0.0) -> None:
        """Remember some values, for ``kept`` seconds; 0: for as long as the process lives, as Celery does."""
        self._forget()
        for name, values in stamps.items():
            known = self.table.setdefault(name, [])
            self._until = [each for each in self._until if each[0] != name or each[1] not in values]
            known += [value for value in values if value not in known]
            if kept:
                self._until += [(name, value, self._now() + kept) for value in values]

    def recall(self, kept: Mapping[str, float]) -> None:
        """Remember what the broker keeps: stamps as text, and the seconds that are left to each."""
        for text, left in kept.items():
            for name, values in read_stamps([text]).items():
                if any(value not in self.table.get(name, ()) for value in values):
                    self.add({name: values}, left)

    def _forget(self) -> None:
        now = self._now()
        for name, value, until in self._until:
            if until <= now and value in (known := self.table.get(name, [])):
                known.remove(value)
                if not known:
                    del self.table[name]
        self._until = [each for each in self._until if each[2] > now]

    def matching(
        self, stamps: Mapping[str, Any] | None, wanted: Mapping[str, Sequence[Any]] | None = None
    ) -> dict[str, list[Any]]:
        """Those of a task's stamps that are revoked, or that are ``wanted``; empty when there are none."""
        if not stamps:
            return {}
        found: dict[str, list[Any]] = {}
        for name, values in (self.table if wanted is None else wanted).items():
            if both := [value for value in as_values(stamps.get(name)) if value in values]:
                found[name] = both
        return found

    def __bool__(self) -> bool:
        return bool(self.table)
