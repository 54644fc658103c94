"""Beats that share a store, step by step: claims, what is left of a dead beat, missed ticks, and changed entries."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.servers import RedisServer
from umbel import Umbel
from umbel.errors import BrokerConnectionError, ImproperlyConfigured
from umbel.scheduler import ScheduleEntry, Scheduler, SchedulingError, Service, crontab, schedule, solar
from umbel.scheduler.changes import EntryExistsError, NoSuchEntryError, ScheduleEntries
from umbel.scheduler.leader import Leadership, beat_identity, is_dead
from umbel.scheduler.missed import decide
from umbel.scheduler.sharing import DUE_HEADER, SharedSchedule, role_of
from umbel.scheduler.stores.memory import MemoryScheduleStore
from umbel.scheduler.stores.redis import RedisScheduleStore
from umbel.scheduler.stores.sqlite import SqliteScheduleStore
from umbel.scheduler.stores.urls import open_store
from umbel.scheduler.words import schedule_from_words, schedule_in_words
from umbel.testing.contracts.support import ShiftedClock

START = datetime(2026, 1, 1, tzinfo=UTC)


class ClockedApp(Umbel):
    """An application whose clock stands still until it is moved."""

    instant = START

    def now(self) -> datetime:
        return self.instant.astimezone(self.timezone)


class Clock:
    """The store's, which is the application's."""

    def __init__(self, app: ClockedApp) -> None:
        self.app = app

    def now(self) -> float:
        return self.app.instant.timestamp()

    monotonic = now


class Beat(Scheduler):
    """Sends nothing, but notes what it would: entry, seconds since the start, and the tick's id and due time."""

    def setup_schedule(self) -> None:
        self.sent: list[tuple[str, float, str, float]] = []
        self.failures: list[Exception] = []
        super().setup_schedule()

    def apply_async(self, entry, producer=None, advance=True, **kwargs):
        if self.failures:
            raise SchedulingError("failed") from self.failures.pop(0)
        options = {"headers": {}}
        if self.shared is not None:
            options = self.shared.options_of(entry.name, options)
        due = options["headers"].get(DUE_HEADER, START.timestamp()) - START.timestamp()
        elapsed = (self.app.instant - START).total_seconds()
        self.sent.append((entry.name, round(elapsed, 3), options.get("task_id", ""), round(due, 3)))

    def run(self, seconds: float) -> list[tuple[str, float, str, float]]:
        """Let time pass, as the service does; gives what was sent meanwhile."""
        already = len(self.sent)
        end = self.app.instant + timedelta(seconds=seconds)
        while True:
            while (delay := self.tick()) <= 0:
                pass
            if self.app.instant + timedelta(seconds=delay) > end:
                self.app.instant = end
                return self.sent[already:]
            self.app.instant += timedelta(seconds=max(delay, 1e-6))


@pytest.fixture
def app(tmp_path: Path) -> Iterator[ClockedApp]:
    url = f"sqlite:///{tmp_path}/broker.db"
    with ClockedApp("beat", broker=url, backend="disabled", set_as_current=False) as app:
        app.conf.beat_schedule = {"ten": {"task": "t", "schedule": 10.0}}
        yield app


@pytest.fixture
def store(app) -> MemoryScheduleStore:
    return MemoryScheduleStore(Clock(app))


def beat(app, store, identity: str = "a") -> Beat:
    scheduler = Beat(app)
    SharedSchedule(app, store, identity).attach(scheduler)
    return scheduler


