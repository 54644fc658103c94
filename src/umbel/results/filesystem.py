"""``file:///directory``: results as files, one a task, named and written as Celery names and reads them.

A file is written aside and put in place in one step, so nobody reads half of it. Umbel's writers take turns at a lock
in the directory, for a SUCCESS must not be replaced; Celery's do not know it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from umbel.core.ids import new_id
from umbel.core.states import FAILURE, SUCCESS
from umbel.errors import BackendError, BackendStoreError, ImproperlyConfigured
from umbel.results.keyvalue import KeyValueResults

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from umbel.core.clock import Clock
    from umbel.results.options import ResultOptions

#: Begins the names of the backend's own files, which neither Celery's clean-up nor ours takes for results.
_OWN: Final = ".umbel-"
_LONGEST_NAME: Final = 255
#: What a file's name may hold as it is: all that ids of Celery's have. A % would be taken for one of ours.
_SAFE: Final = " !#$&'()+,;=@[]^_`{}~"


class FilesystemResultBackend(KeyValueResults):
    """Results in the files of one directory, which must be there and may be shared between machines.

    Raises ImproperlyConfigured for a directory that is not there or in which no file can be made.
    """

    def __init__(self, directory: Path, options: ResultOptions, *, clock: Clock | None = None) -> None:
        super().__init__(options)
        self._directory = directory
        self._now = time.time if clock is None else clock.now
        self.store = self.display_url = f"file://{directory}"
        if not (directory.is_dir() and os.access(directory, os.W_OK | os.X_OK)):
            raise ImproperlyConfigured(
                f"result_backend: expected a directory that may be written to, which {directory} is not"
            )

    @classmethod
    def from_url(
        cls, url: str, options: ResultOptions, *, clock: Clock | None = None
    ) -> FilesystemResultBackend:
        """The backend of ``file:///absolute/directory``, or ``file://localhost/absolute/directory``."""
        path = url.removeprefix("file://localhost").removeprefix("file://")
        if not path:
            raise ImproperlyConfigured("result_backend: expected file:///path/of/a/directory")
        return cls(Path(path).absolute(), options, clock=clock)

    def _key(self, prefix: str, name: str) -> str:
        key = prefix + quote(name, safe=_SAFE, errors="surrogatepass")
        if len(key) <= _LONGEST_NAME:
            return key
        return prefix + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()

    def _read(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        found = {}
        for key in keys:
            document = self._read_one(key)
            if document is not None:
                found[key] = document
        return found

    def _read_one(self, key: str) -> bytes | None:
        """What a file holds; None when it is not there, has expired, or is just being written by Celery."""
        try:
            with open(self._directory / key, "rb") as file:
                document, written = file.read(), os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BackendError(f"a result cannot be read: {error}") from error
        if not document or self._has_expired(key, document, written):
            return None
        return document

    def _has_expired(self, key: str, document: bytes, written: float) -> bool:
        state = self._state_of(document) if key.startswith(self._task_prefix) else SUCCESS
        return written + self.options.lifetime(state) < self._now()

    def _store(self, key: str, document: bytes, state: str) -> None:
        with self._turn():
            known = self._read_one(key)
            if known is None or not self._is_final(known):
                self._write(key, document)

    def _replace(self, key: str, document: bytes) -> None:
        with self._turn():
            self._write(key, document)

    def _write(self, key: str, document: bytes) -> None:
        path = self._directory / f"{_OWN}{new_id()}"
        try:
            with open(path, "xb") as file:
                file.write(document)
            now = self._now()
            os.utime(path, (now, now))
            path.replace(self._directory / key)
        except OSError:
            path.unlink(missing_ok=True)
            raise

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Only one writer at a time in the directory."""
        try:
            with open(self._directory / f"{_OWN}lock", "ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise BackendStoreError(f"a result cannot be written: {error}") from error

    def _delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            try:
                (self._directory / key).unlink(missing_ok=True)
            except OSError as error:
                raise BackendError(f"a result cannot be deleted: {error}") from error

    def cleanup(self) -> None:
        """Delete the files of expired results. Raises BackendError."""
        shortest = min(self.options.lifetime(SUCCESS), self.options.lifetime(FAILURE))
        if shortest == inf:
            return
        limit = self._now() - shortest
        for entry in os.scandir(self._directory):
            with suppress(FileNotFoundError):
                if entry.name.startswith(self._prefixes) and entry.stat().st_mtime < limit:
                    self._delete_expired(entry.name)

    def _delete_expired(self, key: str) -> None:
        if self._read_one(key) is None:
            self._delete([key])

    def close(self) -> None:
        """Nothing is open."""
