"""The suite that judges how a result backend counts the parts of chords (``ResultBackend.native_chords``)."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from umbel.core.ids import new_id
from umbel.core.records import ChordEnd, ChordPart, DueChord, ResultRecord
from umbel.core.states import FAILURE, SUCCESS
from umbel.stores.chords import PATIENCE as OWN_TIME
from umbel.testing.contracts.results import EXPIRES, ResultWorld, document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from umbel.results.base import ResultBackend

REALM = "here:celery"


def part(
    group_id: str, index: int | None, task_id: str = "", state: str = SUCCESS, *, stores: bool = True
) -> ResultRecord:
    """The record of a task that is a part of a chord."""
    task_id = task_id or f"{group_id}-{index}"
    chord = ChordPart(group_id, index, entry(group_id, index, state), f"plan of {group_id}".encode(), REALM)
    return ResultRecord(task_id, state, document(task_id, state) if stores else b"", chord=chord)


def entry(group_id: str, index: int | None, state: str = SUCCESS) -> bytes:
    """What the body would get of a part."""
    return f'[1, "{group_id}-{index}", "{state}", null]'.encode()


def end_of(due: DueChord, *, failed: bool = False) -> ChordEnd:
    """That a due chord was dealt with."""
    return ChordEnd(due.group_id, due.token, due.realm, failed)


class ChordContract:
    """Every sentence of ``results.base`` that is about chords and groups, as tests."""

    @pytest.fixture
    def make_world(self) -> Callable[[], ResultWorld]:
        """Override: makes a fresh world each time it is called."""
        raise NotImplementedError("a subclass of the chord suite must override the make_world fixture")

    @pytest.fixture
    def world(self, make_world: Callable[[], ResultWorld]) -> Iterator[ResultWorld]:
        world = make_world()
        yield world
        world.close()

    @pytest.fixture
    def backend(self, world: ResultWorld) -> ResultBackend:
        return world.connect()

    @pytest.fixture
    def group_id(self) -> str:
        return new_id()

    def test_it_says_that_it_counts(self, backend: ResultBackend) -> None:
        assert backend.native_chords

    def test_the_last_part_makes_the_chord_due_and_no_other(
        self, backend: ResultBackend, group_id: str
    ) -> None:
        backend.open_chord(group_id, 3)
        assert not backend.save([part(group_id, 2)])
        assert not backend.save([part(group_id, 0)])
        [due] = backend.save([part(group_id, 1)]) or ()
        assert (due.group_id, due.body, due.realm) == (group_id, f"plan of {group_id}".encode(), REALM)
        assert backend.chord_entries(group_id) == [entry(group_id, index) for index in range(3)]

    def test_the_results_are_stored_in_the_same_step(self, backend: ResultBackend, group_id: str) -> None:
        backend.open_chord(group_id, 2)
        records = [part(group_id, 0), part(group_id, 1, state=FAILURE, stores=False)]
        assert backend.save(records)
        assert backend.load([record.task_id for record in records]) == [records[0].document, None]
        assert len(backend.chord_entries(group_id)) == 2

    def test_a_repeated_part_counts_once_whatever_it_says(
        self, backend: ResultBackend, group_id: str
    ) -> None:
        backend.open_chord(group_id, 2)
        for state in (SUCCESS, SUCCESS, FAILURE):
            assert not backend.save([part(group_id, 0, state=state)])
        assert backend.chord_entries(group_id) == [entry(group_id, 0)]
        assert backend.save([part(group_id, 1)])
        assert not backend.save([part(group_id, 1), part(group_id, 0)])

    def test_one_task_may_stand_at_two_places(self, backend: ResultBackend, group_id: str) -> None:
        backend.open_chord(group_id, 2)
        first, second = part(group_id, 0, "same"), part(group_id, 1, "same")
        for record in (first, second):
            assert record.chord is not None
            record.chord.entry = b'[1, "same", "SUCCESS", 1]'
        assert not backend.save([first])
        assert backend.save([second])
        assert [found.rstrip() for found in backend.chord_entries(group_id)] == [first.chord.entry] * 2  # type: ignore[union-attr]

    def test_parts_without_a_place_come_last(self, backend: ResultBackend, group_id: str) -> None:
        backend.open_chord(group_id, 2)
        backend.save([part(group_id, None), part(group_id, 0)])
        assert backend.chord_entries(group_id) == [entry(group_id, 0), entry(group_id, None)]

    def test_the_size_may_be_said_before_the_last_part_only(
        self, backend: ResultBackend, group_id: str
    ) -> None:
        assert not backend.save([part(group_id, 0), part(group_id, 1)])
        backend.open_chord(group_id, 3)
        assert backend.save([part(group_id, 2)])

    def test_saying_the_size_again_changes_nothing(self, backend: ResultBackend, group_id: str) -> None:
        backend.open_chord(group_id, 2)
        backend.save([part(group_id, 0)])
        backend.open_chord(group_id, 2)
        assert backend.save([part(group_id, 1)])

    async def test_its_size_is_known_until_it_is_ended(self, backend: ResultBackend, group_id: str) -> None:
        assert backend.chord_size(group_id) == 0
        backend.extend_chord(group_id)
        backend.open_chord(group_id, 2)
        assert backend.chord_size(group_id) == 3
        [due] = backend.save([part(group_id, index) for index in range(3)]) or ()
        assert backend.chord_size(group_id) == 3
        await backend.aend_chords([end_of(due)])
        assert backend.chord_size(group_id) == 0

    def test_a_chord_may_be_extended(self, backend: ResultBackend, group_id: str) -> None:
        backend.open_chord(group_id, 1)
        backend.extend_chord(group_id)
        backend.extend_chord(group_id, 2)
        assert not backend.save([part(group_id, index) for index in range(3)])
        assert backend.save([part(group_id, 3)])

    def test_chords_are_counted_apart(self, backend: ResultBackend) -> None:
        ids = [new_id(), new_id()]
        for each in ids:
            backend.open_chord(each, 1)
        due = backend.save([part(each, 0) for each in ids]) or ()
        assert [chord.group_id for chord in due] == ids

    async def test_a_due_chord_is_its_counters_for_a_while_and_then_anybodys(
        self, world: ResultWorld, backend: ResultBackend, group_id: str
    ) -> None:
        backend.open_chord(group_id, 1)
        [due] = backend.save([part(group_id, 0)]) or ()
        peer = world.connect()
        assert await peer.aclaim_chords([REALM], 10.0) == []
        world.pass_time(OWN_TIME + 1)
        assert await peer.aclaim_chords(["elsewhere:celery"], 10.0) == []
        assert await peer.aclaim_chords(["elsewhere:celery", REALM], 10.0) == [due]
        assert await backend.aclaim_chords([REALM], 10.0) == []
        world.pass_time(11)
        assert await backend.aclaim_chords([REALM], 10.0) == [due]

    async def test_an_ended_chord_is_forgotten_but_for_having_been(
        self, world: ResultWorld, backend: ResultBackend, group_id: str
    ) -> None:
        backend.open_chord(group_id, 1)
        [due] = backend.save([part(group_id, 0)]) or ()
        await backend.aend_chords([end_of(due)])
        assert backend.chord_entries(group_id) == []
        assert not backend.save([part(group_id, 0)])  # late, and known to be
        world.pass_time(OWN_TIME + 1)
        assert await backend.aclaim_chords([REALM], 10.0) == []

    async def test_the_parts_of_a_failed_chord_are_kept(self, backend: ResultBackend, group_id: str) -> None:
        backend.open_chord(group_id, 2)
        [due] = backend.save([part(group_id, 0), part(group_id, 1, state=FAILURE)]) or ()
        await backend.aend_chords([end_of(due, failed=True)])
        assert len(backend.chord_entries(group_id)) == 2
        assert not backend.save([part(group_id, 1)])

    async def test_only_who_has_the_token_ends_a_chord(self, backend: ResultBackend, group_id: str) -> None:
        backend.open_chord(group_id, 1)
        [due] = backend.save([part(group_id, 0)]) or ()
        await backend.aend_chords(
            [ChordEnd(group_id, b"another", REALM), ChordEnd(new_id(), due.token, REALM)]
        )
        assert len(backend.chord_entries(group_id)) == 1

    @pytest.mark.parametrize("failed", [False, True])
    async def test_a_chord_that_was_ended_may_run_anew(
        self, backend: ResultBackend, group_id: str, failed: bool
    ) -> None:
        for _ in range(2):
            backend.open_chord(group_id, 2)
            assert not backend.save([part(group_id, 0)])
            [due] = backend.save([part(group_id, 1)]) or ()
            await backend.aend_chords([end_of(due, failed=failed)])

    def test_what_was_counted_expires(
        self, world: ResultWorld, backend: ResultBackend, group_id: str
    ) -> None:
        backend.open_chord(group_id, 2)
        backend.save([part(group_id, 0)])
        world.pass_time(EXPIRES - 100)
        backend.save([part(group_id, 0)])  # lengthens its life
        world.pass_time(EXPIRES - 100)
        assert len(backend.chord_entries(group_id)) == 1
        world.pass_time(200)
        assert not backend.save([part(group_id, 1)])

    def test_many_at_once_count_once_each(self, world: ResultWorld, group_id: str) -> None:
        parts, due = 40, list[DueChord]()
        world.connect().open_chord(group_id, parts)

        def save(backend: ResultBackend) -> None:
            for index in range(parts):
                due.extend(backend.save([part(group_id, index)]) or ())

        threads = [threading.Thread(target=save, args=(world.connect(),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(due) == 1

    def test_ten_thousand_parts(self, backend: ResultBackend, group_id: str) -> None:
        backend.open_chord(group_id, 10_000)
        records = [part(group_id, index, stores=False) for index in range(10_000)]
        assert len(backend.save(records) or ()) == 1
        assert len(backend.chord_entries(group_id)) == 10_000

    def test_any_history_counts_once_and_completes_once(self, make_world: Callable[[], ResultWorld]) -> None:
        world = make_world()
        backends = [world.connect(), world.connect()]

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(st.integers(1, 4), st.lists(_STEPS, max_size=25))
        def check(size: int, steps: list[tuple[str, int, int]]) -> None:
            asyncio.run(_play(world, backends, size, steps))

        try:
            check()
        finally:
            world.close()

    def test_groups_are_kept_until_they_are_forgotten_or_expire(
        self, world: ResultWorld, backend: ResultBackend, group_id: str
    ) -> None:
        assert backend.load_group(group_id) is None
        backend.save_group(group_id, b"first")
        backend.save_group(group_id, b"second")
        assert world.connect().load_group(group_id) == b"second"
        backend.forget_group(group_id)
        backend.forget_group(group_id)
        assert backend.load_group(group_id) is None
        backend.save_group(group_id, b"third")
        world.pass_time(EXPIRES + 100)
        assert backend.load_group(group_id) is None


#: What may happen: a part ends (again), on one of two workers, which may be killed before it hears of it; somebody
#: completes what is due, with a token that may be an old one; the size is said; time passes.
_STEPS = st.tuples(
    st.sampled_from(["part", "part", "part", "open", "claim", "end", "wait"]),
    st.integers(0, 3),
    st.integers(0, 1),
)


async def _play(
    world: ResultWorld, backends: Sequence[ResultBackend], size: int, steps: list[tuple[str, int, int]]
) -> None:
    history = _History(world, size)
    for what, number, who in [*steps, ("open", 0, 0), *(("part", index, 0) for index in range(size))]:
        await getattr(history, what)(backends[who], number)
    await history.finish(backends[0])


class _History:
    """One chord's life beside what has to be true of it: due once, as soon as opened and complete, ended once."""

    def __init__(self, world: ResultWorld, size: int) -> None:
        self._world = world
        self._group_id = new_id()
        self._size = size
        self._counted: set[int] = set()
        self._opened = self._ended = False
        self._due: DueChord | None = None

    def _complete(self) -> bool:
        return self._opened and len(self._counted) == self._size

    async def part(self, backend: ResultBackend, number: int) -> None:
        index = number % self._size
        told = backend.save([part(self._group_id, index)]) or ()
        self._counted.add(index)
        assert bool(told) == (self._complete() and self._due is None)
        self._due = told[0] if told else self._due

    async def open(self, backend: ResultBackend, number: int) -> None:
        if not self._ended and len(self._counted) < self._size:
            backend.open_chord(self._group_id, self._size)
            self._opened = True

    async def claim(self, backend: ResultBackend, number: int) -> None:
        claimed = {chord.group_id for chord in await backend.aclaim_chords([REALM], 1.0)}
        assert self._group_id not in claimed or (self._due is not None and not self._ended)

    async def end(self, backend: ResultBackend, number: int) -> None:
        if self._due is not None:
            await backend.aend_chords([end_of(self._due, failed=number == 0)])
            self._ended = True

    async def wait(self, backend: ResultBackend, number: int) -> None:
        self._world.pass_time(OWN_TIME + 2)

    async def finish(self, backend: ResultBackend) -> None:
        """What is due and was completed by nobody is to be had; then it is completed."""
        assert (self._due is not None) == self._complete()
        if self._due is not None and not self._ended:
            self._world.pass_time(OWN_TIME + 2)
            assert self._due in await backend.aclaim_chords([REALM], 1.0)
            await backend.aend_chords([end_of(self._due)])