class TestClaims:
    def test_two_that_both_think_they_lead_send_each_tick_once(self, app, store) -> None:
        both = [beat(app, store, "a"), beat(app, store, "b")]
        for _ in range(40):
            for each in both:
                while each.tick() <= 0:
                    pass
            app.instant += timedelta(seconds=1)
        sent = [tick for each in both for tick in each.sent]
        ids = [tick_id for _, _, tick_id, _ in sent]
        assert len(ids) == len(set(ids)) == 3

    def test_the_next_beat_goes_on_where_the_last_ended(self, app, store) -> None:
        assert [when for _, when, _, _ in beat(app, store).run(25)] == [10, 20]
        assert [when for _, when, _, _ in beat(app, store, "b").run(10)] == [30]

    def test_it_does_so_before_the_first_tick_too(self, app, store) -> None:
        assert beat(app, store).run(7) == []
        assert [when for _, when, _, _ in beat(app, store, "b").run(10)] == [10]

    def test_what_was_claimed_and_perhaps_not_sent_is_sent_under_the_same_id(self, app, store) -> None:
        first = beat(app, store)
        first.failures = [BrokerConnectionError("gone")]
        assert first.run(10.5) == []
        second = beat(app, store, "b")
        assert second.shared is not None
        assert second.shared.inherited == {"ten"}
        second.shared.repair(second)
        [(_, _, tick_id, due)] = second.sent
        assert due == 10
        assert second.shared.inherited == set()
        [run] = store.runs().values()
        assert run.sent
        assert [each[2] for each in first.run(1)] == [tick_id]  # of the beat that was not dead after all

    def test_a_tick_that_the_broker_did_not_take_is_claimed_once(self, app, store) -> None:
        scheduler = beat(app, store)
        scheduler.failures = [BrokerConnectionError("gone"), BrokerConnectionError("gone")]
        [(_, when, _, due)] = scheduler.run(15)
        assert (when, due) == (pytest.approx(13, abs=0.1), 10)
        assert store.runs()["ten"].serial == 1

    def test_a_store_that_is_gone_for_a_while_costs_no_tick(self, app, store, monkeypatch) -> None:
        scheduler = beat(app, store)
        scheduler.run(5)
        with monkeypatch.context() as patched:

            def lost(*args):
                raise BrokerConnectionError("the store is gone")

            patched.setattr(store, "claim", lost)
            assert scheduler.run(6) == []
        [(_, _, _, due)] = scheduler.run(5)
        assert due == 10

    def test_a_task_that_cannot_be_sent_at_all_is_done_with(self, app, store) -> None:
        scheduler = beat(app, store)
        scheduler.failures = [ValueError("no such thing")]
        assert scheduler.run(15) == []
        assert store.runs()["ten"].sent


class TestMissedTicks:
    @pytest.mark.parametrize(
        ("policy", "dues"),
        [("once", [10, 110]), ("all", [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110]), ("skip", [95, 110])],
    )
    @pytest.mark.parametrize("is_shared", [True, False])
    def test_by_policy(self, app, store, policy: str, dues: list[float], is_shared: bool) -> None:
        app.conf.beat_missed = policy
        scheduler = beat(app, store) if is_shared else Beat(app)
        scheduler.tick()
        app.instant += timedelta(seconds=100)
        sent = scheduler.run(14.5)
        assert len(sent) == len(dues)
        if is_shared:
            assert [round(due) for *_, due in sent] == dues

    def test_an_entry_may_say_it_for_itself(self, app, store) -> None:
        app.conf.beat_missed = "all"
        app.conf.beat_schedule = {"ten": {"task": "t", "schedule": 10.0, "missed": "once"}}
        scheduler = beat(app, store)
        app.instant += timedelta(seconds=100)
        assert len(scheduler.run(1)) == 1
        with pytest.raises(ValueError, match="missed must be one of skip, once, all, not 'never'"):
            ScheduleEntry("x", "t", schedule=1, app=app, missed="never")

    def test_a_setting_that_is_no_policy_is_told(self, app) -> None:
        scheduler, entry = Scheduler(app), ScheduleEntry("x", "t", schedule=1, app=app)
        with pytest.raises(ImproperlyConfigured, match="beat_missed: expected 'skip', 'once' or 'all'"):
            app.conf.update(beat_missed="twice")
        assert scheduler._policy_of(entry) == "once"

    def test_a_late_tick_is_skipped_when_no_later_one_is_in_time(self) -> None:
        due = START

        def next_hour(after: datetime) -> datetime:
            return START + timedelta(hours=1)

        assert decide("skip", due, START + timedelta(seconds=15), next_hour).send
        late = decide("skip", due, START + timedelta(seconds=16), next_hour)
        assert (late.send, late.ran_at) == (False, START + timedelta(seconds=16))


