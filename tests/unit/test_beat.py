"""The scheduler: what it sends and when, what it does when that goes wrong, and what it remembers."""

from __future__ import annotations

import pickle
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from umbel import Umbel
from umbel.errors import ImproperlyConfigured, OperationalError
from umbel.scheduler import (
    BaseSchedule,
    BeatLazyFunc,
    BeatPidbox,
    PersistentScheduler,
    ScheduleEntry,
    Scheduler,
    SchedulingError,
    Service,
    crontab,
    schedule,
    shelf,
)
from umbel.scheduler.pidbox import beat_nodename
from umbel.scheduler.service import scheduler_class

START = datetime(2026, 1, 1, tzinfo=UTC)


class ClockedApp(Umbel):
    """An application whose clock stands still until it is moved."""

    instant = START

    def now(self) -> datetime:
        return self.instant.astimezone(self.timezone)

    def wait(self, seconds: float) -> None:
        self.instant += timedelta(seconds=max(seconds, 1e-6))  # no clock stands still


class Recorder(Scheduler):
    """Sends nothing, but notes what it would."""

    failures: list[Exception] = []

    def setup_schedule(self) -> None:
        self.sent: list[tuple[str, float]] = []
        self.failures = []
        super().setup_schedule()

    def apply_async(self, entry, producer=None, advance=True, **kwargs):
        if self.failures:
            error = self.failures.pop(0)
            raise SchedulingError(str(error)) from error
        self.sent.append((entry.name, (self.app.instant - START).total_seconds()))


@pytest.fixture
def app() -> Iterator[ClockedApp]:
    with ClockedApp("beat", broker="memory://beat", backend="memory://beat", set_as_current=False) as app:
        yield app


def lines(**schedules) -> dict:
    return {name: {"task": f"task_{name}", "schedule": when} for name, when in schedules.items()}


def run(scheduler: Recorder, seconds: float) -> list[tuple[str, float]]:
    """Let time pass, as the service does, and give what was sent."""
    app, end = scheduler.app, scheduler.app.instant + timedelta(seconds=seconds)
    while True:
        while (delay := scheduler.tick()) <= 0:
            pass
        if app.instant + timedelta(seconds=delay) > end:
            app.instant = end
            return scheduler.sent
        app.wait(delay)


