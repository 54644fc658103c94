"""The broker suite, part 9: how often messages were lost with their consumers, and what becomes of dead letters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from umbel.brokers.base import Disposition
from umbel.core.causes import Cause, forget_losses, losses_of
from umbel.core.protocol import peek, read_envelope, repack
from umbel.core.records import Publication
from umbel.testing.contracts.broker_fixtures import BrokerFixtures, Q
from umbel.testing.contracts.support import (
    PATIENCE,
    expect_reclaimed,
    ids,
    message,
    send,
    to_queue,
)

if TYPE_CHECKING:
    from umbel.brokers.base import Broker, Consumer, DeadLetter, Delivery
    from umbel.testing.contracts.broker_fixtures import OpenConsumer
    from umbel.testing.contracts.support import BrokerWorld

_CAUSE = Cause("failed", "ValueError", "ü\n'\"", "Traceback:\n  line", "worker@host")


async def _bury(broker: Broker, consumer: Consumer, *task_ids: str, cause: Cause | None = _CAUSE) -> None:
    """Send messages and make dead letters of them, in order."""
    for task_id in task_ids:
        send(broker, task_id)
        [delivery] = await consumer.fetch(Q, 1, PATIENCE)
        await consumer.settle([Disposition(delivery.tag, "dead_letter", reason=f"r {task_id}", cause=cause)])


def _all(broker: Broker, page: int = 2) -> list[DeadLetter]:
    """What one walk finds."""
    reader = broker.dead_reader("q")
    letters = []
    while found := reader.page(page):
        assert len(found) <= page
        letters += found
    reader.close()
    reader.close()
    return letters


def _names(letters: list[DeadLetter]) -> list[str]:
    return [peek(letter.payload).id for letter in letters]


def _again(letter: DeadLetter) -> Publication:
    payload = forget_losses(letter.payload)
    return Publication(to_queue("q", peek(payload).priority), payload)


class LossContract(BrokerFixtures):
    """A message knows how often it was lost with its consumer, whoever is asked and whatever died."""

    async def _lose(
        self, world: BrokerWorld, broker: Broker, consumer_of: OpenConsumer, name: str, *, begin: bool
    ) -> list[int]:
        """Have a consumer take everything, begin it or not, and be lost; gives what it was told when it began."""
        lost, peer = await consumer_of(name), await consumer_of(f"peer of {name}")
        taken = await lost.fetch(Q, 10, PATIENCE)
        told = [losses.count for losses in await lost.begin(taken)] if begin else []
        await world.lose(lost, peer)
        await expect_reclaimed(peer, broker, len(taken))
        return told

    @staticmethod
    async def _take(consumer: Consumer) -> Delivery:
        [delivery] = await consumer.fetch(Q, 1, PATIENCE)
        return delivery

    async def test_a_fresh_message_was_never_lost(self, broker: Broker, consumer: Consumer) -> None:
        send(broker, "1", "2")
        deliveries = await consumer.fetch(Q, 2, PATIENCE)
        assert [losses.count for losses in await consumer.begin(deliveries)] == [0, 0]
        assert await consumer.begin([]) == []

    async def test_every_loss_after_a_begin_counts(
        self, world: BrokerWorld, broker: Broker, consumer_of: OpenConsumer
    ) -> None:
        send(broker, "1")
        first = 0 if broker.capabilities.first_loss else -1
        assert await self._lose(world, broker, consumer_of, "a", begin=False) == []
        assert await self._lose(world, broker, consumer_of, "b", begin=True) == [first + 1]
        assert await self._lose(world, broker, consumer_of, "c", begin=True) == [first + 2]
        last = await consumer_of("last")
        delivery = await self._take(last)
        assert delivery.redelivered
        [losses] = await last.begin([delivery])
        assert losses.count == first + 3
        assert [loss.worker for loss in losses.last] == ["a", "b", "c"][-losses.count :]
        assert all(abs(loss.at - world.now()) < 600 for loss in losses.last)
        assert read_envelope(delivery.payload).body == b"[[], {}, {}]"

    async def test_what_only_waited_beside_is_counted_once_at_the_most(
        self, world: BrokerWorld, broker: Broker, consumer_of: OpenConsumer
    ) -> None:
        send(broker, "1")
        for name in "abcd":
            await self._lose(world, broker, consumer_of, name, begin=False)
        last = await consumer_of("last")
        [losses] = await last.begin([await self._take(last)])
        assert losses.count == (1 if broker.capabilities.first_loss else 0)

    async def test_what_is_given_back_is_not_lost(
        self, world: BrokerWorld, broker: Broker, consumer_of: OpenConsumer
    ) -> None:
        send(broker, "1")
        before = 1 if broker.capabilities.first_loss else 0
        await self._lose(world, broker, consumer_of, "a", begin=False)
        for name in "bcd":
            leaving = await consumer_of(name)
            delivery = await self._take(leaving)
            await leaving.begin([delivery])
            match name:
                case "b":
                    await leaving.settle([Disposition(delivery.tag, "requeue", front=True)])
                case "c":
                    assert await leaving.reconcile([]) == 1
            await leaving.close()
        last = await consumer_of("last")
        [losses] = await last.begin([await self._take(last)])
        assert losses.count == before

    async def test_what_is_settled_is_forgotten(
        self, world: BrokerWorld, broker: Broker, consumer_of: OpenConsumer
    ) -> None:
        send(broker, "1")
        for name in "ab":
            await self._lose(world, broker, consumer_of, name, begin=True)
        last = await consumer_of("last")
        delivery = await self._take(last)
        await last.begin([delivery])
        await last.settle([Disposition(delivery.tag)])
        # The same task may be sent again, as a retry is.
        send(broker, "1")
        again = await self._take(last)
        assert [losses.count for losses in await last.begin([again])] == [0]
        assert losses_of(again.payload).count == 0

    async def test_garbage_can_be_begun(self, broker: Broker, consumer: Consumer) -> None:
        broker.publisher().send([Publication(to_queue("q"), b"\x00junk")], timeout=PATIENCE)
        delivery = await self._take(consumer)
        assert [losses.count for losses in await consumer.begin([delivery])] == [0]


class DeadLetterContract(BrokerFixtures):
    """What was given up can be looked through, page by page, and put back on its queue."""

    async def test_a_dead_letter_keeps_message_reason_and_cause(
        self, world: BrokerWorld, broker: Broker, consumer: Consumer
    ) -> None:
        body = bytes(range(256))
        sent = message(broker, "1", body=body)
        sent.payload = repack(sent.payload, headers={"mine": {"a": [1, None]}})
        broker.publisher().send([sent], timeout=PATIENCE)
        [delivery] = await consumer.fetch(Q, 1, PATIENCE)
        await consumer.settle([Disposition(delivery.tag, "dead_letter", reason="ö", cause=_CAUSE)])
        [letter] = _all(broker)
        assert (letter.queue, letter.reason, letter.cause) == ("q", "ö", _CAUSE)
        assert abs(letter.at - world.now()) < 600
        assert read_envelope(letter.payload) == read_envelope(delivery.payload)
        assert read_envelope(letter.payload).body == body
        assert broker.dead_letters("q", 1)[0].cause == _CAUSE

    async def test_a_letter_without_a_cause_was_rejected(self, broker: Broker, consumer: Consumer) -> None:
        await _bury(broker, consumer, "1", cause=None)
        assert [letter.cause for letter in _all(broker)] == [Cause("rejected")]

    async def test_they_are_read_page_by_page_the_oldest_first(
        self, broker: Broker, consumer: Consumer
    ) -> None:
        names = [str(number) for number in range(7)]
        send(broker, *names)
        deliveries = await consumer.fetch(Q, 7, PATIENCE)
        # Of one batch, so at one instant.
        await consumer.settle([Disposition(each.tag, "dead_letter", reason="r") for each in deliveries[:5]])
        await consumer.settle([Disposition(each.tag, "dead_letter", reason="r") for each in deliveries[5:]])
        letters = _all(broker)
        assert sorted(_names(letters[:5])) == names[:5]
        assert sorted(_names(letters[5:])) == names[5:]
        instants = [letter.at for letter in letters]
        assert instants == sorted(instants)
        assert broker.dead_count("q") == 7
        assert sorted(_names(_all(broker, page=100))) == names  # reading took nothing away

    async def test_queues_that_have_some_are_known(self, broker: Broker, consumer: Consumer) -> None:
        assert broker.dead_queues(["q", "other"]) == []
        assert (broker.dead_count("q"), _all(broker)) == (0, [])
        await _bury(broker, consumer, "1")
        assert broker.dead_queues(["q", "other"]) == ["q"]

    async def test_a_letter_is_replayed_to_its_queue(self, broker: Broker, consumer: Consumer) -> None:
        await _bury(broker, consumer, "1", "2", "3")
        reader = broker.dead_reader("q")
        first, second, _third = reader.page(10)
        assert reader.replay(second, _again(second))
        assert not reader.replay(second, _again(second))
        reader.close()
        [delivery] = await consumer.fetch(Q, 10, PATIENCE)
        assert ids([delivery]) == ["2"]
        assert not delivery.redelivered
        assert _names(_all(broker)) == ["1", "3"]
        assert first.queue == "q"

    async def test_replaying_wakes_a_waiting_consumer(self, broker: Broker, consumer: Consumer) -> None:
        await _bury(broker, consumer, "1")
        assert await consumer.fetch(Q, 1, 0) == []
        reader = broker.dead_reader("q")
        [letter] = reader.page(1)
        assert reader.replay(letter, _again(letter))
        reader.close()
        assert ids(await consumer.fetch(Q, 1, PATIENCE)) == ["1"]

    async def test_a_letter_may_be_lost_and_given_up_again(self, broker: Broker, consumer: Consumer) -> None:
        await _bury(broker, consumer, "1")
        reader = broker.dead_reader("q")
        [letter] = reader.page(1)
        assert reader.replay(letter, _again(letter))
        reader.close()
        [delivery] = await consumer.fetch(Q, 1, PATIENCE)
        await consumer.settle([Disposition(delivery.tag, "dead_letter", reason="again")])
        assert [(peek(each.payload).id, each.reason) for each in _all(broker)] == [("1", "again")]

    async def test_garbage_can_be_replayed(self, broker: Broker, consumer: Consumer) -> None:
        junk = b"\x00\xffnot a message"
        broker.publisher().send([Publication(to_queue("q"), junk)], timeout=PATIENCE)
        [delivery] = await consumer.fetch(Q, 1, PATIENCE)
        await consumer.settle([Disposition(delivery.tag, "dead_letter", reason="junk")])
        reader = broker.dead_reader("q")
        [letter] = reader.page(5)
        assert reader.replay(letter, Publication(to_queue("q"), forget_losses(letter.payload)))
        reader.close()
        assert [each.payload for each in await consumer.fetch(Q, 1, PATIENCE)] == [junk]

    async def test_letters_are_discarded(self, broker: Broker, consumer: Consumer) -> None:
        await _bury(broker, consumer, "1", "2", "3")
        reader = broker.dead_reader("q")
        letters = reader.page(10)
        assert reader.discard([letters[0], letters[2]]) == 2
        assert reader.discard([letters[0]]) == 0
        assert reader.discard([]) == 0
        assert reader.page(10) == []
        reader.close()
        assert _names(_all(broker)) == ["2"]

    @pytest.mark.parametrize("replayed", [True, False])
    async def test_a_walk_goes_on_past_what_it_takes(
        self, broker: Broker, consumer: Consumer, replayed: bool
    ) -> None:
        await _bury(broker, consumer, "1", "2", "3", "4", "5")
        reader = broker.dead_reader("q")
        seen = []
        while found := reader.page(2):
            seen += _names(found)
            if replayed:
                assert reader.replay(found[0], _again(found[0]))
            else:
                assert reader.discard(found[:1]) == 1
        reader.close()
        assert seen == ["1", "2", "3", "4", "5"]
        assert _names(_all(broker)) == ["2", "4"]
