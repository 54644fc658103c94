"""What about a Redis server may lose messages: looked for when a worker starts, and each time it renews its lease."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from umbel.core.destination import Destination
from umbel.core.records import Publication
from umbel.stores.redis.commands import pack_command
from umbel.stores.redis.replies import ReplyError

if TYPE_CHECKING:
    from umbel.brokers.base import Disposition
    from umbel.stores.redis.link import Link

logger = logging.getLogger("umbel.redis")

_QUESTIONS = b"".join(
    map(
        pack_command,
        (
            (b"INFO", b"memory"),
            (b"INFO", b"persistence"),
            (b"CONFIG", b"GET", b"save"),
        ),
    )
)


async def warn_of_dangers(link: Link) -> None:
    """Log, one line each, how the server is configured to lose messages, and what to do about it.

    What the server does not tell (a user without the right to ask, a service that hides it) is passed over.
    """
    memory, persistence, save = await link.send(_QUESTIONS, 3)
    for line in (*eviction_dangers(_facts(memory)), *memory_only_dangers(_facts(persistence), _saves(save))):
        logger.warning("%s", line)


def eviction_dangers(memory: dict[str, str]) -> list[str]:
    """What INFO memory says about eviction."""
    policy, limit = memory.get("maxmemory_policy", ""), memory.get("maxmemory", "0")
    if limit == "0" or policy in {"", "noeviction"}:
        return []
    lost = "messages" if policy.startswith("allkeys") else "results"
    size = memory.get("maxmemory_human", limit)
    told = (
        f"Redis deletes {lost} when its memory ({size}) is full: maxmemory-policy is {policy}. Set it to noeviction; "
        "senders then wait and get an error in time, and nothing is lost."
    )
    return [told]


def memory_only_dangers(persistence: dict[str, str], saves: str | None) -> list[str]:
    """What INFO persistence and the setting ``save`` (None: unknown) say about a restart."""
    if persistence.get("aof_enabled") != "0" or saves is None or saves:
        return []
    return [
        "Redis keeps messages in memory alone: what waits or is held is lost when it restarts. Set appendonly to yes."
    ]


def _facts(info: Any) -> dict[str, str]:
    if not isinstance(info, bytes):
        return {}
    lines = [line.partition(":") for line in info.decode("utf-8", "replace").splitlines()]
    return {name: value for name, colon, value in lines if colon}


def _saves(reply: Any) -> str | None:
    if isinstance(reply, ReplyError) or not reply:
        return None
    values = reply.values() if isinstance(reply, dict) else reply[1::2]
    return " ".join(value.decode() for value in values)


class Mark:
    """What tells a database from itself after it was emptied: a key with a value that nobody else makes."""

    def __init__(self) -> None:
        self._known: bytes | None = None

    def see(self, mark: bytes, held: int) -> bool:
        """Note what stands there now; whether the database is another one than before, which is logged."""
        known, self._known = self._known, mark
        if known is None or known == mark:
            return False
        logger.error(
            "The Redis database has been emptied: by FLUSHALL or FLUSHDB, a restart without persistence, or a failover "
            "to an empty replica. What waited there is lost. The %d message(s) in this worker's hands go on, and their "
            "results are stored; nobody will take them over should it die.",
            held,
        )
        return True


def freed(disposition: Disposition, queue: str) -> Disposition:
    """The end of a delivery that stands nowhere any more: what it publishes and stores happens without it."""
    publish = disposition.publish
    if disposition.action in {"requeue", "retry_later"} and disposition.payload is not None:
        # By its eta whoever takes it parks it.
        publish = [*publish, Publication(Destination("", queue, queue), disposition.payload)]
    return replace(disposition, unheld=True, queue=queue, publish=publish)
