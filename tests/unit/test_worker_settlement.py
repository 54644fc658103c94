"""What is settled together: ends that need no message held in between, and how long ends may wait for others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from umbel.brokers.base import Delivery, Disposition, records_of
from umbel.core.destination import Destination
from umbel.core.records import Publication, ResultRecord
from umbel.worker.settlement import BATCH, Settlement, joined


def end(tag: str, keeps: str = "", **more: Any) -> Disposition:
    kept = Delivery(keeps.encode(), "q", f"message {keeps}".encode()) if keeps else None
    return Disposition(
        tag.encode(), result=ResultRecord(tag, "SUCCESS", f"result {tag}".encode()), keeps=kept, **more
    )


def said(dispositions: Sequence[Disposition]) -> list[tuple[str, str, list[str], str]]:
    """Of each: its tag, its action, whose results it stores, what it keeps."""
    return [
        (
            each.tag.decode(),
            each.action,
            [record.task_id for record in records_of(each)],
            each.keeps.tag.decode() if each.keeps else "",
        )
        for each in dispositions
    ]


def test_a_chain_that_has_ended_is_one_end() -> None:
    batch = [end("a", "b"), end("x"), end("b", "c"), end("c")]
    assert said(joined(batch)) == [("a", "ack", ["a", "b", "c"], ""), ("x", "ack", ["x"], "")]


def test_of_a_chain_that_goes_on_the_last_is_kept() -> None:
    [whole] = joined([end("a", "b"), end("b", "c"), end("c", "d")])
    assert said([whole]) == [("a", "ack", ["a", "b", "c"], "d")]
    assert whole.keeps is not None
    assert whole.keeps.payload == b"message d"


def test_what_an_end_publishes_goes_out_with_it() -> None:
    news = Publication(Destination("", "n", "n"), b"news")
    [whole] = joined([end("a", "b"), end("b", publish=[news])])
    assert whole.publish == [news]


def test_what_is_acknowledged_when_it_begins_is_not_held_at_all() -> None:
    batch = [end("a", "b"), Disposition(b"b"), end("b", "c", unheld=True), end("c")]
    assert said(joined(batch)) == [("a", "ack", ["a"], ""), ("b", "ack", ["b", "c"], "")]


def test_what_goes_back_or_is_tried_again_has_to_be_held_first() -> None:
    for action in ("requeue", "retry_later", "dead_letter"):
        batch = [end("a", "b"), end("b", action=action)]
        assert said(joined(batch)) == said(batch)


def test_ends_of_single_jobs_stay_as_they_are() -> None:
    batch = [end("a"), end("b")]
    assert joined(batch) is batch


class Link:
    """Takes batches; ``took`` is set with each."""

    def __init__(self) -> None:
        self.batches: list[Sequence[Disposition]] = []
        self.took = asyncio.Event()

    async def settle(self, batch: Sequence[Disposition]) -> None:
        self.batches.append(batch)
        self.took.set()


@asynccontextmanager
async def settling_over(link: Link) -> AsyncIterator[Settlement]:
    settlement = Settlement(
        cast("Any", link),
        cast("Any", None),
        shared_store=True,
        on_settled=lambda: None,
        on_due=lambda _: None,
    )
    running = asyncio.create_task(settlement.run())
    try:
        async with asyncio.timeout(5):
            yield settlement
    finally:
        running.cancel()


async def test_a_step_waits_for_the_chains_next_ones_and_what_ends_for_nothing() -> None:
    link = Link()
    async with settling_over(link) as settlement:
        settlement.add_all([end("a", "b")])
        for _ in range(5):
            await asyncio.sleep(0)  # turns of the loop, in which it would be settled
        assert link.batches == []
        assert settlement.held_tags() == {b"a"}
        settlement.add_all([end("b")])
        await link.took.wait()
        assert said(link.batches[0]) == [("a", "ack", ["a", "b"], "")]
        await settlement.flush()
        assert settlement.held_tags() == set()


async def test_a_step_that_nothing_follows_soon_is_settled_all_the_same() -> None:
    link = Link()
    async with settling_over(link) as settlement:
        settlement.add_all([end("a", "b")])
        await link.took.wait()
    assert said(link.batches[0]) == [("a", "ack", ["a"], "b")]


async def test_more_than_one_batch_is_settled_to_the_end() -> None:
    link = Link()
    async with settling_over(link) as settlement:
        settlement.add_all([end(str(number)) for number in range(2 * BATCH + 1)])
        while len(link.batches) < 3:
            link.took.clear()
            await link.took.wait()
    assert [len(batch) for batch in link.batches] == [BATCH, BATCH, 1]


async def test_whoever_waits_for_everything_does_not_wait_for_more_steps() -> None:
    link = Link()
    async with settling_over(link) as settlement:
        settlement.add_all([end("a", "b")])
        await settlement.flush()
    assert len(link.batches) == 1
