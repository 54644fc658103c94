"""One blocking connection that many threads share, with one stream of confirms.

Every thread writes its own request. One of those that wait, the leader, reads from the socket for all of them and wakes
each whose answer has come; when its own has come it hands over. A thread that is alone leads, so that it pays for no
other thread: it writes, it reads, it goes on.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any

from umbel.errors import BrokerConnectionError, BrokerError, ImproperlyConfigured
from umbel.stores.amqp.dialogue import Dialogue
from umbel.stores.amqp.encryption import Encryption
from umbel.stores.amqp.link import LOGIN_TIMEOUT
from umbel.stores.amqp.sockets import SharedSocket, prepare_socket

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from umbel.stores.amqp.address import Address
    from umbel.stores.amqp.confirms import Outgoing
    from umbel.stores.amqp.dialogue import Channel
    from umbel.stores.amqp.failover import Failover
    from umbel.stores.amqp.requests import Request

__all__ = ["BlockingLink", "Waiter", "open_blocking_link"]

#: A connection that was used within these seconds is used again without looking whether the server closed it.
_FRESH = 0.02
#: Seconds that the server has to answer a goodbye.
_GOODBYE_TIMEOUT = 2.0


class Waiter:
    """An answer that a thread waits for."""

    __slots__ = ("_bell", "error", "leads", "ready", "result")

    def __init__(self) -> None:
        self.ready = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.leads = False  #: it has been woken to read for all
        self._bell: Any = None

    def done(self) -> bool:
        """Whether the answer is there."""
        return self.ready

    def set_result(self, result: Any, /) -> None:
        """The answer."""
        self.result = result
        self._finish()

    def set_exception(self, error: BaseException, /) -> None:
        """There will be none."""
        self.error = error
        self._finish()

    def _finish(self) -> None:
        self.ready = True
        self.ring()

    @property
    def parked(self) -> bool:
        """Whether it waits for somebody to ring."""
        return self._bell is not None

    def park(self) -> None:
        """Have something to be woken by."""
        self._bell = threading.Lock()
        self._bell.acquire()

    def ring(self) -> None:
        """Wake the thread, if it sleeps."""
        bell = self._bell
        if bell is not None:
            with contextlib.suppress(RuntimeError):  # it was rung before
                bell.release()

    def sleep(self, seconds: float) -> None:
        """Until somebody rings or some seconds pass."""
        self._bell.acquire(timeout=max(seconds, 0.0))

    def answer(self) -> Any:
        """The result. Raises the error."""
        if self.error is not None:
            raise self.error
        return self.result


class BlockingLink:
    """A connection for any number of threads of one process.

    Methods that wait take a ``deadline`` on the monotonic clock and raise TimeoutError when it passes;
    BrokerConnectionError when the connection is lost, or, of making one, when it cannot be made by ``within``.
    """

    def __init__(self, address: Address, within: float = inf) -> None:
        self.address = address
        timeout = min(address.connect_timeout or LOGIN_TIMEOUT, max(within - time.monotonic(), 0.001))
        deadline = time.monotonic() + timeout
        self._lock = threading.Lock()  # for the dialogue, held while nothing waits
        self._sending = threading.Lock()  # who holds it writes for all
        self._roles = threading.Lock()
        self._led = False
        self._parked: deque[Waiter] = deque()
        self._unblocking: list[Waiter] = []
        self._encryption: Encryption | None = None
        self._used_at = 0.0
        try:
            self._dialogue = Dialogue(address, lambda: None)
            connected = socket.create_connection((address.host, address.port), timeout)
            try:
                prepare_socket(connected, address)
                self._socket = SharedSocket(connected)
                self._log_in(deadline)
            except BaseException:
                connected.close()
                raise
        except ImproperlyConfigured:
            raise
        except Exception as error:
            reason = (
                f"no answer within {timeout:g} seconds" if isinstance(error, TimeoutError) else str(error)
            )
            raise BrokerConnectionError(f"cannot connect to {address.display_url}: {reason}") from error

    def _log_in(self, deadline: float) -> None:
        opened = Waiter()
        if self.address.tls is not None:
            self._encryption = Encryption(self.address.tls, self.address.host)
        self._dialogue.on_open = lambda: opened.set_result(None)
        self._dialogue.on_blocked = self._told_blocked
        self._dialogue.on_lost(lambda error: None if opened.ready else opened.set_exception(error))
        self._dialogue.on_lost(self._told_lost)
        self._dialogue.begin()
        self._send(deadline)
        self.wait(opened, deadline)

    @property
    def lost(self) -> BrokerConnectionError | None:
        """Why the connection is gone; None while it holds."""
        return self._dialogue.lost

    @property
    def blocked(self) -> str | None:
        """Why the server takes no messages at present; None when it does."""
        return self._dialogue.blocked

    @property
    def received(self) -> int:
        """How often something came from the server: it is not silent while this grows."""
        return self._dialogue.received

    def refresh(self) -> bool:
        """Whether the connection holds: where nobody reads, look whether the server said goodbye meanwhile."""
        if self._dialogue.lost is None and time.monotonic() - self._used_at > _FRESH:
            looker = Waiter()
            if self._take_lead(looker):
                try:
                    while self._dialogue.lost is None and self._socket.is_readable(0):
                        self._read_some(0)
                finally:
                    self._leave(looker)
            else:
                self._leave(looker)
        return self._dialogue.lost is None

    def open_channel(self, deadline: float) -> Channel:
        """A new channel."""
        opened = Waiter()
        with self._lock:
            channel = self._dialogue.channel(opened)
        self._send(deadline)
        self.wait(opened, deadline)
        return channel

    def ask(self, channel: Channel, request: Request, deadline: float) -> tuple[Any, ...]:
        """Send a request and give the fields of its answer."""
        fields: tuple[Any, ...] = self.wait(self.begin(channel, request, deadline), deadline)
        return fields

    def begin(self, channel: Channel, request: Request, deadline: float) -> Waiter:
        """Send a request; the waiter, to be given to ``wait``, gets the fields of its answer."""
        answer = Waiter()
        self._exclusively(lambda: channel.ask(request, answer))
        self._send(deadline)
        return answer

    def publish(self, channel: Channel, messages: Sequence[Outgoing], deadline: float) -> Waiter:
        """Write messages; the waiter, to be given to ``wait``, gets their ``Confirmation``."""
        outcome = Waiter()
        self._exclusively(lambda: channel.publish(messages, outcome))
        self._send(deadline)
        return outcome

    def publish_unconfirmed(self, channel: Channel, messages: Sequence[Outgoing], deadline: float) -> None:
        """Write messages, and wait for nothing."""
        self._exclusively(lambda: channel.publish(messages, None))
        self._send(deadline)

    def acknowledge(self, channel: Channel, tag: int, deadline: float) -> None:
        """Acknowledge a delivery, and wait for nothing."""
        self._exclusively(lambda: channel.acknowledge(tag))
        self._send(deadline)

    def give_back(self, channel: Channel, tag: int, deadline: float) -> None:
        """Return a delivery to where it was in its queue, and wait for nothing."""
        self._exclusively(lambda: channel.reject(tag, requeue=True))
        self._send(deadline)

    def wait_unblocked(self, deadline: float) -> None:
        """Until the server takes messages."""
        waiter = Waiter()
        with self._lock:
            if self._dialogue.blocked is None:
                return
            self._unblocking.append(waiter)
        self.wait(waiter, deadline)

    def close(self) -> None:
        """Say goodbye and close; whoever waits gets BrokerConnectionError. Safe twice."""
        if self._dialogue.lost is None:
            deadline = time.monotonic() + _GOODBYE_TIMEOUT
            with contextlib.suppress(BrokerError, TimeoutError):
                self._exclusively(self._dialogue.say_goodbye)
                self._send(deadline)
                self.wait(Waiter(), deadline)
        self.abandon("the connection was closed")
        self._close_socket()

    def _close_socket(self) -> None:
        """Give the socket back, unless somebody reads or writes it at this moment: that ends with the last who may."""
        closer = Waiter()
        try:
            if self._take_lead(closer) and self._sending.acquire(blocking=False):
                try:
                    self._socket.close()
                finally:
                    self._sending.release()
        finally:
            self._leave(closer)

    def abandon(self, reason: str) -> None:
        """Drop the connection without a word. Safe twice."""
        with self._lock:
            self._dialogue.fail(BrokerConnectionError(reason))

    def wait(self, waiter: Waiter, deadline: float) -> Any:
        """The answer that a waiter waits for, reading for all where nobody else does."""
        try:
            while not waiter.ready:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                if self._take_lead(waiter):
                    self._lead(waiter, deadline)
                    if self._dialogue.lost is not None and not waiter.ready:
                        self._dialogue.check()
                elif not waiter.ready:  # since it was parked nobody can miss it
                    waiter.sleep(left)
        finally:
            self._leave(waiter)
        self._used_at = time.monotonic()
        return waiter.answer()

    # Who reads.

    def _take_lead(self, waiter: Waiter) -> bool:
        """Whether it is up to the waiter to read; otherwise it is parked, to be woken by its answer or to lead."""
        with self._roles:
            if waiter.leads:
                return True
            if not self._led:
                self._led = waiter.leads = True
                return True
            if not waiter.parked:
                waiter.park()
                self._parked.append(waiter)
            return False

    def _leave(self, waiter: Waiter) -> None:
        """The waiter waits no more; if it leads, another thread has to."""
        if not waiter.leads and not waiter.parked:
            return
        with self._roles:
            if waiter.parked and not waiter.leads:
                with contextlib.suppress(ValueError):
                    self._parked.remove(waiter)
            if not waiter.leads:
                return
            waiter.leads = False
            while self._parked:
                successor = self._parked.popleft()
                if not successor.ready:
                    successor.leads = True
                    successor.ring()
                    return
            self._led = False

    def _lead(self, waiter: Waiter, deadline: float) -> None:
        """Read until the waiter has its answer."""
        while not waiter.ready and self._dialogue.lost is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self._read_some(left)

    def _read_some(self, seconds: float) -> None:
        try:
            data = self._socket.receive(seconds)
        except OSError as error:
            self._fail(error)
            return
        if data is None:
            return
        with self._lock:
            try:
                if not data:
                    self._dialogue.closed_by_peer(None)
                else:
                    self._dialogue.feed(data if self._encryption is None else self._encryption.decrypt(data))
            except OSError as error:  # of the encryption
                self._dialogue.fail(error)
            except BaseException:
                self._dialogue.fail(BrokerConnectionError("reading from RabbitMQ was interrupted"))
                raise
        if self._dialogue.lost is None and self._has_output():
            with contextlib.suppress(TimeoutError):  # the next who writes takes the rest along
                self._send(time.monotonic() + 1.0)

    # Who writes.

    def _exclusively(self, act: Callable[[], Any]) -> None:
        """Have the dialogue to oneself. What interrupts that leaves it of no use to others."""
        with self._lock:
            try:
                act()
            except BrokerError:
                raise
            except BaseException:
                self._dialogue.fail(BrokerConnectionError("writing to RabbitMQ was interrupted"))
                raise

    def _has_output(self) -> bool:
        return self._dialogue.has_output or (self._encryption is not None and self._encryption.has_output)

    def _send(self, deadline: float) -> None:
        """Write what there is, for everyone. What is not taken by the deadline is left for the next."""
        while self._dialogue.lost is None and self._has_output():
            if not self._sending.acquire(blocking=False):
                return  # who holds it looks again after letting go
            try:
                self._send_all(deadline)
            finally:
                self._sending.release()

    def _send_all(self, deadline: float) -> None:
        while True:
            with self._lock:
                out = self._take_output()
            if not out:
                return
            try:
                sent = self._socket.send(out)
            except OSError as error:
                self._fail(error)
                return
            if sent < len(out):
                del out[:sent]
                self._put_back(out)
                if not self._socket.is_writable(deadline - time.monotonic()):
                    raise TimeoutError

    def _take_output(self) -> bytearray:
        """What is to be written; the dialogue is locked."""
        out = self._dialogue.take()
        if self._encryption is None or self._dialogue.lost is not None:
            return out
        try:
            return self._encryption.encrypt(out)
        except OSError as error:
            self._dialogue.fail(error)
            return bytearray()

    def _put_back(self, rest: bytearray) -> None:
        with self._lock:
            if self._encryption is None:
                self._dialogue.put_back(rest)
            else:
                self._encryption.put_back(rest)

    # What the dialogue tells; it is locked.

    def _told_blocked(self, reason: str | None) -> None:
        if reason is None:
            waiting, self._unblocking = self._unblocking, []
            for waiter in waiting:
                waiter.set_result(None)

    def _told_lost(self, error: BrokerConnectionError) -> None:
        waiting, self._unblocking = self._unblocking, []
        for waiter in waiting:
            waiter.set_exception(BrokerConnectionError(str(error)))
        with contextlib.suppress(OSError):
            # What the goodbye was answered with still leaves; whoever reads wakes up.
            if self._encryption is None and self._dialogue.has_output:
                self._socket.send(self._dialogue.take())
            self._socket.shut()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._dialogue.fail(error)

    def __del__(self) -> None:
        # Programs need not close their applications, and a forked one forgets its parent's connections.
        with contextlib.suppress(AttributeError):
            self._socket.close()


def open_blocking_link(failover: Failover, within: float = inf) -> BlockingLink:
    """Connect and log in, trying each address once. Raises BrokerConnectionError when none lets us in.

    ``within`` is an instant of the monotonic clock after which it is not waited any more.
    """
    failed: list[BrokerConnectionError] = []
    for _ in failover.addresses:
        address = failover.current
        try:
            return BlockingLink(address, within)
        except BrokerConnectionError as error:
            failover.failed(address)
            failed.append(error)
    if len(failed) == 1:
        raise failed[0]
    raise BrokerConnectionError("; ".join(map(str, failed))) from failed[-1]
