"""``ScheduleEntries``: what beat sends, listed and changed from anywhere while it runs.

    app.schedule_entries.add("report", "proj.report", "0 7 * * mon-fri", kwargs={"to": "team"})
    app.schedule_entries.pause("report")

A change is in the store when the call returns; the beat that leads follows it within about a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from umbel.errors import ImproperlyConfigured
from umbel.scheduler.missed import POLICIES
from umbel.scheduler.scheduler import Scheduler
from umbel.scheduler.sharing import make_entry
from umbel.scheduler.stores.base import StoredEntry, VersionConflictError
from umbel.scheduler.stores.urls import open_store
from umbel.scheduler.words import schedule_in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from umbel.scheduler.entries import ScheduleEntry
    from umbel.scheduler.stores.base import Run, ScheduleStore

__all__ = ["EntryExistsError", "ListedEntry", "NoSuchEntryError", "ScheduleEntries"]

#: How often a change is tried again that another change came before.
_ATTEMPTS: Final = 10


class NoSuchEntryError(LookupError):
    """There is no entry of this name."""


class EntryExistsError(ValueError):
    """There is an entry of this name."""


class ListedEntry(msgspec.Struct, frozen=True):
    """An entry as it is now.

    Attributes:
        name, task, args, kwargs, options: those of ScheduleEntry.
        schedule: in words; the schedule's own text where it has none.
        missed: what becomes of missed ticks; empty: ``beat_missed``.
        paused: whether its ticks are left out.
        stored: whether it was made or changed at run time; otherwise it is as the settings say.
        last_run_at: when it was sent last, epoch seconds; None: never, as far as the store knows.
        total_run_count: how often.
    """

    name: str
    task: str
    schedule: str
    args: list[Any]
    kwargs: dict[str, Any]
    options: dict[str, Any]
    missed: str
    paused: bool
    stored: bool
    last_run_at: float | None
    total_run_count: int


class ScheduleEntries:
    """The entries of an application: those of ``beat_schedule`` and ``add_periodic_task``, as changed at run time.

    Every method raises OperationalError when the store cannot be reached.

    Args:
        app: the application.
        store: where changes are kept; None: where its beats look for them.

    Raises ImproperlyConfigured where they look nowhere.
    """

    def __init__(self, app: Any, store: ScheduleStore | None = None) -> None:
        found = store or open_store(app)
        if found is None:
            raise ImproperlyConfigured(
                "entries can be changed at run time where beats share a store: set beat_store_url to redis://… or "
                "sqlite:///path"
            )
        self.app = app
        self._store = found

    # Looking.

    def list(self) -> list[ListedEntry]:
        """All entries by name, in the order of their names."""
        own, stored, runs = self._own(), self._store.entries(), self._store.runs()
        found = ((name, self._effective(own, stored, name)) for name in sorted(set(own) | set(stored)))
        # There may be a pause of an entry that the settings have no more.
        return [
            _listed(name, entry, stored.get(name), runs.get(name))
            for name, entry in found
            if entry is not None
        ]

    def get(self, name: str) -> ListedEntry:
        """The entry of a name. Raises NoSuchEntryError."""
        for entry in self.list():
            if entry.name == name:
                return entry
        raise _unknown(name)

    def _own(self) -> Mapping[str, ScheduleEntry]:
        """The entries of the settings."""
        return Scheduler(self.app).schedule

    def _effective(
        self, own: Mapping[str, ScheduleEntry], stored: Mapping[str, StoredEntry], name: str
    ) -> ScheduleEntry | None:
        kept = stored.get(name)
        return (
            make_entry(Scheduler.Entry, kept, self.app) if kept is not None and kept.task else own.get(name)
        )

    # Changing.

    def add(
        self,
        name: str,
        task: str,
        schedule: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        missed: str = "",
    ) -> None:
        """Add an entry; its first tick counts from now.

        Args:
            name: of the entry.
            task: name of the task.
            schedule: seconds, a timedelta, a schedule, or one in words (``30s``, ``0 4 * * mon-fri``).
            args, kwargs: the task's arguments, of JSON's types.
            options: those of ``apply_async``, of JSON's types.
            missed: what becomes of missed ticks: ``skip``, ``once`` or ``all``; empty: ``beat_missed``.

        Raises EntryExistsError when there is one of this name, ValueError for what cannot be kept.
        """
        if not name or not task:
            raise ValueError("an entry needs a name and the name of a task")
        words, now = schedule_in_words(schedule), self._store.now()
        entry = StoredEntry(
            name, task, words, list(args), dict(kwargs or {}), dict(options or {}), missed, since=now
        )
        if name in self._own() or name in self._store.entries():
            raise _exists(name)
        try:
            self._store.put(_checked(entry))
        except VersionConflictError:
            raise _exists(name) from None

    def change(self, name: str, **fields: Any) -> None:
        """Change an entry, one of the settings too; the fields are those of ``add``.

        It then is as it was changed whatever the settings say, until ``remove``. Raises NoSuchEntryError, TypeError for
        another field, ValueError for what cannot be kept.
        """
        if unknown := fields.keys() - {"task", "schedule", "args", "kwargs", "options", "missed"}:
            raise TypeError(f"an entry has no {min(unknown)!r} that could be changed")
        if "schedule" in fields:
            fields["schedule"] = schedule_in_words(fields["schedule"])
        if "args" in fields:
            fields["args"] = list(fields["args"])

        def changed(entry: StoredEntry) -> StoredEntry:
            whole = entry if entry.task else self._as_stored(entry)
            return msgspec.structs.replace(whole, **fields)

        self._update(name, changed)

    def _as_stored(self, mark: StoredEntry) -> StoredEntry:
        """An entry of the settings as one that is stored."""
        own = self._own()[mark.name]
        return msgspec.structs.replace(
            mark,
            task=own.task,
            schedule=schedule_in_words(own.schedule),
            args=list(own.args or ()),
            kwargs=dict(own.kwargs or {}),
            options=dict(own.options or {}),
            missed=own.missed or "",
        )

    def pause(self, name: str) -> None:
        """Leave out an entry's ticks from now on. Raises NoSuchEntryError."""
        self._update(name, lambda entry: msgspec.structs.replace(entry, paused=True))

    def resume(self, name: str) -> None:
        """Go on with a paused entry; the ticks that were left out are no missed ones. Raises NoSuchEntryError."""
        now = self._store.now()
        self._update(
            name,
            lambda entry: msgspec.structs.replace(entry, paused=False, since=now) if entry.paused else entry,
        )

    def remove(self, name: str) -> None:
        """Remove an entry that was added, or have a changed one be as the settings say.

        Raises NoSuchEntryError, and ValueError for one that is only in the settings.
        """
        for _ in range(_ATTEMPTS):
            kept = self._store.entries().get(name)
            if kept is None:
                self._refuse_to_remove(name)
            else:
                try:
                    self._store.remove(name, kept.version)
                except VersionConflictError:
                    continue
            return
        raise _contended(name)

    def _refuse_to_remove(self, name: str) -> None:
        if name in self._own():
            raise ValueError(
                f"the entry {name!r} is one of beat_schedule or of the program: remove it there, or pause it"
            )
        raise _unknown(name)

    def _update(self, name: str, changed: Callable[[StoredEntry], StoredEntry]) -> None:
        for _ in range(_ATTEMPTS):
            kept = self._store.entries().get(name)
            if kept is None and name not in self._own():
                raise _unknown(name)
            try:
                self._store.put(_checked(changed(kept or StoredEntry(name))))
            except VersionConflictError:
                continue
            return
        raise _contended(name)

    def run(self, name: str) -> Any:
        """Send an entry's task now, beside its schedule; gives its result. A paused entry can be run, too.

        Raises NoSuchEntryError, SchedulingError when the task cannot be sent.
        """
        scheduler = Scheduler(self.app)
        entry = self._effective(scheduler.schedule, self._store.entries(), name)
        if entry is None:
            raise _unknown(name)
        return scheduler.apply_async(entry, advance=False)

    def close(self) -> None:
        """Close the connections. Safe twice."""
        self._store.close()


