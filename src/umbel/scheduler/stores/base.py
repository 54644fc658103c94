"""The contract of a schedule store, and what is kept in one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

__all__ = ["Run", "ScheduleStore", "Standing", "StoredEntry", "VersionConflictError"]


class VersionConflictError(Exception):
    """The entry is no longer the one that the change was made for: somebody else has changed it."""


class Run(msgspec.Struct, frozen=True):
    """The last tick of an entry.

    Attributes:
        serial: how many ticks were claimed, this one included; a claim is for the number after the last. 0: none was,
            and ``at`` is since when the entry is there.
        due: the instant for which it was due, epoch seconds.
        at: when it was claimed, by the clock of the beat; the next tick counts from here.
        sent: whether its task is known to have been sent.
    """

    serial: int
    due: float
    at: float
    sent: bool = False


class StoredEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """An entry that was made or changed at run time.

    Attributes:
        name: of the entry.
        task: name of the task; empty: the entry is the settings' and only ``paused`` is said here.
        schedule: in words, see ``scheduler.words``.
        args, kwargs, options: as those of ScheduleEntry, of JSON's types.
        missed: what becomes of missed ticks; empty: ``beat_missed``.
        paused: whether its ticks are left out.
        since: ticks that were due before are not missed ones; epoch seconds.
        version: grows with each change.
    """

    name: str
    task: str = ""
    schedule: str = ""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    options: dict[str, Any] = {}
    missed: str = ""
    paused: bool = False
    since: float = 0.0
    version: int = 0


class Standing(msgspec.Struct, frozen=True):
    """Who leads, and the number of the last change of the entries."""

    leader: str
    revision: int


class ScheduleStore(Protocol):
    """What the beats of one application share. All of it belongs to one ``scope``, the application's.

    Time is the store's own: beats on different machines need not agree about it. Every method raises OperationalError
    when the store cannot be reached; whatever it was to do is then done, or not, and may be repeated.
    """

    display_url: str
    scope: str

    def now(self) -> float:
        """The store's time, epoch seconds."""

    def lead(self, role: str, identity: str, lease: float, over: str = "") -> Standing:
        """Become the leader of a role for ``lease`` seconds from now, or stay it.

        That succeeds where nobody leads, and over the leader named in ``over``, whom the caller knows to be dead. Says
        who leads afterwards.
        """

    def resign(self, role: str, identity: str) -> None:
        """Lead no longer. Nothing happens to another's leadership."""

    def claim(self, name: str, run: Run, identity: str) -> bool:
        """Whether the tick is the caller's to send.

        It is when nothing is known of the entry, or ``run.serial`` is one more than that of its last tick; so of all
        that claim one tick exactly one has it. It stays its owner's: a claim that is repeated is granted again.
        """

    def confirm(self, name: str, serial: int) -> None:
        """The task of a tick was sent. Nothing happens when it is not the entry's last."""

    def confirming(
        self, publisher: object, name: str, serial: int, task_id: str
    ) -> AbstractContextManager[Callable[[], bool]]:
        """Within it, sending the task of a tick and confirming the tick are one step, where that can be.

        It can where the publisher sends to the same store. The function that it gives says whether it has been done.
        """

    def runs(self) -> Mapping[str, Run]:
        """The last tick of each entry."""

    def entries(self) -> Mapping[str, StoredEntry]:
        """The entries that were made or changed at run time."""

    def put(self, entry: StoredEntry) -> StoredEntry:
        """Keep an entry in place of the one of its name that has ``entry.version``; 0: that there is none.

        Gives it with its new version. Raises VersionConflictError when another has been there first.
        """

    def remove(self, name: str, version: int) -> None:
        """Forget an entry with its last tick. Raises VersionConflictError when it does not have this version."""

    def close(self) -> None:
        """Close the connections; the next use opens others. Safe twice."""
