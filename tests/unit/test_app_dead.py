"""``app.dead_letters``: choosing letters, replaying them and what they say of themselves."""

from __future__ import annotations

import io
import json
import time

import pytest

from umbel import Umbel
from umbel.brokers.base import Disposition, FetchPlan
from umbel.core.causes import Cause, Loss, add_losses, losses_of
from umbel.core.destination import Destination
from umbel.core.ids import new_id
from umbel.core.protocol import peek, read_envelope
from umbel.core.records import Publication
from umbel.stores.memory import stores


@pytest.fixture
def app():
    name = new_id()
    with Umbel("dead", broker=f"memory://{name}", set_as_current=False) as app:
        yield app
    stores.drop(name)


async def give_up(app: Umbel, kind: str = "failed", queue: str = "celery", losses: int = 0) -> None:
    """Make dead letters of everything in a queue."""
    consumer = app.broker.consumer("test", 30)
    await consumer.open()
    for delivery in await consumer.fetch(FetchPlan((queue,)), 1000, 0):
        payload = add_losses(delivery.payload, [Loss("w@h", 1.5)] * losses) if losses else None
        await consumer.settle(
            [Disposition(delivery.tag, "dead_letter", payload, reason="r", cause=Cause(kind))]
        )
    await consumer.close()


async def waiting(app: Umbel, queue: str = "celery") -> list[bytes]:
    consumer = app.broker.consumer("reader", 30)
    await consumer.open()
    return [delivery.payload for delivery in await consumer.fetch(FetchPlan((queue,)), 1000, 0)]


async def test_letters_are_chosen_by_what_is_known_of_them(app) -> None:
    first = app.send_task("a.one").id
    await give_up(app, "failed")
    second = app.send_task("a.two", queue="other").id
    await give_up(app, "expired", "other")
    letters = app.dead_letters
    assert letters.queues() == ["celery", "other"]
    assert [letter.id for letter in letters.list()] == [first, second]
    assert [letter.id for letter in await letters.alist(task="*.two")] == [second]
    assert [letter.id for letter in letters.walk(kinds=["failed"])] == [first]
    assert [letter.id for letter in letters.walk(ids=[second, "x"], queues=["celery"])] == []
    assert (letters.count(older_than=60), letters.count(newer_than=60)) == (0, 2)
    assert (letters.count(), letters.count(queues=["other"]), await letters.acount(limit=1)) == (2, 1, 1)
    assert letters.get(second).task == "a.two"
    assert await letters.aget("none") is None
    with pytest.raises(ValueError, match=r"kinds: expected some of rejected, .*, got 'wrong'"):
        letters.count(kinds=["wrong"])


async def test_what_is_replayed_starts_afresh_under_its_id(app) -> None:
    sent = app.send_task("a.one", (1,), expires=-100, priority=3, headers={"mine": 1})
    await give_up(app, "quarantined", losses=3)
    [letter] = app.dead_letters.list()
    assert letter.losses.count == 3
    assert letter.losses.last == (Loss("w@h", 1.5),) * 3
    assert app.dead_letters.replay(dry_run=True) == 1
    assert await app.dead_letters.areplay() == 1
    assert app.dead_letters.replay() == 0
    [payload] = await waiting(app)
    header, envelope = peek(payload), read_envelope(payload)
    assert (header.id, header.priority, header.redelivered, header.expires) == (sent.id, 3, False, None)
    assert losses_of(payload).count == 0
    assert envelope.headers["mine"] == 1
    assert envelope.body == read_envelope(letter.payload).body


async def test_what_fails_again_at_once_is_not_replayed_again(app) -> None:
    for _ in range(3):
        app.send_task("a.one")
    await give_up(app)
    reader = app.broker.dead_reader("celery")
    walk = app.dead_letters.walk()
    for count, _letter in enumerate(walk, 1):
        app.send_task("a.two")
        await give_up(app)
        assert count <= 3
    assert app.dead_letters.count() == 6
    reader.close()


async def test_the_rate_of_replay_is_kept(app) -> None:
    for _ in range(5):
        app.send_task("a.one")
    await give_up(app)
    began = time.monotonic()
    assert app.dead_letters.replay(rate=40) == 5
    assert time.monotonic() - began >= 4 / 40


async def test_letters_are_deleted_and_exported(app) -> None:
    junk = b"\x00junk"
    app.broker.publisher().send([Publication(Destination("", "celery", "celery"), junk)], timeout=5)
    app.send_task("a.one")
    await give_up(app)
    file = io.StringIO()
    assert app.dead_letters.export(file) == 2
    garbage, message = map(json.loads, file.getvalue().splitlines())
    assert (garbage["id"], garbage["payload"], message["task"]) == ("", "AGp1bms=", "a.one")
    assert app.dead_letters.purge(dry_run=True, task="a.*") == 1
    assert await app.dead_letters.apurge(task="a.*") == 1
    assert app.dead_letters.replay() == 1
    assert await waiting(app) == [junk]