class TestTicking:
    def test_each_entry_is_sent_when_it_is_due(self, app) -> None:
        app.conf.beat_schedule = lines(three=3, ten=10, minute=crontab())
        sent = run(Recorder(app), 61)
        assert [round(when, 2) for name, when in sent if name == "ten"] == [10, 20, 30, 40, 50, 60]
        assert len([name for name, _ in sent if name == "three"]) == 20
        assert [round(when) for name, when in sent if name == "minute"] == [60]
        assert sent == sorted(sent, key=lambda each: each[1])

    def test_nothing_to_do_is_waited_for_no_longer_than_said(self, app) -> None:
        assert Recorder(app).tick() == 300
        app.conf.beat_schedule = lines(day=86400)
        assert Recorder(app).tick() == 300
        assert Recorder(app, max_interval=7).tick() == 7
        app.conf.beat_max_loop_interval = 11
        assert Recorder(app).tick() == 11

    def test_a_tick_of_a_large_schedule_costs_no_more_than_of_a_small_one(self, app) -> None:
        """Entries are compared with themselves: one that did not change is not looked into."""

        class Counting(ScheduleEntry):
            def editable_fields_equal(self, other):
                compared.append(self.name)
                return super().editable_fields_equal(other)

        class Large(Recorder):
            Entry = Counting

        compared: list[str] = []
        app.conf.beat_schedule = {
            f"e{number}": {"task": "t", "schedule": 10 + number / 997} for number in range(50)
        }
        assert len(run(Large(app), 35)) == 150
        assert compared == []

    def test_what_was_missed_is_sent_once(self, app) -> None:
        app.conf.beat_schedule = lines(ten=10)
        scheduler = Recorder(app)
        scheduler.tick()
        app.wait(95)
        assert run(scheduler, 1) == [("ten", 95)]

    def test_an_entry_that_is_added_or_changed_is_seen(self, app) -> None:
        app.conf.beat_schedule = lines(day=86400)
        scheduler = Recorder(app)
        scheduler.tick()
        scheduler.add(name="two", task="t", schedule=2)
        assert run(scheduler, 2.5) == [("two", 2)]
        scheduler.add(name="two", task="t", schedule=1, last_run_at=app.now())
        assert len(run(scheduler, 3.2)) == 4
        del scheduler.schedule["two"]
        assert len(run(scheduler, 10)) == 4

    def test_an_entry_that_cannot_tell_when_does_not_keep_the_others(self, app, caplog) -> None:
        class Broken(BaseSchedule):
            def is_due(self, last_run_at):
                raise ZeroDivisionError

        app.conf.beat_schedule = lines(broken=Broken(), two=2)
        assert len(run(Recorder(app), 9)) == 4
        assert "Cannot calculate the next run of 'broken', trying again in 5.00 minutes." in caplog.text

    def test_an_entry_that_wants_to_be_asked_later_does_not_keep_the_others(self, app) -> None:
        class Shy(BaseSchedule):
            def is_due(self, last_run_at):
                return False, 0.5

        app.conf.beat_schedule = lines(shy=Shy(), two=2)
        assert len(run(Recorder(app), 9)) == 4

    def test_what_the_broker_does_not_take_is_sent_again_for_the_same_run(self, app, caplog) -> None:
        app.conf.beat_schedule = lines(ten=10)
        scheduler = Recorder(app)
        scheduler.failures = [OperationalError("gone")] * 3
        sent = run(scheduler, 25)
        assert [round(when) for _, when in sent] == [17]
        assert caplog.text.count("beat: Connection error: gone. Trying again in") == 3
        assert run(scheduler, 5)[1:] == [("ten", pytest.approx(27, abs=0.5))]

    def test_what_cannot_be_sent_at_all_is_not_sent_again(self, app, caplog) -> None:
        app.conf.beat_schedule = lines(ten=10)
        scheduler = Recorder(app)
        scheduler.failures = [ValueError("wrong")]
        assert [round(when) for _, when in run(scheduler, 25)] == [20]
        assert "Message Error: wrong" in caplog.text

    def test_a_scheduler_may_leave_a_run_to_another(self, app) -> None:
        class Polite(Recorder):
            def claim(self, entry):
                claims.append((self.due_at(entry) - START).total_seconds())
                return len(claims) % 2 == 0

        claims: list[float] = []
        app.conf.beat_schedule = lines(ten=10)
        assert [round(when) for _, when in run(Polite(app), 45)] == [20, 40]
        assert claims == pytest.approx([10, 20, 30, 40], abs=0.1)


class TestSending:
    @pytest.fixture
    def sent(self, app, monkeypatch) -> list:
        calls: list = []
        monkeypatch.setattr(app, "send_task", lambda *args, **options: calls.append((args, options)))
        return calls

    def entry(self, app, **fields) -> ScheduleEntry:
        return ScheduleEntry(**{"name": "n", "task": "far.away", "schedule": 10, "app": app, **fields})

    def test_a_task_that_is_not_known_here_is_sent_by_name(self, app, sent) -> None:
        options = {"queue": "q", "headers": {"mine": 1}}
        entry = self.entry(app, args=(1,), kwargs={"x": 2}, options=options)
        Scheduler(app).apply_async(entry, advance=False)
        [((name, args, kwargs), given)] = sent
        assert (name, args, kwargs) == ("far.away", [1], {"x": 2})
        assert given["queue"] == "q"
        assert given["headers"] == {"mine": 1, "celery_beat_task": True}
        assert options == {"queue": "q", "headers": {"mine": 1}}

    def test_a_task_that_is_known_is_sent_with_its_own_options(self, app) -> None:
        @app.task(queue="own")
        def add(x, y):
            return x + y

        entry = self.entry(app, task=add.name, args=(1, 2))
        result = Scheduler(app).apply_async(entry, advance=False)
        assert result.id
        with pytest.raises(SchedulingError, match="Couldn't apply scheduled task n: "):
            Scheduler(app).apply_async(self.entry(app, task=add.name), advance=False)

    def test_arguments_may_be_made_when_they_are_sent(self, app, sent) -> None:
        numbers = iter(range(10))
        entry = self.entry(
            app, args=(BeatLazyFunc(next, numbers),), kwargs={"n": BeatLazyFunc(next, numbers), "m": "plain"}
        )
        scheduler = Scheduler(app)
        for _ in range(2):
            scheduler.apply_async(entry, advance=False)
        assert [call[0][1:] for call in sent] == [
            ([0], {"n": 1, "m": "plain"}),
            ([2], {"n": 3, "m": "plain"}),
        ]

    def test_a_run_is_counted(self, app, sent) -> None:
        scheduler = Scheduler(app)
        entry = scheduler.add(name="n", task="t", schedule=10)
        app.wait(10)
        scheduler.apply_async(entry)
        after = scheduler.schedule["n"]
        assert (after.total_run_count, after.last_run_at) == (1, app.now())
        assert after == entry


