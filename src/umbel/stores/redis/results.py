"""What the broker's settling and the result backend agree on about stored results and counted parts."""

from __future__ import annotations

from math import ceil, inf
from typing import TYPE_CHECKING, Any, Final

from umbel.core.records import DueChord
from umbel.stores.chords import PATIENCE, REMEMBERED
from umbel.stores.redis.scripts import load_script

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from umbel.core.records import ChordEnd, ChordPart

    Argument = bytes | str | float

#: What the keys of task results begin with, and those of groups and chords, as in Celery.
RESULT_PREFIX: Final = "celery-task-meta-"
GROUP_PREFIX: Final = "celery-taskset-meta-"
_DUE_PREFIX: Final = "umbel:chords:"
_BODIES_PREFIX: Final = "umbel:chord_bodies:"

_PACKAGE: Final = "umbel.stores.redis"
#: Scripts that define functions for settle.lua and save_results.lua.
FUNCTIONS: Final = (
    (_PACKAGE, "store_result.lua"),
    (_PACKAGE, "count_part.lua"),
    (_PACKAGE, "end_chord.lua"),
)
#: Stores results, see save_results.lua.
SAVE_RESULTS: Final = load_script(*FUNCTIONS, (_PACKAGE, "save_results.lua"))
OPEN_CHORD: Final = load_script((_PACKAGE, "open_chord.lua"))
CLAIM_CHORDS: Final = load_script((_PACKAGE, "claim_chords.lua"))


class Expiries:
    """How long results are kept, in the form that store_result.lua takes; worked out once for each state."""

    def __init__(self, lifetime: Callable[[str], float]) -> None:
        self._lifetime = lifetime
        self._known: dict[str, bytes] = {}

    def get(self, state: str) -> bytes:
        """Whole seconds, at least one; empty for ever."""
        known = self._known.get(state)
        if known is None:
            known = expiry(self._lifetime(state))
            if len(self._known) < 100:  # states may be made up by the application
                self._known[state] = known
        return known


def expiry(seconds: float) -> bytes:
    """A lifetime as Redis takes it: whole seconds, at least one; empty for ever."""
    return b"" if seconds == inf else b"%d" % max(ceil(seconds), 1)


class ChordSteps:
    """Writes the operands of count_part.lua and end_chord.lua.

    Args:
        prefix: of every key of the result backend.
        lifetime: seconds that what was counted is kept; infinity for ever.
        ordered: whether the parts are kept in order of their indices, as Celery's ``result_chord_ordered`` says.
    """

    def __init__(self, prefix: str, lifetime: float, ordered: bool) -> None:
        self._prefix = prefix
        self.expires = expiry(lifetime)
        self.ordered = ordered

    def group_key(self, group_id: str) -> str:
        """The key of a saved group, with which those of its chord begin."""
        return f"{self._prefix}{GROUP_PREFIX}{group_id}"

    def due_keys(self, realm: str) -> tuple[str, str]:
        """Where the due chords of a realm are, and their bodies."""
        return f"{self._prefix}{_DUE_PREFIX}{realm}", f"{self._prefix}{_BODIES_PREFIX}{realm}"

    def count(self, task_id: str, part: ChordPart) -> tuple[Argument, ...]:
        """The operands of count_part."""
        index = b"+inf" if part.index is None else b"%d" % part.index
        return (
            self.group_key(part.group_id),
            part.group_id,
            task_id,
            index,
            part.entry,
            b"1" if self.ordered else b"0",
            self.expires,
            *self.due_keys(part.realm),
            PATIENCE,
            part.body,
        )

    def end(self, end: ChordEnd) -> tuple[Argument, ...]:
        """The operands of end_chord."""
        return (
            self.group_key(end.group_id),
            end.group_id,
            end.token,
            *self.due_keys(end.realm),
            b"1" if end.failed else b"0",
            b"%d" % REMEMBERED,
        )

    def read_due(self, flat: Sequence[Any]) -> list[DueChord]:
        """The due chords of a script's reply."""
        skipped = len(self._prefix) + len(_DUE_PREFIX)
        return [
            DueChord(group_id.decode(), token, body, key.decode()[skipped:])
            for group_id, token, body, key in zip(flat[::4], flat[1::4], flat[2::4], flat[3::4], strict=True)
        ]
