"""Records that cross process boundaries: what a finished job wants published and stored."""

from __future__ import annotations

from typing import Literal

import msgspec

from umbel.core.destination import Destination

#: The four ways a delivery ends.
Action = Literal["ack", "requeue", "retry_later", "dead_letter"]


class Publication(msgspec.Struct, array_like=True, gc=False):
    """A payload and where it goes."""

    destination: Destination
    payload: bytes


class ChordPart(msgspec.Struct, array_like=True, gc=False):
    """That a record also ends one part of a chord; counted once for each task id and index.

    The stores keep ``entry`` and ``body`` and look into neither.
    """

    group_id: str  #: the chord's header
    index: int | None  #: the part's place among the results; None: after all others
    entry: bytes  #: Celery's ``[1, task id, state, result]``, serialized: what the chord's body gets of this part
    body: bytes  #: what completing the chord takes, should this part be the last; see ``execution.chords``
    realm: str = ""  #: workers of the same realm complete the chord, should the one of the last part be gone


class DueChord(msgspec.Struct):
    """A chord whose parts have all been counted and whose body is to be sent.

    ``token`` names this completion: whoever ends the chord shows it, and only the first to do so succeeds.
    """

    group_id: str
    token: bytes
    body: bytes
    realm: str = ""


class ChordEnd(msgspec.Struct):
    """That a due chord has been dealt with; without the due record nothing of the step that it is part of happens.

    The parts of a chord that ``failed`` are kept, for people to look at, until they expire.
    """

    group_id: str
    token: bytes
    realm: str = ""
    failed: bool = False


class ResultRecord(msgspec.Struct, array_like=True, gc=False):
    """One state change of one task, ready to be stored.

    A stored SUCCESS is never replaced by another state. ``reply_to`` is for backends that send results to their caller.
    ``chord`` is counted in the same step, by backends that count (``ResultBackend.native_chords``). An empty
    ``document`` stores nothing: the task's result is of no interest, but its part is counted.
    """

    task_id: str
    state: str
    document: bytes
    reply_to: str = ""
    chord: ChordPart | None = None
