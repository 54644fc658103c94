"""The one owner of the worker's connection to its broker.

Everything that talks to the broker in the worker's loop goes through here. A lost connection is noticed by whoever
uses it next; one reconnect rebuilds it from nothing while the others wait, and then returns to the queues whatever the
broker thinks this worker holds and the worker does not know of (a reply lost with messages in it).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, TypeVar

from umbel.core.repeats import repeated
from umbel.errors import BrokerConnectionError, BrokerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from umbel.brokers.base import Consumer, Delivery, Disposition, FetchPlan
    from umbel.core.causes import Losses
    from umbel.core.records import DueChord

logger = logging.getLogger("celery.worker.consumer")

T = TypeVar("T")

#: A connection that was lost within so many seconds may be lost again as soon (a queue whose node is down): the next
#: one is made a little later each time, up to the longest wait.
_BRIEF, _LONGEST_WAIT = 1.0, 4.0
#: Attempts to connect that come close together: for as long as a failover takes.
_AT_ONCE = 15


class ConnectionPolicy:
    """When and how often to connect again (``broker_connection_retry`` and its kin)."""

    def __init__(
        self, *, on_startup: bool, later: bool, max_retries: int | None, refused_too: bool = False
    ) -> None:
        #: What is as good as a lost connection to who opens one or fetches: what the broker refuses too, if asked for.
        self.recoverable = BrokerError if refused_too else BrokerConnectionError
        self.on_startup = on_startup
        self.later = later
        self.max_retries = max_retries or None  # 0 and None: for ever, as in Celery
        #: Seconds that Celery takes for so many tries. Ours come closer together, and go on for as long.
        self.patience = sum(min(2.0 * each, 32.0) for each in range(1, (max_retries or 0) + 1))

    def delay(self, attempt: int) -> float:
        """Seconds to wait after ``attempt`` failed ones: doubling, up to one and later up to five; with jitter.

        Celery waits 2, 4, 6 … 32. A broker that restarts is back in less than the first of these, and while another
        takes its place, some seconds, a worker asks every second; after the longest of ours it takes messages again
        within ten seconds of the broker's return, however long it was away.
        """
        return _growing(attempt, 1.0 if attempt <= _AT_ONCE else 5.0)


def _growing(attempt: int, longest: float) -> float:
    return min(0.25 * 2.0 ** min(attempt - 1, 10), longest) * random.uniform(0.8, 1.0)


class GaveUp(BrokerConnectionError):
    """The broker could not be reached and the policy says not to try again."""


class BrokerLink:
    """A consumer that comes back after its connection was lost.

    ``on_void`` is called each time it has come back, where what it held went back to the queues with the connection.
    """

    def __init__(
        self,
        consumer: Consumer,
        *,
        display_url: str,
        policy: ConnectionPolicy,
        held_tags: Callable[[], set[bytes]],
        on_void: Callable[[], None] | None = None,
    ) -> None:
        self.consumer = consumer
        self.display_url = display_url
        self._policy = policy
        self._held_tags = held_tags
        self._on_void = on_void
        self._generation = 0
        self._lock = asyncio.Lock()
        self.connected = False
        self.connected_at = 0.0  #: monotonic seconds
        #: Since when it has been fetched without anything coming, in monotonic seconds; None: something came last.
        self.waiting_since: float | None = None
        self.stalled = False  #: whether messages wait that are not fetched, see ``watchdog``
        self._brief = 0  #: how many connections in a row were lost as soon as they were made

    async def open(self) -> None:
        """Connect for the first time. Raises GaveUp as the start-up policy says."""
        await self._connect(retry=self._policy.on_startup, startup=True)
        logger.info("Connected to %s", self.display_url)

    async def fetch(self, plan: FetchPlan, limit: int, timeout: float) -> list[Delivery]:
        """As Consumer.fetch; empty when the connection was lost and rebuilt meanwhile."""
        generation = self._generation
        if self.waiting_since is None:
            self.waiting_since = time.monotonic()
        try:
            deliveries = await self.consumer.fetch(plan, limit, timeout)
        except self._policy.recoverable as error:
            await self._recover(generation, error)
            return []
        if deliveries:
            self.waiting_since, self.stalled = None, False
        return deliveries

    @property
    def ready(self) -> bool:
        """Whether messages come as soon as there are any, as far as anybody knows."""
        return self.connected and not self.stalled

    async def rebuild(self) -> None:
        """Make the connection anew though nobody has found it lost."""
        await self._recover(self._generation, BrokerConnectionError("messages wait that are not fetched"))
        self.waiting_since = None

    async def withdraw(self, queues: Sequence[str]) -> AsyncIterator[Sequence[Delivery]]:
        """As Consumer.withdraw; it ends early when the connection was lost and rebuilt meanwhile."""
        generation = self._generation
        try:
            async for deliveries in self.consumer.withdraw(queues):
                yield deliveries
        except BrokerConnectionError as error:
            await self._recover(generation, error)

    async def begin(self, deliveries: Sequence[Delivery]) -> list[Losses] | None:
        """As Consumer.begin; None when the connection was lost and rebuilt meanwhile."""
        generation = self._generation
        try:
            return await self.consumer.begin(deliveries)
        except BrokerConnectionError as error:
            await self._recover(generation, error)
            return None

    async def settle(self, batch: Sequence[Disposition]) -> Sequence[DueChord] | None:
        """As Consumer.settle, again after a reconnect until it is done: settling twice is settling once.

        Except what hangs on no delivery: that may be published twice, and is marked so.
        """
        tries = 0

        async def settle() -> Sequence[DueChord] | None:
            nonlocal tries
            tries += 1
            if tries == 2:
                for disposition in batch:
                    if disposition.unheld:
                        disposition.publish = repeated(disposition.publish)
            return await self.consumer.settle(batch)

        return await self._insist(settle)

    async def renew(self) -> None:
        """As Consumer.renew."""
        await self._insist(self.consumer.renew)

    async def reclaim(self) -> int:
        """As Consumer.reclaim."""
        return await self._insist(self.consumer.reclaim)

    async def reconcile(self) -> int:
        """Return to the queues what the broker says is held and nobody here knows of."""
        return await self._insist(lambda: self.consumer.reconcile(self._held_tags()))

    async def close(self, timeout: float) -> None:
        """As Consumer.close; a broker that is gone needs no goodbye, its leases lapse."""
        try:
            await asyncio.wait_for(self.consumer.close(), timeout)
        except (BrokerError, TimeoutError) as error:
            logger.warning(
                "Connection lost while leaving: %s. Peers take over what is left when the lease lapses.",
                error,
            )

    async def _insist(self, operation: Callable[[], Awaitable[T]]) -> T:
        while True:
            generation = self._generation
            try:
                return await operation()
            except BrokerConnectionError as error:
                await self._recover(generation, error)

    async def _recover(self, generation: int, error: BrokerError) -> None:
        """Rebuild the connection once, however many noticed the loss."""
        async with self._lock:
            if generation != self._generation:
                return
            self.connected = False
            logger.warning(
                "consumer: Connection to broker lost. Trying to re-establish the connection... (%s)", error
            )
            await self._pace()
            await self._connect(retry=self._policy.later, startup=False)
            if self._on_void is not None:
                self._on_void()
            returned = await self._reconcile()
            logger.info("Connected to %s", self.display_url)
            if returned:
                logger.info("Returned %d message(s) whose fetch was cut off", returned)

    async def _pace(self) -> None:
        """Wait where connections are lost as soon as they are made."""
        if time.monotonic() - self.connected_at > _BRIEF:
            self._brief = 0
            return
        self._brief += 1
        await asyncio.sleep(_growing(self._brief, _LONGEST_WAIT))

    async def _reconcile(self) -> int:
        try:
            return await self.consumer.reconcile(self._held_tags())
        except BrokerConnectionError:
            return 0  # the next operation notices and recovers again

    async def _connect(self, *, retry: bool, startup: bool) -> None:
        attempt = 0
        began = time.monotonic()
        while True:
            try:
                await self.consumer.open()
            except self._policy.recoverable as error:
                attempt += 1
                delay = self._policy.delay(attempt)
                patient = time.monotonic() - began < self._policy.patience
                self._give_up_or_log(error, attempt, delay, retry=retry, patient=patient, startup=startup)
                await asyncio.sleep(delay)
            else:
                self._generation += 1
                self.connected = True
                self.connected_at = time.monotonic()
                return

    def _give_up_or_log(
        self, error: BrokerError, attempt: int, delay: float, *, retry: bool, patient: bool, startup: bool
    ) -> None:
        limit = self._policy.max_retries
        if not retry:
            setting = "broker_connection_retry_on_startup" if startup else "broker_connection_retry"
            logger.critical(
                "Retrying to %s a connection to the message broker after a connection loss has been disabled "
                "(app.conf.%s=False). Shutting down...",
                "establish" if startup else "re-establish",
                setting,
            )
            raise GaveUp(f"Cannot connect to {self.display_url}: {error}") from error
        if limit is not None and attempt >= limit and not patient:
            raise GaveUp(f"Cannot connect to {self.display_url} after {attempt} attempts: {error}") from error
        logger.error(
            "consumer: Cannot connect to %s: %s.\nTrying again in %.2f seconds... (%d/%s)",
            self.display_url,
            error,
            delay,
            min(attempt, limit or attempt),
            limit or "∞",
        )
