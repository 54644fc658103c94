"""The clock of a database file: one for all processes that use it, which no step of the machine's clock moves at once.

It goes on from where it stood when the file was first used after the machine was started. The processes look at the
machine's clock when they open the file and every few seconds or minutes from then on, and write down what they saw; a
step is followed when it has lasted (``core.clock.look``).
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from umbel.core.clock import Anchor, BrokerClock, boot_seconds, look
from umbel.errors import OperationalError

if TYPE_CHECKING:
    from collections.abc import Callable
    from sqlite3 import Connection

    from umbel.core.clock import Clock

_READ: Final = "SELECT ahead, seen, since FROM clock WHERE boot = ?"
_WRITE: Final = "INSERT OR REPLACE INTO clock VALUES (?, ?, ?, ?)"
_FORGET: Final = "DELETE FROM clock WHERE boot <> ?"


class FileClock(BrokerClock):
    """The clock of a file. ``open`` opens it: whoever asks for the time before anything else has it read first."""

    __slots__ = ("open",)

    def __init__(self, source: Clock | None = None) -> None:
        super().__init__(source)
        self.open: Callable[[], object] | None = None

    def now(self) -> float:
        """Seconds since the epoch."""
        if self.ahead is None and self.open is not None:
            # A file that cannot be opened is found out by whoever uses it.
            with suppress(OperationalError):
                self.open()
        return super().now()

    def look(self, connection: Connection) -> bool:
        """Read the file's clock and compare it with the machine's; says whether it has moved. In no transaction, or a
        writing one.
        """
        boot = boot_id()
        if boot is None:
            return False
        row = connection.execute(_READ, (boot,)).fetchone()
        known = None if row is None else Anchor(*row)
        at = boot_seconds()
        anchor = look(known, self._source.now() - at, at)
        if anchor != known:
            connection.execute(_FORGET, (boot,))
            connection.execute(_WRITE, (boot, *anchor))
        before, self.ahead = self.ahead, anchor.ahead
        return before is not None and before != anchor.ahead


@cache
def boot_id() -> str | None:
    """What names the time since the machine was started, to which ``boot_seconds`` belongs; None where nobody tells."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
