"""The order in which files are run: those that take long first, so that no process is left alone with one at the end.

A file that is missing here is run after those of its folder that are not. What is named here and gone does no harm.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

#: The longest files, the longest first (seconds on two cores: `make test ARGS=--durations=0` tells).
LONGEST: Final[tuple[str, ...]] = ()
#: What starts servers and workers, before what does not.
_FOLDERS: Final = ("interop", "acceptance", "integration", "contracts", "unit")


def rank(path: Path) -> tuple[int, int]:
    """Where a test file belongs: lower ranks are begun earlier."""
    if path.name in LONGEST:
        return 0, LONGEST.index(path.name)
    folder = next((name for name in _FOLDERS if name in path.parts), "")
    return 1, _FOLDERS.index(folder) if folder else len(_FOLDERS)
