"""sqlite:/// beyond the shared suite: doorbells, contention, pruning, plans of its queries."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from umbel.brokers import sqlite_messages as messages
from umbel.brokers.base import Disposition, FetchPlan
from umbel.brokers.options import BrokerOptions
from umbel.brokers.sqlite import SqliteBroker
from umbel.brokers.sqlite_consumer import _LAPSED_ROWS
from umbel.core.destination import Destination
from umbel.core.records import Publication
from umbel.errors import BrokerConnectionError, BrokerError, PublishTimeout
from umbel.results.sqlite import _BY_ID
from umbel.stores.doorbell import MESSAGES, Doorbell, Ringer, topic_bits, wake_directory
from umbel.stores.sqlite import Database, locate
from umbel.stores.sqlite_clock import FileClock
from umbel.testing.contracts.support import ShiftedClock, ids, message, send

PLAN = FetchPlan(("q",))


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "umbel.db"


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
def broker(path, clock):
    broker = SqliteBroker.from_url(f"sqlite:///{path}", BrokerOptions(), clock=clock)
    yield broker
    broker.close()


class TestDoorbells:
    def test_only_those_who_wait_for_the_topic_are_rung(self, tmp_path) -> None:
        ringer = Ringer(str(tmp_path))
        ringer.open()
        with Doorbell(str(tmp_path), MESSAGES, ["a"]) as a, Doorbell(str(tmp_path), MESSAGES, ["b"]) as b:
            ringer.ring(MESSAGES, topic_bits(["a"]))
            assert (_is_ringing(a), _is_ringing(b)) == (True, False)
            a.silence()
            ringer.ring("r", topic_bits(["a"]))
            assert not _is_ringing(a)
        ringer.close()

    def test_many_rings_are_one(self, tmp_path) -> None:
        ringer = Ringer(str(tmp_path))
        ringer.open()
        with Doorbell(str(tmp_path), MESSAGES, ["a"]) as bell:
            for _ in range(1000):
                ringer.ring(MESSAGES, topic_bits(["a"]))
            bell.wait(10)
            assert not _is_ringing(bell)
        ringer.close()

    def test_what_a_killed_process_left_is_removed(self, tmp_path) -> None:
        left = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        left.bind(f"{tmp_path}/m{topic_bits(['a']):016x}abcdef01")
        left.close()
        ringer = Ringer(str(tmp_path))
        ringer.open()
        ringer.ring(MESSAGES, topic_bits(["a"]))
        assert not list(tmp_path.iterdir())
        ringer.close()

    def test_a_doorbell_taken_down_leaves_nothing(self, tmp_path) -> None:
        Doorbell(str(tmp_path), MESSAGES, ["a"]).close()
        assert not list(tmp_path.iterdir())

    def test_what_is_no_doorbell_is_let_be(self, tmp_path) -> None:
        for name in ("notes", "m", "mz00000000000000000000000", f"m{'f' * 25}"):
            (tmp_path / name).touch()
        ringer = Ringer(str(tmp_path))
        ringer.open()
        ringer.ring(MESSAGES, 1)
        assert len(list(tmp_path.iterdir())) == 4
        ringer.close()

    async def test_the_directory_goes_with_the_last_user(self, broker, path) -> None:
        consumer = broker.consumer("c", 30)
        await consumer.open()
        assert await consumer.fetch(PLAN, 1, 0.01) == []
        assert _is_directory(wake_directory(str(path)))
        await consumer.close()
        assert not _is_directory(wake_directory(str(path)))

    def test_ringing_in_a_directory_that_is_gone_is_nothing(self, tmp_path) -> None:
        ringer = Ringer(f"{tmp_path}/wake")
        ringer.open()
        ringer.ring(MESSAGES, 1)
        ringer.close()

    def test_a_long_path_has_its_doorbells_elsewhere(self, tmp_path) -> None:
        deep = tmp_path / ("d" * 120)
        deep.mkdir()
        directory = wake_directory(f"{deep}/umbel.db")
        assert directory is not None
        assert len(directory) < 78
        assert directory == wake_directory(f"{deep}/umbel.db") != wake_directory(f"{deep}/other.db")

    async def test_waiting_works_where_there_are_none(self, broker, path) -> None:
        send(broker, "first")
        wake = Path(wake_directory(str(path)) or "")
        consumer = broker.consumer("c", 30)
        await consumer.open()
        await consumer.settle([Disposition(d.tag) for d in await consumer.fetch(PLAN, 1, 0)])
        _replace_by_file(wake)
        fetching = asyncio.create_task(consumer.fetch(PLAN, 1, 10))
        await asyncio.sleep(0.05)
        with sqlite3.connect(path, isolation_level=None) as other:  # nobody rings
            payload = message(broker, "polled").payload
            other.execute("INSERT INTO messages (queue, priority, payload) VALUES ('q', 0, ?)", (payload,))
        other.close()
        sent = time.monotonic()
        assert ids(await fetching) == ["polled"]
        assert time.monotonic() - sent < 0.5
        send(broker, "unrung")
        assert ids(await consumer.fetch(PLAN, 1, 10)) == ["unrung"]
        await consumer.close()


class TestContention:
    def test_a_send_waits_for_the_writer_before_it(self, broker, path) -> None:
        send(broker, "1")
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        ending = threading.Timer(0.2, other.execute, ["COMMIT"])
        ending.start()
        send(broker, "2")
        ending.join()
        other.close()
        assert broker.depth("q") == 2

    def test_a_send_gives_up_at_its_deadline(self, broker, path) -> None:
        send(broker, "1")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        with pytest.raises(PublishTimeout, match=r"umbel\.db"):
            broker.publisher().send([message(broker, "2")], timeout=0.2)
        assert 0.2 <= time.monotonic() - started < 2
        other.execute("ROLLBACK")
        other.close()
        assert broker.depth("q") == 1

    async def test_the_loop_goes_on_while_another_writes(self, broker, path) -> None:
        send(broker, "1")
        consumer = broker.consumer("c", 30)
        await consumer.open()
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        fetching = asyncio.create_task(consumer.fetch(PLAN, 1, 10))
        done, _ = await asyncio.wait([fetching], timeout=0.2)  # a blocked loop would not time this
        assert not done
        other.execute("COMMIT")
        other.close()
        assert ids(await fetching) == ["1"]
        await consumer.close()

    def test_many_may_open_a_new_file_at_once(self, path) -> None:
        brokers = [SqliteBroker.from_url(f"sqlite:///{path}", BrokerOptions()) for _ in range(12)]
        threads = [threading.Thread(target=send, args=(broker, "x")) for broker in brokers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert brokers[0].depth("q") == 12
        for broker in brokers:
            broker.close()


class TestErrors:
    def test_a_directory_that_is_missing(self, tmp_path) -> None:
        broker = SqliteBroker.from_url(f"sqlite:///{tmp_path}/missing/umbel.db", BrokerOptions())
        with pytest.raises(BrokerConnectionError, match=r"missing/umbel\.db"):
            broker.depth("q")

    def test_a_file_that_is_no_database(self, broker, path) -> None:
        path.write_bytes(b"not a database " * 1000)
        with pytest.raises(BrokerConnectionError, match="not a database"):
            send(broker, "1")

    def test_a_failed_step_leaves_nothing_half_done(self, broker) -> None:
        nowhere = Publication(Destination("logs", "key", None, "topic"), b"")
        with pytest.raises(BrokerError, match="exchange 'logs' for routing key 'key'"):
            broker.publisher().send([message(broker, "1"), nowhere], timeout=5)
        assert broker.depth("q") == 0

    async def test_a_failed_settlement_leaves_nothing_half_done(self, broker) -> None:
        send(broker, "1", "2")
        consumer = broker.consumer("c", 30)
        await consumer.open()
        first, second = await consumer.fetch(PLAN, 2, 5)
        unwritable = Publication(Destination("", "q", "q"), object())
        with pytest.raises(BrokerError, match="type"):
            await consumer.settle([Disposition(first.tag), Disposition(second.tag, publish=[unwritable])])
        assert broker.held_depth() == 2
        await consumer.close()

    async def test_a_consumer_that_is_not_open_says_so(self, broker) -> None:
        with pytest.raises(RuntimeError, match=r"await its open\(\) first"):
            await broker.consumer("c", 30).fetch(PLAN, 1, 0)


class TestGrowth:
    async def test_dead_letters_expire(self, broker, clock) -> None:
        send(broker, "1")
        consumer = broker.consumer("c", 30)
        await consumer.open()
        [delivery] = await consumer.fetch(PLAN, 1, 5)
        await consumer.settle([Disposition(delivery.tag, "dead_letter", reason="r")])
        clock.shift += 15 * 86400
        assert broker.dead_letters("q", 10) == []
        await consumer.close()

    def test_what_has_expired_is_pruned_batch_by_batch(self, path, clock) -> None:
        database = Database(locate(f"sqlite:///{path}", {}), clock=clock, dead_letter_expires=100.0)
        old, new = clock.now() - 1, clock.now() + 1000

        def fill(connection: sqlite3.Connection) -> None:
            rows = [(str(number), old if number < 1500 else new) for number in range(2000)]
            connection.executemany("INSERT INTO results VALUES (NULL, ?1, 'SUCCESS', x'00', ?2)", rows)
            connection.execute("INSERT INTO dead_letters VALUES (1, 'q', x'00', 'r', ?)", (old - 100,))
            connection.execute("INSERT INTO dead_letters VALUES (2, 'q', x'00', 'r', ?)", (new,))

        database.write(fill)
        assert _count(database, "results") == 1000  # the first write prunes, as far as one prune goes
        assert not database.prune()
        assert _count(database, "results") == 500
        assert _count(database, "dead_letters") == 1
        database.close()

    def test_the_file_gives_space_back(self, path) -> None:
        database = Database(locate(f"sqlite:///{path}", {}))
        blob = b"x" * 1_000_000
        database.write(
            lambda c: c.executemany("INSERT INTO dead_letters VALUES (NULL, 'q', ?, '', 0)", [(blob,)] * 90)
        )
        database.write(lambda c: c.execute("DELETE FROM dead_letters"))
        for _ in range(20):
            database.prune()
        database.close()
        assert path.stat().st_size < 70_000_000

    def test_an_emptied_file_does_not_grow_again(self, broker, path) -> None:
        async def round_trip() -> None:
            consumer = broker.consumer("c", 30)
            await consumer.open()
            send(broker, *map(str, range(500)))
            await consumer.settle([Disposition(d.tag) for d in await consumer.fetch(PLAN, 500, 5)])
            await consumer.close()

        asyncio.run(round_trip())
        size = path.stat().st_size
        for _ in range(5):
            asyncio.run(round_trip())
        assert path.stat().st_size <= size * 1.5


@pytest.mark.parametrize(
    ("statement", "parameters", "index"),
    [
        (messages._FIRST_IN_LINE, 2, "messages_waiting"),
        (messages._IS_ANY_READY, 2, "messages_waiting"),
        (messages._IS_ANY_READY, 2, "messages_delayed"),
        (messages._FIND_DUE, 2, "messages_delayed"),
        (messages._NEXT_DUE, 1, "messages_delayed"),
        (messages._HELD, 1, "messages_held"),
        (messages._ACK, 3, "PRIMARY KEY"),
        (_LAPSED_ROWS, 1, "messages_held"),
        (_BY_ID, 2, "sqlite_autoindex_results_1"),
    ],
)
def test_queries_use_their_index_and_sort_nothing(broker, path, statement, parameters, index) -> None:
    send(broker, "1")
    connection = sqlite3.connect(path)
    plan = " ".join(
        row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", ["1"] * parameters)
    )
    connection.close()
    assert index in plan
    assert "TEMP B-TREE" not in plan


def _is_directory(path: str | None) -> bool:
    return path is not None and Path(path).is_dir()


def _replace_by_file(directory: Path) -> None:
    """Put a file where doorbells would be: no socket can be bound there."""
    if directory.exists():
        directory.rmdir()
    directory.touch()


def _is_ringing(bell: Doorbell) -> bool:
    try:
        bell._socket.recv(16, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    return True


def _count(database: Database, table: str) -> int:
    return database.read(lambda connection: connection.execute(f"SELECT count(*) FROM {table}").fetchone())[0]


class TestClock:
    def test_all_processes_have_one_clock_that_does_not_jump(self, path) -> None:
        machine = ShiftedClock()
        first, second = (Database(locate(f"sqlite:///{path}", {}), clock=FileClock(machine)) for _ in "ab")
        first.read(lambda _: None)
        machine.shift += 3600
        second.read(lambda _: None)
        assert first.clock.now() == pytest.approx(second.clock.now(), abs=0.5)
        assert second.clock.now() == pytest.approx(machine.now() - 3600, abs=0.5)
        first.close()
        second.close()

    def test_a_step_that_lasts_moves_it_for_everybody(self, path, monkeypatch) -> None:
        machine = ShiftedClock()
        first, second = (Database(locate(f"sqlite:///{path}", {}), clock=FileClock(machine)) for _ in "ab")
        assert not first.look_at_clock()
        machine.shift += 3600
        assert not second.look_at_clock()
        monkeypatch.setattr("umbel.core.clock.FOLLOW_AFTER", 0.0)
        assert second.look_at_clock()
        assert second.clock.now() == pytest.approx(machine.now(), abs=0.5)
        assert first.look_at_clock()
        assert first.clock.now() == pytest.approx(machine.now(), abs=0.5)
        first.close()
        second.close()

    def test_whoever_asks_for_the_time_first_has_it_read(self, path) -> None:
        broker = SqliteBroker.from_url(f"sqlite:///{path}", BrokerOptions())
        assert broker.clock.ahead is None
        assert broker.clock.now() == pytest.approx(time.time(), abs=5)
        assert broker.clock.ahead is not None
        broker.close()