class TestEntries:
    def test_the_schedule_follows_the_settings(self, app) -> None:
        app.conf.beat_schedule = lines(a=1, b=2)
        scheduler = Scheduler(app)
        scheduler.schedule["a"].total_run_count = 5
        scheduler.merge_inplace({**lines(a=3), "c": self.ready(app)})
        assert sorted(scheduler.schedule) == ["a", "c"]
        assert (scheduler.schedule["a"].schedule, scheduler.schedule["a"].total_run_count) == (schedule(3), 5)
        scheduler.update_from_dict(lines(d=4))
        assert scheduler.schedule["d"].task == "task_d"

    def ready(self, app) -> ScheduleEntry:
        return ScheduleEntry(name="c", task="t", schedule=crontab(), app=app)

    def test_showing_storing_and_comparing(self, app) -> None:
        entry = ScheduleEntry("n", "t", START, 3, schedule(10), (1,), {"x": 2}, {"queue": "q"}, app=app)
        assert repr(entry) == "<ScheduleEntry: n t(1, x=2) <freq: 10.00 seconds>>"
        again = pickle.loads(pickle.dumps(entry))
        assert (again, again.last_run_at, again.total_run_count) == (entry, START, 3)
        assert entry != ScheduleEntry("n", "t", START, 3, schedule(11), app=app)
        assert (entry < again) != (again < entry)
        assert entry != 3

    def test_expired_results_are_cleaned_up_where_the_backend_does_not(self, app, tmp_path) -> None:
        assert "celery.backend_cleanup" not in Scheduler(app).schedule
        app.conf.result_backend = f"file://{tmp_path}"
        app.conf.beat_schedule = lines(a=1)
        entry = Scheduler(app).schedule["celery.backend_cleanup"]
        assert (entry.schedule, entry.options) == (crontab("0", "4"), {"expires": 43200})
        app.conf.result_expires = None
        assert "celery.backend_cleanup" not in Scheduler(app).schedule


class TestLinesOfTheProgram:
    def test_lines_are_added_before_and_after_the_settings_are_read(self, app) -> None:
        @app.task(name="add")
        def add(x, y):
            return x + y

        assert app.add_periodic_task(10, add.s(1, 2), name="early", queue="q") == "early"
        assert not app.configured

        @app.on_after_configure.connect
        def more(sender, **kwargs):
            sender.add_periodic_task(crontab(minute=1), add.s(3), args=(4,), expires=5)

        app.conf.update(beat_schedule=lines(given=1))
        assert sorted(app.conf.beat_schedule) == ["add(4, 3)", "early", "given"]
        assert app.conf.beat_schedule["early"] == {
            "schedule": 10,
            "task": "add",
            "args": (1, 2),
            "kwargs": {},
            "options": {"queue": "q"},
        }
        assert app.conf.beat_schedule["add(4, 3)"]["options"] == {"expires": 5}
        assert sorted(Scheduler(app).schedule) == ["add(4, 3)", "early", "given"]

    def test_the_same_call_twice_is_one_line(self, app, caplog) -> None:
        @app.task(name="add")
        def add(x, y):
            return x + y

        app.finalize()
        for every in (1, 2):
            app.add_periodic_task(every, add, (1, 2))
        assert app.conf.beat_schedule["add(1, 2)"]["schedule"] == 2
        assert caplog.text.count("shadowed a previous unnamed periodic task") == 1


