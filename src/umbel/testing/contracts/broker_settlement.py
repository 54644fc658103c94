"""The broker suite, part 2: the ways a delivery ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from umbel.brokers.base import Delivery, Disposition, FetchPlan
from umbel.core.protocol import peek
from umbel.core.records import Publication
from umbel.testing.contracts.broker_fixtures import BrokerFixtures, Q
from umbel.testing.contracts.support import PATIENCE, ids, message, send, to_queue

if TYPE_CHECKING:
    from umbel.brokers.base import Broker, Consumer
    from umbel.core.records import Action
    from umbel.testing.contracts.broker_fixtures import OpenConsumer
    from umbel.testing.contracts.support import BrokerWorld

_ACTIONS: tuple[Action, ...] = ("ack", "requeue", "retry_later", "dead_letter")


async def _fetch_one(consumer: Consumer, queue: str = "q") -> Delivery:
    [delivery] = await consumer.fetch(FetchPlan((queue,)), 1, PATIENCE)
    return delivery


async def _keep(broker: Broker, consumer: Consumer) -> tuple[Delivery, Delivery]:
    """A delivery, and one that may be kept when it ends."""
    if not broker.capabilities.keeps:
        pytest.skip("what follows a delivery goes through a queue here")
    send(broker, "1")
    payload = message(broker, "kept").payload
    tag = peek(payload).delivery_tag or "kept"
    return await _fetch_one(consumer), Delivery(tag.encode(), "q", payload)


class SettlementContract(BrokerFixtures):
    """Every delivery ends once, in one step, by one of four actions."""

    async def test_an_acknowledged_message_is_gone(self, broker: Broker, consumer: Consumer) -> None:
        send(broker, "1", "2")
        first = await _fetch_one(consumer)
        await consumer.settle([Disposition(first.tag)])
        assert broker.held_depth() == 0
        assert ids(await consumer.fetch(Q, 10, 0)) == ["2"]

    async def test_an_empty_batch_is_nothing(self, consumer: Consumer) -> None:
        await consumer.settle([])

    async def test_a_requeued_message_goes_to_the_back(self, broker: Broker, consumer: Consumer) -> None:
        send(broker, "1", "2")
        first = await _fetch_one(consumer)
        await consumer.settle([Disposition(first.tag, "requeue")])
        assert (broker.held_depth(), broker.depth("q")) == (0, 2)
        deliveries = await consumer.fetch(Q, 10, 0)
        assert ids(deliveries) == ["2", "1"]
        assert [delivery.redelivered for delivery in deliveries] == [False, True]
        assert [peek(delivery.payload).redelivered for delivery in deliveries] == [False, True]

    async def test_a_requeued_message_may_go_to_the_front(
        self, world: BrokerWorld, broker: Broker, consumer: Consumer
    ) -> None:
        send(broker, "1", "2", "3")
        first, second = await consumer.fetch(Q, 2, PATIENCE)
        await consumer.settle([Disposition(second.tag, "requeue", front=True)])
        await consumer.settle([Disposition(first.tag, "requeue", front=True)])
        names = ids(await consumer.fetch(Q, 10, 0))
        assert (names if world.returns_in_order else sorted(names)) == ["1", "2", "3"]

    @pytest.mark.parametrize("front", [True, False])
    async def test_a_message_may_be_requeued_changed(
        self, broker: Broker, consumer: Consumer, front: bool
    ) -> None:
        send(broker, "old", "other")
        old = await _fetch_one(consumer)
        changed = message(broker, "new").payload
        await consumer.settle([Disposition(old.tag, "requeue", payload=changed, front=front)])
        names = ids(await consumer.fetch(Q, 10, 0))
        first = front and broker.capabilities.exact_front
        assert names == (["new", "other"] if first else ["other", "new"])

    async def test_a_requeued_message_keeps_its_priority(
        self, world: BrokerWorld, broker: Broker, consumer: Consumer
    ) -> None:
        if not world.priorities:
            pytest.skip("this broker does not order by priority")
        send(broker, "late", priority=world.last_priority)
        late = await _fetch_one(consumer)
        send(broker, "early", priority=world.first_priority)
        await consumer.settle([Disposition(late.tag, "requeue")])
        assert ids(await consumer.fetch(Q, 10, 0)) == ["early", "late"]

    async def test_a_requeue_wakes_a_waiting_peer(self, broker: Broker, consumer_of: OpenConsumer) -> None:
        first, second = await consumer_of("a"), await consumer_of("b")
        send(broker, "1")
        delivery = await _fetch_one(first)
        assert await second.fetch(Q, 1, 0) == []
        await first.settle([Disposition(delivery.tag, "requeue")])
        assert ids(await second.fetch(Q, 1, PATIENCE)) == ["1"]

    async def test_a_delayed_message_is_not_seen_before_it_is_due(
        self, world: BrokerWorld, broker: Broker, consumer: Consumer
    ) -> None:
        send(broker, "later")
        delivery = await _fetch_one(consumer)
        await consumer.settle([Disposition(delivery.tag, "retry_later", due=world.now() + 600)])
        assert (broker.depth("q"), broker.delayed_depth("q"), broker.held_depth()) == (0, 1, 0)
        assert await consumer.fetch(Q, 10, 0) == []
        world.pass_time(500)
        await consumer.renew()
        assert await consumer.fetch(Q, 10, 0) == []
        world.pass_time(101)
        await consumer.renew()
        assert ids(await consumer.fetch(Q, 10, PATIENCE)) == ["later"]
        assert broker.delayed_depth("q") == 0

    async def test_what_is_due_goes_to_the_front(
        self, world: BrokerWorld, broker: Broker, consumer: Consumer
    ) -> None:
        send(broker, "second", "first", "third")
        due = {"first": world.now() + 100, "second": world.now() + 200, "third": world.now() + 900}
        batch = [
            Disposition(delivery.tag, "retry_later", due=due[peek(delivery.payload).id])
            for delivery in await consumer.fetch(Q, 3, PATIENCE)
        ]
        await consumer.settle(batch)
        send(broker, "waiting")
        world.pass_time(300)
        await consumer.renew()
        names = ids(await consumer.fetch(Q, 10, PATIENCE))
        if not broker.capabilities.exact_front:
            names = [*names[1:], names[0]]
        assert sorted(names[:2]) == ["first", "second"]
        assert names[2:] == ["waiting"]

    async def test_a_delayed_message_may_be_changed(
        self, world: BrokerWorld, broker: Broker, consumer: Consumer
    ) -> None:
        send(broker, "old")
        delivery = await _fetch_one(consumer)
        changed = message(broker, "new").payload
        later = Disposition(delivery.tag, "retry_later", payload=changed, due=world.now() + 50)
        await consumer.settle([later])
        world.pass_time(60)
        await consumer.renew()
        assert ids(await consumer.fetch(Q, 10, PATIENCE)) == ["new"]

    async def test_a_due_time_in_the_past_is_due_now(
        self, world: BrokerWorld, broker: Broker, consumer: Consumer
    ) -> None:
        send(broker, "1")
        delivery = await _fetch_one(consumer)
        await consumer.settle([Disposition(delivery.tag, "retry_later", due=world.now() - 5)])
        assert ids(await consumer.fetch(Q, 10, PATIENCE)) == ["1"]

    async def test_a_waiting_fetch_is_woken_when_a_message_is_due(
        self, world: BrokerWorld, broker: Broker, consumer: Consumer
    ) -> None:
        send(broker, "1")
        delivery = await _fetch_one(consumer)
        due = world.now() + 0.3
        await consumer.settle([Disposition(delivery.tag, "retry_later", due=due)])
        assert ids(await consumer.fetch(Q, 10, PATIENCE)) == ["1"]
        assert 0 <= world.now() - due < 2

    async def test_dead_letters_keep_message_and_reason(
        self, world: BrokerWorld, broker: Broker, consumer: Consumer
    ) -> None:
        send(broker, "1", "2", "3")
        for delivery in await consumer.fetch(Q, 3, PATIENCE):
            reason = f"because of {peek(delivery.payload).id}"
            await consumer.settle([Disposition(delivery.tag, "dead_letter", reason=reason)])
        assert (broker.depth("q"), broker.held_depth()) == (0, 0)
        dead = broker.dead_letters("q", 2)
        assert [peek(letter.payload).id for letter in dead] == ["3", "2"]
        assert [letter.reason for letter in dead] == ["because of 3", "because of 2"]
        assert all(letter.queue == "q" and abs(letter.at - world.now()) < 60 for letter in dead)
        assert broker.dead_letters("other", 10) == []

    async def test_a_reason_that_is_no_valid_text_is_kept(self, broker: Broker, consumer: Consumer) -> None:
        send(broker, "1")
        delivery = await _fetch_one(consumer)
        await consumer.settle([Disposition(delivery.tag, "dead_letter", reason="not of type \ud800")])
        [letter] = broker.dead_letters("q", 2)
        assert letter.reason.startswith("not of type ")

    async def test_garbage_can_be_dead_lettered(self, broker: Broker, consumer: Consumer) -> None:
        junk = b"\x00\xffnot a message"
        broker.publisher().send([Publication(to_queue("q"), junk)], timeout=PATIENCE)
        delivery = await _fetch_one(consumer)
        await consumer.settle([Disposition(delivery.tag, "dead_letter", reason="not decodable")])
        [letter] = broker.dead_letters("q", 10)
        assert (letter.payload, letter.reason) == (junk, "not decodable")

    @pytest.mark.parametrize("action", _ACTIONS)
    async def test_what_follows_is_published_in_the_same_step(
        self, world: BrokerWorld, broker: Broker, consumer: Consumer, action: Action
    ) -> None:
        send(broker, "1")
        delivery = await _fetch_one(consumer)
        follow = [message(broker, "next 1", "n"), message(broker, "next 2", "n"), message(broker, "m", "m")]
        await consumer.settle([Disposition(delivery.tag, action, due=world.now() + 900, publish=follow)])
        assert ids(await consumer.fetch(FetchPlan(("n",)), 10, 0)) == ["next 1", "next 2"]
        assert ids(await consumer.fetch(FetchPlan(("m",)), 10, 0)) == ["m"]

    async def test_a_batch_may_mix_actions(
        self, world: BrokerWorld, broker: Broker, consumer: Consumer
    ) -> None:
        send(broker, "ack", "requeue", "retry_later", "dead_letter", "held")
        deliveries = await consumer.fetch(Q, 10, PATIENCE)
        batch = [
            Disposition(delivery.tag, action, due=world.now() + 900, reason="r")
            for delivery, action in zip(deliveries, _ACTIONS, strict=False)
        ]
        await consumer.settle(batch)
        assert (broker.depth("q"), broker.delayed_depth("q"), broker.held_depth()) == (1, 1, 1)
        assert len(broker.dead_letters("q", 10)) == 1
        assert ids(await consumer.fetch(Q, 10, 0)) == ["requeue"]

    async def test_a_big_batch_settles_whole(self, broker: Broker, consumer: Consumer) -> None:
        send(broker, *(str(number) for number in range(1500)))
        taken: list[Delivery] = []
        while len(taken) < 1500:
            taken += await consumer.fetch(Q, 1500 - len(taken), PATIENCE)
        batch = [Disposition(d.tag, publish=[message(broker, f"n{n}", "n")]) for n, d in enumerate(taken)]
        await consumer.settle(batch)
        assert (broker.held_depth(), broker.depth("n")) == (0, 1500)

    @pytest.mark.parametrize("action", _ACTIONS)
    async def test_settling_twice_is_settling_once(
        self, world: BrokerWorld, broker: Broker, consumer: Consumer, action: Action
    ) -> None:
        send(broker, "1")
        delivery = await _fetch_one(consumer)
        again = Disposition(
            delivery.tag, action, due=world.now() + 900, publish=[message(broker, "next", "n")]
        )
        await consumer.settle([again])
        await consumer.settle([again, again])
        assert broker.depth("n") == 1
        places = (broker.depth("q"), broker.delayed_depth("q"), len(broker.dead_letters("q", 10)))
        assert sum(places) == (0 if action == "ack" else 1)

    async def test_an_old_tag_does_not_settle_a_newer_delivery(
        self, broker: Broker, consumer: Consumer
    ) -> None:
        send(broker, "1")
        old = await _fetch_one(consumer)
        await consumer.settle([Disposition(old.tag, "requeue", front=True)])
        new = await _fetch_one(consumer)
        if new.tag != old.tag:
            await consumer.settle([Disposition(old.tag)])
            assert broker.held_depth() == 1
        await consumer.settle([Disposition(new.tag)])
        assert broker.held_depth() == 0

    @pytest.mark.parametrize("tag", [b"", b"nonsense", b"999999", b"1.1.1", b"\xff\x00"])
    async def test_an_unknown_tag_settles_to_nothing(
        self, broker: Broker, consumer: Consumer, tag: bytes
    ) -> None:
        await consumer.settle([Disposition(tag, publish=[message(broker, "next", "n")])])
        assert broker.depth("n") == 0

    async def test_a_peers_tag_settles_to_nothing(self, broker: Broker, consumer_of: OpenConsumer) -> None:
        first, second = await consumer_of("a"), await consumer_of("b")
        send(broker, "1")
        delivery = await _fetch_one(first)
        await second.settle([Disposition(delivery.tag, publish=[message(broker, "next", "n")])])
        assert (broker.held_depth(), broker.depth("n")) == (1, 0)
        await first.settle([Disposition(delivery.tag)])
        assert broker.held_depth() == 0

    async def test_unheld_parts_always_happen(self, broker: Broker, consumer: Consumer) -> None:
        send(broker, "1")
        delivery = await _fetch_one(consumer)
        await consumer.settle([Disposition(delivery.tag)])
        late = Disposition(delivery.tag, unheld=True, publish=[message(broker, "next", "n")])
        await consumer.settle([late])
        assert broker.depth("n") == 1

    async def test_an_unheld_dead_letter_is_kept(self, broker: Broker, consumer: Consumer) -> None:
        send(broker, "1")
        delivery = await _fetch_one(consumer)
        await consumer.settle([Disposition(delivery.tag)])
        late = Disposition(
            delivery.tag,
            "dead_letter",
            payload=delivery.payload,
            reason="late",
            publish=[message(broker, "next", "n")],
            unheld=True,
            queue="q",
        )
        await consumer.settle([late, Disposition(delivery.tag, unheld=True)])
        assert [(peek(d.payload).id, d.reason) for d in broker.dead_letters("q", 2)] == [("1", "late")]
        assert (broker.depth("n"), broker.held_depth()) == (1, 0)

    async def test_an_unheld_disposition_ends_no_delivery(self, broker: Broker, consumer: Consumer) -> None:
        send(broker, "1")
        delivery = await _fetch_one(consumer)
        await consumer.settle([Disposition(delivery.tag, unheld=True)])
        assert broker.held_depth() == 1

    async def test_what_is_kept_is_held_at_once_and_on_no_queue(
        self, broker: Broker, consumer_of: OpenConsumer
    ) -> None:
        alone, peer = await consumer_of("a"), await consumer_of("b")
        first, kept = await _keep(broker, alone)
        await alone.settle([Disposition(first.tag, keeps=kept)])
        assert (broker.depth("q"), broker.held_depth()) == (0, 1)
        assert await peer.fetch(Q, 1, 0) == []
        await alone.settle([Disposition(kept.tag)])
        assert (broker.depth("q"), broker.held_depth()) == (0, 0)

    async def test_a_chain_of_what_is_kept_settles_in_one_batch(
        self, broker: Broker, consumer: Consumer
    ) -> None:
        first, second = await _keep(broker, consumer)
        third = Delivery(b"third", "q", message(broker, "third").payload)
        follow = [message(broker, "next", "n")]
        batch = [Disposition(first.tag, keeps=second), Disposition(second.tag, keeps=third)]
        await consumer.settle([*batch, Disposition(third.tag, publish=follow)])
        assert (broker.depth("q"), broker.held_depth()) == (0, 0)
        assert ids(await consumer.fetch(FetchPlan(("n",)), 10, 0)) == ["next"]

    async def test_nothing_is_kept_of_a_delivery_that_is_not_held(
        self, broker: Broker, consumer: Consumer
    ) -> None:
        first, kept = await _keep(broker, consumer)
        await consumer.settle([Disposition(first.tag)])
        await consumer.settle([Disposition(first.tag, keeps=kept), Disposition(kept.tag, "requeue")])
        assert (broker.depth("q"), broker.held_depth()) == (0, 0)

    async def test_what_is_kept_without_a_delivery_is_held(self, broker: Broker, consumer: Consumer) -> None:
        first, kept = await _keep(broker, consumer)
        await consumer.settle([Disposition(first.tag)])
        await consumer.settle([Disposition(first.tag, unheld=True, keeps=kept)])
        assert await consumer.reconcile({kept.tag}) == 0
        await consumer.settle([Disposition(kept.tag, "requeue")])
        [again] = await consumer.fetch(Q, 10, 0)
        assert (ids([again]), again.redelivered) == (["kept"], True)

    async def test_what_a_lapsed_consumer_kept_goes_to_a_peer(
        self, world: BrokerWorld, broker: Broker, consumer_of: OpenConsumer
    ) -> None:
        lost, peer = await consumer_of("a"), await consumer_of("b")
        first, kept = await _keep(broker, lost)
        await lost.settle([Disposition(first.tag, keeps=kept)])
        await world.lapse(lost, peer)
        assert await peer.reclaim() == 1
        [delivery] = await peer.fetch(Q, 10, PATIENCE)
        assert (ids([delivery]), delivery.redelivered) == (["kept"], True)

    async def test_messages_with_one_delivery_tag_are_two(self, broker: Broker, consumer: Consumer) -> None:
        publication = message(broker, "twin")
        broker.publisher().send([publication, publication], timeout=PATIENCE)
        first, second = await consumer.fetch(Q, 10, PATIENCE)
        assert first.tag != second.tag
        assert broker.held_depth() == 2
        await consumer.settle([Disposition(first.tag)])
        assert broker.held_depth() == 1
        await consumer.settle([Disposition(second.tag, "requeue")])
        assert ids(await consumer.fetch(Q, 10, 0)) == ["twin"]
