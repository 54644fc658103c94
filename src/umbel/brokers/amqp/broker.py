"""``amqp://`` and ``amqps://``: messages in RabbitMQ, just as Celery has them.

Queues, exchanges and bindings are RabbitMQ's own; a message has the properties, headers and body that Celery's would
have, so that both may use the same queues at the same time. Publishing waits for the broker's confirmation unless
``broker_transport_options`` says ``confirm_publish: False``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

import msgspec

from umbel.brokers.amqp.consumer import AmqpConsumer
from umbel.brokers.amqp.dead import dead_queue, exhume
from umbel.brokers.amqp.dead_reader import AmqpDeadReader
from umbel.brokers.amqp.management import OPTIONS as _MANAGEMENT_OPTIONS
from umbel.brokers.amqp.management import fetch_bindings
from umbel.brokers.amqp.messages import pack_amqp
from umbel.brokers.amqp.publisher import AmqpAsyncPublisher, AmqpPublisher
from umbel.brokers.amqp.revoked import KeptIds
from umbel.brokers.amqp.sending import Sender
from umbel.brokers.amqp.subscription import AmqpSubscription
from umbel.brokers.amqp.topology import MissingQueues, Topology
from umbel.brokers.base import Capabilities
from umbel.core.clock import SteadyClock
from umbel.core.destination import Destination
from umbel.stores.amqp import requests
from umbel.stores.amqp.address import parse_addresses, warn_unknown
from umbel.stores.amqp.failover import Failover
from umbel.stores.amqp.faults import NOT_FOUND, ChannelClosedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from umbel.brokers.base import DeadLetter, RevokedTasks, Subscription
    from umbel.brokers.options import BrokerOptions
    from umbel.core.bindings import Binding
    from umbel.core.protocol import Envelope
    from umbel.core.topology import QueueDefinition

#: Seconds that a question about a queue may take.
_ANSWER_TIMEOUT: Final = 30.0
#: Options that others read.
_OWN_OPTIONS: Final = frozenset({"confirm_publish"}) | _MANAGEMENT_OPTIONS


class AmqpBroker:
    """Messages in one virtual host of RabbitMQ.

    Args:
        url: ``amqp://``, ``amqps://`` or ``pyamqp://``, as Celery takes it; several with ``;`` between them.
        options: the application's; ``transport`` takes kombu's and py-amqp's options.

    Raises ImproperlyConfigured for what it cannot read.
    """

    capabilities = Capabilities(
        durable=True,
        shared=True,
        priorities=True,
        fanout=True,
        bindings=True,
        direct_subscriptions=True,
        definitions=True,
        atomic_sends=False,
        leases=False,
        exact_front=False,
        joint_priorities=False,
        amqp_topics=True,
        receipts=True,
        revocations=True,
        first_loss=False,
        atomic_replay=False,
    )

    def __init__(self, url: str, options: BrokerOptions) -> None:
        self._options = options
        self.clock = SteadyClock()
        addresses, rest = parse_addresses(
            url,
            options.transport,
            use_ssl=options.use_ssl,
            connect_timeout=options.connect_timeout,
            heartbeat=options.heartbeat,
            heartbeat_rate=options.heartbeat_rate,
            login_method=options.login_method,
        )
        warn_unknown(tuple(sorted(set(rest) - _OWN_OPTIONS)))
        self._confirm = _is_on(rest, "confirm_publish")
        self._failover = Failover(addresses, options.failover_strategy)
        # Who sends from a program has nobody to keep heartbeats: the kernel and the deadlines look after that.
        quiet = [msgspec.structs.replace(address, heartbeat=0.0) for address in addresses]
        self._quiet_failover = Failover(quiet, options.failover_strategy)
        self._topology = Topology(
            MissingQueues(
                options.missing_queue_type, options.missing_exchange_type, options.queue_max_priority
            ),
            options.delayed_queue_type,
            self.clock,
        )
        self._publishers: WeakSet[AmqpPublisher] = WeakSet()
        self._asking = self.publisher()
        self._kept_ids = KeptIds(self._topology, self._asking, self.publisher)
        self.store = addresses[0].identity

    @property
    def display_url(self) -> str:
        """The URL of the server in use, or to be tried next, without its password."""
        return self._failover.current.display_url

    @classmethod
    def from_url(cls, url: str, options: BrokerOptions) -> AmqpBroker:
        """The broker of a URL; nothing is connected yet."""
        return cls(url, options)

    def pack(self, envelope: Envelope, destination: Destination) -> bytes:
        """The native form, whose headers and properties become AMQP's."""
        return pack_amqp(envelope, destination)

    def declare(self, bindings: Iterable[Binding], queues: Iterable[QueueDefinition] = ()) -> None:
        """What was declared is put in place by each connection, before it is used there."""
        self._topology.declare(bindings, queues)

    def publisher(self) -> AmqpPublisher:
        """A blocking publisher with a connection of its own."""
        publisher = AmqpPublisher(self._quiet_failover, self._topology, confirm=self._confirm)
        self._publishers.add(publisher)
        return publisher

    def async_publisher(self) -> AmqpAsyncPublisher:
        """A publisher for the running event loop."""
        return AmqpAsyncPublisher(self._failover, self._topology, confirm=self._confirm)

    def consumer(self, identity: str, lease: float) -> AmqpConsumer:
        """A consumer whose lease lasts ``lease`` seconds from each renewal."""
        sender = Sender(self._failover, self._topology, self._options.dead_letter_limit)
        return AmqpConsumer(
            identity, lease, self._failover, self._topology, sender, self._options, self.clock
        )

    def subscriber(
        self,
        exchange: str,
        routing_key: str = "",
        exchange_type: str = "fanout",
        also: Sequence[Destination] = (),
    ) -> Subscription:
        """A queue of its own, gone with its connection."""
        to = Destination(exchange, routing_key, None, exchange_type)
        return AmqpSubscription(self._failover, to, also)

    def depth(self, queue: str) -> int:
        """Messages waiting in a queue."""
        return self._count(requests.declare_queue(queue, passive=True), 1)

    def delayed_depth(self, queue: str) -> int:
        """AMQP does not tell: delayed messages of all queues wait in the same places."""
        return 0

    def held_depth(self) -> int:
        """AMQP does not tell what consumers hold."""
        return 0

    def purge(self, queue: str) -> int:
        """Delete what waits in a queue; says how many messages."""
        return self._count(requests.purge_queue(queue), 0)

    def dead_letters(self, queue: str, limit: int) -> list[DeadLetter]:
        """The newest ``limit`` dead letters of a queue, newest first."""
        if limit <= 0:
            return []
        newest = reversed(self._asking.peek(dead_queue(queue), limit, _ANSWER_TIMEOUT))
        return [exhume(queue, delivered.properties, delivered.body) for delivered in newest]

    def dead_count(self, queue: str) -> int:
        """Dead letters of a queue, without those that somebody is looking at."""
        return self.depth(dead_queue(queue))

    def dead_queues(self, known: Iterable[str]) -> list[str]:
        """Those of the known queues that have dead letters: AMQP does not tell of others."""
        return sorted(queue for queue in set(known) if self.dead_count(queue))

    def dead_reader(self, queue: str) -> AmqpDeadReader:
        """Goes through the dead letters of a queue."""
        return AmqpDeadReader(self._quiet_failover, queue, self._asking)

    def bound(self) -> list[Binding]:
        """What RabbitMQ's management plugin says: AMQP itself does not tell."""
        return fetch_bindings(self._failover.current, self._options.transport)

    def ask(self, request: requests.Request) -> tuple[object, ...]:
        """RabbitMQ's answer to any request: its fields. Raises ChannelClosedError when it is refused."""
        return self._asking.ask(request, _ANSWER_TIMEOUT)

    def revoke(self, task_ids: Sequence[str], expires: float, stamps: Sequence[str] = ()) -> float:
        """Keep the ids of revoked tasks, and stamps, in a queue that is only ever looked at."""
        return self._kept_ids.add(task_ids, expires, stamps) if task_ids or stamps else expires

    def revoked(self) -> RevokedTasks:
        """What is in that queue whose time is not over."""
        return self._kept_ids.read()

    def close(self) -> None:
        """Close the connections of the broker and of its blocking publishers. Safe twice."""
        for publisher in list(self._publishers):
            publisher.close()

    def _count(self, request: requests.Request, field: int) -> int:
        """A number out of an answer; 0 for a queue that is not there."""
        try:
            return int(str(self._asking.ask(request, _ANSWER_TIMEOUT)[field]))
        except ChannelClosedError as error:
            if error.code == NOT_FOUND:
                return 0
            raise


def _is_on(options: Mapping[str, Any], name: str) -> bool:
    """An option that is on unless it says no."""
    value = options.get(name, True)
    return value.lower() not in {"0", "no", "false", "off"} if isinstance(value, str) else bool(value)
