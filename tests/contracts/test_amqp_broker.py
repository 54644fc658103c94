"""The broker suite on a real RabbitMQ server, on classic queues with priorities and on quorum queues."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import NoReturn

import amqp
import pytest
from msgspec.structs import replace

from tests.support.rabbitmq import RabbitMqServer
from umbel.brokers.amqp import AmqpBroker
from umbel.brokers.amqp.consumer import AmqpConsumer
from umbel.brokers.amqp.delayed import DELIVERY, ENTRY, LEVELS, delayed_key, level_name, without_delay
from umbel.brokers.amqp.messages import DUE
from umbel.brokers.base import Consumer, Delivery, Disposition
from umbel.brokers.options import BrokerOptions
from umbel.core.bindings import Binding
from umbel.core.destination import Destination
from umbel.core.records import Publication
from umbel.core.topology import QueueDefinition, define_bindings
from umbel.errors import BrokerConnectionError
from umbel.testing.contracts.broker import LEASE, BrokerContract, BrokerWorld
from umbel.testing.contracts.broker_fixtures import Q
from umbel.testing.contracts.support import PATIENCE, eventually, send

pytestmark = pytest.mark.rabbitmq

OpenConsumer = Callable[[str], Awaitable[Consumer]]


class Vhosts:
    """Empty virtual hosts, used one after the other: what delayed messages wait in is dear to make, and stays."""

    def __init__(self, server: RabbitMqServer) -> None:
        self.server = server
        self._free: list[str] = []
        self._all: list[str] = []

    def take(self) -> str:
        if not self._free:
            self._all.append(self.server.add_vhost())
            return self._all[-1]
        return self._free.pop()

    def give_back(self, vhost: str) -> None:
        """Delete all of it that a test has made, and what waits for its time."""
        self.server.evaluate(_CLEAR.replace("VHOST", vhost))
        left = {name: count for name, count in self.server.queues(vhost).items() if count}
        assert not left, f"the virtual host was not emptied: {left}"
        self._free.append(vhost)

    def delete(self) -> None:
        for vhost in self._all:
            self.server.delete_vhost(vhost)


#: Erlang for: delete every queue and exchange that no delayed message needs, and empty the rest.
_CLEAR = (
    'V = <<"VHOST">>, Own = fun(Name, Others) -> re:run(element(4, Name), Others) =:= nomatch end, '
    '[rabbit_amqqueue:delete(Q, false, false, <<"umbel">>) || Q <- rabbit_amqqueue:list(V), '
    'Own(amqqueue:get_name(Q), "^celery_delayed_")], '
    '[rabbit_exchange:delete(element(2, X), false, <<"umbel">>) || X <- rabbit_exchange:list(V), '
    'Own(element(2, X), "^(amq[.]|celery_delayed_|umbel[.]delayed$|$)")], '
    "[rabbit_amqqueue:purge(Q) || Q <- rabbit_amqqueue:list(V)], ok"
)


class AmqpWorld(BrokerWorld):
    """An empty virtual host.

    RabbitMQ's clock cannot be moved: what waits there for its time is told another. What it counts is asked of the
    node itself, because AMQP has no question for it.
    """

    wake_within = 0.02
    biggest_payload = 16 * 1024 * 1024
    first_priority, last_priority = 9, 0
    settles_in_one_step = False
    queue_arguments: dict[str, object] = {"x-max-priority": 10}
    options = BrokerOptions(queue_max_priority=10, delayed_queue_type="classic")

    def __init__(self, vhosts: Vhosts) -> None:
        self.server = vhosts.server
        self.vhost = vhosts.take()
        self.url = self.server.url(self.vhost)
        self._vhosts = vhosts
        self._brokers: list[AmqpBroker] = []
        self._admin: amqp.Connection | None = None

    def connect(self) -> AmqpBroker:
        broker = _CountingBroker(self.url, self.options)
        broker.world = self
        self._brokers.append(broker)
        return broker

    def channel(self) -> amqp.Channel:
        if self._admin is None:
            self._admin = amqp.Connection(f"127.0.0.1:{self.server.port}", virtual_host=self.vhost)
            self._admin.connect()
        return self._admin.channel()

    def waiting(self) -> list[amqp.Message]:
        """Takes away everything that waits for its time."""
        names = self.server.queues(self.vhost)
        channel = self.channel()
        taken = []
        for name in map(level_name, range(LEVELS)):
            while name in names and (message := channel.basic_get(name, no_ack=True)) is not None:
                taken.append(message)
        channel.close()
        return sorted(taken, key=lambda message: message.headers[DUE])

    def put_back(self, message: amqp.Message) -> None:
        left = message.headers[DUE] / 1000 - time.time()
        key = without_delay(message.delivery_info["routing_key"])
        channel = self.channel()
        channel.confirm_select()
        delayed = left >= 1
        channel.basic_publish_confirm(
            amqp.Message(message.body, **message.properties),
            ENTRY if delayed else DELIVERY,
            delayed_key(int(left), key) if delayed else delayed_key(0, key),
            mandatory=True,
        )
        channel.close()

    def pass_time(self, seconds: float) -> None:
        for message in self.waiting():
            message.headers[DUE] -= int(seconds * 1000)
            self.put_back(message)

    def count_waiting(self, queue: str) -> int:
        messages = self.waiting()
        for message in messages:
            self.put_back(message)
        keys = [without_delay(message.delivery_info["routing_key"]) for message in messages]
        return keys.count(queue)

    def count_held(self) -> int:
        """A queue answers this before it looks at acknowledgements that came earlier: ask until it is stable."""
        last, held = -1, self._ask_held()
        while held != last:
            last, held = held, self._ask_held()
        return held

    def _ask_held(self) -> int:
        return int(
            self.server.evaluate(
                "lists:sum([proplists:get_value(messages_unacknowledged, Q) || "
                f'Q <- rabbit_amqqueue:info_all(<<"{self.vhost}">>, [messages_unacknowledged])])'
            )
        )

    async def lapse(self, consumer: Consumer, *alive: Consumer) -> None:
        """The consumer's own check finds that it was not renewed; then its worker connects again."""
        await self.lose(consumer)
        await consumer.open()

    async def lose(self, consumer: Consumer, *alive: Consumer) -> None:
        """Its worker does not connect again."""
        assert isinstance(consumer, AmqpConsumer)
        before = self.server.connections()
        consumer._renewed_at -= LEASE + 1
        consumer._check_lease()
        await eventually(lambda: self.server.connections() < before)

    def marks(self) -> dict[str, int]:
        """The queues in which losses are counted, and what is in each."""
        queues = self.server.queues(self.vhost)
        return {name: count for name, count in queues.items() if name.startswith("umbel.losses.")}

    def close(self) -> None:
        for broker in self._brokers:
            broker.close()
        if self._admin is not None:
            self._admin.close()
        self._vhosts.give_back(self.vhost)


