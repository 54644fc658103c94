"""Waiting for the answers to an order, as long as they come."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from umbel.core.ids import new_id
from umbel.core.pidbox import read_control, reply_exchange

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.app.application import Umbel

    Answers = list[dict[str, Any]]
    Callback = Callable[[dict[str, Any]], object]


def collect(
    app: Umbel,
    send: Callable[[dict[str, Any]], None],
    limit: int,
    silence: float,
    callback: Callback | None,
) -> Answers:
    """Send an order and gather the answers until there are ``limit`` (0: no limit), or ``silence`` seconds without one.

    Args:
        send: sends the order with the parts of the body that say where the answers go.
        callback: called with each answer as it arrives.
    """
    answers: Answers = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(_Collecting(app, limit, silence, callback, answers).run(send))
        except BaseException as error:
            failures.append(error)

    # In a thread, for the caller may be a coroutine, and its loop cannot run a second one inside.
    thread = threading.Thread(target=run, name="umbel-answers", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return answers


class _Collecting:
    def __init__(
        self, app: Umbel, limit: int, silence: float, callback: Callback | None, answers: Answers
    ) -> None:
        # Celery's workers answer to a direct exchange; other brokers than theirs have none of them.
        self._type = "direct" if app.broker.capabilities.direct_subscriptions else "fanout"
        self._exchange = reply_exchange(app.conf.control_exchange)
        self._key = new_id()
        self._ticket = new_id()
        self._subscription = app.broker.subscriber(self._exchange, self._key, self._type)
        self._accept = app.accept
        self._limit = limit
        self._silence = silence
        self._callback = callback
        self._answers = answers

    async def run(self, send: Callable[[dict[str, Any]], None]) -> None:
        reply_to = {"exchange": self._exchange, "routing_key": self._key}
        if self._type != "direct":
            reply_to["type"] = self._type
        try:
            await self._subscription.open()
            send({"ticket": self._ticket, "reply_to": reply_to})
            await self._gather()
        finally:
            await self._subscription.close()

    async def _gather(self) -> None:
        while not self._limit or len(self._answers) < self._limit:
            try:
                async with asyncio.timeout(self._silence):
                    payload = await self._subscription.get()
            except TimeoutError:
                return
            headers, body = read_control(payload, self._accept)
            if headers.get("ticket", self._ticket) == self._ticket:
                self._answers.append(body)
                if self._callback is not None:
                    self._callback(body)
