"""Revoked ids that outlive those who heard of them: the broker keeps them, a worker knows those that it keeps.

A job costs nothing by this: it is looked up in the worker's memory, see ``admission``. What the broker keeps is read
when the worker begins to hear orders, at its start and after a lost connection; then the orders themselves tell.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from umbel.errors import OperationalError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from umbel.brokers.base import Broker
    from umbel.worker.revoked import RevokedIds

logger = logging.getLogger("celery.worker.control")


class Revocations:
    """What the broker keeps, and what this worker remembers of it.

    Args:
        broker: keeps ids, if it can.
        known: this worker's.
        expires: seconds for which an id is kept; 0: not at all.
    """

    def __init__(self, broker: Broker, known: RevokedIds, expires: float) -> None:
        self._broker = broker
        self._known = known
        self._expires = expires
        self._keeps = broker.capabilities.revocations and expires > 0

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
        self._known.recall(kept)

    async def keep(self, task_ids: Sequence[str]) -> None:
        """Have the broker keep ids that a program revoked which did not see to that itself, as Celery's do not."""
        if not self._keeps:
            return
        try:
            await asyncio.to_thread(self._broker.revoke, task_ids, self._expires)
        except OperationalError as error:
            logger.warning("Workers that start later will not know that tasks are revoked: %s", error)
