"""``Leadership``: takes part in the choice of the beat that sends, in a thread of its own."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from umbel.core.ids import new_id
from umbel.errors import OperationalError

if TYPE_CHECKING:
    from umbel.scheduler.stores.base import ScheduleStore

__all__ = ["LEASE", "Leadership", "beat_identity", "is_dead"]

logger: Final = logging.getLogger("celery.beat")

#: Seconds for which a beat that is silent stays the leader. With ``INTERVAL`` and a slow store's answer less than 15.
LEASE: Final = 10.0
#: Seconds between two looks at who leads and whether entries have changed.
INTERVAL: Final = 1.0
#: Seconds to wait for the thread at the end.
_JOIN_TIMEOUT: Final = 10.0


def beat_identity() -> str:
    """A name of this process that no other beat has: ``host/processes/pid/random``."""
    return f"{socket.gethostname()}/{_process_table()}/{os.getpid()}/{new_id()[:8]}"


def _process_table() -> str:
    """What two processes share exactly when one sees the other's process id; empty where that cannot be known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def is_dead(identity: str) -> bool:
    """Whether a beat is known to be dead; one of another machine never is."""
    host, _, rest = identity.partition("/")
    table, _, rest = rest.partition("/")
    pid, _, _ = rest.partition("/")
    if not table or not pid.isdecimal() or (host, table) != (socket.gethostname(), _process_table()):
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


class Leadership:
    """Says whether this beat leads, and since when the entries have changed.

    A leader that cannot renew its lease stops leading by itself before the lease ends, by its own monotonic clock; no
    two clocks are compared.

    Args:
        store: where the lease is.
        role: what is led; beats with other schedules have another one.
        identity: of this beat.
        lease, interval: in seconds; for tests.
    """

    def __init__(
        self,
        store: ScheduleStore,
        role: str,
        identity: str,
        *,
        lease: float = LEASE,
        interval: float = INTERVAL,
    ) -> None:
        self.store = store
        self.role = role
        self.identity = identity
        self.leader = ""
        #: Of the entries, as far as it is known.
        self.revision = -1
        self._lease = lease
        self._interval = interval
        self._until = 0.0
        self._reachable = True
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._woken = False
        self._thread: threading.Thread | None = None

    @property
    def leads(self) -> bool:
        """Whether this beat leads now."""
        return time.monotonic() < self._until

    def start(self) -> None:
        """Take part. Safe twice."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="umbel-beat-leader", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Take part no longer, and leave the lead to another. Safe twice, or unstarted."""
        thread, self._thread = self._thread, None
        self._stopping.set()
        if thread is not None:
            thread.join(_JOIN_TIMEOUT)
            self._resign()
        self._until = 0.0

    def _resign(self) -> None:
        try:
            self.store.resign(self.role, self.identity)
        except OperationalError as error:
            logger.warning("beat: Cannot leave the lead to another, which waits for %g s: %s", LEASE, error)

    def wait(self, timeout: float) -> None:
        """Wait until who leads or the entries change, ``timeout`` seconds at the most; for one thread.

        A change since the last wait ends this one at once.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._woken, timeout)
            self._woken = False

    def wake(self) -> None:
        """End the wait, or the next one. A signal handler may call it."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.look()
            self._stopping.wait(self._interval)

    def look(self) -> None:
        """Renew the lease, or try to have it, and see whether entries have changed."""
        begun = time.monotonic()
        over = self.leader if self.leader != self.identity and is_dead(self.leader) else ""
        try:
            standing = self.store.lead(self.role, self.identity, self._lease, over)
        except OperationalError as error:
            if self._reachable:
                logger.error("beat: The schedule store %s is lost: %s", self.store.display_url, error)  # noqa: TRY400
            self._reachable = False
            return
        self._reachable = True
        before = (self.leads, self.revision)
        # A little less than the store grants, from before it was asked: the lease is over here first.
        self._until = begun + self._lease * 0.9 if standing.leader == self.identity else 0.0
        self.leader, self.revision = standing.leader, standing.revision
        if before != (self.leads, self.revision):
            self.wake()
