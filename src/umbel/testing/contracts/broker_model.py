"""The broker suite, part 5: random operations compared with a model in plain Python."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from umbel.brokers.base import Disposition, FetchPlan
from umbel.core.protocol import peek
from umbel.testing.contracts.broker_fixtures import BrokerFixtures
from umbel.testing.contracts.support import LEASE, PATIENCE, message, send

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from umbel.brokers.base import Consumer, Delivery
    from umbel.core.records import Action
    from umbel.testing.contracts.support import BrokerWorld

_QUEUES = ("q", "r")
_CONSUMERS = ("a", "b")
#: What one fetch may take from.
_PLANS = (("q",), ("r",), ("q", "r"))


class ModelContract(BrokerFixtures):
    """Whatever happens in whatever order, every message is in exactly one place, and it is the right one."""

    #: Examples and steps of the random test; an adapter whose server is slow may take fewer.
    model_examples = 25
    model_steps = 40

    def test_any_history_agrees_with_the_model(self, make_world: Callable[[], BrokerWorld]) -> None:
        class Machine(BrokerMachine):
            world_factory = staticmethod(make_world)

        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=self.model_examples,
                stateful_step_count=self.model_steps,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


class BrokerMachine(RuleBasedStateMachine):
    """The adapter on one side; on the other, where each message must be."""

    world_factory: Callable[[], BrokerWorld]

    @initialize()
    def start(self) -> None:
        self.runner = asyncio.Runner()
        self.world = self.world_factory()
        self.broker = self.world.connect()
        self.consumers: dict[str, Consumer] = {}
        self.gone: list[Consumer] = []
        for name in _CONSUMERS:
            self.consumers[name] = self.world.connect().consumer(name, LEASE)
            self.runner.run(self.consumers[name].open())
            # The queues are made before anybody sends while another fetches.
            self.runner.run(self.consumers[name].fetch(FetchPlan(_QUEUES), 1, 0))
        self.exact_front = self.broker.capabilities.exact_front
        self.count = 0
        self.places: dict[str, int] = {}
        self.waiting: dict[str, list[str]] = {queue: [] for queue in _QUEUES}
        self.delayed: dict[str, dict[str, float]] = {queue: {} for queue in _QUEUES}
        self.held: dict[str, dict[bytes, Delivery]] = {name: {} for name in _CONSUMERS}
        self.settled: dict[str, list[bytes]] = {name: [] for name in _CONSUMERS}
        self.paused: dict[str, set[str]] = {name: set() for name in _CONSUMERS}
        self.dead: dict[str, list[str]] = {queue: [] for queue in _QUEUES}

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        for consumer in (*self.consumers.values(), *self.gone):
            self.runner.run(consumer.close())
        self.runner.close()
        self.world.close()

    def new_name(self) -> str:
        self.count += 1
        return str(self.count)

    def line_up(self, queue: str, *names: str) -> None:
        """Messages come to the end of a queue."""
        for name in names:
            self.places[name] = len(self.places)
        self.waiting[queue] += names

    def put_back(self, queue: str, *names: str) -> None:
        """Messages return to a queue unchanged: to its front, or each to the place that it had."""
        waiting = [*names, *self.waiting[queue]]
        self.waiting[queue] = waiting if self.exact_front else sorted(waiting, key=self.places.__getitem__)

    @rule(queue=st.sampled_from(_QUEUES), number=st.integers(1, 4))
    def send(self, queue: str, number: int) -> None:
        names = [self.new_name() for _ in range(number)]
        send(self.broker, *names, queue=queue)
        self.line_up(queue, *names)

    @rule(name=st.sampled_from(_CONSUMERS), queues=st.sampled_from(_PLANS), limit=st.integers(1, 5))
    def fetch(self, name: str, queues: tuple[str, ...], limit: int) -> None:
        plan = self.plan(name, queues)
        if not plan.queues:
            return
        for queue in plan.queues:
            self.promote(queue)
        deliveries = self.runner.run(self.consumers[name].fetch(plan, limit, 0))
        assert {delivery.queue for delivery in deliveries} <= set(plan.queues)
        assert len(deliveries) == min(limit, sum(len(self.waiting[queue]) for queue in plan.queues))
        for queue in plan.queues:
            here = [delivery for delivery in deliveries if delivery.queue == queue]
            self.take(name, queue, here)

    def plan(self, name: str, queues: tuple[str, ...] = _QUEUES) -> FetchPlan:
        """Those of some queues that a consumer takes from now."""
        return FetchPlan(tuple(queue for queue in queues if queue not in self.paused[name]))

    def take(self, name: str, queue: str, deliveries: Sequence[Delivery]) -> None:
        """A consumer was given what was first in line."""
        names = [peek(delivery.payload).id for delivery in deliveries]
        if self.world.returns_in_order:
            assert names == self.waiting[queue][: len(names)]
        else:
            assert set(names) <= set(self.waiting[queue])
        self.waiting[queue] = [name for name in self.waiting[queue] if name not in names]
        for delivery in deliveries:
            self.held[name][delivery.tag] = delivery

    @rule(name=st.sampled_from(_CONSUMERS), queue=st.sampled_from(_QUEUES), number=st.integers(0, 3))
    def pause(self, name: str, queue: str, number: int) -> None:
        """A consumer takes from a queue no more, as a worker does that is told so: its fetch is cut off.

        That may be when messages are on their way to it. None of them stays with it, and a peer finds all of them.
        """
        names = [self.new_name() for _ in range(number)]
        plan = self.plan(name)
        for each in plan.queues:
            self.promote(each)
        self.runner.run(self.cut_off(self.consumers[name], plan, names, queue, list(self.held[name])))
        self.line_up(queue, *names)
        self.paused[name].add(queue)

    async def cut_off(
        self, consumer: Consumer, plan: FetchPlan, names: list[str], queue: str, held: list[bytes]
    ) -> None:
        fetching = asyncio.create_task(consumer.fetch(plan, 2, PATIENCE)) if plan.queues else None
        await asyncio.to_thread(send, self.broker, *names, queue=queue)
        if fetching is None:
            return
        fetching.cancel()
        await asyncio.wait([fetching])
        if not fetching.cancelled():
            fetching.result()  # which nobody knows of: it was too late
        await consumer.reconcile(held)

    @rule(name=st.sampled_from(_CONSUMERS), queue=st.sampled_from(_QUEUES))
    def resume(self, name: str, queue: str) -> None:
        """A consumer takes from a queue again."""
        self.paused[name].discard(queue)

    @rule(name=st.sampled_from(_CONSUMERS), data=st.data())
    def settle(self, name: str, data: st.DataObject) -> None:
        """End some of what is held, with some that ended before among them."""
        tags = data.draw(st.lists(st.sampled_from(list(self.held[name]) or [b"0"]), unique=True, max_size=4))
        stale = data.draw(st.lists(st.sampled_from(self.settled[name] or [b"0"]), max_size=2))
        batch = [self.disposition(name, tag, data) for tag in (*tags, *stale)]
        self.runner.run(self.consumers[name].settle(batch))
        for disposition in batch:
            self.expect_settled(name, disposition)

    @precondition(lambda self: self.world.settles_in_one_step)
    @rule(name=st.sampled_from(_CONSUMERS), data=st.data(), turns=st.integers(0, 4))
    def settle_again(self, name: str, data: st.DataObject, turns: int) -> None:
        """The connection is lost somewhere in the middle of a settlement, which is repeated on the next one."""
        tags = data.draw(st.lists(st.sampled_from(list(self.held[name]) or [b"0"]), unique=True, max_size=4))
        batch = [self.disposition(name, tag, data) for tag in tags]
        consumer = self.consumers[name]

        async def settle_on_two_connections() -> None:
            settling = asyncio.create_task(consumer.settle(batch))
            for _ in range(turns):
                await asyncio.sleep(0)
            settling.cancel()
            await asyncio.wait([settling])
            if not settling.cancelled():
                settling.result()
            await consumer.open()
            await consumer.settle(batch)

        self.runner.run(settle_on_two_connections())
        for disposition in batch:
            self.expect_settled(name, disposition)

    def disposition(self, name: str, tag: bytes, data: st.DataObject) -> Disposition:
        action: Action = data.draw(st.sampled_from(("ack", "requeue", "retry_later", "dead_letter")))
        due = self.world.now() + data.draw(st.sampled_from((600.0, 1200.0, 6000.0)))
        held = self.held[name].get(tag)
        # Which of two that come to the end of one queue in one step is first, nobody says.
        apart = action != "requeue" or held is None or held.queue != "r"
        publish = [message(self.broker, self.new_name(), "r")] if apart and data.draw(st.booleans()) else []
        payload = None
        if held is not None and action in ("requeue", "retry_later") and data.draw(st.booleans()):
            payload = message(self.broker, self.new_name(), held.queue).payload
        return Disposition(
            tag, action, payload, due, front=data.draw(st.booleans()), reason="model", publish=publish
        )

    def expect_settled(self, name: str, disposition: Disposition) -> None:
        delivery = self.held[name].pop(disposition.tag, None)
        if delivery is None:
            return
        self.settled[name].append(disposition.tag)
        for publication in disposition.publish:
            self.line_up("r", peek(publication.payload).id)
        task_id = peek(disposition.payload or delivery.payload).id
        match disposition.action:
            case "requeue" if disposition.front and (self.exact_front or disposition.payload is None):
                self.put_back(delivery.queue, task_id)
            case "requeue":
                self.line_up(delivery.queue, task_id)
            case "retry_later":
                self.delayed[delivery.queue][task_id] = disposition.due
            case "dead_letter":
                self.dead[delivery.queue].append(task_id)

    @rule(name=st.sampled_from(_CONSUMERS), data=st.data())
    def reconcile(self, name: str, data: st.DataObject) -> None:
        tags = sorted(self.held[name])
        known = data.draw(st.lists(st.sampled_from(tags), unique=True)) if tags else []
        self.bring_due(self.consumers[name])
        returned = self.runner.run(self.consumers[name].reconcile(known))
        assert returned == len(tags) - len(known)
        self.expect_returned(name, set(tags) - set(known))

    @rule(name=st.sampled_from(_CONSUMERS))
    def lapse(self, name: str) -> None:
        [peer] = [other for other in _CONSUMERS if other != name]
        self.runner.run(self.world.lapse(self.consumers[name], self.consumers[peer]))
        self.bring_due(self.consumers[peer])
        returned = self.runner.run(self.consumers[peer].reclaim())
        self.runner.run(self.consumers[name].renew())
        assert returned == (len(self.held[name]) if self.broker.capabilities.leases else 0)
        self.expect_returned(name, set(self.held[name]))

    @rule(name=st.sampled_from(_CONSUMERS))
    def crash(self, name: str) -> None:
        """A consumer is gone without a word; another takes its name, and knows of nothing that it held."""
        gone = self.consumers[name]
        leases = self.broker.capabilities.leases
        if leases:
            self.gone.append(gone)
        else:
            self.runner.run(self.world.lose(gone))
        self.consumers[name] = self.world.connect().consumer(name, LEASE)
        self.runner.run(self.consumers[name].open())
        self.bring_due(self.consumers[name])
        returned = self.runner.run(self.consumers[name].reconcile(()))
        assert returned == (len(self.held[name]) if leases else 0)
        self.expect_returned(name, set(self.held[name]))
        self.paused[name].clear()

    def bring_due(self, consumer: Consumer) -> None:
        """Have what is due moved to the front now, so that what is returned next goes before it."""
        for queue in _QUEUES:
            self.promote(queue)
            for delivery in self.runner.run(consumer.fetch(FetchPlan((queue,)), 1, 0)):
                self.runner.run(consumer.settle([Disposition(delivery.tag, "requeue", front=True)]))

    def expect_returned(self, name: str, tags: set[bytes]) -> None:
        """Returned messages are first in line; their own order depends on how they had been taken."""
        for queue in _QUEUES:
            names = [
                peek(delivery.payload).id
                for tag, delivery in self.held[name].items()
                if tag in tags and delivery.queue == queue
            ]
            self.put_back(queue, *(self.in_broker_order(queue, names) if self.exact_front else names))
        # In the order of taking: tags may be random, and hypothesis must find the same history again.
        for tag in [tag for tag in self.held[name] if tag in tags]:
            del self.held[name][tag]
            self.settled[name].append(tag)

    def in_broker_order(self, queue: str, names: list[str]) -> list[str]:
        """Take what is first in line, check that it is ``names``, put it back, and tell its order."""
        if not names:
            return []
        consumer = self.consumers["a"]
        deliveries = self.runner.run(consumer.fetch(FetchPlan((queue,)), len(names), 0))
        for delivery in reversed(deliveries):
            self.runner.run(consumer.settle([Disposition(delivery.tag, "requeue", front=True)]))
        order = [peek(delivery.payload).id for delivery in deliveries]
        assert sorted(order) == sorted(names)
        return order

    @rule(seconds=st.sampled_from((1.0, 700.0, 2000.0)))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)
        for consumer in self.consumers.values():
            self.runner.run(consumer.renew())
        if not self.exact_front:
            for queue in _QUEUES:
                self.promote(queue)

    def move_due(self, name: str) -> None:
        """Let the broker and the model move what is due now: a fetch that takes nothing does."""
        for queue in _QUEUES:
            self.runner.run(self.consumers[name].fetch(FetchPlan((queue,)), 0, 0))
            self.promote(queue)

    def promote(self, queue: str) -> None:
        """What is due comes to the front, or to the end as soon as it is; the earliest first."""
        now = self.world.now()
        delayed = self.delayed[queue]
        due = sorted((at, place, name) for place, (name, at) in enumerate(delayed.items()) if at <= now)
        for _, _, name in due:
            del delayed[name]
        names = [name for _, _, name in due]
        if self.exact_front:
            self.put_back(queue, *names)
        else:
            self.line_up(queue, *names)

    @rule(queue=st.sampled_from(_QUEUES))
    def purge(self, queue: str) -> None:
        self.move_due("a")
        self.broker.purge(queue)
        self.waiting[queue] = []

    @invariant()
    def every_message_is_in_one_place(self) -> None:
        if not hasattr(self, "world"):
            return
        assert self.broker.held_depth() == sum(map(len, self.held.values()))
        for queue in _QUEUES:
            places = self.broker.depth(queue) + self.broker.delayed_depth(queue)
            assert places == len(self.waiting[queue]) + len(self.delayed[queue])
            dead: list[Any] = self.broker.dead_letters(queue, 1000)
            assert [peek(letter.payload).id for letter in dead] == self.dead[queue][::-1]
