"""``PersistentScheduler``: remembers in a file when each entry ran last."""

from __future__ import annotations

import errno
import logging
from collections.abc import MutableMapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

from umbel import __version__
from umbel.errors import ImproperlyConfigured
from umbel.scheduler import shelf
from umbel.scheduler.scheduler import Scheduler

__all__ = ["PersistentScheduler", "ScheduleFileHeldError"]

logger: Final = logging.getLogger("celery.beat")

#: What reading a file can raise that is not a schedule, or not any more: modules it names may be gone.
_UNREADABLE: Final = (
    AttributeError,
    EOFError,
    ImportError,
    KeyError,
    TypeError,
    UnicodeDecodeError,
    UnpicklingError,
    ValueError,
)
_HELD: Final = frozenset({errno.EAGAIN, errno.EACCES})


class ScheduleFileHeldError(ImproperlyConfigured):
    """Another beat has the schedule file, or it may not be written to."""


class PersistentScheduler(Scheduler):
    """A Scheduler whose entries are kept in a file, Celery's ``celerybeat-schedule``.

    Args:
        schedule_filename: the file; ``.db`` may be appended to its name.
        args, kwargs: see Scheduler.
    """

    persistence: Any = shelf
    known_suffixes = ("", ".db", ".dat", ".bak", ".dir")
    _store: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.schedule_filename: Any = kwargs.get("schedule_filename")
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        """Open the file and make it say what the settings say; entries that stay remember their last runs.

        A file that cannot be read is replaced. When the time zone has changed all is forgotten, as Celery does, for
        the times in it may be of the old one. Raises ImproperlyConfigured when another beat has the file.
        """
        self._store = self._open()
        if not self._is_readable():
            self._store["entries"] = {}
        self._forget_if_changed("tz", "Timezone", self.app.conf.timezone)
        self._forget_if_changed("utc_enabled", "UTC", self.app.conf.enable_utc)
        self.data = self._store.get("entries") or {}
        before = dict(self.data)
        self.merge_inplace(self.app.conf.beat_schedule)
        self.install_default_entries(self.schedule)
        self._remember(before)
        self._store.update(
            {
                "__version__": __version__,
                "tz": self.app.conf.timezone,
                "utc_enabled": self.app.conf.enable_utc,
            }
        )
        self.sync()
        logger.debug("Current schedule:\n%s", "\n".join(repr(entry) for entry in self.schedule.values()))

    def _remember(self, before: dict[str, Any]) -> None:
        """Give entries that are not from the settings the times of their last runs, too."""
        for name in set(self.schedule) & set(before):
            entry = self.schedule[name]
            entry.app = self.app
            entry.last_run_at = before[name].last_run_at
            entry.total_run_count = before[name].total_run_count

    def _open(self) -> Any:
        try:
            store = self._open_schedule()
            store.keys()
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _HELD:
                raise ScheduleFileHeldError(
                    f"the schedule file {self.schedule_filename!r} is held by another beat, or may not be "
                    "written to; give each beat a file of its own with --schedule"
                ) from error
            return self._destroy_open_corrupted_schedule(error)
        return store

    def _open_schedule(self) -> Any:
        return self.persistence.open(self.schedule_filename, writeback=True)

    def _destroy_open_corrupted_schedule(self, exc: Exception) -> Any:
        logger.error("Removing corrupted schedule file %r: %r", self.schedule_filename, exc, exc_info=exc)
        self._remove_db()
        return self._open_schedule()

    def _remove_db(self) -> None:
        for suffix in self.known_suffixes:
            Path(f"{self.schedule_filename}{suffix}").unlink(missing_ok=True)

    def _is_readable(self) -> bool:
        """Whether the file holds a schedule of this time; one of Celery 3.0 or before has lines missing."""
        try:
            entries = self._store["entries"]
        except KeyError:
            return True  # a new file
        except _UNREADABLE as error:
            logger.warning(
                "DB Reset: Cannot load the stored entries, recreating them from beat_schedule: %r", error
            )
            return False
        for field in ("__version__", "tz", "utc_enabled"):
            if field not in self._store:
                logger.warning("DB Reset: Account for new %s field", field)
                self._store.clear()
                return False
        return isinstance(entries, MutableMapping)

    def _forget_if_changed(self, field: str, what: str, value: Any) -> None:
        try:
            stored = self._store.get(field)
        except _UNREADABLE:
            stored = None
        if stored is not None and stored != value:
            logger.warning("Reset: %s changed from %r to %r", what, stored, value)
            self._store.clear()

    def sync(self) -> None:
        """Write the file."""
        if self._store is not None:
            self._store["entries"] = self.data
            self._store.sync()

    def close(self) -> None:
        """Write the file and let go of it. Safe twice."""
        self.sync()
        store, self._store = self._store, None
        if store is not None:
            store.close()

    @property
    def info(self) -> str:
        """A line for the banner."""
        return f"    . db -> {self.schedule_filename}"
