"""The only finisher: reports become dispositions, and dispositions are settled in batches.

While one batch is on its way the next one gathers, so batches grow with the load and an idle worker settles at once.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar

from umbel.brokers.base import Disposition, records_of
from umbel.core.destination import Destination
from umbel.core.records import Publication
from umbel.errors import BackendError, BrokerConnectionError, BrokerError, OperationalError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from umbel.brokers.base import Delivery
    from umbel.core.records import ChordEnd, DueChord, ResultRecord
    from umbel.pools.base import Report
    from umbel.results.base import ResultBackend
    from umbel.worker.ledger import Job
    from umbel.worker.link import BrokerLink

T = TypeVar("T")

logger = logging.getLogger("celery.worker.consumer")

#: Deliveries settled in one round trip at the most: more would make the server's other clients wait.
BATCH = 500

#: Unsettled deliveries above which the worker takes no more: the broker or the result store is slow, or away.
FULL = 10_000

#: Seconds that the end of a job which goes on in its process waits for the next: a chain's brief steps come many a
#: millisecond, and what ends together is held only once.
_GOES_ON = 0.005

#: Seconds before what the broker or the result store refused is tried again: doubled from the first to the second.
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 10.0


def disposition_of(job: Job, report: Report, keeps: Delivery | None = None) -> Disposition:
    """How a delivery ends, given what its pool process says and whether it was acknowledged when it began.

    ``keeps`` is what is published, where that has begun already.
    """
    publish = report.publish
    if job.acked and report.action == "dead_letter":
        return _late_dead_letter(job, report)
    if keeps is not None:
        publish = []
    if job.acked and report.payload is not None and report.action in ("retry_later", "requeue"):
        # The delivery is gone, so the next attempt is a message of its own; by its eta who takes it parks it.
        queue = job.delivery.queue
        publish = [*publish, Publication(Destination("", queue, queue), report.payload)]
    return Disposition(
        tag=job.delivery.tag,
        action="ack" if job.acked else report.action,
        payload=report.payload,
        due=report.due,
        reason=report.reason,
        publish=publish,
        result=report.result,
        unheld=job.acked,
        queue=job.delivery.queue,
        followers=report.followers,
        cause=report.cause,
        keeps=keeps,
    )


def _late_dead_letter(job: Job, report: Report) -> Disposition:
    """The delivery is gone, and is kept all the same: that it cannot be run was seen only when it had begun."""
    return Disposition(
        tag=job.delivery.tag,
        action="dead_letter",
        payload=report.payload or job.delivery.payload,
        reason=report.reason,
        publish=report.publish,
        result=report.result,
        unheld=True,
        queue=job.delivery.queue,
        followers=report.followers,
        cause=report.cause,
    )


def joined(batch: Sequence[Disposition]) -> Sequence[Disposition]:
    """The same ends, where what a job went on with and has ended too ends with it: it need not be held in between.

    A chain that runs on within one process is mostly several steps further by the time it is settled.
    """
    if all(disposition.keeps is None for disposition in batch):
        return batch
    ends: list[Disposition] = []
    keepers: dict[bytes, Disposition] = {}
    for disposition in batch:
        # Whatever else becomes of a message it has to be held for.
        is_done = disposition.action == "ack" and not disposition.unheld
        keeper = keepers.pop(disposition.tag, None) if is_done else None
        if keeper is None:
            keeper = disposition
            ends.append(keeper)
        else:
            _end_with(keeper, disposition)
        if keeper.keeps is not None:
            keepers[keeper.keeps.tag] = keeper
    return ends


def _end_with(keeper: Disposition, end: Disposition) -> None:
    """Have what ends a delivery also end the one that it was to keep."""
    keeper.followers = [*keeper.followers, *records_of(end)]
    keeper.publish = [*keeper.publish, *end.publish]
    keeper.keeps = end.keeps


class Settlement:
    """Gathers dispositions and settles them, results first where broker and backend do not share a store.

    Without ``keeps_letters`` what is given up is gone. ``on_settled`` is called after each batch: there may be room for
    more jobs. ``on_due`` is given the chords whose last part was counted.
    """

    def __init__(
        self,
        link: BrokerLink,
        backend: ResultBackend,
        *,
        shared_store: bool,
        keeps_letters: bool = True,
        on_settled: Callable[[], None],
        on_due: Callable[[Sequence[DueChord]], None],
    ) -> None:
        self._link = link
        self._backend = backend
        self._shared_store = shared_store
        self._on_settled = on_settled
        self._on_due = on_due
        self._keeps_letters = keeps_letters
        self._pending: list[Disposition] = []
        self._batch: list[Disposition] = []
        self._refused: list[Disposition] = []
        self._delay = _FIRST_DELAY
        self._retry: asyncio.TimerHandle | None = None
        self._later: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.settled = 0

    def add(self, disposition: Disposition) -> None:
        """Settle this with the next batch."""
        self._pending.append(disposition)
        self._wake.set()

    def add_all(self, dispositions: list[Disposition]) -> None:
        """Settle these with the next batch."""
        if not dispositions:
            return
        self._pending += dispositions
        if any(disposition.keeps is None for disposition in dispositions):
            self._wake.set()
        elif self._later is None:
            self._later = asyncio.get_running_loop().call_later(_GOES_ON, self._settle_now)

    def _settle_now(self) -> None:
        self._later = None
        self._wake.set()

    def record(self, record: ResultRecord) -> None:
        """Store a state that ends nothing, such as STARTED."""
        self.add(Disposition(tag=b"", unheld=True, result=record))

    def is_full(self) -> bool:
        """Whether so much waits to be settled that nothing more should be begun."""
        return len(self._pending) + len(self._refused) > FULL

    def held_tags(self) -> set[bytes]:
        """Deliveries that are not ended yet, or may not be: their settlement is on its way."""
        waiting = (self._batch, self._pending, self._refused)
        return {disposition.tag for part in waiting for disposition in part if not disposition.unheld}

    async def run(self) -> None:
        """Settle batches until cancelled; what fails for want of a connection is tried again when it is back."""
        while True:
            await self._wake.wait()
            self._idle.clear()
            while self._wake.is_set():
                self._wake.clear()
                await self._settle_pending()
            if not self._pending and not self._refused:
                self._idle.set()

    async def _settle_pending(self) -> None:
        left = len(self._pending)  # what comes meanwhile says itself whether it may wait
        while left > 0:
            self._batch, self._pending = self._pending[:BATCH], self._pending[BATCH:]
            left -= len(self._batch)
            await self._settle(self._batch)
            self._batch = []
            self._on_settled()

    async def flush(self) -> None:
        """Return when everything added so far is settled."""
        while self._pending or not self._idle.is_set():
            self._wake.set()
            await asyncio.sleep(0)
            await self._idle.wait()

    async def _settle(self, batch: list[Disposition]) -> None:
        if not self._keeps_letters:
            for disposition in batch:
                if disposition.action == "dead_letter":
                    disposition.action = "ack"
        due = None if self._shared_store else await self._store_apart(batch)
        ends = [] if self._shared_store else _take_ends(batch)
        whole = joined(batch)
        try:
            due = await self._link.settle(whole) or due
            self._delay = _FIRST_DELAY
        except BrokerConnectionError:
            raise
        except BrokerError as error:
            await self._settle_singly(whole, error)
        if ends:
            # The bodies are published: a crash before this repeats them, under the same ids.
            await self._insist(lambda: self._backend.aend_chords(ends), "Chords cannot be ended")
        self.settled += len(batch)
        if due:
            self._on_due(due)

    async def _settle_singly(self, batch: Sequence[Disposition], error: BrokerError) -> None:
        """The broker refuses something, as when it is out of memory. What it does not refuse is not to wait for it."""
        refused = []
        for disposition in batch:
            try:
                await self._link.settle([disposition])
            except BrokerConnectionError:
                raise
            except BrokerError:
                refused.append(_without_keeping(disposition))
        if not refused:
            return
        logger.error("%s. Trying again in %.1f seconds...", error, self._delay)
        self._refused += refused
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(self._delay, self._try_refused)
            self._delay = min(self._delay * 2, _LONGEST_DELAY)

    def _try_refused(self) -> None:
        self._retry = None
        refused, self._refused = self._refused, []
        self.add_all(refused)

    async def _store_apart(self, batch: list[Disposition]) -> Sequence[DueChord] | None:
        """Store results before the deliveries end: a crash in between repeats the work and loses nothing."""
        records = [record for disposition in batch for record in records_of(disposition)]
        if not records or not self._backend.stores_results:
            return None
        due = await self._insist(lambda: self._backend.asave(records), "Results cannot be stored")
        for disposition in batch:
            disposition.result, disposition.followers = None, ()
        return due

    async def _insist(self, work: Callable[[], Awaitable[T]], what: str) -> T:
        delay = _FIRST_DELAY
        while True:
            try:
                return await work()
            except (OperationalError, BackendError) as error:
                # Tried until it succeeds; the text says why it did not.
                logger.error("%s: %s. Trying again in %.1f seconds...", what, error, delay)  # noqa: TRY400
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LONGEST_DELAY)


def _without_keeping(disposition: Disposition) -> Disposition:
    """What it was to keep has begun, and its end finds nothing that is held: it goes to its queue after all."""
    kept = disposition.keeps
    if kept is not None:
        later = Publication(Destination("", kept.queue, kept.queue), kept.payload)
        disposition.publish, disposition.keeps = [*disposition.publish, later], None
    return disposition


def _take_ends(batch: list[Disposition]) -> list[ChordEnd]:
    """The ends of chords, which are not the broker's where it does not share its store."""
    ends = []
    for disposition in batch:
        if disposition.ends is not None:
            ends.append(disposition.ends)
            disposition.ends = None
    return ends
