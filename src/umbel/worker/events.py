"""The worker's events: gathered while the worker goes on, and sent in batches by a loop of their own.

Nothing is made when nobody asked for it. What cannot be sent waits within a bound, then the oldest go: an event is
news, and must neither slow nor fail a task.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from umbel.core.destination import Destination
from umbel.core.events import MULTI, group_of, make_event, routing_key, write_events
from umbel.core.records import Publication
from umbel.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.brokers.base import AsyncPublisher, Broker

logger = logging.getLogger("celery.worker.events")

#: Events that wait to be sent at the most, and those in one message.
_ROOM: Final = 10_000
_BATCH: Final = 500
#: Seconds that sending may take before it is tried again.
_TIMEOUT: Final = 5.0
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
        self._waiting: deque[dict[str, Any]] = deque(maxlen=_ROOM)
        self._wake = asyncio.Event()
        self._publisher: AsyncPublisher | None = None
        self._watched_until = 0.0
        self._failing = False

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
        self._waiting.append(make_event(type_, self._hostname, self.pid, self._tick(), fields))
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
            await self._flush()

    async def close(self) -> None:
        """Say that the worker leaves, if that can be said soon."""
        if self._interval:
            self.worker("worker-offline", **self._state())
        await self._flush()
        if self._publisher is not None:
            await self._publisher.close()
            self._publisher = None

    async def _flush(self) -> None:
        while self._waiting:
            batch = self._next_batch()
            try:
                await self._send(batch)
            except BrokerError as error:
                # Whoever fetches messages says that the broker is away, and for how long.
                log = logger.debug if self._failing else logger.warning
                self._failing = True
                log("Events cannot be sent: %s. What waits is sent later, as far as there is room", error)
                room = _ROOM - len(self._waiting)
                self._waiting.extendleft(reversed(batch[-room:] if room else []))
                return
            self._failing = False

    def _next_batch(self) -> list[dict[str, Any]]:
        """Events of tasks together, others alone."""
        first = self._waiting.popleft()
        batch = [first]
        if group_of(first["type"]) == "task":
            while self._waiting and len(batch) < _BATCH and group_of(self._waiting[0]["type"]) == "task":
                batch.append(self._waiting.popleft())
        return batch

    async def _send(self, batch: list[dict[str, Any]]) -> None:
        several = group_of(batch[0]["type"]) == "task"
        key = MULTI if several else routing_key(batch[0]["type"])
        to = Destination(self._exchange, key, None, "broadcast")
        envelope = write_events(batch if several else batch[0], self._hostname, self._serializer)
        if self._publisher is None:
            self._publisher = self._broker.async_publisher()
        await self._publisher.send([Publication(to, self._broker.pack(envelope, to))], timeout=_TIMEOUT)


def _version() -> str:
    from umbel import __version__

    return __version__
