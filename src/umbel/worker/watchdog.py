"""Sees to it that a worker which waits for messages does not wait beside them.

Problem: whatever the cause (a fault here, in a client library or in a broker), a fetch that never returns while its
queue grows looks from outside like a worker with nothing to do, and stays so until somebody restarts it.

Solution: when nothing has been fetched for a while although there was room, the broker is asked, on another connection,
how many messages wait. If some do, and still do a moment later with nothing fetched meanwhile, the worker says so, is
not ready any more (``BrokerLink.ready``), and its connection is made anew. The next delivery makes it ready again.

Where everything that is held goes with the connection (RabbitMQ), jobs that run would run again. There it only asks
anew, over the connection that there is, and makes another when that was of no use.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from umbel.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.worker.intake import Intake
    from umbel.worker.link import BrokerLink

logger = logging.getLogger("celery.worker.consumer")

#: Seconds between the two looks: a message that has just come is being fetched.
_TWICE: Final = 1.0


class Watchdog:
    """Looks after the fetching.

    Args:
        link, intake: of the worker.
        depth: asks the broker how many messages wait in a queue; it blocks, in a thread of its own.
        patience: seconds without a delivery after which it looks.
        gently: a connection takes along what it holds, so that another is the last resort.
    """

    def __init__(
        self,
        link: BrokerLink,
        intake: Intake,
        depth: Callable[[str], int],
        patience: float,
        *,
        gently: bool = False,
    ) -> None:
        self._link = link
        self._intake = intake
        self._depth = depth
        self._patience = patience
        self._gently = gently

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            await asyncio.sleep(self._patience / 2)
            since = self._link.waiting_since
            if since is None or time.monotonic() - since < self._patience or not self._link.connected:
                continue
            if await self._waiting() and await self._is_stalled(since):
                await self._rebuild(time.monotonic() - since)
            else:
                self._link.stalled = False

    async def _waiting(self) -> int:
        """How many messages wait in the queues that are taken from; 0 where the broker does not say."""
        try:
            depths = [await asyncio.to_thread(self._depth, queue) for queue in self._intake.plan.queues]
        except BrokerError as error:
            logger.debug("Cannot ask how many messages wait: %s", error)
            return 0
        return sum(depths)

    async def _is_stalled(self, since: float) -> bool:
        await asyncio.sleep(_TWICE)
        return self._link.waiting_since == since and self._link.connected and await self._waiting() > 0

    async def _rebuild(self, seconds: float) -> None:
        anew = not self._gently or self._link.stalled
        logger.error(
            "Nothing has been fetched for %.0f seconds although messages wait: %s %s %s anew",
            seconds,
            "the connection to" if anew else "the queues of",
            self._link.display_url,
            "is made" if anew else "are consumed",
        )
        self._link.stalled = True
        if anew:
            await self._link.rebuild()
        self._link.waiting_since = None
        self._intake.take_from(self._intake.plan.queues)
