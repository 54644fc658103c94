"""Beat that answers: with ``beat_enable_remote_control`` it is a node of remote control, which knows ``ping`` alone."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from umbel.core.destination import Destination
from umbel.core.pidbox import command_exchange, is_for, read_control, write_control
from umbel.core.records import Publication
from umbel.errors import BrokerError, ContentDisallowed, DecodeError
from umbel.scheduler.scheduler import DEFAULT_MAX_INTERVAL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from umbel.brokers.base import AsyncPublisher

__all__ = ["BeatPidbox", "beat_nodename"]

logger: Final = logging.getLogger("celery.beat")

NODENAME_DEFAULT: Final = "celerybeat"
#: Seconds before it listens again after the connection was lost.
_RETRY_INTERVAL: Final = 5.0
#: Seconds to wait for its thread at the end.
_JOIN_TIMEOUT: Final = 3.0
#: The least of what ``max_tick_age`` is by itself: beat that is a little slow is not to be restarted.
_LEAST_TICK_AGE: Final = 60.0


def beat_nodename(hostname: str | None = None) -> str:
    """The name by which beat answers: ``celerybeat@<host>``; ``%h``, ``%n`` and ``%d`` as in a worker's name."""
    here = socket.gethostname()
    name, sign, host = (hostname or "").partition("@")
    if not sign:
        name, host = "", name
    short, _, domain = here.partition(".")
    values = {"%h": here, "%n": short, "%d": domain, "%%": "%"}
    return re.sub("%[hnd%]", lambda found: values[found[0]], f"{name or NODENAME_DEFAULT}@{host or here}")


class BeatPidbox:
    """Answers ``ping`` while a service runs, in a thread of its own.

    It stays silent when the scheduler has not ticked for ``max_tick_age`` seconds: no answer is what a probe notices.
    """

    def __init__(self, service: Any) -> None:
        self.service = service
        self.app = service.app
        self.hostname = beat_nodename(service.hostname)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def max_tick_age(self) -> float:
        """Seconds: ``beat_remote_control_max_tick_age``, or twice the longest sleep; 0 is without end."""
        configured = self.app.conf.beat_remote_control_max_tick_age
        if configured is not None:
            return float(configured)
        interval = self.service.effective_max_interval or self.service.max_interval or DEFAULT_MAX_INTERVAL
        return max(float(interval) * 2, _LEAST_TICK_AGE)

    def tick_age(self) -> float | None:
        """Seconds since the scheduler's last tick; None before the first."""
        last: float | None = self.service._last_tick
        return None if last is None else time.monotonic() - last

    def is_stale(self) -> bool:
        """Whether the scheduler is stuck."""
        age = self.tick_age()
        return bool(self.max_tick_age) and age is not None and age > self.max_tick_age

    def start(self) -> None:
        """Begin to listen. Where the broker has no broadcasts that is said, and there is no remote control."""
        if not self.app.broker.capabilities.fanout:
            logger.warning(
                "beat pidbox: %s has no broadcasts; there is no remote control", self.app.broker.display_url
            )
            return
        self._thread = threading.Thread(target=self._run, name="BeatPidbox", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Listen no more. Safe twice, and unstarted."""
        self._stopping.set()
        thread, self._thread = self._thread, None
        if thread is None:
            return
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(_cancel_all, loop)
        thread.join(_JOIN_TIMEOUT)

    def _run(self) -> None:
        try:
            asyncio.run(self._listen())
        except asyncio.CancelledError:
            pass
        except Exception:
            logger.exception("beat pidbox: no more remote control")

    async def _listen(self) -> None:
        self._loop = asyncio.get_running_loop()
        broker = self.app.broker
        subscription = broker.subscriber(command_exchange(self.app.conf.control_exchange))
        publisher: AsyncPublisher = broker.async_publisher()
        try:
            while not self._stopping.is_set():
                try:
                    await subscription.open()
                    logger.info("beat pidbox: Connected to %s.", broker.display_url)
                    while True:
                        await self._hear(await subscription.get(), publisher)
                except BrokerError as error:
                    logger.error("beat pidbox: %s. Trying again in %s seconds...", error, _RETRY_INTERVAL)  # noqa: TRY400
                    await asyncio.sleep(_RETRY_INTERVAL)
        finally:
            await subscription.close()
            await publisher.close()

    async def _hear(self, payload: bytes, publisher: AsyncPublisher) -> None:
        """Answer an order, if it is ``ping`` and for this node; others, for workers, are no concern of beat's."""
        try:
            headers, body = read_control(payload, self.app.accept)
            asked = body.get("method") == "ping" and is_for(self.hostname, body)
        except (ContentDisallowed, DecodeError, ValueError) as error:
            logger.debug("beat pidbox: cannot read a message: %s", error)
            return
        self.app.clock.adjust(headers.get("clock"))
        target = _target(body.get("reply_to")) if asked else None
        if target is None:
            return
        if self.is_stale():
            logger.warning(
                "beat pidbox: not answering ping, the scheduler has not ticked for %.1fs (over the %ss limit).",
                *(self.tick_age(), self.max_tick_age),
            )
            return
        told = {"ticket": body.get("ticket"), "clock": self.app.clock.forward()}
        answer = {self.hostname: {"ok": "pong"}}
        envelope = write_control(answer, told, self.app.conf.task_serializer, delivery_mode=1)
        publication = Publication(target, self.app.broker.pack(envelope, target))
        await publisher.send([publication], timeout=self.app.conf.broker_publish_timeout)


def _target(reply_to: Mapping[str, Any] | Any) -> Destination | None:
    """Where the answer is wanted; None where it is not."""
    if not isinstance(reply_to, dict):
        return None
    exchange, key = reply_to.get("exchange"), reply_to.get("routing_key")
    if not (isinstance(exchange, str) and isinstance(key, str)):
        return None
    return Destination(exchange, key, None if exchange else key, reply_to.get("type", "direct"))


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()
