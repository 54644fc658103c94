"""What Celery's result backends derive from."""

from __future__ import annotations

from typing import Any

from umbel.core import states
from umbel.execution.einfo import ExceptionInfo
from umbel.results.disabled import DisabledResultBackend as DisabledBackend

from .._state import get_current_task

__all__ = ("BaseBackend", "DisabledBackend", "KeyValueStoreBackend")

EXCEPTION_ABLE_CODECS = frozenset({"pickle"})
E_NO_BACKEND = """
No result backend is configured.
Please see the documentation for more information.
"""
E_CHORD_NO_BACKEND = """
Starting chords requires a result backend to be configured.

Note that a group chained with a task is also upgraded to be a chord,
as this pattern requires synchronization.

Result backends that supports chords: Redis, Database, Memcached, and more.
"""


class Backend:
    """Base of result backends that were written for Celery: they store and read documents.

    Umbel uses such a backend through ``umbel.results.foreign``; its own derive from nothing.
    """

    READY_STATES = states.READY_STATES
    UNREADY_STATES = states.UNREADY_STATES
    EXCEPTION_STATES = states.EXCEPTION_STATES
    TimeoutError = TimeoutError
    subpolling_interval: float | None = None
    supports_native_join = False
    supports_autoexpire = False
    persistent = True

    def __init__(self, app: Any = None, *args: Any, url: str | None = None, **kwargs: Any) -> None:
        self.app = app
        self.url = url


class SyncBackendMixin:
    """One that is asked again and again."""


class BaseBackend(Backend, SyncBackendMixin):
    """One that is asked again and again."""


BaseDictBackend = BaseBackend


class BaseKeyValueStoreBackend(Backend):
    """One with keys and values."""

    key_t: Any = str.encode
    task_keyprefix: Any = "celery-task-meta-"
    group_keyprefix: Any = "celery-taskset-meta-"
    chord_keyprefix: Any = "chord-unlock-"
    implements_incr = False

    def _apply_chord_incr(self, header_result: Any, body: Any, **kwargs: Any) -> None:
        # Celery's contract: backends that count define it; chords here are counted below this class.
        raise NotImplementedError("this backend does not count chords")


class KeyValueStoreBackend(BaseKeyValueStoreBackend, SyncBackendMixin):
    """One with keys and values that is asked again and again."""
