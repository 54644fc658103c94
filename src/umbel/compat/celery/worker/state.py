"""What a worker of this process has in hand, and whether it is to stop."""

from __future__ import annotations

import platform
import sys
from collections import Counter
from types import ModuleType
from typing import Any

from umbel import __version__
from umbel.state import note_successes as _note_successes
from umbel.state import revoked_stamps as _revoked_stamps
from umbel.state import shutdown_flags as _shutdown_flags
from umbel.worker.revoked import RevokedIds as _RevokedIds
from umbel.worker.statedb import StateFile as _StateFile

from ..exceptions import WorkerShutdown, WorkerTerminate
from ..utils.collections import LimitedSet

__all__ = (
    "SOFTWARE_INFO",
    "Persistent",
    "active_requests",
    "maybe_shutdown",
    "merge_revoked",
    "reserved_requests",
    "revoked",
    "scheduled_requests",
    "task_accepted",
    "task_ready",
    "task_reserved",
    "task_scheduled",
    "total_count",
)

SOFTWARE_INFO = {"sw_ident": "py-umbel", "sw_ver": __version__, "sw_sys": platform.system()}

REVOKES_MAX = 50000
SUCCESSFUL_MAX = 1000
REVOKE_EXPIRES = 10800
SUCCESSFUL_EXPIRES = 10800

#: Ids of tasks that must not run: the workers' own set.
revoked = _RevokedIds.of_process()
#: Ids of tasks that succeeded here of late.
successful_requests = LimitedSet(maxlen=SUCCESSFUL_MAX, expires=SUCCESSFUL_EXPIRES)
_note_successes(successful_requests)

#: The stamps whose tasks must not run; the worker's own table.
revoked_stamps = _revoked_stamps()

#: Tasks by id that are known to this process's worker, and those of them by how far they are. A worker of Umbel keeps
#: its own account; what programs put here they find again.
requests: dict[str, Any] = {}
reserved_requests: set[Any] = set()
active_requests: set[Any] = set()
scheduled_requests: set[Any] = set()
total_count: Counter[str] = Counter()
all_total_count = [0]


def maybe_shutdown() -> None:
    """Raise WorkerShutdown or WorkerTerminate when the worker is to stop."""
    flags = _shutdown_flags()
    if flags.stop is not None and flags.stop is not False:
        raise WorkerShutdown(flags.stop)
    if flags.terminate is not None and flags.terminate is not False:
        raise WorkerTerminate(flags.terminate)


def task_reserved(request: Any, *args: Any, **kwargs: Any) -> None:
    """Note a task that waits for its turn."""
    requests[request.id] = request
    reserved_requests.add(request)


def task_scheduled(request: Any, *args: Any, **kwargs: Any) -> None:
    """Note a task that waits for its time."""
    requests[request.id] = request
    scheduled_requests.add(request)


def task_accepted(request: Any, *args: Any, **kwargs: Any) -> None:
    """Note a task that runs."""
    task_reserved(request)
    active_requests.add(request)
    total_count.update({request.name: 1})
    all_total_count[0] += 1


def task_ready(request: Any, successful: bool = False, *args: Any, **kwargs: Any) -> None:
    """Forget a task that has ended."""
    requests.pop(request.id, None)
    reserved_requests.discard(request)
    active_requests.discard(request)
    scheduled_requests.discard(request)


def merge_revoked(local: Any, remote: Any) -> None:
    """Add what another worker has revoked."""
    local.update(remote)


def reset_state() -> None:
    """Forget everything."""
    for kept in (requests, reserved_requests, active_requests, scheduled_requests, total_count):
        kept.clear()
    all_total_count[0] = 0


class Persistent:
    """A worker's state file: what is revoked, and the logical clock, are read when it is made and written by ``sync``.

    Args:
        state: has the ids, as this module does: ``state.revoked``.
        filename: of the file.
        clock: has ``adjust`` and ``forward``; None: there is none.
    """

    def __init__(self, state: Any, filename: str, clock: Any = None) -> None:
        self.state, self.filename, self.clock = state, filename, clock
        self._file = _StateFile(filename)
        self.merge()

    def merge(self) -> None:
        """Add what the file holds to what is known."""
        saved = self._file.load()
        self.state.revoked.update(saved.revoked)
        if self.clock is not None:
            self.clock.adjust(saved.clock)

    def sync(self) -> None:
        """Write the file."""
        revoked = self.state.revoked
        revoked.purge()
        self._file.save(dict(revoked.as_dict()), 0 if self.clock is None else self.clock.forward())

    save = close = sync


class _Module(ModuleType):
    """The two flags that are set from outside: setting one stops the workers of this process."""

    @property
    def should_stop(self) -> Any:
        return _shutdown_flags().stop

    @should_stop.setter
    def should_stop(self, value: Any) -> None:
        _shutdown_flags().stop = value

    @property
    def should_terminate(self) -> Any:
        return _shutdown_flags().terminate

    @should_terminate.setter
    def should_terminate(self, value: Any) -> None:
        _shutdown_flags().terminate = value


sys.modules[__name__].__class__ = _Module