class TestEntries:
    @pytest.fixture
    def entries(self, app, store) -> ScheduleEntries:
        return ScheduleEntries(app, store)

    def test_they_are_added_changed_and_removed_while_beat_runs(self, app, store, entries) -> None:
        scheduler = beat(app, store)
        shared = scheduler.shared
        assert shared is not None
        entries.add("three", "u", timedelta(seconds=3), [1], {"a": 2}, {"queue": "q"})
        shared.refresh(scheduler)
        assert [name for name, *_ in scheduler.run(7)] == ["three", "three"]
        entry = scheduler.schedule["three"]
        assert (entry.task, entry.args, entry.kwargs, entry.options) == ("u", (1,), {"a": 2}, {"queue": "q"})
        entries.change("three", schedule="100")
        entries.change("ten", schedule=1.0, args=(5,))
        shared.refresh(scheduler)
        assert {name for name, *_ in scheduler.run(5)} == {"ten"}
        entries.remove("three")
        entries.remove("ten")
        shared.refresh(scheduler)
        assert set(scheduler.schedule) == {"ten"}
        assert scheduler.schedule["ten"].args == ()

    @pytest.mark.parametrize("kind", ["sqlite", "sql", pytest.param("redis", marks=pytest.mark.redis)])
    def test_every_store_keeps_them_for_the_next_beat(self, app, tmp_path, request, kind) -> None:
        """Added, changed, paused and removed by one program, seen by a beat that knows the store only."""
        if kind == "redis":
            url = request.getfixturevalue("redis_url")
        else:
            url = {"sqlite": f"sqlite:///{tmp_path}/b.db", "sql": f"db+sqlite:///{tmp_path}/s.db"}[kind]
        app.conf.beat_store_url = url
        made = app.schedule_entries
        made.add("kept", "u", "3s", [1], {"a": 2}, {"queue": "q"}, missed="all")
        made.add("paused", "u", "0 4 * * *")
        made.add("removed", "u", "1h")
        made.change("ten", schedule="20s")
        made.pause("paused")
        made.remove("removed")
        made.close()
        with closing(app.schedule_entries) as entries:
            listed = {entry.name: entry for entry in entries.list()}
            assert set(listed) == {"ten", "kept", "paused"}
            assert (listed["kept"].task, listed["kept"].schedule, listed["kept"].paused) == ("u", "3", False)
            assert listed["paused"].paused
            assert entries.run("kept").id
            entries.resume("paused")
            entries.remove("ten")
        with closing(open_store(app)) as store:
            scheduler = beat(app, store)
            entry = scheduler.schedule["kept"]
            assert (entry.args, entry.kwargs, entry.options) == ((1,), {"a": 2}, {"queue": "q"})
            assert scheduler.schedule["ten"].schedule == schedule(10.0)
            assert scheduler.schedule["paused"].schedule == crontab.from_string("0 4 * * *")

    def test_what_a_pause_left_out_is_not_missed(self, app, store, entries) -> None:
        scheduler = beat(app, store)
        shared = scheduler.shared
        assert shared is not None
        scheduler.run(15)
        entries.pause("ten")
        assert entries.get("ten").paused
        shared.refresh(scheduler)
        assert scheduler.run(60) == []
        entries.resume("ten")
        shared.refresh(scheduler)
        for each in (scheduler, beat(app, store, "b")):
            each.tick()
            assert each.sent[1:] == []
        assert [when for _, when, _, _ in scheduler.run(11)] == [85]

    def test_mistakes_are_told(self, entries) -> None:
        for change in (
            entries.pause,
            entries.resume,
            entries.remove,
            entries.run,
            entries.get,
            entries.change,
        ):
            with pytest.raises(NoSuchEntryError, match="'nothing'"):
                change("nothing")
        with pytest.raises(EntryExistsError):
            entries.add("ten", "t", 1)
        entries.add("x", "t", 1)
        with pytest.raises(EntryExistsError):
            entries.add("x", "t", 1)
        with pytest.raises(ValueError, match="one of beat_schedule"):
            entries.remove("ten")
        with pytest.raises(ValueError, match="missed must be"):
            entries.add("y", "t", 1, missed="twice")
        with pytest.raises(ValueError, match="cannot be kept"):
            entries.add("y", "t", 1, args=[object()])
        with pytest.raises(ValueError, match="needs a name"):
            entries.add("", "t", 1)
        with pytest.raises(TypeError, match="'colour'"):
            entries.change("x", colour="red")

    def test_where_nothing_is_shared_that_is_said(self, app) -> None:
        app.conf.beat_store_url = "disabled://"
        with pytest.raises(ImproperlyConfigured, match="beat_store_url"):
            app.schedule_entries  # noqa: B018 - the property raises

    def test_one_is_run_now(self, app) -> None:
        with closing(app.schedule_entries) as entries:
            handle = entries.run("ten")
        assert app.broker.depth("celery") == 1
        assert len(handle.id) == 36

    def test_two_changes_at_once_are_both_made(self, app, store, entries) -> None:
        entries.add("x", "t", 1)
        put, times = store.put, []

        def meddle(entry):
            if not times:
                times.append(1)
                ScheduleEntries(app, store).change("x", args=[1])
            return put(entry)

        store.put = meddle
        entries.change("x", kwargs={"a": 1})
        assert (entries.get("x").args, entries.get("x").kwargs) == ([1], {"a": 1})


