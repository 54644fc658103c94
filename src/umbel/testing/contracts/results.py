"""The suite that judges a result backend.

Subclass ``ResultContract`` in a test module and override ``make_world``; see ``contracts.broker`` for the manner.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import threading
import time
import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import pytest

from umbel.core.ids import new_id
from umbel.core.records import ResultRecord
from umbel.core.states import FAILURE, PENDING, RETRY, REVOKED, STARTED, SUCCESS
from umbel.errors import TimeoutError as ResultTimeoutError
from umbel.testing.contracts.support import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from umbel.results.base import ResultBackend

#: How long the suite's backends keep documents, in seconds.
EXPIRES = 1000.0

#: What another process runs: saves a SUCCESS for each line it reads and answers with the time it was saved.
_SAVER = """
import sys, time
from umbel.results.urls import backend_from_url
from umbel.testing.contracts.results import record
backend = backend_from_url(sys.argv[1])
for line in sys.stdin:
    backend.save([record(line.strip(), reply_to=sys.argv[2])])
    print(time.time(), flush=True)
backend.close()
"""


class ResultWorld(ABC):
    """One fresh, empty store of results, how to reach it, and how time passes in it."""

    url: str | None = None  #: how another process reaches the same store; None where none can
    #: Median time from the return of a save to the return of a wait, in seconds.
    wake_within = 0.02
    #: Where another process has to send the results that this one reads; for backends that send instead of storing.
    reply_to = ""
    #: Whether what is saved can be read by one process alone, which keeps it as long as it likes.
    one_reader = False

    @abstractmethod
    def connect(self) -> ResultBackend:
        """One more backend object on the store, which keeps documents for ``EXPIRES`` seconds."""

    @abstractmethod
    def pass_time(self, seconds: float) -> None:
        """Let ``seconds`` pass for the expiry of documents."""

    @abstractmethod
    def close(self) -> None:
        """Delete the store and close what was connected."""


def document(task_id: str, state: str = SUCCESS, result: object = None) -> bytes:
    """A document in Celery's form."""
    return json.dumps(
        {
            "status": state,
            "result": result,
            "traceback": None,
            "children": [],
            "date_done": None,
            "task_id": task_id,
        }
    ).encode()


def record(task_id: str, state: str = SUCCESS, result: object = None, *, reply_to: str = "") -> ResultRecord:
    """A state change with its document."""
    return ResultRecord(task_id, state, document(task_id, state, result), reply_to)


