"""Chords whose parts have all ended: completed in a pool process, here or, should this worker be gone, by a peer.

A chord is recorded as due in the same step that counts its last part, and forgotten in the step that publishes its
body. Whoever completes it between the two may be killed at any instant, and two may do it at once: only one of them
finds the due record and publishes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from umbel.brokers.base import Disposition
from umbel.core.records import ChordEnd
from umbel.core.repeats import repeated
from umbel.core.states import FAILURE, RETRY
from umbel.errors import BackendError, OperationalError
from umbel.pools.base import Work
from umbel.stores.chords import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from umbel.core.records import DueChord
    from umbel.pools.base import Pool, Report
    from umbel.results.base import ResultBackend
    from umbel.worker.ledger import Ledger
    from umbel.worker.settlement import Settlement

logger = logging.getLogger("celery.worker.consumer")

#: Seconds between two looks for chords that nobody has completed.
LOOK_EVERY = 15.0


class _Taken(NamedTuple):
    """A due chord in hand."""

    chord: DueChord
    until: float  #: the monotonic instant at which a peer may take it
    after_others: bool


class Chords:
    """The due chords that this worker has taken up.

    Args:
        backend: where parts are counted.
        pool: where chords are completed, before the jobs that wait for a slot.
        ledger: numbers the jobs of the pool.
        settlement: publishes the bodies.
        realms: which chords of other workers are this one's to complete; see ``execution.chords.chord_realm``.
        dispatch: called when there is something for the pool.
    """

    def __init__(
        self,
        *,
        backend: ResultBackend,
        pool: Pool,
        ledger: Ledger,
        settlement: Settlement,
        realms: Callable[[], Iterable[str]],
        dispatch: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._pool = pool
        self._ledger = ledger
        self._settlement = settlement
        self._realms = realms
        self._dispatch = dispatch
        #: Due chords that no slot has yet.
        self.waiting: deque[_Taken] = deque()
        self._running: dict[int, _Taken] = {}

    def take_up(self, chords: Iterable[DueChord], *, after_others: bool = False) -> None:
        """Have these completed; ``after_others`` may have published their bodies, and not come to say so."""
        until = time.monotonic() + PATIENCE
        self.waiting.extend(_Taken(chord, until, after_others) for chord in chords)
        self._dispatch()

    def works(self, free: int) -> list[Work]:
        """Jobs for as many slots as are free. What has waited for too long is left to whoever claims it."""
        works: list[Work] = []
        now = time.monotonic()
        while self.waiting and len(works) < free:
            taken = self.waiting.popleft()
            if now < taken.until:
                seq, chord = self._ledger.number(), taken.chord
                self._running[seq] = taken
                queue = chord.realm.partition(":")[2]
                works.append(Work(seq, chord.body, queue, chord=chord.group_id))
        return works

    def ended(self, report: Report) -> None:
        """Settle a completion; a report of anything else is passed over."""
        taken = self._running.pop(report.seq, None)
        if taken is None:
            return
        chord = taken.chord
        if report.state == RETRY:
            logger.error(
                "Chord %s cannot be completed now and is tried again while it is due: %s",
                chord.group_id,
                report.error,
            )
            return
        self._settlement.add(
            Disposition(
                tag=b"",
                unheld=True,
                publish=repeated(report.publish) if taken.after_others else report.publish,
                followers=report.followers,
                ends=ChordEnd(chord.group_id, chord.token, chord.realm, failed=report.state == FAILURE),
            )
        )

    def lost(self, seq: int, why: str) -> None:
        """A process ended under a completion, which stays due; anything else is passed over."""
        taken = self._running.pop(seq, None)
        if taken is not None:
            logger.error("Completing chord %s was cut off (%s) and is tried again", taken.chord.group_id, why)

    def returned(self, seqs: Sequence[int]) -> None:
        """Completions that did not begin wait for a slot again."""
        for seq in seqs:
            taken = self._running.pop(seq, None)
            if taken is not None:
                self.waiting.append(taken)

    async def run(self) -> None:
        """Take up, until cancelled, what nobody has completed in time, while there are slots for it."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if self._backend.native_chords and self._pool.free() > 0:
                await self._claim()

    async def _claim(self) -> None:
        try:
            chords = await self._backend.aclaim_chords(list(self._realms()), PATIENCE)
        except (OperationalError, BackendError) as error:
            logger.debug("Cannot look for chords that nobody has completed: %s", error)
            return
        if chords:
            logger.warning("Took over %d chord(s) that nobody had completed", len(chords))
            self.take_up(chords, after_others=True)
