"""Remote control: one listener for a worker, to whom Celery's and Umbel's programs broadcast their orders.

It waits for the broker and for nothing else, beside the intake and on a connection of its own. ``control_commands``
says what a worker does when told.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from umbel.brokers.base import Disposition
from umbel.core.destination import Destination
from umbel.core.pidbox import KEPT, is_for, is_for_all, read_control, write_control
from umbel.core.records import Publication
from umbel.worker.elections import ACK, ELECT
from umbel.worker.listener import Listener

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from umbel.brokers.base import Broker, Subscription
    from umbel.worker.commands import Commander, CommandInfo
    from umbel.worker.elections import Elections
    from umbel.worker.link import ConnectionPolicy
    from umbel.worker.settlement import Settlement

logger = logging.getLogger("celery.worker.pidbox")


class ControlListener:
    """Hears orders, has them carried out and answers where an answer is wanted.

    Args:
        subscription: to the exchange of orders.
        commander: what the commands act upon.
        commands: by name.
        broker: packs the answers.
        settlement: sends them.
        policy: how long to wait before listening again after the connection was lost.
        accept: content types that may be decoded.
        serializer: of the answers.
        elections: are told of the events that are heard beside orders; None: there are none.
        on_return: awaited when it hears again after the connection was lost: orders may have been missed.
    """

    def __init__(
        self,
        *,
        subscription: Subscription,
        commander: Commander,
        commands: Mapping[str, CommandInfo],
        broker: Broker,
        settlement: Settlement,
        policy: ConnectionPolicy,
        accept: frozenset[str],
        serializer: str,
        elections: Elections | None = None,
        on_return: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.listener = Listener("Remote control", subscription, self.hear, policy, logger, on_return)
        self._commander = commander
        self._commands = commands
        self._broker = broker
        self._settlement = settlement
        self._accept = accept
        self._serializer = serializer
        self._elections = elections
        self._complained = False

    async def open(self) -> None:
        """Begin to listen, if the broker lets us at once; ``run`` goes on trying."""
        await self.listener.open()

    async def run(self) -> None:
        """Listen until cancelled."""
        await self.listener.run()

    async def close(self) -> None:
        """Listen no more. Safe twice."""
        if self._elections is not None:
            self._elections.close()
        await self.listener.close()

    async def hear(self, payload: bytes) -> None:
        """Carry out an order, if it is one and for this worker. Raises nothing for what it cannot read."""
        try:
            headers, body = read_control(payload, self._accept)
            wanted = is_for(self._commander.hostname, body)
        except Exception as error:
            # Whatever strangers send: one bad message is worth a line, a flood of them is not.
            log = logger.debug if self._complained else logger.error
            self._complained = True
            log("Cannot decode control message: %r", error)
            return
        if self._elections is not None and body.get("type") in {ELECT, ACK}:
            self._elections.hear(body)
            return
        clock = headers.get("clock")
        self._commander.clock.adjust(clock)
        if wanted:
            kept = headers.get(KEPT)
            self._commander.unkept = is_for_all(body) and not kept
            self._commander.kept_for = float(kept) if isinstance(kept, (int, float)) else 0.0
            await self._carry_out(body)

    async def _carry_out(self, body: dict[str, Any]) -> None:
        method, arguments = body.get("method"), body.get("arguments") or {}
        command = self._commands.get(method) if isinstance(method, str) else None
        if command is None:
            logger.error("No such control command: %r", method)
            return
        try:
            reply = await self._run(command, arguments)
        except Exception as error:
            # As in Celery, the caller is told; a wrong argument must not end the worker.
            logger.exception("Control command error: %r", error)  # noqa: TRY401 - Celery's line
            reply = {"error": repr(error)}
        target = self._target_of(body.get("reply_to"))
        if target is not None:
            self._reply(target, reply, body.get("ticket"))

    async def _run(self, command: CommandInfo, arguments: dict[str, Any]) -> Any:
        if command.builtin:
            return await command.run(self._commander, **arguments)
        # An application's own command may do what it likes; messages are fetched and leases renewed meanwhile.
        return await asyncio.to_thread(command.run, self._commander, **arguments)

    def _target_of(self, reply_to: Any) -> Destination | None:
        """Where an answer goes; None where none is wanted, or this broker has no such place."""
        if not isinstance(reply_to, dict):
            return None
        exchange, key, kind = (
            reply_to.get("exchange"),
            reply_to.get("routing_key"),
            reply_to.get("type", "direct"),
        )
        if not (isinstance(exchange, str) and isinstance(key, str)):
            return None
        if not exchange:
            return Destination("", key, key)
        able = self._broker.capabilities
        if (kind == "fanout" and able.fanout) or (kind == "direct" and able.direct_subscriptions):
            return Destination(exchange, key, None, kind)
        return None

    def _reply(self, target: Destination, reply: Any, ticket: Any) -> None:
        headers = {"ticket": ticket, "clock": self._commander.clock.value}
        answer = {self._commander.hostname: reply}
        envelope = write_control(answer, headers, self._serializer, delivery_mode=1)
        publication = Publication(target, self._broker.pack(envelope, target))
        self._settlement.add(Disposition(b"", unheld=True, publish=[publication]))
