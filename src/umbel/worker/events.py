"""The worker's events: gathered while the worker goes on, and sent in batches by a loop of their own.

Nothing is made when nobody asked for it. What cannot be sent waits within a bound, then the oldest go, counted and
told: an event is news, and must neither slow nor fail a task.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from typing import TYPE_CHECKING, Any, Final

from umbel.core.destination import Destination
from umbel.core.events import MULTI, group_of, make_event, routing_key, write_events
from umbel.core.records import Publication
from umbel.errors import BrokerError, EncodeError
from umbel.worker.backlog import Backlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.brokers.base import AsyncPublisher, Broker
    from umbel.core.envelope import Envelope

logger = logging.getLogger("celery.worker.events")

#: Seconds that sending may take before it is tried again, and the pauses before that: from, to.
_TIMEOUT: Final = 5.0
_PAUSES: Final = (0.5, 5.0)
#: Seconds between two lines that say how many events were dropped.
_TELL_AGAIN: Final = 60.0
#: Seconds between heartbeats while no monitor has shown itself: they tell how often they come, so monitors know.
_QUIET_INTERVAL: Final = 30.0
#: Seconds for which a monitor that has shown itself is taken to be there.
_WATCHED: Final = 600.0


class Events:
    """One worker's events.

    Args:
        hostname: the node's name.
        broker: packs and sends them.
        exchange: the setting ``event_exchange``.
        serializer: the setting ``event_serializer``.
        tasks: send those about tasks from the start (``-E``).
        interval: seconds between heartbeats while somebody watches; 0: none at all.
        busy: how many jobs run now, and how many have ended.
        tick: the worker's logical clock, one further.
    """

    def __init__(
        self,
        *,
        hostname: str,
        broker: Broker,
        exchange: str,
        serializer: str,
        tasks: bool,
        interval: float,
        busy: Callable[[], tuple[int, int]],
        tick: Callable[[], int],
    ) -> None:
        self.tasks = tasks
        self._hostname = hostname
        self._broker = broker
        self._exchange = exchange
        self._serializer = serializer
        self._interval = interval
        self._busy = busy
        self._tick = tick
        self.pid = os.getpid()
        self._waiting = Backlog()
        self._wake = asyncio.Event()
        self._publisher: AsyncPublisher | None = None
        self._watched_until = 0.0
        #: Seconds to wait before sending is tried again; 0 while it succeeds.
        self._pause = 0.0
        self._told, self._told_at = 0, float("-inf")

    @property
    def dropped(self) -> int:
        """How many events nobody will hear of: there was no room for them, or no form."""
        return self._waiting.dropped

    def task(self, type_: str, task_id: str, **fields: Any) -> None:
        """Something happened to a task. Only to be called while ``tasks`` is true."""
        self._add(type_, {"uuid": task_id, **fields})

    def worker(self, type_: str, **fields: Any) -> None:
        """Something happened to the worker."""
        self._add(type_, fields)

    def watched(self) -> None:
        """A monitor has shown itself: heartbeats come as often as they were set to, the first at once."""
        self._watched_until = asyncio.get_running_loop().time() + _WATCHED
        self.beat()

    def beat(self) -> None:
        """Send a heartbeat now, whenever the next is due."""
        self.worker("worker-heartbeat", **self._state())

    def _add(self, type_: str, fields: dict[str, Any]) -> None:
        self._waiting.add(make_event(type_, self._hostname, self.pid, self._tick(), fields))
        self._wake.set()

    def _state(self) -> dict[str, Any]:
        active, processed = self._busy()
        return {
            "freq": self._freq(),
            "active": active,
            "processed": processed,
            "loadavg": [round(load, 2) for load in os.getloadavg()],
            "sw_ident": "py-celery",
            "sw_ver": _version(),
            "sw_sys": platform.system(),
        }

    def _freq(self) -> float:
        watched = self.tasks or asyncio.get_running_loop().time() < self._watched_until
        return self._interval if watched else max(self._interval, _QUIET_INTERVAL)

    async def run(self) -> None:
        """Say that the worker is there, then send what comes up and heartbeats, until cancelled."""
        loop = asyncio.get_running_loop()
        if self._interval:
            self.worker("worker-online", **self._state())
        last = loop.time()
        while True:
            # From the last heartbeat, not from the last event: a busy worker's beats too.
            due = last + self._freq() if self._interval else None
            try:
                async with asyncio.timeout_at(due):
                    await self._wake.wait()
            except TimeoutError:
                pass
            if due is not None and loop.time() >= due:
                last = loop.time()
                self.beat()
            # What else happens in this turn of the loop goes with it.
            await asyncio.sleep(0)
            self._wake.clear()
            if not await self._flush():
                # What happens meanwhile is gathered; else every event would be an attempt of its own.
                await asyncio.sleep(self._pause)
                self._wake.set()

    async def close(self) -> None:
        """Say that the worker leaves, if that can be said soon."""
        if self._interval:
            self.worker("worker-offline", **self._state())
        await self._flush()
        self._tell_dropped(again=0.0)
        if self._publisher is not None:
            await self._publisher.close()
            self._publisher = None

    async def _flush(self) -> bool:
        """Send what waits; whether all of it was sent."""
        while self._waiting:
            batch = self._waiting.take()
            try:
                await self._send(batch)
            except BrokerError as error:
                # Whoever fetches messages says that the broker is away, and for how long.
                log = logger.debug if self._pause else logger.warning
                log("Events cannot be sent: %s. What waits is sent later, as far as there is room", error)
                self._pause = min(self._pause * 2 or _PAUSES[0], _PAUSES[1])
                self._waiting.give_back(batch)
                break
            self._pause = 0.0
        self._tell_dropped(again=_TELL_AGAIN)
        return not self._waiting

    def _tell_dropped(self, again: float) -> None:
        """Say how many were dropped since that was said, unless that is less than so many seconds ago."""
        count, now = self.dropped - self._told, asyncio.get_running_loop().time()
        if count and now - self._told_at >= again:
            self._told, self._told_at = self.dropped, now
            logger.warning("%d events were dropped: more came than the broker took", count)

    async def _send(self, batch: list[dict[str, Any]]) -> None:
        several = group_of(batch[0]["type"]) == "task"
        key = MULTI if several else routing_key(batch[0]["type"])
        to = Destination(self._exchange, key, None, "broadcast")
        envelope = self._written(batch, several=several)
        if envelope is None:
            return
        if self._publisher is None:
            self._publisher = self._broker.async_publisher()
        await self._publisher.send([Publication(to, self._broker.pack(envelope, to))], timeout=_TIMEOUT)

    def _written(self, batch: list[dict[str, Any]], *, several: bool) -> Envelope | None:
        """A message of what can be written; None when that is nothing."""
        try:
            return write_events(batch if several else batch[0], self._hostname, self._serializer)
        except EncodeError as error:
            if len(batch) == 1:
                logger.warning("An event cannot be written: %s", error)
                self._waiting.dropped += 1
                return None
        # One of them cannot: which is found by writing each.
        left = [event for event in batch if self._written([event], several=True) is not None]
        return self._written(left, several=True) if left else None


def _version() -> str:
    from umbel import __version__

    return __version__
