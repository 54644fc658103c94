"""The time of day as processes see it, which may jump: libfaketime, told by a file what to add.

Only the time of day jumps. Monotonic clocks stay, as they do when an administrator or NTP sets a real clock.
"""

from __future__ import annotations

from pathlib import Path


def library() -> Path | None:
    """libfaketime, for threads, where Debian's package for this machine puts it; None where it is not installed."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    return found[0] if found else None


class Clocks:
    """A clock for each process, or one for all where ``shared``: two clocks on one machine are the same."""

    def __init__(self, directory: Path, *, shared: bool) -> None:
        self._directory = directory
        self._shared = shared
        self._library = library()

    @property
    def can_jump(self) -> bool:
        """Whether libfaketime is there."""
        return self._library is not None

    def environment(self, name: str) -> dict[str, str]:
        """What a process needs to see the clock of that name."""
        if self._library is None:
            return {}
        file = self._file(name)
        if not file.exists():
            file.write_text("+0\n")
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, name: str, seconds: int) -> None:
        """Let the clock be so many seconds ahead of the real one (behind it if negative); within a second it is."""
        self._file(name).write_text(f"{seconds:+d}\n")

    def _file(self, name: str) -> Path:
        return self._directory / f"{'all' if self._shared else name}.clock"
