"""Revocations that outlive those who heard of them: the broker keeps them, a worker knows those that it keeps.

A job costs nothing by this: it is looked up in the worker's memory, see ``admission``. What the broker keeps is read
when the worker begins to hear orders, at its start and after a lost connection; then the orders themselves tell.

Where the broker can find them, messages of revoked tasks that wait or are delayed are taken out and dropped, so that
none is left that would run after everybody has forgotten. A loop of its own does that, for all that was revoked.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from umbel.core.stamps import write_stamps
from umbel.errors import BrokerError, OperationalError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from umbel.brokers.base import Broker, Delivery
    from umbel.worker.revoked import RevokedIds, RevokedStamps

logger = logging.getLogger("celery.worker.control")


class Revocations:
    """What the broker keeps, and what this worker remembers of it.

    Args:
        broker: keeps ids and stamps, if it can.
        known, known_stamps: this worker's.
        expires: seconds for which they are kept; 0: not at all.
        withdraw: takes messages of revoked tasks out of this worker's queues.
        drop: ends them.
    """

    def __init__(
        self,
        broker: Broker,
        known: RevokedIds,
        known_stamps: RevokedStamps,
        expires: float,
        *,
        withdraw: Callable[[], AsyncIterator[Sequence[Delivery]]],
        drop: Callable[[Sequence[Delivery]], None],
    ) -> None:
        self._broker = broker
        self._known = known
        self._known_stamps = known_stamps
        self._expires = expires
        self._keeps = broker.capabilities.revocations and expires > 0
        self._withdraw = withdraw
        self._drop = drop
        self._wanted = asyncio.Event()

    @property
    def withdraws(self) -> bool:
        """Whether there is something for ``run`` to do."""
        return self._keeps and self._broker.capabilities.withdraws

    async def recall(self) -> None:
        """Remember what the broker keeps. When it cannot be asked, that is said: the worker knows less then."""
        if not self._keeps:
            return
        try:
            # Brokers are asked by a blocking call; leases and signals go on meanwhile.
            kept = await asyncio.to_thread(self._broker.revoked)
        except OperationalError as error:
            logger.warning("Cannot read which tasks are revoked: %s", error)
            return
        self._known.recall(kept.ids)
        self._known_stamps.recall(kept.stamps)
        if kept.ids:
            self.search()

    async def keep(
        self, task_ids: Sequence[str] = (), stamps: Mapping[str, Sequence[Any]] | None = None
    ) -> float:
        """Have the broker keep what a program revoked that did not see to that itself, as Celery's do not.

        Gives the seconds for which it does; 0: not at all.
        """
        if not self._keeps:
            return 0.0
        texts = write_stamps(stamps or {})
        try:
            return await asyncio.to_thread(self._broker.revoke, task_ids, self._expires, texts)
        except OperationalError as error:
            logger.warning("Workers that start later will not know that tasks are revoked: %s", error)
            return 0.0

    def search(self) -> None:
        """Have the queues searched for messages of what the broker keeps by now."""
        self._wanted.set()

    async def run(self) -> None:
        """Search whenever that is wanted, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                async for deliveries in self._withdraw():
                    if deliveries:
                        self._drop(deliveries)
            except BrokerError as error:
                # What is not found is dropped when it comes up. The connection's loss is told elsewhere.
                logger.debug("The search for revoked tasks was cut short: %s", error)