def _listed(name: str, entry: ScheduleEntry, kept: StoredEntry | None, run: Run | None) -> ListedEntry:
    return ListedEntry(
        name=name,
        task=entry.task or "",
        schedule=_words(entry.schedule),
        args=list(entry.args or ()),
        kwargs=dict(entry.kwargs or {}),
        options=dict(entry.options or {}),
        missed=entry.missed or "",
        paused=kept is not None and kept.paused,
        stored=kept is not None and bool(kept.task),
        last_run_at=run.at if run is not None and run.serial else None,
        total_run_count=run.serial if run is not None else 0,
    )


def _checked(entry: StoredEntry) -> StoredEntry:
    """The entry, if it can be kept and used. Raises ValueError."""
    if entry.missed and entry.missed not in POLICIES:
        raise ValueError(f"missed must be one of {', '.join(POLICIES)}, not {entry.missed!r}")
    try:
        return msgspec.json.decode(msgspec.json.encode(entry), type=StoredEntry)
    except (TypeError, msgspec.MsgspecError) as error:
        raise ValueError(f"the entry {entry.name!r} cannot be kept as JSON: {error}") from error


def _words(schedule: Any) -> str:
    try:
        return schedule_in_words(schedule)
    except ValueError:
        return str(schedule)


def _unknown(name: str) -> NoSuchEntryError:
    return NoSuchEntryError(f"there is no entry {name!r}")


def _exists(name: str) -> EntryExistsError:
    return EntryExistsError(f"there is an entry {name!r} already; change it, or choose another name")


def _contended(name: str) -> VersionConflictError:
    return VersionConflictError(f"the entry {name!r} is being changed by others all the time; try again")