class _CountingBroker(AmqpBroker):
    world: AmqpWorld

    def declare(self, bindings: Iterable[Binding], queues: Iterable[QueueDefinition] = ()) -> None:
        """What the suite binds has the arguments of all other queues."""
        queueing = [each for each in bindings if each.exchange_type in ("direct", "topic")]
        self.bindings = [*getattr(self, "bindings", ()), *queueing]
        made = [define_bindings(name, self.bindings) for name in {each.queue for each in self.bindings}]
        arguments = self.world.queue_arguments
        super().declare(bindings, [*queues, *(replace(each, arguments=arguments) for each in made)])

    def consumer(self, identity: str, lease: float) -> AmqpConsumer:
        consumer = super().consumer(identity, lease)
        consumer.__class__ = _CountedConsumer
        return consumer

    def held_depth(self) -> int:
        return self.world.count_held()

    def delayed_depth(self, queue: str) -> int:
        return self.world.count_waiting(queue)


class _CountedConsumer(AmqpConsumer):
    """Acknowledgements have no answer; the suite counts at once."""

    async def settle(self, batch: Sequence[Disposition]) -> None:
        await super().settle(batch)
        if self._tenure is not None:
            self._tenure.acknowledge_rest()
            await self._tenure.channel.set_prefetch(0)


class QuorumWorld(AmqpWorld):
    """Every queue replicated; those have no priorities."""

    priorities = False
    queue_arguments = {"x-queue-type": "quorum"}
    options = BrokerOptions(missing_queue_type="quorum", delayed_queue_type="quorum")
    returns_in_order = keeps_header_order = False

    def __init__(self, vhosts: Vhosts) -> None:
        super().__init__(vhosts)
        # Who publishes while somebody else makes the queue may be refused.
        channel = self.channel()
        for name in "xy":
            channel.queue_declare(name, durable=True, auto_delete=False, arguments=self.queue_arguments)
        channel.close()

    def _ask_held(self) -> int:
        return int(
            self.server.evaluate(
                "lists:sum([element(2, element(2, ra:leader_query(amqqueue:get_pid(Q), "
                "fun rabbit_fifo:query_messages_checked_out/1))) || "
                f'Q <- rabbit_amqqueue:list(<<"{self.vhost}">>), amqqueue:get_type(Q) == rabbit_quorum_queue])'
            )
        )


@pytest.fixture(scope="class")
def vhosts(rabbitmq_server: RabbitMqServer) -> Iterator[Vhosts]:
    made = Vhosts(rabbitmq_server)
    yield made
    made.delete()


