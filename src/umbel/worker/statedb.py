"""The state file of a worker (``--statedb``): its revoked ids and its clock, kept over a restart.

The file is Celery's, so that a worker may be started again by either library with the same command line. Nothing in it
is executed: of the pickles that Celery writes only plain values and its one class are read.
"""

from __future__ import annotations

import dbm
import io
import logging
import pickle
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

__all__ = ["SavedState", "StateFile"]

logger = logging.getLogger("celery.worker")

#: The pickle protocol of what is written: every Python that Celery runs on reads it.
_PROTOCOL: Final = 3
_CLASS: Final = ("celery.utils.collections", "LimitedSet")
_HEAD: Final = b"\x80\x03"  #: how a pickle of that protocol begins


#: What the database library raises: a class of its own, and OSError.
_FILE_ERRORS: Final = cast("tuple[type[Exception], ...]", dbm.error)
_READ_ERRORS: Final[tuple[type[Exception], ...]] = (
    *_FILE_ERRORS,
    zlib.error,
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
)


class SavedState(NamedTuple):
    """What a file holds: revoked ids, the oldest first, and the logical clock."""

    revoked: list[str]
    clock: int


class StateFile:
    """One worker's state file.

    Args:
        path: of the file; the database library adds an ending of its own where it uses several.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def load(self) -> SavedState:
        """What the file holds; nothing when there is none, or none that can be read, which is said."""
        try:
            with closing(dbm.open(str(self.path), "c")) as file:
                return SavedState(_ids(file.get(b"zrevoked")), _clock(file.get(b"clock")))
        except _READ_ERRORS as error:
            logger.error("The state file %s cannot be read: %r. It begins anew", self.path, error)  # noqa: TRY400 - said
            return SavedState([], 0)

    def save(self, revoked: dict[str, float], clock: int) -> None:
        """Write revoked ids, with the instants they were revoked at, and the clock. Failure is said, not raised."""
        limited_set = _HEAD + b"c%s\n%s\n" % (_CLASS[0].encode(), _CLASS[1].encode())
        arguments = pickle.dumps((50_000, 10_800, dict(revoked), 0), _PROTOCOL)
        # The class called with its arguments, put together here because there is no such class.
        limited_set += arguments.removeprefix(_HEAD).removesuffix(b".") + b"R."
        try:
            with closing(dbm.open(str(self.path), "c")) as file:
                file[b"__proto__"] = pickle.dumps(3, _PROTOCOL)
                file[b"zrevoked"] = pickle.dumps(zlib.compress(limited_set), _PROTOCOL)
                file[b"clock"] = pickle.dumps(clock, _PROTOCOL)
        except _FILE_ERRORS as error:
            logger.error("The state file %s cannot be written: %r", self.path, error)  # noqa: TRY400 - said


class _LimitedSet(NamedTuple):
    """Celery's class, as far as it is written."""

    maxlen: int = 0
    expires: float = 0
    data: Any = ()
    minlen: int = 0


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == _CLASS:
            return _LimitedSet
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a state file")


def _read(data: bytes | None) -> Any:
    return None if data is None else _PlainUnpickler(io.BytesIO(data)).load()


def _ids(data: bytes | None) -> list[str]:
    packed = _read(data)
    saved = _read(zlib.decompress(packed)) if packed else ()
    members = saved.data if isinstance(saved, _LimitedSet) else saved
    return [each for each in members or () if isinstance(each, str)]


def _clock(data: bytes | None) -> int:
    clock = _read(data)
    return clock if isinstance(clock, int) else 0
