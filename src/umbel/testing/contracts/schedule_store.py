"""The suite that judges schedule stores: what ``scheduler.stores.base`` says, and any history against a model."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from umbel.scheduler.stores.base import Run, StoredEntry, VersionConflictError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from umbel.scheduler.stores.base import ScheduleStore

__all__ = ["LEASE", "ScheduleStoreContract", "ScheduleWorld"]

#: Seconds for which the suite's leaders lead.
LEASE = 30.0
_BEATS = ("a", "b", "c")
_NAMES = ("x", "y:é z")


class ScheduleWorld(ABC):
    """One fresh, empty store, how to reach it, and how time passes in it."""

    @abstractmethod
    def connect(self, scope: str = "app") -> ScheduleStore:
        """One more object on the store; ``close`` closes it. Where there are scopes, it is that of ``scope``."""

    @abstractmethod
    def pass_time(self, seconds: float) -> None:
        """Let time pass for what the store times: leases."""

    @abstractmethod
    def close(self) -> None:
        """Close and delete everything."""


def run(serial: int, sent: bool = False) -> Run:
    """A tick whose instants are no round numbers."""
    return Run(serial, due=1_800_000_000.123457 + serial, at=1_800_000_000.654321 + serial, sent=sent)


class ScheduleStoreContract:
    """What every schedule store does."""

    #: Examples and steps of the random test.
    model_examples = 25
    model_steps = 40
    #: Whether one store is several applications'.
    has_scopes = True

    @pytest.fixture
    def make_world(self) -> Callable[[], ScheduleWorld]:
        """Override: makes a fresh world each time it is called."""
        raise NotImplementedError("a subclass of the suite must override the make_world fixture")

    @pytest.fixture
    def world(self, make_world: Callable[[], ScheduleWorld]) -> Iterator[ScheduleWorld]:
        world = make_world()
        yield world
        world.close()

    @pytest.fixture
    def store(self, world: ScheduleWorld) -> ScheduleStore:
        return world.connect()

    def test_the_first_leads_and_stays_the_leader(self, world: ScheduleWorld, store: ScheduleStore) -> None:
        assert store.lead("r", "a", LEASE).leader == "a"
        assert world.connect().lead("r", "b", LEASE).leader == "a"
        world.pass_time(LEASE * 0.7)
        assert store.lead("r", "a", LEASE).leader == "a"
        world.pass_time(LEASE * 0.7)
        assert store.lead("r", "b", LEASE).leader == "a"

    def test_another_takes_over_when_the_lease_is_over(
        self, world: ScheduleWorld, store: ScheduleStore
    ) -> None:
        store.lead("r", "a", LEASE)
        world.pass_time(LEASE + 1)
        assert store.lead("r", "b", LEASE).leader == "b"
        assert store.lead("r", "a", LEASE).leader == "b"

    def test_who_resigns_is_followed_at_once(self, store: ScheduleStore) -> None:
        store.lead("r", "a", LEASE)
        store.resign("r", "b")
        assert store.lead("r", "b", LEASE).leader == "a"
        store.resign("r", "a")
        store.resign("r", "a")
        assert store.lead("r", "b", LEASE).leader == "b"

    def test_a_leader_known_to_be_dead_is_followed_at_once(self, store: ScheduleStore) -> None:
        store.lead("r", "a", LEASE)
        assert store.lead("r", "b", LEASE, over="c").leader == "a"
        assert store.lead("r", "b", LEASE, over="a").leader == "b"

    def test_each_role_has_its_leader(self, store: ScheduleStore) -> None:
        assert store.lead("r", "a", LEASE).leader == "a"
        assert store.lead("s", "b", LEASE).leader == "b"

    def test_a_tick_is_ones_own(self, world: ScheduleWorld, store: ScheduleStore) -> None:
        assert store.claim("x", run(1), "a")
        assert not world.connect().claim("x", run(1), "b")
        assert store.claim("x", run(1), "a")  # as after an answer that was lost
        assert store.claim("y", run(1), "b")
        assert world.connect().runs() == {"x": run(1), "y": run(1)}

    def test_only_the_next_tick_can_be_claimed(self, store: ScheduleStore) -> None:
        assert store.claim("x", run(7), "a")  # nothing is known of it
        for wrong in (6, 9, 1):
            assert not store.claim("x", run(wrong), "a")
        assert store.claim("x", run(8), "b")
        assert store.runs()["x"] == run(8)

    def test_a_tick_is_confirmed(self, store: ScheduleStore) -> None:
        store.confirm("x", 1)
        store.claim("x", run(1), "a")
        store.confirm("x", 1)
        store.confirm("x", 1)
        assert store.runs() == {"x": run(1, sent=True)}
        assert store.claim("x", run(2), "a")
        store.confirm("x", 1)
        assert store.runs() == {"x": run(2)}

    def test_of_many_that_claim_one_has_it(self, world: ScheduleWorld) -> None:
        ticks, won = 30, list[tuple[str, int]]()
        begin = threading.Barrier(4)

        def claim(identity: str, store: ScheduleStore) -> None:
            begin.wait(20)
            won.extend(
                (identity, serial)
                for serial in range(1, ticks + 1)
                if store.claim("x", run(serial), identity)
            )

        threads = [threading.Thread(target=claim, args=(name, world.connect())) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        serials = [serial for _, serial in won]
        assert sorted(serials) == sorted(set(serials))
        assert serials

    def test_entries_are_kept(self, world: ScheduleWorld, store: ScheduleStore) -> None:
        entry = StoredEntry(
            *("x", "proj.task", "0 4 * * *", [1, "é"], {"a": {"b": None}}, {"queue": "q"}, "all", True, 1.5)
        )
        before = store.lead("r", "a", LEASE).revision
        made = store.put(entry)
        assert world.connect().entries() == {"x": made}
        assert msgspec.structs.replace(made, version=0) == entry
        assert store.lead("r", "a", LEASE).revision > before

    def test_a_change_of_what_was_changed_is_refused(self, store: ScheduleStore) -> None:
        first = store.put(StoredEntry("x", "t"))
        with pytest.raises(VersionConflictError, match="'x'"):
            store.put(StoredEntry("x", "other"))
        second = store.put(msgspec.structs.replace(first, task="u"))
        with pytest.raises(VersionConflictError):
            store.put(msgspec.structs.replace(first, task="v"))
        with pytest.raises(VersionConflictError):
            store.remove("x", first.version)
        assert store.entries() == {"x": second}
        with pytest.raises(VersionConflictError):
            store.put(StoredEntry("y", version=second.version))

    def test_a_removed_entry_is_forgotten_with_its_ticks(self, store: ScheduleStore) -> None:
        made = store.put(StoredEntry("x", "t"))
        store.claim("x", run(3), "a")
        before = store.lead("r", "a", LEASE).revision
        store.remove("x", made.version)
        assert (store.entries(), store.runs()) == ({}, {})
        assert store.lead("r", "a", LEASE).revision > before
        again = store.put(StoredEntry("x", "t"))
        assert again.version > made.version

    def test_it_has_a_clock(self, store: ScheduleStore) -> None:
        assert 1_600_000_000 < store.now() <= store.now()

    def test_scopes_do_not_meet(self, world: ScheduleWorld) -> None:
        if not self.has_scopes:
            pytest.skip("a store of this kind is one application's")
        mine, other = world.connect("mine"), world.connect("other")
        mine.put(StoredEntry("x", "t"))
        mine.claim("x", run(4), "a")
        assert mine.lead("r", "a", LEASE).leader == "a"
        standing = other.lead("r", "b", LEASE)
        assert (standing.leader, standing.revision) == ("b", 0)
        assert (other.entries(), other.runs()) == ({}, {})

    def test_it_can_be_closed_and_used_again(self, store: ScheduleStore) -> None:
        made = store.put(StoredEntry("x", "t"))
        store.close()
        store.close()
        assert store.entries() == {"x": made}

    def test_any_history_agrees_with_the_model(self, make_world: Callable[[], ScheduleWorld]) -> None:
        class Machine(ScheduleMachine):
            world_factory = staticmethod(make_world)

        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=self.model_examples,
                stateful_step_count=self.model_steps,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
            ),
        )


class ScheduleMachine(RuleBasedStateMachine):
    """The store on one side; on the other who leads, whose each tick is, and what the entries are."""

    world_factory: Callable[[], ScheduleWorld]

    @initialize()
    def start(self) -> None:
        self.world = self.world_factory()
        self.stores = {name: self.world.connect() for name in _BEATS}
        self.time = 0.0
        self.leader, self.until = "", 0.0
        self.owners: dict[str, list[tuple[int, str]]] = {}
        self.sent: dict[str, bool] = {}
        self.kept: dict[str, StoredEntry] = {}

    @rule(beat=st.sampled_from(_BEATS), over=st.sampled_from(("", *_BEATS)))
    def lead(self, beat: str, over: str) -> None:
        if self.time >= self.until or self.leader in (beat, over):
            self.leader, self.until = beat, self.time + LEASE
        assert self.stores[beat].lead("r", beat, LEASE, over).leader == self.leader

    @rule(beat=st.sampled_from(_BEATS))
    def resign(self, beat: str) -> None:
        self.stores[beat].resign("r", beat)
        if self.leader == beat:
            self.leader, self.until = "", 0.0

    @rule(seconds=st.sampled_from((0.4 * LEASE, 1.2 * LEASE)))
    def wait(self, seconds: float) -> None:
        self.world.pass_time(seconds)
        self.time += seconds

    @rule(
        beat=st.sampled_from(_BEATS), name=st.sampled_from(_NAMES), step=st.sampled_from((-1, 0, 1, 1, 1, 2))
    )
    def claim(self, beat: str, name: str, step: int) -> None:
        claimed = self.owners.get(name)
        last, owner = claimed[-1] if claimed else (0, "")
        serial = max(last + step, 1)
        is_granted = not claimed or serial == last + 1
        if is_granted:
            self.owners.setdefault(name, []).append((serial, beat))
            self.sent[name] = False
        expected = is_granted or (serial == last and owner == beat)
        assert self.stores[beat].claim(name, run(serial), beat) is expected

    @rule(beat=st.sampled_from(_BEATS), name=st.sampled_from(_NAMES), before=st.integers(0, 1))
    def confirm(self, beat: str, name: str, before: int) -> None:
        last = self.owners[name][-1][0] if name in self.owners else 0
        self.stores[beat].confirm(name, last - before)
        if name in self.owners and not before:
            self.sent[name] = True

    @rule(
        beat=st.sampled_from(_BEATS),
        name=st.sampled_from(_NAMES),
        task=st.text(min_size=1),
        stale=st.booleans(),
    )
    def put(self, beat: str, name: str, task: str, stale: bool) -> None:
        known = self.kept.get(name)
        version = (known.version if known else 0) + stale
        entry = StoredEntry(name, task, version=version)
        if stale:
            with pytest.raises(VersionConflictError):
                self.stores[beat].put(entry)
        else:
            self.kept[name] = self.stores[beat].put(entry)
            assert self.kept[name].version > version

    @rule(beat=st.sampled_from(_BEATS), name=st.sampled_from(_NAMES))
    def remove(self, beat: str, name: str) -> None:
        known = self.kept.pop(name, None)
        if known is None:
            with pytest.raises(VersionConflictError):
                self.stores[beat].remove(name, 1_000_000)
        else:
            self.stores[beat].remove(name, known.version)
            self.owners.pop(name, None)

    @invariant()
    def all_see_the_same(self) -> None:
        if not hasattr(self, "stores"):
            return
        for store in self.stores.values():
            assert store.entries() == self.kept
            ticks = {name: run(owners[-1][0], self.sent[name]) for name, owners in self.owners.items()}
            assert store.runs() == ticks

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.close()