class TestRemembering:
    def make(self, app, path: Path, **options) -> PersistentScheduler:
        return PersistentScheduler(app, schedule_filename=str(path / "schedule"), **options)

    def test_times_survive_a_restart(self, app, tmp_path) -> None:
        app.conf.beat_schedule = lines(a=60, b=crontab())
        first = self.make(app, tmp_path)
        app.wait(3600)
        first.reserve(first.schedule["a"])
        first.close()
        first.close()
        app.conf.beat_schedule = lines(a=30, c=1)
        second = self.make(app, tmp_path)
        assert sorted(second.schedule) == ["a", "c"]
        a = second.schedule["a"]
        assert (a.schedule, a.last_run_at, a.total_run_count) == (schedule(30), app.now(), 1)
        assert a.app is app
        second.close()

    def test_the_clean_up_is_remembered_too(self, app, tmp_path) -> None:
        app.conf.result_backend = f"file://{tmp_path}"
        first = self.make(app, tmp_path)
        before = first.schedule["celery.backend_cleanup"].last_run_at
        first.close()
        app.wait(86400)
        second = self.make(app, tmp_path)
        assert second.schedule["celery.backend_cleanup"].last_run_at == before
        second.close()

    @pytest.mark.parametrize(
        ("change", "words"),
        [({"timezone": "Asia/Tokyo"}, "Timezone changed from 'UTC'"), ({"enable_utc": False}, "UTC changed")],
    )
    def test_another_time_zone_forgets_all_times(self, app, tmp_path, caplog, change, words) -> None:
        app.conf.timezone = "UTC"
        app.conf.beat_schedule = lines(a=60)
        self.make(app, tmp_path).close()
        app.wait(3600)
        app.conf.update(change)
        scheduler = self.make(app, tmp_path)
        assert words in caplog.text
        assert scheduler.schedule["a"].last_run_at == app.now()
        scheduler.close()

    @pytest.mark.parametrize("missing", ["__version__", "tz", "utc_enabled"])
    def test_a_file_of_long_ago_is_begun_anew(self, app, tmp_path, caplog, missing) -> None:
        app.conf.timezone = "UTC"
        app.conf.beat_schedule = lines(a=60)
        self.make(app, tmp_path).close()
        with shelf.open(str(tmp_path / "schedule")) as store:
            del store[missing]
        app.wait(3600)
        scheduler = self.make(app, tmp_path)
        assert f"DB Reset: Account for new {missing} field" in caplog.text
        assert scheduler.schedule["a"].last_run_at == app.now()
        scheduler.close()

    def test_what_is_no_schedule_file_is_replaced(self, app, tmp_path, caplog) -> None:
        (tmp_path / "schedule").write_bytes(b"this is no database" * 100)
        app.conf.beat_schedule = lines(a=60)
        scheduler = self.make(app, tmp_path)
        assert "Removing corrupted schedule file" in caplog.text
        assert list(scheduler.schedule) == ["a"]
        scheduler.close()

    def test_entries_that_cannot_be_read_are_replaced(self, app, tmp_path, caplog) -> None:
        app.conf.beat_schedule = lines(a=60)
        self.make(app, tmp_path).close()
        with shelf.open(str(tmp_path / "schedule")) as store:
            store.dict[b"entries"] = pickle.dumps(START).replace(b"datetime", b"nowhere!")
        scheduler = self.make(app, tmp_path)
        assert "DB Reset: Cannot load the stored entries" in caplog.text
        assert list(scheduler.schedule) == ["a"]
        scheduler.close()

    def test_a_file_that_another_beat_holds_is_left_alone(self, app, tmp_path) -> None:
        class Held:
            def open(self, filename, writeback):
                raise BlockingIOError(11, "Resource temporarily unavailable")

        class Second(PersistentScheduler):
            persistence = Held()

        kept = tmp_path / "schedule"
        kept.write_bytes(b"")
        with pytest.raises(ImproperlyConfigured, match="is held by another beat"):
            Second(app, schedule_filename=str(kept))
        assert kept.exists()

    def test_it_is_written_after_some_time_or_some_tasks(self, app, tmp_path) -> None:
        app.conf.beat_schedule = lines(a=60)
        scheduler = self.make(app, tmp_path, sync_every_tasks=2)
        assert scheduler.should_sync()
        scheduler._do_sync()
        assert not scheduler.should_sync()
        for expected in (1, 0):
            scheduler.apply_async(scheduler.schedule["a"])
            assert scheduler._tasks_since_sync == expected
        scheduler.close()

    def test_classes_have_celerys_names_in_the_file(self) -> None:
        entry = ScheduleEntry("n", "t", START, 3, crontab(minute=5), (1,), {"x": schedule(3)}, {})
        data = shelf.pack({"n": entry})
        assert b"umbel" not in data
        assert b"celery.beat\nScheduleEntry" in data
        again = shelf.unpack(data)["n"]
        assert type(again) is ScheduleEntry
        assert (again, again.last_run_at) == (entry, START)


