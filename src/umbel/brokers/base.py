"""The contract of a broker: where messages wait.

A message is at any instant in exactly one place: a queue, the delayed store, one consumer's held set, the dead
letters, or settled and gone. Every move between two places is one atomic operation of the broker, so that any process
may be killed at any instruction. ``umbel.testing.contracts.broker`` is the suite that judges an adapter.

What travels is a *payload*: an envelope as bytes, in one of the two forms that ``core.protocol`` reads. Brokers that
share kombu's virtual layout carry kombu's JSON; brokers that carry headers apart use the native form. ``pack`` makes
the broker's own form, so that nobody else needs to know which it is.

Apart from messages there are *broadcasts*: a publication whose destination is of type ``fanout`` (orders) or
``broadcast`` (events; a topic exchange where the broker has those) waits in no queue. It
goes to every subscription of its exchange and routing key that is open at that moment, and is gone. Nothing of the
above holds for them: they are neither held nor settled nor sent again, and they may be lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import msgspec

from umbel.core.causes import Cause

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence

    from umbel.core.bindings import Binding
    from umbel.core.causes import Losses
    from umbel.core.clock import BrokerClock
    from umbel.core.destination import Destination
    from umbel.core.protocol import Envelope
    from umbel.core.records import Action, ChordEnd, DueChord, Publication, ResultRecord
    from umbel.core.topology import QueueDefinition


class Capabilities(msgspec.Struct, frozen=True):
    """What a broker can do by itself; the layers above provide the rest or refuse at declaration."""

    durable: bool  #: survives the death of every process that uses it
    shared: bool  #: reachable from more than one machine
    priorities: bool  #: orders messages of one queue by priority
    fanout: bool = False  #: can broadcast to every subscriber
    bindings: bool = False  #: has named direct and topic exchanges, and queues bound to them
    direct_subscriptions: bool = (
        False  #: a subscription may be a queue of its own, bound to a direct exchange
    )
    definitions: bool = (
        False  #: makes queues and exchanges as their definitions say, fanout and headers included
    )
    atomic_sends: bool = True  #: when a publisher refuses one of several publications, none of them was sent
    leases: bool = True  #: what a consumer holds outlives its connection; otherwise it returns when that ends
    #: What is put first in line is first, changed messages and delayed ones that are due too. Otherwise a message that
    #: returns unchanged takes its old place, and everything else stands at the back.
    exact_front: bool = True
    amqp_topics: bool = False  #: ``#`` stands for no word too, and its dot: ``media.#`` matches ``media``
    joint_priorities: bool = True  #: the priorities of several queues are compared with each other
    receipts: bool = False  #: its publisher can note what it has sent; see ``umbel.brokers.amqp.receipts``
    keeps: bool = False  #: ``Disposition.keeps``: what follows a delivery can stay with its consumer
    #: Counts the first loss of a message too; otherwise only those of messages that it had returned before.
    first_loss: bool = True
    atomic_replay: bool = (
        True  #: a replayed dead letter is in one place at any instant; otherwise it may be in two
    )
    revocations: bool = False  #: keeps the ids of revoked tasks, and stamps, for workers that start later
    withdraws: bool = False  #: finds the messages of revoked tasks where they wait, see ``Consumer.withdraw``


class Delivery(msgspec.Struct):
    """A message handed to one consumer, held under its lease until it is settled.

    ``tag`` names it within the consumer's held set. ``redelivered`` is true when it may have been handed out before.
    ``due`` is the instant, by ``Consumer.now``, that the message's ``eta`` comes to, where the broker knows how much of
    that has passed already; None: as the ``eta`` says.
    """

    tag: bytes
    queue: str
    payload: bytes
    redelivered: bool = False
    due: float | None = None


class Disposition(msgspec.Struct):
    """How one delivery ends: the one atomic step that leaves nothing half done.

    In one operation, all or nothing: ``publish`` goes to its queues, ``result`` and ``followers`` are stored and their
    parts of chords counted (only where the result backend lives in the broker's own store, see ``Broker.store``), and
    the delivery leaves the held set by its ``action``:

    - ``ack``: gone.
    - ``requeue``: back on its queue, as ``payload`` if given; ``front`` puts it first in line.
    - ``retry_later``: into the delayed store until ``due`` (epoch seconds), as ``payload`` if given.
    - ``dead_letter``: into the dead letters of its queue with ``reason`` and ``cause``.

    A delivery that is no longer held (its lease lapsed and a peer took it over, or it was settled before) settles to
    nothing: none of the parts happen. The same goes for one with ``ends``, when that chord is not due any more.
    ``unheld`` dispositions are for a delivery that was acknowledged early, or for none: they carry only ``publish``,
    ``result``, ``followers`` and ``ends``, and with the action ``dead_letter`` the ``payload`` that is to be kept and
    its ``queue``; those parts always happen.

    What is to be published and no queue is bound for is kept among the dead letters of the delivery's queue: nobody is
    left who could be told, and the delivery has to end. For an unheld one that is ``queue``; where it names none, as
    for an answer whose asker may be gone, it is dropped.

    ``keeps``, only with ``capabilities.keeps``, is published like the rest, but on no queue: in the same step this
    consumer holds it, as if it had fetched it from ``keeps.queue``, under a tag that no other message has. Its own
    disposition may come later in the same batch.
    """

    tag: bytes
    action: Action = "ack"
    payload: bytes | None = None
    due: float = 0.0
    front: bool = False
    reason: str = ""
    publish: Sequence[Publication] = ()
    result: ResultRecord | None = None
    unheld: bool = False
    queue: str = ""
    followers: Sequence[ResultRecord] = ()
    ends: ChordEnd | None = None
    cause: Cause | None = None
    keeps: Delivery | None = None
    name: str = ""  #: the broker's, of one that hangs on no delivery: by it a second try is known


def records_of(disposition: Disposition) -> Sequence[ResultRecord]:
    """What a disposition stores and counts."""
    if disposition.result is None:
        return disposition.followers
    return (disposition.result, *disposition.followers)


def spend(disposition: Disposition) -> None:
    """What a disposition without a delivery carries has happened: settled again, with others, it does nothing."""
    if disposition.unheld:
        disposition.publish, disposition.result, disposition.followers, disposition.ends = (), None, (), None
        disposition.action, disposition.keeps = "ack", None


class FetchPlan(msgspec.Struct, frozen=True):
    """Which queues to take from and in which order; made anew when the worker's queues change.

    Earlier queues do not starve later ones: brokers take from all queues of one priority in turn.
    """

    queues: tuple[str, ...]


class Publisher(Protocol):
    """Sends messages, blocking the caller. Safe for use by several threads, and after a fork."""

    def send(self, publications: Sequence[Publication], *, timeout: float) -> None:
        """Put every publication on its queue, in order and in as few round trips as the broker allows.

        One whose exchange has to be looked up (``Destination.queue`` is None) goes to every queue that is bound for
        it, to all of them in one step. Returning means the broker has them. Raises BrokerConnectionError when the
        connection is lost (some may have been sent), PublishTimeout when ``timeout`` seconds pass, BrokerError when
        there is one that no queue is bound for: then nothing was sent, or, without ``capabilities.atomic_sends``,
        everything else was.
        """

    def close(self) -> None:
        """Give the connections back. Safe twice."""


@runtime_checkable
class PipelinedPublisher(Publisher, Protocol):
    """A publisher of a broker that works on a batch while its sender makes the next."""

    def begin(self, publications: Sequence[Publication], *, timeout: float) -> Callable[[], None]:
        """Begin to send, and return what waits until the broker has them, as ``send`` would; it is to be called once.

        Batches that are begun one after the other arrive in that order as long as the connection holds. ``timeout`` is
        counted from here. Raises as ``send``, here or there.
        """


class AsyncPublisher(Protocol):
    """Sends messages from a coroutine; one per event loop."""

    async def send(self, publications: Sequence[Publication], *, timeout: float) -> None:
        """As Publisher.send."""

    async def close(self) -> None:
        """Give the connections back. Safe twice."""


class Consumer(Protocol):
    """Takes deliveries for one worker and settles them, in the worker's one event loop.

    ``identity`` names its lease: no two live consumers share it. All that it fetched and has not settled is its held
    set. While ``renew`` is called more often than the lease lasts, no peer, Celery's workers included, takes from that
    set; when it stops, any peer's ``reclaim`` returns the set to the queues.
    """

    identity: str

    def now(self) -> float:
        """Epoch seconds by the clock that leases and delays go by, ``Broker.clock``."""

    async def open(self) -> None:
        """Connect and take out the lease. After a lost connection, call it again: it builds everything anew."""

    async def fetch(self, plan: FetchPlan, limit: int, timeout: float) -> list[Delivery]:
        """Up to ``limit`` deliveries, waiting at most ``timeout`` seconds while there is none.

        Messages of the delayed store whose time has come are moved to the front of their queues first. Taking a
        message and recording it as held is one atomic step. Waiting takes nothing: only a fetch that returns does,
        and a cancelled or timed-out fetch leaves no message held unknown to the caller (see ``reconcile``). Higher
        priority first (on kombu's layout 0 is the highest), then oldest first; queues take turns.
        """

    def withdraw(self, queues: Sequence[str]) -> AsyncIterator[Sequence[Delivery]]:
        """Take out of queues, and of their delayed stores, the messages of tasks whose ids ``Broker.revoke`` has kept.

        Only with ``capabilities.withdraws``. What is found is held as if it were fetched, and given a portion at a
        time, between which others are served. The end means that each of the queues was searched, by this consumer or
        another, after what was kept by then; several consumers that are asked do not all search. A message that moves
        meanwhile may be passed over: whoever fetches it looks at its id. Raises BrokerConnectionError.
        """

    async def begin(self, deliveries: Sequence[Delivery]) -> list[Losses]:
        """Note that work on redelivered messages begins now, and say how often each was lost with a consumer before.

        A message is lost when the lease of the consumer that holds it lapses. The first loss counts in any case (with
        ``capabilities.first_loss``), later ones only after a ``begin``: what merely waits beside the message that kills
        its workers is not blamed for it. Counts survive every process, and go when the message is settled for good.
        """

    async def settle(self, batch: Sequence[Disposition]) -> Sequence[DueChord] | None:
        """End deliveries, each atomically, the batch in as few round trips as possible.

        Gives the chords whose last part was counted with them; None is as good as none. Safe to repeat after a lost
        connection: what was settled settles to nothing, and a chord that fell due unnoticed is claimed like any other
        (``ResultBackend.aclaim_chords``).
        """

    async def renew(self) -> None:
        """Extend the lease on everything held. Called every third of the lease's duration."""

    async def reclaim(self) -> int:
        """Return what lapsed consumers held to the front of its queues, marked redelivered; says how many messages.

        Safe to run by any number of consumers at once. Also obeys Celery's rule for messages that Celery's workers
        hold (the visibility timeout) where the layout is shared.
        """

    async def reconcile(self, held: Collection[bytes]) -> int:
        """Return to the queues what the broker says this consumer holds but ``held`` does not name.

        Called after a lost connection, when a reply may have been lost with messages in it.
        """

    async def close(self) -> None:
        """Return everything still held to the front of its queues and give up the lease. Safe twice, or unopened."""


class Subscription(Protocol):
    """What is sent to an exchange while it is listened to, in the running event loop; for one reader.

    Lossy by nature: it gets what is sent after ``open`` has returned, while its connection holds. What its reader
    leaves is kept up to a bound, then the oldest goes. Messages of one sender come in order.
    """

    async def open(self) -> None:
        """Connect and begin to listen. After a lost connection, call it again: what was sent meanwhile is not heard.

        Raises BrokerConnectionError when the broker cannot be reached.
        """

    async def get(self) -> bytes:
        """The next payload; waits for it without limit, and may be cancelled.

        Raises BrokerConnectionError when the connection is lost, or there is none.
        """

    async def close(self) -> None:
        """Listen no more; leaves nothing behind in the broker. Safe twice, or unopened."""


class Broker(Protocol):
    """Where messages wait. One object per URL and application; holds options, not connections."""

    capabilities: Capabilities
    #: Identity of the store behind it. A result backend with the same identity has its results written by ``settle``.
    store: str
    #: URL without its password, for banners and logs.
    display_url: str
    #: The clock that leases and delays go by: the server's as far as it has told. A broker that tells no time has the
    #: machine's, which its consumers keep steady. Countdowns are counted from it.
    clock: BrokerClock

    def pack(self, envelope: Envelope, destination: Destination) -> bytes:
        """The payload for an envelope in this broker's form."""

    def declare(self, bindings: Iterable[Binding], queues: Iterable[QueueDefinition] = ()) -> None:
        """Say which queues are bound to which direct and topic exchanges, and how queues are to be made.

        Costs no round trip: the connections made through this object put the bindings in place, a consumer whenever it
        connects, a publisher before what it sends to their exchanges. Safe to repeat, and cheap. Bindings of other
        types are passed over, and all of them without ``capabilities.bindings``. Nothing takes a binding back: it lasts
        as long as the store.

        ``queues`` are for ``capabilities.definitions``, other brokers pass them over: a queue's definition wins over
        bindings and over an earlier one. A queue of which nothing is known is durable, bound to the direct exchange of
        its name. Where one exists already and differs, who uses it first has a BrokerError that says in what.
        """

    def publisher(self) -> Publisher:
        """A blocking publisher; connects on first use."""

    def async_publisher(self) -> AsyncPublisher:
        """A publisher for the running event loop; connects on first use."""

    def consumer(self, identity: str, lease: float) -> Consumer:
        """A consumer whose lease lasts ``lease`` seconds from each renewal."""

    def subscriber(
        self,
        exchange: str,
        routing_key: str = "",
        exchange_type: str = "fanout",
        also: Sequence[Destination] = (),
    ) -> Subscription:
        """Listens to an exchange; only with ``capabilities.fanout``.

        Of type ``fanout`` it gets a copy of everything sent with this very routing key. Of type ``broadcast`` the
        routing key is a pattern: at its end ``#`` stands for any text. Of type ``direct``, only with
        ``capabilities.direct_subscriptions``, it has a queue of its own, bound for as long as it is open.

        What is broadcast to one of ``also`` (``fanout`` or ``broadcast``, without patterns) it gets too, on the same
        connection and in the order in which the broker has it. Where the broker would send it more than that, or does
        not let it listen there, it goes without, and the log says so.
        """

    def depth(self, queue: str) -> int:
        """Messages waiting in a queue, delayed and held ones left out."""

    def delayed_depth(self, queue: str) -> int:
        """Messages of a queue that wait for their time."""

    def held_depth(self) -> int:
        """Messages held by all consumers of this broker."""

    def purge(self, queue: str) -> int:
        """Delete what waits in a queue; says how many messages."""

    def dead_letters(self, queue: str, limit: int) -> list[DeadLetter]:
        """The newest ``limit`` dead letters of a queue, newest first."""

    def bound(self) -> list[Binding]:
        """Every binding in place in the store, and those that were declared through this object.

        Raises BrokerError where the broker cannot tell.
        """

    def revoke(self, task_ids: Sequence[str], expires: float, stamps: Sequence[str] = ()) -> float:
        """Keep the ids of revoked tasks for ``expires`` seconds from now, all of them in one step.

        ``stamps`` are kept beside them, as ``core.stamps.write_stamps`` has them. Only with
        ``capabilities.revocations``. It says no more than that: workers that run hear of them by remote control, those
        that start later ask for ``revoked``. A broker in which delayed messages cannot be found (without
        ``capabilities.withdraws``) keeps them for as long as one may be under way, if that is longer. Gives the
        seconds for which they are kept.
        """

    def revoked(self) -> RevokedTasks:
        """What is kept; only with ``capabilities.revocations``."""

    def dead_count(self, queue: str) -> int:
        """How many dead letters a queue has."""

    def dead_queues(self, known: Iterable[str]) -> list[str]:
        """The queues that have dead letters, sorted: all of them, or, where a broker cannot tell, those ``known``."""

    def dead_reader(self, queue: str) -> DeadReader:
        """Goes through the dead letters of a queue; for one thread."""

    def close(self) -> None:
        """Close every connection made through this object. Safe twice."""


class RevokedTasks(msgspec.Struct, frozen=True):
    """Ids of revoked tasks, and revoked stamps as text, each with the seconds for which it is kept yet."""

    ids: dict[str, float] = {}
    stamps: dict[str, float] = {}


class DeadLetter(msgspec.Struct):
    """A delivery given up, kept as it came, with its reason. ``at`` is epoch seconds.

    ``tag`` names it within its queue, for the reader that gave it.
    """

    queue: str
    payload: bytes
    reason: str
    at: float
    cause: Cause = msgspec.field(default_factory=lambda: Cause("rejected"))
    tag: bytes = b""


class DeadReader(Protocol):
    """A walk through the dead letters of one queue, the oldest first, a page at a time.

    Reading takes nothing away. What others take away meanwhile is not found, or, where the broker hands letters out to
    one reader at a time, what another reader is looking at. Methods raise BrokerConnectionError when the connection is
    lost.
    """

    def page(self, limit: int) -> list[DeadLetter]:
        """The next letters, at most ``limit``; none at the end."""

    def replay(self, letter: DeadLetter, publication: Publication) -> bool:
        """Publish in place of a letter, which is gone then; False, and nothing published, when it is gone already.

        One step with ``capabilities.atomic_replay``. Otherwise it is published first: a crash in between leaves the
        letter too. Raises BrokerError when no queue takes it; the letter stays.
        """

    def discard(self, letters: Sequence[DeadLetter]) -> int:
        """Delete letters; says how many were still there."""

    def close(self) -> None:
        """Leave. What was looked at and not taken stays where it was. Safe twice."""