class TestWords:
    @pytest.mark.parametrize(
        ("words", "same"),
        [
            ("30", schedule(30)),
            ("30s", schedule(30)),
            ("0.5", schedule(0.5)),
            ("5m", schedule(300)),
            ("1 d", schedule(86400)),
            ("relative 1h", schedule(3600, relative=True)),
            ("0 4 * * mon-fri", crontab("0", "4", "mon-fri")),
            ("*/5 8-18/2 1,15 jan *", crontab("*/5", "8-18/2", "*", "1,15", "jan")),
        ],
    )
    def test_there_and_back(self, app, words: str, same) -> None:
        made = schedule_from_words(words, app)
        assert made == same
        assert schedule_from_words(schedule_in_words(made), app) == same
        assert schedule_in_words(schedule_in_words(made)) == schedule_in_words(made)
        assert getattr(made, "relative", False) == getattr(same, "relative", False)

    def test_the_sun(self, app) -> None:
        pytest.importorskip("ephem")
        assert schedule_from_words("solar sunset 52.5 -13.4", app) == solar("sunset", 52.5, -13.4, app=app)
        assert schedule_in_words(solar("sunset", 52.5, -13.4, app=app)) == "solar sunset 52.5 -13.4"

    @pytest.mark.parametrize("words", ["", "0", "often", "5 x", "61 * * * *", "1 2 3 4", "solar noon 1 2"])
    def test_no_schedule(self, app, words: str) -> None:
        with pytest.raises(ValueError, match="is no schedule"):
            schedule_from_words(words, app)

    def test_what_has_no_words(self) -> None:
        with pytest.raises(ValueError, match="cannot be kept"):
            schedule_in_words(crontab(nowfun=datetime.now))


class TestLeadership:
    def test_one_leads_until_it_stops_or_is_silent(self) -> None:
        clock = ShiftedClock()
        store = MemoryScheduleStore(clock)
        first, second = Leadership(store, "r", "a"), Leadership(store, "r", "b")
        first.look()
        second.look()
        assert (first.leads, second.leads, second.leader) == (True, False, "a")
        clock.shift += 11
        second.look()
        first.look()
        assert (first.leads, second.leads, first.leader) == (False, True, "b")
        first.stop()
        first.stop()

    def test_it_stops_leading_by_itself_without_the_store(self, monkeypatch, caplog) -> None:
        store = MemoryScheduleStore()
        leadership = Leadership(store, "r", "a", lease=0.0)
        leadership.look()
        assert not leadership.leads

        def lost(*args):
            raise BrokerConnectionError("gone")

        monkeypatch.setattr(store, "lead", lost)
        leadership.look()
        leadership.look()
        assert caplog.text.count("The schedule store memory:// is lost: gone") == 1

    def test_a_dead_beat_of_this_machine_is_known(self) -> None:
        mine = beat_identity()
        assert not is_dead(mine)
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        assert is_dead(mine.replace(f"/{os.getpid()}/", f"/{ended.pid}/"))
        assert not is_dead(f"elsewhere/{mine.partition('/')[2]}".replace(str(os.getpid()), str(ended.pid)))
        assert not is_dead("")

    def test_beats_of_other_schedules_do_not_stand_by_for_each_other(self) -> None:
        one = {"x": {"task": "t", "schedule": 1}}
        assert role_of(one) == role_of({"x": {"task": "t", "schedule": 2, "args": [1]}})
        assert role_of(one) != role_of({"y": {"task": "t", "schedule": 1}})
        assert role_of(one) != role_of({"x": {"task": "u", "schedule": 1}})


