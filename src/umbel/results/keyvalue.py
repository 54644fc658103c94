"""Results under Celery's keys, in stores that hold bytes under names and do no more."""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import TYPE_CHECKING, Final

from umbel.core.states import SUCCESS
from umbel.errors import BackendStoreError
from umbel.results.documents import read_document
from umbel.results.polling import PollingResults
from umbel.results.refused import in_place_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from umbel.core.records import ResultRecord
    from umbel.results.options import ResultOptions

TASK_PREFIX: Final = "celery-task-meta-"
GROUP_PREFIX: Final = "celery-taskset-meta-"
CHORD_PREFIX: Final = "chord-unlock-"

#: How Celery and Umbel begin a JSON document; anything else is decoded to learn its state.
_STATUS: Final = re.compile(rb'\s*\{\s*"status"\s*:\s*"([^"\\]*)"')


class TooLarge(BackendStoreError):
    """The store takes no document of this size, now or ever."""


class KeyValueResults(PollingResults):
    """What such backends have in common: an adapter reads, stores and deletes keys."""

    def __init__(self, options: ResultOptions) -> None:
        self.options = options
        self.serializer = options.serializer
        prefix = key_prefix(options.transport.get("global_keyprefix") or "")
        self._task_prefix, self._group_prefix = prefix + TASK_PREFIX, prefix + GROUP_PREFIX
        #: What the names of all keys of the backend begin with.
        self._prefixes = (self._task_prefix, self._group_prefix, prefix + CHORD_PREFIX)

    @abstractmethod
    def _key(self, prefix: str, name: str) -> str:
        """The key of a task or a group, as the store can hold it; Celery's for the ids that Celery makes."""

    @abstractmethod
    def _read(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        """What is stored under those of the keys that have something. Raises BackendError or OperationalError."""

    @abstractmethod
    def _store(self, key: str, document: bytes, state: str) -> None:
        """Store a document unless that of a SUCCESS is there, in one atomic step where the store has one.

        Raises TooLarge, BackendError or OperationalError.
        """

    @abstractmethod
    def _replace(self, key: str, document: bytes) -> None:
        """Store a document whatever is there, for as long as a SUCCESS is kept. Raises as ``_store``."""

    @abstractmethod
    def _delete(self, keys: Sequence[str]) -> None:
        """Delete what is under the keys. Raises BackendError or OperationalError."""

    def save(self, records: Sequence[ResultRecord]) -> None:
        for record in records:
            if record.document:
                key = self._key(self._task_prefix, record.task_id)
                try:
                    self._store(key, record.document, record.state)
                except TooLarge as error:
                    told = in_place_of(record, self.serializer, error)
                    self._store(key, told.document, told.state)

    def _find(self, task_ids: Sequence[str]) -> list[tuple[str, str, bytes]]:
        asked = {self._key(self._task_prefix, task_id): task_id for task_id in task_ids}
        stored = self._read(list(asked))
        return [(asked[key], self._state_of(document), document) for key, document in stored.items()]

    def _state_of(self, document: bytes) -> str:
        match = _STATUS.match(document)
        if match:
            return match[1].decode()
        status: str = read_document(document, self.serializer)["status"]
        return status

    def _is_final(self, document: bytes) -> bool:
        return self._state_of(document) == SUCCESS

    def forget(self, task_ids: Sequence[str]) -> None:
        self._delete([self._key(self._task_prefix, task_id) for task_id in task_ids])

    def save_group(self, group_id: str, document: bytes) -> None:
        self._replace(self._key(self._group_prefix, group_id), document)

    def load_group(self, group_id: str) -> bytes | None:
        key = self._key(self._group_prefix, group_id)
        return self._read([key]).get(key)

    def forget_group(self, group_id: str) -> None:
        self._delete([self._key(self._group_prefix, group_id)])


def key_prefix(prefix: str) -> str:
    """Celery puts an underscore between the prefix and the key unless the prefix ends in punctuation of its own."""
    return prefix if not prefix or prefix[-1] in ":_-." else f"{prefix}_"
