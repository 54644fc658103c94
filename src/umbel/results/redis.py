"""Results in Redis or Valkey: Celery's keys, documents and channels.

A document is stored and published on the channel of its key's name in one step, so a wait ends within a millisecond
of the result. All waits of a process share one connection (``stores.redis.inbox``), all of an event loop another.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from contextlib import contextmanager
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from umbel.core.states import SUCCESS
from umbel.errors import BackendError, BackendStoreError, BrokerError, OperationalError
from umbel.errors import TimeoutError as ResultTimeoutError
from umbel.results.documents import read_document
from umbel.results.options import is_true
from umbel.results.watch import Watch
from umbel.stores.redis.address import warn_unknown
from umbel.stores.redis.blocking import LinkPool
from umbel.stores.redis.cluster import parse_place
from umbel.stores.redis.commands import pack_command
from umbel.stores.redis.connecting import client_of
from umbel.stores.redis.inbox import Inbox
from umbel.stores.redis.loopside import LoopSide
from umbel.stores.redis.replies import check
from umbel.stores.redis.results import (
    CLAIM_CHORDS,
    OPEN_CHORD,
    RESULT_PREFIX,
    SAVE_RESULTS,
    ChordSteps,
    Expiries,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

    from umbel.core.records import ChordEnd, DueChord, ResultRecord
    from umbel.results.options import ResultOptions
    from umbel.stores.redis.address import Address
    from umbel.stores.redis.link import Link
    from umbel.stores.redis.scripts import Script

    Argument = bytes | str | float

#: Celery's ``redis_socket_timeout``.
_SOCKET_TIMEOUT: Final = 120.0
_CONNECT_TIMEOUT: Final = 30.0
#: Documents in one command.
_CHUNK: Final = 1000
_MOST_BYTES: Final = 1024 * 1024
#: How Celery and Umbel begin a JSON document; anything else is decoded to learn its state.
_STATUS: Final = re.compile(rb'\s*\{\s*"status"\s*:\s*"([^"\\]*)"')
#: Options of Celery's that have nothing to do here.
_WITHOUT_MEANING: Final = frozenset(
    {
        "additional_connection_errors",
        "credential_provider",
        "health_check_interval",
        "retry_on_timeout",
        "retry_policy",
        "visibility_timeout",
    }
)


class RedisResultBackend:
    """Documents in one database of a Redis server.

    Args:
        url: ``redis://``, ``rediss://``, ``valkey://``, ``redis+socket://`` or ``sentinel://``, as Celery takes it;
            several with ``;`` between them.
        options: the application's; ``transport`` takes Celery's ``redis_*`` settings without that prefix, and
            ``global_keyprefix`` and ``result_chord_ordered``.

    Raises ImproperlyConfigured for what it cannot read.
    """

    stores_results = True
    native_chords = True

    def __init__(self, url: str, options: ResultOptions) -> None:
        self._set_up(options, *parse_place(url, *self.parsing(options)))
        self._inbox = self._new_inbox()

    @staticmethod
    def parsing(options: ResultOptions) -> tuple[dict[str, Any], Any, float]:
        """What to read a URL with: options, TLS, and how long a connection may take."""
        return {"socket_timeout": _SOCKET_TIMEOUT, **options.transport}, options.use_ssl, _CONNECT_TIMEOUT

    def _set_up(self, options: ResultOptions, address: Address, rest: dict[str, Any]) -> None:
        self._address = address
        self._prefix = _key_prefix(rest.pop("global_keyprefix", "") or "")
        ordered = bool(rest.pop("result_chord_ordered", True))
        self._gives_text = is_true(rest.pop("decode_responses", False))
        limit = rest.pop("max_connections", None)
        warn_unknown(tuple(sorted(set(rest) - _WITHOUT_MEANING)))
        self.serializer = options.serializer
        self.options = options
        # A prefix of its own makes it a store of its own: the broker's settle writes keys without one.
        self.store = self._address.identity + (f"#{self._prefix}" if self._prefix else "")
        self.display_url = self._address.display_url
        self._expiries = Expiries(options.lifetime)
        self._chords = ChordSteps(self._prefix, options.chord_lifetime(), ordered)
        self._timeout = self._address.socket_timeout or _SOCKET_TIMEOUT
        self._limit = int(limit) if limit else None
        self._pool = LinkPool(self._address, self._limit)
        self._inbox_pid = os.getpid()
        self._sides: list[LoopSide] = []

    @classmethod
    def from_url(cls, url: str, options: ResultOptions) -> RedisResultBackend:
        """The backend of a URL; nothing is connected yet."""
        return cls(url, options)

    @cached_property
    def client(self) -> Any:
        """A client of redis-py for the same database, for programs that look at Celery's keys; Umbel does not use it.

        The URL's ``decode_responses=true`` has it give text.
        """
        return self._new_client()

    def _new_client(self) -> Any:
        client = client_of(self._address, self._gives_text)
        # It needs redis-py, which only this client has had imported.
        from umbel.stores.redis.shown import show

        show(client.connection_pool, lambda: [*self._pool.links(), *self._inbox.links()])
        return client

    def expect(self, task_ids: Sequence[str]) -> None:
        """Waits subscribe before they read, so there is nothing to prepare."""

    def save(self, records: Sequence[ResultRecord]) -> list[DueChord]:
        """As ResultBackend.save. Raises OperationalError without a connection, BackendStoreError when Redis refuses."""
        due: list[DueChord] = []
        with errors(f"{len(records)} results were not confirmed within {self._timeout:g} seconds"):
            for arguments in self._save_arguments(records):
                reply = self._pool.run(SAVE_RESULTS, _first_key(arguments), arguments, self._timeout)
                due += self._check_saved(reply)
        return due

    async def asave(self, records: Sequence[ResultRecord]) -> list[DueChord]:
        """As ``save``."""
        due: list[DueChord] = []
        for arguments in self._save_arguments(records):
            due += self._check_saved(await self._run(SAVE_RESULTS, _first_key(arguments), arguments))
        return due

    async def _run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[Argument]) -> Any:
        async def run(link: Link) -> Any:
            return await link.run(script, keys, arguments)

        return await self._side().repeat(run)

    def _check_saved(self, reply: list[Any]) -> list[DueChord]:
        refused, due = reply
        if refused:
            text = refused[0].decode("utf-8", "replace")
            raise BackendStoreError(f"Redis refused to store {len(refused)} result(s): {text}")
        return self._read_due(due) if due else []

    def _read_due(self, flat: Sequence[Any]) -> list[DueChord]:
        return self._chords.read_due(flat)

    def load(self, task_ids: Sequence[str]) -> list[bytes | None]:
        """As ResultBackend.load. Raises OperationalError without a connection."""
        found: list[bytes | None] = []
        with errors(f"{len(task_ids)} results could not be read within {self._timeout:g} seconds"):
            for packed in self._commands(b"MGET", task_ids):
                found += check(self._pool.call(packed, 1, self._timeout)[0])
        return found

    async def aload(self, task_ids: Sequence[str]) -> list[bytes | None]:
        """As ``load``."""
        found: list[bytes | None] = []
        for packed in self._commands(b"MGET", task_ids):

            async def read(link: Link, packed: bytes = packed) -> Any:
                return check((await link.send(packed))[0])

            found += await self._side().repeat(read)
        return found

    def wait(self, task_ids: Iterable[str], timeout: float | None) -> Iterator[tuple[str, bytes]]:
        """As ResultBackend.wait. A lost connection is made again; OperationalError after half a minute without one."""
        watch = Watch(task_ids)
        if not watch.pending:
            return
        channels = {self._key(task_id): task_id for task_id in watch.pending}
        inbox = self._own_inbox()
        waiter = inbox.join(list(channels))
        try:
            deadline = _deadline(timeout)
            while watch.pending:
                try:
                    arrived = inbox.take(waiter, None if deadline is None else deadline - time.monotonic())
                except TimeoutError:
                    raise ResultTimeoutError(watch.overdue(timeout)) from None
                for item in self._news(watch, channels, arrived):
                    yield item
                    deadline = _deadline(timeout)
        finally:
            inbox.leave(waiter)

    async def await_(
        self, task_ids: Iterable[str], timeout: float | None
    ) -> AsyncIterator[tuple[str, bytes]]:
        """As ``wait``."""
        watch = Watch(task_ids)
        if not watch.pending:
            return
        channels = {self._key(task_id): task_id for task_id in watch.pending}
        side = self._side()
        waiter = await side.join(list(channels))
        try:
            while watch.pending:
                for item in await self._next_news(watch, channels, side.take(waiter), timeout):
                    yield item
        finally:
            side.leave(waiter)

    async def _next_news(
        self, watch: Watch, channels: dict[bytes, str], taking: Any, timeout: float | None
    ) -> list[tuple[str, bytes]]:
        try:
            async with asyncio.timeout(timeout):
                return self._news(watch, channels, await taking)
        except TimeoutError:
            raise ResultTimeoutError(watch.overdue(timeout)) from None

    def _news(
        self, watch: Watch, channels: dict[bytes, str], arrived: list[tuple[bytes, bytes]]
    ) -> list[tuple[str, bytes]]:
        return watch.news((channels[channel], self._state_of(value), value) for channel, value in arrived)

    def _state_of(self, document: bytes) -> str:
        match = _STATUS.match(document)
        if match:
            return match[1].decode()
        status: str = read_document(document, self.serializer)["status"]
        return status

    def forget(self, task_ids: Sequence[str]) -> None:
        """As ResultBackend.forget. Raises OperationalError without a connection."""
        with errors(f"{len(task_ids)} results could not be deleted within {self._timeout:g} seconds"):
            for packed in self._commands(b"DEL", task_ids):
                check(self._pool.call(packed, 1, self._timeout)[0])

    def save_group(self, group_id: str, document: bytes) -> None:
        """As ResultBackend.save_group; published like a result, as Celery does."""
        key = self._group_key(group_id)
        expires = self._expiries.get(SUCCESS)
        store = (b"SETEX", key, expires, document) if expires else (b"SET", key, document)
        packed = pack_command(store) + pack_command((b"PUBLISH", key, document))
        with errors(f"group {group_id} was not confirmed within {self._timeout:g} seconds"):
            for reply in self._pool.call(packed, 2, self._timeout):
                check(reply)

    def load_group(self, group_id: str) -> bytes | None:
        """As ResultBackend.load_group."""
        found: bytes | None = self._ask((b"GET", self._group_key(group_id)))
        return found

    def forget_group(self, group_id: str) -> None:
        """As ResultBackend.forget_group."""
        self._ask((b"DEL", self._group_key(group_id)))

    def open_chord(self, group_id: str, size: int) -> None:
        """As ResultBackend.open_chord."""
        with errors(f"the size of chord {group_id} was not confirmed within {self._timeout:g} seconds"):
            arguments = (size, self._chords.expires)
            self._pool.run(OPEN_CHORD, (self._group_key(group_id),), arguments, self._timeout)

    def extend_chord(self, group_id: str, more: int = 1) -> None:
        """As ResultBackend.extend_chord."""
        self._ask((b"INCRBY", self._group_key(group_id) + b".t", more))

    def chord_entries(self, group_id: str) -> list[bytes]:
        """As ResultBackend.chord_entries."""
        key = self._group_key(group_id) + b".j"
        names = (b"ZRANGE", b"LRANGE") if self._chords.ordered else (b"LRANGE", b"ZRANGE")
        entries: list[bytes]
        try:
            entries = self._ask((names[0], key, 0, -1))
        except BackendError as error:
            if "WRONGTYPE" not in str(error):
                raise
            # Counted by workers whose result_chord_ordered is not this one's.
            entries = self._ask((names[1], key, 0, -1))
        return entries

    def chord_size(self, group_id: str) -> int:
        """As ResultBackend.chord_size."""
        group = self._group_key(group_id)
        size, extra = self._ask((b"MGET", group + b".s", group + b".t"))
        return int(size) + int(extra or 0) if size else 0

    async def aclaim_chords(self, realms: Sequence[str], patience: float) -> list[DueChord]:
        """As ResultBackend.aclaim_chords."""
        keys = [key.encode() for realm in realms for key in self._chords.due_keys(realm)]
        return self._chords.read_due(await self._run(CLAIM_CHORDS, keys, (max(ceil(patience), 1),)))

    async def aend_chords(self, ends: Sequence[ChordEnd]) -> None:
        """As ResultBackend.aend_chords."""
        arguments = [operand for end in ends for operand in (b"C", *self._chords.end(end))]
        self._check_saved(await self._run(SAVE_RESULTS, _first_key(arguments), arguments))

    def _ask(self, command: tuple[Argument, ...]) -> Any:
        with errors(f"Redis did not answer within {self._timeout:g} seconds"):
            return check(self._pool.call(pack_command(command), 1, self._timeout)[0])

    def close(self) -> None:
        """Close every connection. Safe twice; the backend may be used again."""
        self._pool.close()
        if self._inbox_pid == os.getpid():
            self._inbox.close()
        sides, self._sides = self._sides, []
        for side in sides:
            side.close()
        if (client := vars(self).pop("client", None)) is not None:
            client.close()

    def _own_inbox(self) -> Inbox:
        """The process's inbox: a child's of its own, because the parent reads what arrives on an inherited one."""
        if self._inbox_pid != os.getpid():
            self._inbox = self._new_inbox()
            self._inbox_pid = os.getpid()
        return self._inbox

    def _side(self) -> LoopSide:
        """The connection of the running event loop."""
        loop = asyncio.get_running_loop()
        for side in self._sides:
            if side.loop is loop:
                return side
        self._sides = [side for side in self._sides if not side.loop.is_closed()]
        side = self._new_side()
        self._sides.append(side)
        return side

    def _new_inbox(self) -> Inbox:
        return Inbox(self._address)

    def _new_side(self) -> LoopSide:
        return LoopSide(self._address)

    def _key(self, task_id: str) -> bytes:
        return f"{self._prefix}{RESULT_PREFIX}{task_id}".encode()

    def _group_key(self, group_id: str) -> bytes:
        return self._chords.group_key(group_id).encode()

    def _commands(self, name: bytes, task_ids: Sequence[str]) -> Iterator[bytes]:
        for start in range(0, len(task_ids), _CHUNK):
            yield pack_command((name, *map(self._key, task_ids[start : start + _CHUNK])))

    def _save_arguments(self, records: Sequence[ResultRecord]) -> Iterator[list[Argument]]:
        arguments: list[Argument] = []
        size = 0
        for record in records:
            if record.document:
                expires = self._expiries.get(record.state)
                arguments += (b"R", self._key(record.task_id), record.document, record.state, expires)
                size += len(record.document)
            if record.chord is not None:
                arguments += (b"N", *self._chords.count(record.task_id, record.chord))
                size += len(record.chord.entry) + len(record.chord.body)
            if size > _MOST_BYTES or len(arguments) >= 5 * _CHUNK:
                yield arguments
                arguments, size = [], 0
        if arguments:
            yield arguments


def _first_key(arguments: Sequence[Argument]) -> tuple[bytes]:
    """One of the keys of save_results.lua, by which a cluster tells whose they are: each step begins with one."""
    key = arguments[1]
    return (key if isinstance(key, bytes) else str(key).encode(),)


def _key_prefix(prefix: str) -> str:
    """Celery puts an underscore between the prefix and the key unless the prefix ends in punctuation of its own."""
    return prefix if not prefix or prefix[-1] in ":_-." else f"{prefix}_"


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


@contextmanager
def errors(overdue: str) -> Iterator[None]:
    """Say what did not happen in time, and that Redis refused as a backend's error."""
    try:
        yield
    except TimeoutError as error:
        raise OperationalError(overdue) from error
    except BrokerError as error:
        if type(error) is BrokerError:
            raise BackendError(str(error)) from error
        raise