class TestWhereTheyShare:
    @pytest.mark.parametrize(
        ("settings", "url"),
        [
            ({"broker_url": "redis://:secret@h:1/2"}, "redis://:**@h:1/2"),
            ({"broker_url": "amqp://h", "result_backend": "redis://h:3/4"}, "redis://h:3/4"),
            ({"broker_url": "amqp://h", "result_backend": "rpc://"}, None),
            ({"broker_url": "memory://"}, None),
            ({"broker_url": "redis://h", "beat_store_url": "disabled://"}, None),
            ({"broker_url": "amqp://h", "beat_store_url": "sqlite:////tmp/x.db"}, "sqlite:////tmp/x.db"),
            ({"broker_url": "amqp://h", "result_backend": "db+sqlite:////tmp/x.db"}, None),
            ({"beat_store_url": "db+postgresql+psycopg://me:pw@h/d"}, "db+postgresql+psycopg://me:***@h/d"),
        ],
    )
    def test_by_the_settings(self, settings: dict, url: str | None) -> None:
        with Umbel("proj", set_as_current=False) as app:
            app.conf.update(settings)
            found = open_store(app)
        assert (found.display_url if found is not None else None) == url
        if found is not None:
            assert found.scope == "proj"

    @pytest.mark.parametrize("url", ["db+oracle://h/d", "db+nonsense"])
    def test_a_database_that_is_not_known_is_refused(self, url: str) -> None:
        app = Umbel("proj", set_as_current=False, beat_store_url=url)
        with pytest.raises(ImproperlyConfigured, match=r"beat_store_url: expected db\+"):
            open_store(app)

    def test_another_url_is_refused_without_its_password(self) -> None:
        app = Umbel("proj", set_as_current=False, beat_store_url="mysql://me:secret@h")
        with pytest.raises(ImproperlyConfigured, match="beat_store_url: expected redis") as caught:
            open_store(app)
        assert "secret" not in str(caught.value)

    def test_a_scheduler_of_ones_own_shares_where_the_setting_says_so(self, app) -> None:
        service = Service(app, scheduler_cls=Beat)
        assert service._make_leadership() is None
        app.conf.beat_store_url = app.broker.store
        assert service._make_leadership() is not None


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def test_sending_and_confirming_are_one_step(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch, kind: str
) -> None:
    if kind == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.flush()
        url = server.url()
    else:
        url = f"sqlite:///{tmp_path}/b.db"
    with ClockedApp("beat", broker=url, backend="disabled", set_as_current=False) as app:
        app.conf.beat_schedule = {"ten": {"task": "t", "schedule": 10.0}}
        store = open_store(app)
        assert isinstance(store, (SqliteScheduleStore, RedisScheduleStore))
        store.confirm("ten", 0)  # the server knows the script now
        scheduler = Scheduler(app)
        SharedSchedule(app, store, "a").attach(scheduler)
        # With a confirmation of its own it would fail.
        monkeypatch.setattr(store, "confirm", None)
        for serial in (1, 2):
            app.instant += timedelta(seconds=10)
            while scheduler.tick() <= 0:
                pass
            run = store.runs()["ten"]
            assert (run.serial, run.sent) == (serial, True)
            assert app.broker.depth("celery") == serial
        store.close()
