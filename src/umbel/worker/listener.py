"""Listening to an exchange for as long as a worker runs, whatever becomes of the connection."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from umbel.errors import BrokerConnectionError, BrokerError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from umbel.brokers.base import Subscription
    from umbel.worker.link import ConnectionPolicy


class Listener:
    """Hands everything that is sent to an exchange to a function, in order, and reconnects.

    Args:
        what: is listened to, for the log: ``Remote control``.
        subscription: to the exchange.
        hear: takes a payload; the next one is not read before it returns.
        policy: how long to wait before listening again after the connection was lost.
        logger: is told of it.
        on_return: awaited when it listens again after the connection was lost: something may have been missed.
    """

    def __init__(
        self,
        what: str,
        subscription: Subscription,
        hear: Callable[[bytes], Awaitable[None]],
        policy: ConnectionPolicy,
        logger: logging.Logger,
        on_return: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._what = what
        self._subscription = subscription
        self._hear = hear
        self._policy = policy
        self._logger = logger
        self._on_return = on_return
        #: Whether what is sent now is heard.
        self.listens = False

    async def open(self) -> None:
        """Begin to listen, if the broker lets us at once; ``run`` goes on trying."""
        try:
            await self._subscription.open()
        except BrokerError as error:
            self._logger.warning("%s: %s. Trying again...", self._what, error)
        else:
            self.listens = True

    async def run(self) -> None:
        """Listen until cancelled."""
        attempt = 0
        while True:
            try:
                if not self.listens:
                    await self._subscription.open()
                    self.listens = True
                    self._logger.info("%s works again", self._what)
                    if self._on_return is not None:
                        await self._on_return()
                while True:
                    payload = await self._subscription.get()
                    attempt = 0
                    await self._hear(payload)
            except BrokerError as error:
                self.listens = False
                attempt += 1
                # The first loss is told by whoever fetches messages.
                untold = attempt > 1 or not isinstance(error, BrokerConnectionError)
                level = logging.WARNING if untold else logging.DEBUG
                delay = self._policy.delay(attempt)
                self._logger.log(level, "%s: %s. Trying again in %.2f seconds...", self._what, error, delay)
                await asyncio.sleep(delay)

    async def close(self) -> None:
        """Listen no more. Safe twice."""
        await self._subscription.close()
