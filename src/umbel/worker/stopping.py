"""How a worker stops: who asked for it, and what is done in which order.

1. Nothing more is fetched. What no pool process has goes back to the front of its queues, in order: what was on its way
   from the broker first, so that what came before it comes to stand before it again.
2. What runs is waited for (warm), for a while (soft), or not at all (cold): then the pool is ended, and what ran goes
   back at once unless it was acknowledged when it began.
3. What has ended is settled. With the broker away that is tried no longer than it takes peers to take it over anyway.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from umbel import signals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from umbel.worker.ledger import Job
    from umbel.worker.options import WorkerOptions
    from umbel.worker.os_signals import Shutdown
    from umbel.worker.parts import Parts

logger = logging.getLogger("celery.worker")

#: Exit statuses, as Celery's.
EX_OK, EX_FAILURE = 0, 1


class ShutdownRequests:
    """What was asked for so far. A later, colder request overtakes; after a cold one, the next means: at once."""

    def __init__(self, hostname: str) -> None:
        self._hostname = hostname
        self.exitcode = EX_OK
        self.asked = asyncio.Event()
        self.cold = asyncio.Event()
        self.at_once = asyncio.Event()

    def add(self, why: str, how: Shutdown) -> None:
        """Note a request. Called in the loop's own thread, or before there is a loop."""
        if how == "cold" and self.cold.is_set():
            self.at_once.set()
            return
        if how == "warm" and self.asked.is_set():
            return
        # As Celery's worker, which Ctrl-C ends with a status of 1 though it is a warm shutdown.
        exitcode = EX_FAILURE if how == "cold" or why == "SIGINT" else EX_OK
        self.exitcode = max(self.exitcode, exitcode)
        self.asked.set()
        if how == "cold":
            self.cold.set()
        # Where the program itself says so, it is no news.
        level = logging.INFO if why == "stop" and how == "warm" else logging.WARNING
        logger.log(level, "worker: %s shutdown (MainProcess)", how.capitalize())
        signals.worker_shutting_down.send(
            sender=self._hostname, sig=why, how=how.capitalize(), exitcode=exitcode
        )


class Stopping:
    """One worker's way out."""

    def __init__(self, parts: Parts, requests: ShutdownRequests, options: WorkerOptions) -> None:
        self._parts = parts
        self._requests = requests
        self._options = options

    async def run(self, fetching: asyncio.Task[None], settling: asyncio.Task[None]) -> None:
        """Stop taking jobs, let the running ones end, settle everything; harder if asked again.

        Args:
            fetching: the intake's loop, which is ended here.
            settling: the settlement's loop; there is no point in waiting for anything to be settled once it has ended.
        """
        parts = self._parts
        waiting = parts.intake.stop()
        # A fetch that went on would take messages that nobody runs for as long as the running jobs take.
        fetching.cancel()
        await asyncio.wait([fetching])
        returning = asyncio.create_task(self._return(waiting))
        try:
            await self._let_end(waiting)
            await self._settle_rest(returning, settling)
        finally:
            returning.cancel()
            await asyncio.gather(returning, return_exceptions=True)

    async def _return(self, waiting: Sequence[Job]) -> None:
        try:
            await self._parts.link.reconcile()
        finally:
            self._parts.completion.give_back(self._in_hand(waiting))

    def _in_hand(self, jobs: Sequence[Job]) -> list[Job]:
        """Those of some jobs that were not given back yet."""
        return [job for job in jobs if self._parts.ledger.get(job.seq) is job]

    async def _let_end(self, waiting: Sequence[Job]) -> None:
        drained = asyncio.create_task(self._parts.pool.drain())
        try:
            await first_of(drained, self._requests.cold)
            if not drained.done() or self._requests.cold.is_set():
                await self._abandon(drained, waiting)
        finally:
            drained.cancel()

    async def _abandon(self, drained: asyncio.Task[None], waiting: Sequence[Job]) -> None:
        """End the pool with what it runs; unacknowledged jobs go back to their queues once nothing runs them."""
        parts, soft = self._parts, self._options.soft_shutdown_timeout
        running = len(parts.ledger) - len(self._in_hand(waiting))
        if soft > 0 and (running or self._options.soft_shutdown_on_idle):
            logger.warning("Initiating Soft Shutdown, terminating in %s seconds", soft)
            await first_of(drained, self._requests.at_once, timeout=soft)
        parts.completion.abandoning = True
        # Processes end at once when they have nothing to do; what still runs is killed.
        await parts.pool.stop(timeout=0)
        held = [job for job in parts.ledger if not job.acked]
        if held:
            logger.info("Restoring %d unacknowledged message(s)", len(held))
        parts.completion.give_back(held)

    async def _settle_rest(self, returning: asyncio.Task[None], settling: asyncio.Task[None]) -> None:
        settled = asyncio.create_task(self._settled(returning))
        try:
            await first_of(settled, self._requests.at_once, settling, timeout=self._options.lease)
            if not settled.done():
                logger.error("The broker is away: what is not settled runs again when the lease lapses.")
        finally:
            settled.cancel()
            await asyncio.gather(settled, return_exceptions=True)

    async def _settled(self, returning: asyncio.Task[None]) -> None:
        await self._parts.losses.wait()
        await asyncio.wait([returning])
        await self._parts.settlement.flush()


async def first_of(*things: asyncio.Task[None] | asyncio.Event, timeout: float | None = None) -> None:
    """Return when one of some tasks has ended or one of some events is set, or the time is over."""
    waits = [asyncio.create_task(thing.wait()) for thing in things if isinstance(thing, asyncio.Event)]
    tasks = [thing for thing in things if isinstance(thing, asyncio.Task)]
    try:
        await asyncio.wait([*tasks, *waits], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