class ResultContract:
    """Every sentence of ``results.base``, as tests."""

    @pytest.fixture
    def make_world(self) -> Callable[[], ResultWorld]:
        """Override: makes a fresh world each time it is called."""
        raise NotImplementedError("a subclass of the result suite must override the make_world fixture")

    @pytest.fixture
    def world(self, make_world: Callable[[], ResultWorld]) -> Iterator[ResultWorld]:
        world = make_world()
        yield world
        world.close()

    @pytest.fixture
    def backend(self, world: ResultWorld) -> ResultBackend:
        return world.connect()

    @pytest.fixture
    def task_id(self) -> str:
        return new_id()

    def test_what_is_not_there_is_none(self, backend: ResultBackend, task_id: str) -> None:
        assert backend.load([task_id]) == [None]
        assert backend.load([]) == []

    def test_what_is_saved_is_loaded_in_the_order_asked(
        self, world: ResultWorld, backend: ResultBackend
    ) -> None:
        ids = [new_id() for _ in range(5)]
        backend.save([record(task_id, result=number) for number, task_id in enumerate(ids[:4])])
        asked = [ids[2], ids[4], ids[0]]
        assert world.connect().load(asked) == [document(ids[2], result=2), None, document(ids[0], result=0)]

    def test_saving_nothing_is_nothing(self, backend: ResultBackend) -> None:
        backend.save([])

    def test_a_later_state_replaces_an_earlier_one(self, backend: ResultBackend, task_id: str) -> None:
        for state in (STARTED, RETRY, "PROGRESS", FAILURE, RETRY, STARTED, REVOKED, SUCCESS):
            backend.save([record(task_id, state)])
            assert backend.load([task_id]) == [document(task_id, state)]

    @pytest.mark.parametrize("state", [PENDING, STARTED, RETRY, FAILURE, REVOKED, "PROGRESS"])
    def test_success_is_never_replaced(self, backend: ResultBackend, task_id: str, state: str) -> None:
        backend.save([record(task_id)])
        backend.save([record(task_id, state)])
        assert backend.load([task_id]) == [document(task_id)]

    def test_success_is_not_replaced_within_one_save(self, backend: ResultBackend, task_id: str) -> None:
        backend.save([record(task_id), record(task_id, FAILURE)])
        assert backend.load([task_id]) == [document(task_id)]

    def test_success_may_be_saved_again(self, backend: ResultBackend, task_id: str) -> None:
        backend.save([record(task_id, result=1)])
        backend.save([record(task_id, result=2)])
        assert backend.load([task_id])[0] is not None

    @pytest.mark.parametrize("size", [0, 1, 100_000, 5_000_000])
    def test_documents_of_every_size(self, backend: ResultBackend, task_id: str, size: int) -> None:
        saved = record(task_id, result="x" * size)
        backend.save([saved])
        assert backend.load([task_id]) == [saved.document]

    @pytest.mark.parametrize("odd", ["", "with space", "é/%_:*?['\"]", "x" * 250])
    def test_any_task_id_will_do(self, backend: ResultBackend, odd: str) -> None:
        backend.save([record(odd)])
        assert backend.load([odd]) == [document(odd)]
        assert list(backend.wait([odd], PATIENCE)) == [(odd, document(odd))]

    def test_forgotten_documents_are_gone(self, backend: ResultBackend, task_id: str) -> None:
        other = new_id()
        backend.save([record(task_id), record(other)])
        backend.forget([task_id, new_id()])
        backend.forget([])
        assert backend.load([task_id, other]) == [None, document(other)]
        backend.save([record(task_id, FAILURE)])
        assert backend.load([task_id]) == [document(task_id, FAILURE)]

    def test_documents_expire(self, world: ResultWorld, backend: ResultBackend, task_id: str) -> None:
        backend.save([record(task_id)])
        world.pass_time(EXPIRES - 100)
        assert backend.load([task_id]) == [document(task_id)]
        later = new_id()
        backend.save([record(later)])
        world.pass_time(200)
        expired = document(task_id) if world.one_reader else None
        assert backend.load([task_id, later]) == [expired, document(later)]

    def test_an_expired_success_may_be_replaced(
        self, world: ResultWorld, backend: ResultBackend, task_id: str
    ) -> None:
        backend.save([record(task_id)])
        world.pass_time(EXPIRES + 1)
        backend.save([record(task_id, STARTED)])
        kept = document(task_id) if world.one_reader else document(task_id, STARTED)
        assert backend.load([task_id]) == [kept]

    async def test_the_awaitable_face_is_the_same(self, backend: ResultBackend) -> None:
        ids = [new_id() for _ in range(3)]
        await backend.asave([record(ids[0]), record(ids[1], FAILURE)])
        await backend.asave([record(ids[0], RETRY)])
        assert await backend.aload(ids) == [document(ids[0]), document(ids[1], FAILURE), None]
        assert backend.load(ids) == await backend.aload(ids)
        found = [item async for item in backend.await_(ids[:2], PATIENCE)]
        assert sorted(found) == sorted([(ids[0], document(ids[0])), (ids[1], document(ids[1], FAILURE))])

    def test_waiting_for_nothing_ends_at_once(self, backend: ResultBackend) -> None:
        assert list(backend.wait([], None)) == []

    def test_what_is_ready_is_yielded_at_once(self, backend: ResultBackend) -> None:
        ids = [new_id() for _ in range(4)]
        backend.expect(ids)
        states = [SUCCESS, FAILURE, REVOKED, SUCCESS]
        backend.save([record(task_id, state) for task_id, state in zip(ids, states, strict=True)])
        found = dict(backend.wait(ids, 0))
        assert found == {
            task_id: document(task_id, state) for task_id, state in zip(ids, states, strict=True)
        }

    def test_ready_ones_come_before_the_others(
        self, world: ResultWorld, backend: ResultBackend, task_id: str
    ) -> None:
        ready = new_id()
        backend.save([record(ready)])
        results = backend.wait([task_id, ready], PATIENCE)
        assert next(results) == (ready, document(ready))
        world.connect().save([record(task_id)])
        assert next(results) == (task_id, document(task_id))
        assert next(results, None) is None

    def test_one_task_asked_for_twice_is_yielded_once(self, backend: ResultBackend, task_id: str) -> None:
        backend.save([record(task_id)])
        assert list(backend.wait([task_id, task_id], PATIENCE)) == [(task_id, document(task_id))]

    def test_states_are_seen_as_they_pass(
        self, world: ResultWorld, backend: ResultBackend, task_id: str
    ) -> None:
        saver = world.connect()
        results = backend.wait([task_id], PATIENCE)
        seen = []
        for state in (STARTED, "PROGRESS", RETRY, STARTED, FAILURE):
            saver.save([record(task_id, state)])
            seen.append(next(results))
        assert seen == [
            (task_id, document(task_id, state)) for state in (STARTED, "PROGRESS", RETRY, STARTED, FAILURE)
        ]
        assert next(results, None) is None

    @pytest.mark.parametrize("timeout", [0, 0.2])
    def test_a_wait_ends_with_its_timeout(self, backend: ResultBackend, task_id: str, timeout: float) -> None:
        started = time.monotonic()
        with pytest.raises(ResultTimeoutError):
            list(backend.wait([task_id], timeout))
        assert timeout <= time.monotonic() - started + 0.01 < timeout + 5

    def test_the_timeout_is_for_each_next_one(
        self, world: ResultWorld, backend: ResultBackend, task_id: str
    ) -> None:
        ready, saver = new_id(), world.connect()
        results = backend.wait([task_id, ready], 2.0)
        saver.save([record(ready)])
        assert next(results)[0] == ready
        with pytest.raises(ResultTimeoutError):
            next(results)

    async def test_an_awaiting_ends_with_its_timeout(self, backend: ResultBackend, task_id: str) -> None:
        with pytest.raises(ResultTimeoutError):
            _ = [item async for item in backend.await_([task_id], 0.1)]

    def test_a_wait_given_up_leaves_the_backend_usable(self, backend: ResultBackend, task_id: str) -> None:
        other = new_id()
        backend.save([record(other)])
        for _ in range(50):
            results = backend.wait([task_id, other], PATIENCE)
            next(results)
            del results
        backend.save([record(task_id)])
        assert list(backend.wait([task_id], PATIENCE)) == [(task_id, document(task_id))]

    async def test_an_awaiting_may_be_cancelled(self, backend: ResultBackend, task_id: str) -> None:
        async def first() -> tuple[str, bytes]:
            return await anext(backend.await_([task_id], PATIENCE))

        waiting = asyncio.create_task(first())
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await backend.asave([record(task_id)])
        assert await first() == (task_id, document(task_id))

    def test_forgetting_does_not_end_a_wait(
        self, world: ResultWorld, backend: ResultBackend, task_id: str
    ) -> None:
        saver = world.connect()
        saver.save([record(task_id, STARTED)])
        results = backend.wait([task_id], PATIENCE)
        assert next(results) == (task_id, document(task_id, STARTED))
        (backend if world.one_reader else saver).forget([task_id])
        saver.save([record(task_id)])
        assert next(results) == (task_id, document(task_id))

    def test_a_wait_is_woken_by_another_thread(self, world: ResultWorld, backend: ResultBackend) -> None:
        saver = world.connect()

        def save_one(task_id: str) -> float:
            saver.save([record(task_id)])
            return time.time()

        _expect_quick_wakes(backend, save_one, world.wake_within)

    def test_a_wait_is_woken_by_another_process(self, world: ResultWorld, backend: ResultBackend) -> None:
        if world.url is None:
            pytest.skip("this backend lives in one process")
        command = [sys.executable, "-c", _SAVER, world.url, world.reply_to]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as saver:
            assert saver.stdin is not None
            assert saver.stdout is not None

            def save_one(task_id: str) -> float:
                print(task_id, file=saver.stdin, flush=True)
                return float(saver.stdout.readline())  # type: ignore[union-attr]

            _expect_quick_wakes(backend, save_one, world.wake_within)

    async def test_an_awaiting_is_woken_at_once(self, world: ResultWorld, backend: ResultBackend) -> None:
        saver, delays = world.connect(), []
        for _ in range(9):
            task_id = new_id()
            waiting = asyncio.create_task(_collect(backend, [task_id]))
            await asyncio.sleep(0.02)
            await asyncio.to_thread(saver.save, [record(task_id)])
            saved = time.time()
            assert await waiting == {task_id: document(task_id)}
            delays.append(time.time() - saved)
        assert statistics.median(delays) < world.wake_within, delays

    def test_many_threads_wait_for_many_tasks(self, world: ResultWorld, backend: ResultBackend) -> None:
        ids = [new_id() for _ in range(60)]
        shares = [[ids[0], *ids[number::12]] for number in range(12)]  # all wait for the first as well
        found: list[dict[str, bytes]] = [{} for _ in shares]

        def wait(number: int) -> None:
            found[number].update(backend.wait(shares[number], PATIENCE))

        threads = [threading.Thread(target=wait, args=(number,)) for number in range(len(shares))]
        for thread in threads:
            thread.start()
        saver = world.connect()
        for task_id in reversed(ids):
            saver.save([record(task_id)])
        for thread in threads:
            thread.join()
        assert [sorted(results) for results in found] == [sorted(set(share)) for share in shares]

    async def test_many_coroutines_await_many_tasks(self, world: ResultWorld, backend: ResultBackend) -> None:
        ids = [new_id() for _ in range(60)]
        shares = [[ids[0], *ids[number::12]] for number in range(12)]
        waiting = [asyncio.create_task(_collect(backend, share)) for share in shares]
        await asyncio.sleep(0.02)
        saver = world.connect()
        for start in range(0, len(ids), 7):
            await saver.asave([record(task_id) for task_id in ids[start : start + 7]])
        found = await asyncio.gather(*waiting)
        assert [sorted(results) for results in found] == [sorted(set(share)) for share in shares]

    def test_one_wait_for_a_thousand(self, world: ResultWorld, backend: ResultBackend) -> None:
        ids = [new_id() for _ in range(1000)]
        saver = world.connect()

        def save() -> None:
            for start in range(0, len(ids), 50):
                saver.save([record(task_id, STARTED) for task_id in ids[start : start + 50]])
                saver.save([record(task_id) for task_id in ids[start : start + 50]])

        thread = threading.Thread(target=save)
        thread.start()
        last = dict(backend.wait(ids, PATIENCE))
        thread.join()
        assert last == {task_id: document(task_id) for task_id in ids}

    def test_a_backend_works_on_both_sides_of_a_fork(
        self, world: ResultWorld, backend: ResultBackend
    ) -> None:
        if world.url is None:
            pytest.skip("this backend lives in one process")
        asked, answered = new_id(), new_id()
        backend.save([record(new_id())])
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # forking beside threads is what is tried here
            child = os.fork()
        if child == 0:
            status = 1
            try:
                found = [asked] if world.one_reader else sorted(dict(backend.wait([asked], PATIENCE)))
                backend.save([record(answered, result=found == [asked])])
                status = 0
            finally:
                os._exit(status)
        backend.save([record(asked)])
        assert dict(backend.wait([answered], PATIENCE)) == {answered: document(answered, result=True)}
        assert os.waitpid(child, 0)[1] == 0

    def test_its_description(self, world: ResultWorld, backend: ResultBackend) -> None:
        assert backend.stores_results
        assert backend.serializer == "json"
        assert "://" in backend.display_url
        assert backend.store == world.connect().store

    def test_closing_twice_is_closing_once(self, backend: ResultBackend, task_id: str) -> None:
        backend.save([record(task_id)])
        backend.close()
        backend.close()


async def _collect(backend: ResultBackend, task_ids: list[str]) -> dict[str, bytes]:
    return {task_id: found async for task_id, found in backend.await_(task_ids, PATIENCE)}


def _expect_quick_wakes(backend: ResultBackend, save_one: Callable[[str], float], within: float) -> None:
    delays = []
    for _ in range(9):
        task_id, ended = new_id(), list[float]()

        def wait(task_id: str = task_id, ended: list[float] = ended) -> None:
            assert list(backend.wait([task_id], PATIENCE)) == [(task_id, document(task_id))]
            ended.append(time.time())

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.02)  # lets the wait begin; if it has not, the figure is only better
        saved = save_one(task_id)
        thread.join()
        delays.append(ended[0] - saved)
    assert statistics.median(delays) < within, delays
