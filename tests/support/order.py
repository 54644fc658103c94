"""The order in which files are run: those that take long first, so that no process is left alone with one at the end.

A file that is not named comes after all that are, by its folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

#: The longest files, the longest first (seconds on two cores: `make test ARGS=--durations=0` tells).
LONGEST: Final = (
    "test_amqp_faults.py",
    "test_remote_control.py",
    "test_faults.py",
    "test_chaos.py",
    "test_migration.py",
    "test_third_parties.py",
    "test_worker_shutdown.py",
    "test_workflows.py",
    "test_load.py",
)
#: What starts servers and workers, before what does not.
_FOLDERS: Final = ("interop", "acceptance", "integration", "contracts", "unit")


def rank(path: Path) -> tuple[int, int]:
    """Where a test file belongs: lower ranks are begun earlier."""
    if path.name in LONGEST:
        return 0, LONGEST.index(path.name)
    folder = next((name for name in _FOLDERS if name in path.parts), "")
    return 1, _FOLDERS.index(folder) if folder else len(_FOLDERS)