class TestService:
    def test_it_runs_until_it_is_told_to_stop(self, app) -> None:
        class Once(Recorder):
            def tick(self):
                service.stop()
                return 100.0

            def close(self):
                closed.append(True)

        closed: list[bool] = []
        service = Service(app, scheduler_cls=Once)
        service.start()
        assert closed == [True]

    @pytest.mark.parametrize(
        ("name", "cls"),
        [
            ("celery.beat:PersistentScheduler", PersistentScheduler),
            ("celery.beat.Scheduler", Scheduler),
            ("umbel.scheduler:Scheduler", Scheduler),
            ("umbel.scheduler.Scheduler", Scheduler),
            (Recorder, Recorder),
        ],
    )
    def test_how_a_scheduler_may_be_named(self, name, cls) -> None:
        assert scheduler_class(name) is cls

    def test_a_scheduler_that_is_not_there_is_refused(self, app) -> None:
        with pytest.raises(ImproperlyConfigured, match="'nowhere:Scheduler' cannot be imported"):
            Service(app, scheduler_cls="nowhere:Scheduler").get_scheduler()

    def test_a_lazy_scheduler_opens_no_file(self, app, tmp_path) -> None:
        service = Service(app, schedule_filename=str(tmp_path / "schedule"))
        assert service.get_scheduler(lazy=True).info == f"    . db -> {tmp_path}/schedule"
        assert list(tmp_path.iterdir()) == []


class TestRemoteControl:
    @pytest.mark.parametrize(
        ("given", "name"),
        [
            (None, "celerybeat@{host}"),
            ("b1", "celerybeat@b1"),
            ("b1@", "b1@{host}"),
            ("b%%1@x-%h", "b%1@x-{host}"),
        ],
    )
    def test_the_name_by_which_beat_answers(self, given, name) -> None:
        assert beat_nodename(given) == name.format(host=socket.gethostname())

    @pytest.mark.parametrize(
        ("age", "setting", "stale"),
        [(None, None, False), (59, None, False), (601, None, True), (601, 0, False), (3, 2, True)],
    )
    def test_it_is_silent_when_the_scheduler_is_stuck(self, app, age, setting, stale) -> None:
        app.conf.beat_remote_control_max_tick_age = setting
        service = Service(app, remote_control=True)
        service.effective_max_interval = 300
        service._last_tick = None if age is None else time.monotonic() - age
        assert BeatPidbox(service).is_stale() is stale

    def test_a_stopped_one_may_be_stopped_again(self, app) -> None:
        pidbox = BeatPidbox(Service(app, remote_control=True))
        pidbox.stop()
        pidbox.start()
        pidbox.stop()
        pidbox.stop()