class TestAmqpBroker(BrokerContract):
    """Classic queues."""

    model_examples = 4
    model_steps = 20

    @pytest.fixture
    def make_world(self, vhosts: Vhosts) -> Callable[[], AmqpWorld]:
        return lambda: AmqpWorld(vhosts)

    async def test_a_connection_that_is_cut_is_no_loss_with_its_worker(
        self, world: AmqpWorld, broker: AmqpBroker, consumer_of: OpenConsumer
    ) -> None:
        """The worker is back and its job still runs: nothing is held against the message, and nothing stays behind."""
        send(broker, "1", "2")
        worker = await consumer_of("a")
        for _ in range(4):
            deliveries = await worker.fetch(Q, 2, PATIENCE)
            await worker.begin(deliveries)
            await world.lapse(worker)
        await eventually(lambda: world.marks() == {})
        last = await consumer_of("last")
        deliveries = await last.fetch(Q, 2, PATIENCE)
        assert [losses.count for losses in await last.begin(deliveries)] == [0, 0]
        assert list(world.marks().values()) == [1, 1]
        await last.settle([Disposition(delivery.tag) for delivery in deliveries])
        assert world.marks() == {}

    async def test_what_has_ended_is_not_ended_again_for_the_sake_of_its_mark(
        self,
        world: AmqpWorld,
        broker: AmqpBroker,
        consumer_of: OpenConsumer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Marks are deleted by way of another connection; what was published with the end would be there twice."""
        send(broker, "1")
        lost, worker = await consumer_of("lost"), await consumer_of("a")
        await lost.fetch(Q, 1, PATIENCE)
        await world.lose(lost)
        [delivery] = await worker.fetch(Q, 1, PATIENCE)
        await worker.begin([delivery])
        assert isinstance(worker, AmqpConsumer)

        async def away() -> NoReturn:
            raise BrokerConnectionError("the connection that messages are sent by is cut")

        follower = Publication(Destination("", "y", "y"), delivery.payload)
        with monkeypatch.context() as patches:
            patches.setattr(worker._losses, "_open", away)
            await worker.settle(
                [Disposition(delivery.tag), Disposition(b"", unheld=True, publish=[follower])]
            )
        assert (broker.depth("x"), broker.depth("y"), broker.held_depth()) == (0, 1, 0)
        assert len(world.marks()) == 1
        await worker._losses.take_back()
        assert world.marks() == {}

    async def test_marks_are_taken_back_while_another_works_on_the_message(
        self, world: AmqpWorld, broker: AmqpBroker, consumer_of: OpenConsumer
    ) -> None:
        send(broker, "1")
        cut, lost, other = [await consumer_of(name) for name in ("cut", "lost", "other")]
        await cut.fetch(Q, 1, PATIENCE)
        await world.lapse(cut)
        for consumer in lost, cut:
            await consumer.begin(await consumer.fetch(Q, 1, PATIENCE))
            await world.lose(consumer)
        deliveries = await other.fetch(Q, 1, PATIENCE)
        [losses] = await other.begin(deliveries)
        assert losses.count == 2  # the one that was cut off is not back yet
        await cut.open()
        await eventually(lambda: list(world.marks().values()) == [2])
        await other.settle([Disposition(deliveries[0].tag, "requeue", front=True)])
        again = await other.fetch(Q, 1, PATIENCE)
        [losses] = await other.begin(again)
        assert [loss.worker for loss in losses.last] == ["lost"]
        await other.settle([Disposition(again[0].tag)])
        assert world.marks() == {}


class TestAmqpBrokerOnQuorumQueues(BrokerContract):
    """Quorum queues."""

    model_examples = 2
    model_steps = 15

    @pytest.fixture
    def make_world(self, vhosts: Vhosts) -> Callable[[], AmqpWorld]:
        return lambda: QuorumWorld(vhosts)

    async def test_a_worker_that_takes_much_returns_nothing(
        self, world: AmqpWorld, broker: AmqpBroker, consumer_of: OpenConsumer
    ) -> None:
        """The queue counts what comes back, and newer servers drop what has come back too often."""
        send(broker, *map(str, range(400)))
        worker = await consumer_of("a")
        done = 0
        while done < 320:
            deliveries = await worker.fetch(Q, 40, PATIENCE)
            done += len(deliveries)
            await worker.settle([Disposition(delivery.tag) for delivery in deliveries])
        await worker.reconcile([])  # what was pushed and not asked for goes back now
        rest: list[Delivery] = []
        other = await consumer_of("b")
        while done + len(rest) < 400:
            rest += await other.fetch(Q, 40, PATIENCE)
        assert sum(delivery.redelivered for delivery in rest) <= 40  # of one fetch, at the most
        await other.settle([Disposition(delivery.tag) for delivery in rest])
