"""A schedule store in Redis or Valkey. All keys have one hash tag, so that they are in one slot of a cluster."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from umbel.brokers.redis.publisher import Companion, RedisPublisher
from umbel.errors import BrokerConnectionError
from umbel.scheduler.stores.base import Run, Standing, StoredEntry, VersionConflictError
from umbel.stores.redis.blocking import LinkPool
from umbel.stores.redis.cluster import parse_place
from umbel.stores.redis.commands import pack_command
from umbel.stores.redis.replies import check
from umbel.stores.redis.scripts import load_script, pack_script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from umbel.stores.redis.scripts import Script

__all__ = ["RedisScheduleStore"]

_PACKAGE: Final = "umbel.scheduler.stores"
_LEAD: Final = load_script((_PACKAGE, "lead.lua"))
_RESIGN: Final = load_script((_PACKAGE, "resign.lua"))
_CLAIM: Final = load_script((_PACKAGE, "claim_tick.lua"))
_CONFIRM: Final = load_script((_PACKAGE, "confirm_tick.lua"))
_CHANGE: Final = load_script((_PACKAGE, "change_entry.lua"))
#: Seconds that an answer may take: less than a lease, so that who cannot renew it knows in time.
_TIMEOUT: Final = 4.0


class RedisScheduleStore:
    """Keys ``umbel:beat:{scope}:…`` in one database; the time is the server's.

    Args:
        url: ``redis://``, ``rediss://``, ``valkey://``, ``redis+socket://`` or ``redis+cluster://``.
        scope: the application's.
        transport: options as those of the broker; ``global_keyprefix`` stands before the keys.
        use_ssl: as ``broker_use_ssl``.
    """

    def __init__(
        self, url: str, scope: str, transport: Mapping[str, Any] | None = None, *, use_ssl: Any = None
    ) -> None:
        own = f"umbel:beat:{{{scope}}}:"
        self._address, rest = parse_place(url, transport or {}, use_ssl, _TIMEOUT, key=own)
        self.display_url = self._address.display_url
        self.scope = scope
        self._prefix = f"{rest.get('global_keyprefix') or ''}{own}"
        self._pool = LinkPool(self._address, 2)

    def _key(self, name: str) -> bytes:
        return f"{self._prefix}{name}".encode()

    def _run(self, script: Script, keys: Sequence[str], *arguments: str | bytes | int) -> Any:
        try:
            return self._pool.run(script, [self._key(key) for key in keys], arguments, _TIMEOUT)
        except TimeoutError as error:
            raise self._overdue() from error

    def _ask(self, *command: str | bytes) -> Any:
        try:
            return check(self._pool.call(pack_command(command), 1, _TIMEOUT)[0])
        except TimeoutError as error:
            raise self._overdue() from error

    def _overdue(self) -> BrokerConnectionError:
        return BrokerConnectionError(f"{self.display_url} did not answer within {_TIMEOUT:g} seconds")

    def now(self) -> float:
        seconds, microseconds = self._ask(b"TIME")
        return int(seconds) + int(microseconds) / 1e6

    def lead(self, role: str, identity: str, lease: float, over: str = "") -> Standing:
        leader, revision = self._run(_LEAD, (f"leader:{role}", "revision"), identity, int(lease * 1000), over)
        return Standing(leader.decode(), int(revision))

    def resign(self, role: str, identity: str) -> None:
        self._run(_RESIGN, (f"leader:{role}",), identity)

    def claim(self, name: str, run: Run, identity: str) -> bool:
        # repr keeps a float as it is.
        return bool(self._run(_CLAIM, ("runs",), name, run.serial, repr(run.due), repr(run.at), identity))

    def confirm(self, name: str, serial: int) -> None:
        self._run(_CONFIRM, ("runs",), name, serial)

    @contextmanager
    def confirming(
        self, publisher: object, name: str, serial: int, task_id: str
    ) -> Iterator[Callable[[], bool]]:
        if not isinstance(publisher, RedisPublisher) or publisher.store != self._address.identity:
            yield lambda: False
            return
        # A server that does not know the script refuses it, which costs the tick a confirmation of its own.
        command = pack_script(_CONFIRM, [self._key("runs")], (name, serial))
        companion = Companion(task_id, command)
        publisher.companion = companion
        try:
            yield lambda: companion.done
        finally:
            publisher.companion = None

    def runs(self) -> dict[str, Run]:
        found = {}
        for name, text in _pairs(self._ask(b"HGETALL", self._key("runs"))):
            serial, due, at, sent, _ = text.decode().split(" ", 4)
            found[name] = Run(int(serial), float(due), float(at), sent == "1")
        return found

    def entries(self) -> dict[str, StoredEntry]:
        # The versions first: an entry that is changed between the two questions then seems older than it is, and who
        # changes it by what was read is refused.
        versions = dict(_pairs(self._ask(b"HGETALL", self._key("versions"))))
        found = {}
        for name, document in _pairs(self._ask(b"HGETALL", self._key("entries"))):
            entry = msgspec.json.decode(document, type=StoredEntry)
            found[name] = msgspec.structs.replace(entry, version=int(versions.get(name, 0)))
        return found

    def put(self, entry: StoredEntry) -> StoredEntry:
        version = self._change(entry.name, entry.version, msgspec.json.encode(entry))
        return msgspec.structs.replace(entry, version=version)

    def remove(self, name: str, version: int) -> None:
        self._change(name, version, b"")

    def _change(self, name: str, version: int, document: bytes) -> int:
        keys = ("entries", "versions", "revision", "runs")
        made = int(self._run(_CHANGE, keys, name, version, document))
        if not made:
            raise VersionConflictError(f"the entry {name!r} has been changed; read it again")
        return made

    def close(self) -> None:
        self._pool.close()


def _pairs(flat: Sequence[bytes]) -> list[tuple[str, bytes]]:
    return [(name.decode(), value) for name, value in zip(flat[::2], flat[1::2], strict=True)]
