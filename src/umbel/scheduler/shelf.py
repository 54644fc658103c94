"""Beat's file, ``celerybeat-schedule``: a shelf that Celery's beat reads and that reads Celery's.

The entries in it are pickles, which name classes. Those of Celery are named on the way in and out whatever ours are
called, so that a fleet may go from one beat to the other, and back, and keep its times.
"""

from __future__ import annotations

import io
import pickle
import shelve
from typing import Any, Final

__all__ = ["open", "pack", "unpack"]

#: Our names of classes, and Celery's.
_CELERYS: Final = {
    ("umbel.scheduler.entries", "ScheduleEntry"): ("celery.beat", "ScheduleEntry"),
    ("umbel.scheduler.entries", "BeatLazyFunc"): ("celery.beat", "BeatLazyFunc"),
    ("umbel.scheduler.schedules", "schedule"): ("celery.schedules", "schedule"),
    ("umbel.scheduler.schedules", "crontab"): ("celery.schedules", "crontab"),
    ("umbel.scheduler.sun", "solar"): ("celery.schedules", "solar"),
}
_OURS: Final = {theirs: ours for ours, theirs in _CELERYS.items()}
#: In this protocol a class is named in plain text.
_PROTOCOL: Final = 2


def pack(value: Any) -> bytes:
    """Pickle a value, Celery's classes under Celery's names."""
    data = pickle.dumps(value, _PROTOCOL)
    for ours, theirs in _CELERYS.items():
        data = data.replace(_mention(*ours), _mention(*theirs))
    return data


def _mention(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def unpack(data: bytes) -> Any:
    """The value that was pickled, by Celery or by ``pack``. Trusts it: it is this program's own file."""
    return _Unpickler(io.BytesIO(data)).load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The class of a name; ours for Celery's."""
        return super().find_class(*_OURS.get((module, name), (module, name)))


class _Shelf(shelve.DbfilenameShelf[Any]):
    """A shelf whose values are written by ``pack``."""

    # As shelve.Shelf has them.
    cache: Any
    dict: Any
    keyencoding: str

    def __getitem__(self, key: str) -> Any:
        if key not in self.cache:
            self.cache[key] = unpack(self.dict[key.encode(self.keyencoding)])
        return self.cache[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.cache[key] = value
        self.dict[key.encode(self.keyencoding)] = pack(value)


def open(filename: str, writeback: bool = True) -> shelve.Shelf[Any]:
    """Open the file, which is made if need be; changes in the values are written by ``sync`` and ``close``."""
    return _Shelf(filename, writeback=writeback)
