"""One connection on which all threads of a process wait for published values.

A waiter subscribes to its channels and reads the keys of the same names on the same connection, in that order, so that
nothing falls between. There is no background thread: of the threads that wait, one reads for all (the leader); when it
has what it came for, it hands the reading on to the next. A connection that is lost is made again by the leader, who
then subscribes to everything and reads everything again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import closing
from typing import TYPE_CHECKING, Any

from hiredis import PushNotification

from umbel.errors import BrokerConnectionError
from umbel.stores.redis.blocking import BlockingLink, NothingSentError, open_blocking
from umbel.stores.redis.commands import pack_command
from umbel.stores.redis.replies import ReplyError, check, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from umbel.stores.redis.address import Address

#: Seconds within which a server that is there answers.
_REPLY_TIMEOUT = 15.0
#: Seconds of silence after which the leader asks whether the server is still there.
_SILENCE = 30.0
#: Seconds between attempts to connect again: from, to; and how long it is tried before a wait fails.
_RETRY = (0.02, 1.0)
_GIVE_UP = 30.0
#: Channels in one command.
_CHUNK = 1000
#: Channels that nobody waits for any more and that are left only with the next wait, at the most.
_STALE = 50
#: Bytes of a value that a subscriber had better not be sent.
BIG_VALUE = 1024 * 1024


class Waiter:
    """One wait for some channels, by one thread."""

    def __init__(self, channels: Sequence[bytes]) -> None:
        self.channels = channels
        self.arrivals: deque[tuple[bytes, bytes]] = deque()
        self.woken = threading.Event()
        self.heard = False  #: whether anything has ever arrived
        self.unread = 0  #: how many of the first reads of its keys have not been answered


class Inbox:
    """Waiters of one process on one connection."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._link: BlockingLink | None = None
        self._table: dict[bytes, list[Waiter]] = {}
        self._reads: deque[tuple[Sequence[bytes], Waiter | None]] = deque()
        self._parked: dict[Waiter, None] = {}
        self._stale: list[bytes] = []
        self._leader: Waiter | None = None
        self._heard_at = 0.0
        self._failing_since: float | None = None
        self._pause = _RETRY[0]

    def links(self) -> list[BlockingLink]:
        """Its connection, if it has one."""
        link = self._link
        return [] if link is None else [link]

    def join(self, channels: Sequence[bytes]) -> Waiter:
        """Subscribe, and read what is there already; ``take`` gives both."""
        waiter = Waiter(channels)
        with self._lock:
            fresh = [channel for channel in channels if channel not in self._table]
            for channel in channels:
                self._table.setdefault(channel, []).append(waiter)
            waiter.unread = -(-len(channels) // _CHUNK)
            if self._link is not None:
                left = self._take_stale()
                self._write(b"".join([*left, *_commands(b"SUBSCRIBE", fresh), *self._questions(channels)]))
                self._reads.extend((chunk, waiter) for chunk in chunks_of(channels))
        return waiter

    def leave(self, waiter: Waiter, channels: Sequence[bytes] | None = None) -> None:
        """Wait for some channels no more, or for any."""
        with self._lock:
            unused = []
            for channel in waiter.channels if channels is None else channels:
                waiters = self._table.get(channel)
                if waiters is not None and waiter in waiters:
                    waiters.remove(waiter)
                    if not waiters:
                        del self._table[channel]
                        unused.append(channel)
            if unused and self._link is not None:
                self._stale += unused
                # A result has come, so nothing more will; leaving now would cost as much as the wait did.
                if not waiter.heard or len(self._stale) > _STALE:
                    self._write(b"".join(self._take_stale()))

    def take(self, waiter: Waiter, timeout: float | None) -> list[tuple[bytes, bytes]]:
        """What has arrived, (channel, value), at least one; waits for it.

        Raises TimeoutError after ``timeout`` seconds, but not before the first reading of the keys was answered;
        BrokerConnectionError when the server cannot be reached for half a minute.
        """
        end = None if timeout is None else time.monotonic() + timeout
        try:
            while not waiter.arrivals:
                if self._lead_or_park(waiter):
                    self._lead(waiter, end)
                else:
                    waiter.woken.wait(_left(end, waiter))
                if not waiter.arrivals and _left(end, waiter) == 0:
                    raise TimeoutError
        finally:
            self._hand_over(waiter)
        arrived = []
        while waiter.arrivals:
            arrived.append(waiter.arrivals.popleft())
        return arrived

    def close(self) -> None:
        """Close the connection; whoever waits makes a new one. Safe twice."""
        with self._lock:
            self._drop_link()

    def _lead_or_park(self, waiter: Waiter) -> bool:
        with self._lock:
            if self._leader is None or self._leader is waiter:
                self._leader = waiter
                return True
            waiter.woken.clear()
            if waiter.arrivals:
                waiter.woken.set()
            self._parked[waiter] = None
            return False

    def _hand_over(self, waiter: Waiter) -> None:
        """Done waiting: whoever leads now, or was asked to, leaves somebody else to read."""
        with self._lock:
            self._parked.pop(waiter, None)
            if self._leader is waiter:
                self._leader = None
            if self._leader is None and self._parked:
                next(iter(self._parked)).woken.set()

    def _lead(self, waiter: Waiter, end: float | None) -> None:
        """Read for everyone until something has arrived for this waiter, or its time is up."""
        while not waiter.arrivals:
            left = _left(end, waiter)
            if left == 0:
                return
            try:
                self._read_once(_SILENCE if left is None else min(left, _SILENCE))
            except (BrokerConnectionError, NothingSentError, TimeoutError, OSError) as error:
                self._lose(error, left)

    def _read_once(self, timeout: float) -> None:
        with self._lock:
            link = self._link or self._connect()
        waiting_for_reply = bool(self._reads)
        if link.is_readable(min(timeout, _REPLY_TIMEOUT) if waiting_for_reply else timeout):
            with self._lock:
                for reply in link.read():
                    self._dispatch(reply)
                self._heard_at = time.monotonic()
                self._failing_since, self._pause = None, _RETRY[0]
            return
        silence = time.monotonic() - self._heard_at
        if waiting_for_reply and silence >= _REPLY_TIMEOUT:
            raise BrokerConnectionError(f"Redis did not answer within {_REPLY_TIMEOUT:g} seconds")
        if not waiting_for_reply and silence >= _SILENCE:
            with self._lock:
                self._heard_at = time.monotonic()
                self._reads.append(((), None))
                link.write(pack_command((b"PING",)), _REPLY_TIMEOUT)

    def _lose(self, error: Exception, left: float | None) -> None:
        """The connection is lost or could not be made: wait a little before the next attempt."""
        now = time.monotonic()
        with self._lock:
            self._drop_link()
            self._failing_since = self._failing_since or now
            if now - self._failing_since > _GIVE_UP:
                self._failing_since = None
                raise BrokerConnectionError(f"cannot wait for results: {error}") from error
            pause, self._pause = self._pause, min(self._pause * 2, _RETRY[1])
        time.sleep(pause if left is None else min(pause, left))

    def _connect(self) -> BlockingLink:
        """Connect, subscribe to everything and read everything again."""
        if self._failing_since is not None:
            self._read_apart()
        link = open_blocking(self._address, protocol=3)
        channels = list(self._table)
        big = set() if self._failing_since is None else self._read_before_subscribing(link, channels)
        self._link = link
        self._heard_at = time.monotonic()
        read = [channel for channel in channels if channel not in big]
        for waiters in self._table.values():
            for waiter in waiters:
                waiter.unread = -(-len(read) // _CHUNK)
        self._write(b"".join([*_commands(b"SUBSCRIBE", channels), *self._questions(read)]))
        self._reads.extend((chunk, None) for chunk in chunks_of(read))
        return link

    def _read_before_subscribing(self, link: BlockingLink, channels: Sequence[bytes]) -> set[bytes]:
        """Give what is there; the channels whose values are too big to be read once more.

        Redis ends the connection of a subscriber that has 32 MB to come, published or read. That may be why it was
        lost.
        """
        big = set()
        for chunk in chunks_of(channels):
            for channel, value in zip(chunk, self._values_of(link, chunk), strict=True):
                if value is not None and len(value) >= BIG_VALUE:
                    self._give(channel, value, self._table.get(channel, ()))
                    big.add(channel)
        return big

    def _read_apart(self) -> None:
        """Read everything on a connection that subscribes to nothing.

        Redis closes a subscriber's connection when more is to be written to it than its buffer may hold (32 MB where
        nothing else is configured). Whoever waits for a bigger value would be disconnected again each time.
        """
        with closing(open_blocking(self._address)) as link:
            for chunk in chunks_of(list(self._table)):
                for channel, value in zip(chunk, self._values_of(link, chunk), strict=True):
                    if value is not None:
                        self._give(channel, value, self._table.get(channel, ()))

    def _write(self, packed: bytes) -> None:
        assert self._link is not None, "asked for by whoever holds a link"
        if not self._reads:
            self._heard_at = time.monotonic()  # the time to answer begins now
        try:
            self._link.write(packed, _REPLY_TIMEOUT)
        except (NothingSentError, BrokerConnectionError, TimeoutError):
            # The leader will find the connection dead, make a new one and ask for everything again.
            self._link.shut()

    def _take_stale(self) -> list[bytes]:
        stale, self._stale = self._stale, []
        return _commands(b"UNSUBSCRIBE", stale)

    def _drop_link(self) -> None:
        self._stale.clear()
        if self._link is not None:
            self._link.close()
        self._link = None
        self._reads.clear()

    def _dispatch(self, reply: Any) -> None:
        if type(reply) is PushNotification:
            if reply[0] == b"message":
                self._give(reply[1], reply[2], self._table.get(reply[1], ()))
            return
        if isinstance(reply, ReplyError):
            raise refusal(reply)
        channels, only = self._reads.popleft()
        if channels:
            self._answer(channels, only, self._values(channels, reply))

    def _questions(self, channels: Sequence[bytes]) -> list[bytes]:
        """The commands that ask for the values of channels, a chunk each."""
        return _commands(b"MGET", channels)

    def _values(self, channels: Sequence[bytes], reply: Any) -> Sequence[bytes | None]:
        """The values of a chunk, for the reply to its question."""
        values: Sequence[bytes | None] = reply
        return values

    def _values_of(self, link: BlockingLink, channels: Sequence[bytes]) -> Sequence[bytes | None]:
        """The values of a chunk, asked for on a connection that nobody reads from."""
        [values] = link.call(pack_command((b"MGET", *channels)), 1, _REPLY_TIMEOUT)
        found: Sequence[bytes | None] = check(values)
        return found

    def _answer(self, channels: Sequence[bytes], only: Waiter | None, reply: Sequence[bytes | None]) -> None:
        """Hand out what was read from keys: to the one who asked, or to all who wait."""
        readers = (
            {only} if only is not None else {w for channel in channels for w in self._table.get(channel, ())}
        )
        for waiter in readers:
            waiter.unread -= 1
            waiter.woken.set()
        for channel, value in zip(channels, reply, strict=True):
            if value is not None:
                waiters = self._table.get(channel, ())
                self._give(channel, value, waiters if only is None else [w for w in waiters if w is only])

    @staticmethod
    def _give(channel: bytes, value: bytes, waiters: Sequence[Waiter]) -> None:
        for waiter in waiters:
            waiter.heard = True
            waiter.arrivals.append((channel, value))
            waiter.woken.set()


def _left(end: float | None, waiter: Waiter) -> float | None:
    """Seconds until a wait's time is up; a waiter whose keys have not been read has not begun to wait."""
    if end is None:
        return None
    left = max(end - time.monotonic(), 0.0)
    return max(left, 0.001) if waiter.unread > 0 else left


def chunks_of(channels: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Channels as they go into one command."""
    for start in range(0, len(channels), _CHUNK):
        yield channels[start : start + _CHUNK]


def _commands(name: bytes, channels: Sequence[bytes]) -> list[bytes]:
    return [pack_command((name, *chunk)) for chunk in chunks_of(channels)]
