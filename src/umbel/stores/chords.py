"""What the stores that count the parts of chords agree on."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from umbel.core.records import ChordPart

#: Seconds that the worker of a chord's last part has for completing it before a peer may do so.
PATIENCE: Final = 5.0
#: Seconds for which a chord that was ended is remembered: late repeats of its parts are not counted anew.
REMEMBERED: Final = 3600.0


def member_of(task_id: str, part: ChordPart) -> str:
    """What a part is counted by, as Celery's workers write it: the same task may stand at several places."""
    return f"{task_id}:{'+inf' if part.index is None else part.index}"


def position_of(part: ChordPart) -> float:
    """A part's place among the results."""
    return inf if part.index is None else float(part.index)
