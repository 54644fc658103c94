"""Keeps this worker's lease, and takes over what dead workers held."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from umbel.core.clock import boot_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.worker.link import BrokerLink

logger = logging.getLogger("celery.worker.consumer")


class Leases:
    """Renews every third of the lease's duration and looks for lapsed peers as often.

    ``on_lapse`` is called when the lease is renewed after it had lapsed: peers may have taken over, and run, what
    this worker holds.
    """

    def __init__(self, link: BrokerLink, lease: float, on_lapse: Callable[[], None]) -> None:
        self._link = link
        self._lease = lease
        self._on_lapse = on_lapse
        self._renewed_at = boot_seconds()
        self._offset = 0.0  #: between the clock of the leases and one that never jumps
        self._jumped_at: float | None = None

    @property
    def until(self) -> float:
        """When what is held may be with a peer unless it is renewed, in ``boot_seconds``."""
        return self._renewed_at + self._lease

    def lapsed(self) -> bool:
        """Whether so much time has gone by since the last renewal that what is held may be with a peer by now."""
        return boot_seconds() > self.until

    async def run(self) -> None:
        """Renew and reclaim until cancelled."""
        self._renewed_at = boot_seconds()  # opening the link took out the lease
        self._offset = self._clock_offset()
        while True:
            await asyncio.sleep(self._lease / 3)
            await self._renew()
            jumped = self._has_jumped()
            # While the broker was away nobody could renew. Peers get a full lease to come back before what they
            # hold, and may be running, is taken from them.
            if time.monotonic() - self._link.connected_at < self._lease:
                continue
            # So do they when the clock by which leases lapse has jumped under everybody.
            if jumped:
                continue
            if count := await self._link.reclaim():
                logger.warning("Took over %d message(s) of workers that are gone", count)

    def _has_jumped(self) -> bool:
        """Whether the broker's clock has moved otherwise than time went by, within the duration of a lease."""
        offset = self._clock_offset()
        if abs(offset - self._offset) > self._lease / 3:
            self._jumped_at = boot_seconds()
            logger.warning("The clock has jumped by %.0f seconds", offset - self._offset)
        self._offset = offset
        return self._jumped_at is not None and boot_seconds() - self._jumped_at < self._lease

    def _clock_offset(self) -> float:
        return self._link.consumer.now() - boot_seconds()

    async def _renew(self) -> None:
        asked_at = boot_seconds()
        await self._link.renew()
        # This worker was stopped, or its machine suspended, or the broker away.
        lapsed = self.lapsed()
        self._renewed_at = asked_at
        if lapsed:
            self._on_lapse()
