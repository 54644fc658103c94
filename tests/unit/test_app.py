"""The application: settings, tasks, naming, sharing, finding, and its life."""

from __future__ import annotations

import pickle
import sys
import threading

import pytest

import umbel
from tests.unit.app_support import make_app, sent_one
from umbel import Celery, Task, Umbel, current_app, shared_task, signals
from umbel.brokers.base import Capabilities
from umbel.errors import AlwaysEagerIgnored, DuplicateTaskNameWarning, ImproperlyConfigured, NotRegistered


@pytest.fixture
def app():
    with make_app() as app:
        yield app


def test_celery_is_the_same_class():
    assert Celery is Umbel


def test_celerys_constructor_arguments():
    app = Celery(
        "proj",
        loader=None,
        backend="memory://",
        amqp=None,
        events=None,
        log=None,
        control=None,
        set_as_current=False,
        tasks=None,
        broker="memory://",
        include=["a.b"],
        changes={"task_serializer": "json"},
        config_source={"worker_concurrency": 3},
        fixups=[],
        task_cls=None,
        autofinalize=True,
        namespace=None,
        strict_typing=True,
        result_expires=30,
    )
    with app:
        assert app.conf.broker_url == "memory://"
        assert app.conf.include == ["a.b"]
        assert app.conf.worker_concurrency == 3
        assert app.conf.result_expires == 30


def test_settings_are_read_when_they_are_needed(app):
    order = []
    app.on_configure.connect(lambda **_: order.append("before"), weak=False)
    app.on_after_configure.connect(lambda source, **_: order.append(source.task_serializer), weak=False)
    app.config_from_object({"task_serializer": "yaml"})
    app.add_defaults(lambda: {"worker_concurrency": 7})
    assert (order, app.configured) == ([], False)
    assert (app.conf.task_serializer, app.conf.worker_concurrency) == ("yaml", 7)
    assert (order, app.configured) == (["before", "yaml"], True)


def test_settings_from_the_environment_and_the_command_line(app, monkeypatch, tmp_path):
    (tmp_path / "my_config.py").write_text("task_default_queue = 'fromfile'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MY_CONFIG", "my_config")
    assert app.config_from_envvar("MY_CONFIG", force=True)
    app.config_from_cmdline(["worker.prefetch_multiplier=9"])
    assert (app.conf.task_default_queue, app.conf.worker_prefetch_multiplier) == ("fromfile", 9)
    with pytest.raises(ImproperlyConfigured, match="NOT_THERE"):
        app.config_from_envvar("NOT_THERE")
    assert not app.config_from_envvar("NOT_THERE", silent=True)


def test_on_configure_as_a_method():
    class Mine(Umbel):
        def on_configure(self):
            self.called = True

    with Mine(set_as_current=False) as app:
        assert app.conf.task_serializer == "json"
        assert app.called


def test_without_a_broker_there_is_the_embedded_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with Umbel("proj", set_as_current=False) as app:
        assert app.broker.store.startswith("sqlite:")
        assert app.backend.stores_results
        assert app.backend.store == app.broker.store


def test_with_a_broker_and_no_backend_results_are_not_kept():
    with Umbel("proj", broker="memory://none", set_as_current=False) as app:
        assert not app.backend.stores_results


def test_options_of_a_task_become_attributes(app):
    @app.task(name="n", max_retries=None, acks_late=True, my_own="yes", throws=(KeyError,))
    def job(): ...

    assert (job.name, job.max_retries, job.my_own, job.throws) == ("n", None, "yes", (KeyError,))
    assert app.tasks["n"] is job
    assert job.acks_late is True
    assert (job.serializer, job.track_started, job.acks_on_failure) == ("json", False, True)
    assert job.app is app


def test_misspelt_options_are_errors(app):
    with pytest.raises(TypeError, match="'max_retry' is unknown; did you mean 'max_retries'"):
        app.task(max_retry=3)(lambda: None)
    with pytest.raises(TypeError, match="did you mean 'acks_late'"):
        app.task(ack_late=True)(lambda: None)


def test_what_is_not_a_function(app):
    with pytest.raises(TypeError, match="callable"):
        app.task("text")


def test_names(app):
    def job(): ...

    job.__module__ = "__main__"
    assert app.task(job).name == "proj.job"
    assert app.gen_task_name("x", "a.b") == "a.b.x"

    class Short(Umbel):
        def gen_task_name(self, name, module):
            return f"short.{name}"

    with Short(set_as_current=False) as other:
        assert other.task(job).name == "short.job"


def test_a_base_class_and_a_custom_task_class():
    class Base(Task):
        marker = 1

    with make_app(task_cls=Base) as app:

        @app.task
        def one(): ...

        assert one.marker == 1

    with make_app() as app:
        app.Task = Base

        @app.task
        def two(): ...

        class Mine(app.Task):
            name = "mine"
            queue = "special"

            def run(self, x):
                return x

        mine = app.register_task(Mine())
        assert two.marker == mine.marker == 1
        assert mine(5) == 5
        mine.delay(1)
        assert sent_one(app, "special").headers["task"] == "mine"


def test_a_task_without_a_body(app):
    task = app.register_task(Task)
    with pytest.raises(NotImplementedError, match="must define the run method"):
        task()


def test_unknown_tasks_are_suggested(app):
    @app.task(name="proj.resize")
    def resize(): ...

    with pytest.raises(NotRegistered, match=r"did you mean proj\.resize"):
        app.tasks["proj.resise"]


def test_two_functions_of_one_name(app):
    @app.task(name="same")
    def first(): ...

    def second(): ...

    with pytest.warns(DuplicateTaskNameWarning, match="'same'"):
        assert app.task(name="same")(second) is first


def test_finalizing(app):
    done = []
    app.on_after_finalize.connect(lambda sender, **_: done.append(sender), weak=False)

    @app.task
    def job(): ...

    assert not app.finalized
    assert job() is None
    assert app.tasks
    app.finalize()
    assert done == [app]


def test_autofinalize_off():
    with make_app(autofinalize=False) as app:

        @app.task
        def job(): ...

        with pytest.raises(RuntimeError, match="not finalized"):
            job.delay()
        app.finalize()
        job.delay()


def test_shared_tasks_are_in_every_app():
    @shared_task(name="shared.one", bind=True)
    def one(self, x):
        return self.app.main, x

    with make_app(main="a", set_as_current=True):
        assert one(1) == ("a", 1)
        assert isinstance(one, Task)
        with make_app(main="b", set_as_current=True) as b:
            assert one(2) == ("b", 2)
            one.delay(3)
            assert sent_one(b).headers["task"] == "shared.one"


def test_tasks_are_shared_with_apps_that_are_finalized_later():
    with make_app() as first, make_app() as second:

        @first.task(name="of.first")
        def job(): ...

        @first.task(name="private", shared=False)
        def private(): ...

        assert "of.first" in second.tasks
        assert "private" not in second.tasks
        assert second.tasks["of.first"].app is second


def test_an_apps_own_task_wins_over_a_shared_one():
    with make_app() as first, make_app() as second:

        @first.task(name="same.name")
        def theirs(): ...

        @second.task(name="same.name")
        def ours():
            return "ours"

        with pytest.warns(DuplicateTaskNameWarning):
            assert second.tasks["same.name"]() == "ours"


def test_each_thread_has_its_current_app():
    with make_app(main="here", set_as_current=True) as here:
        found = []

        def other():
            found.append(current_app.main)
            with make_app(main="there", set_as_current=True):
                found.append(current_app.main)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert found == ["here", "there"]
        assert current_app.main == "here"
        assert current_app == here


def test_annotations():
    class Annotate:
        def annotate(self, task):
            return {"rate_limit": "5/m"} if task.name == "second" else None

        def annotate_any(self):
            return None

    around = {"@run": lambda run: lambda *args: ("around", run(*args))}
    with make_app(
        task_annotations=[{"first": {"max_retries": 9, **around}, "*": {"priority": 2}}, Annotate()]
    ) as app:

        @app.task(name="first")
        def first(x):
            return x

        @app.task(name="second")
        def second(): ...

        assert app.tasks["first"].max_retries == 9
        assert first(1) == ("around", 1)
        assert (first.priority, second.priority, second.rate_limit) == (2, 2, "5/m")


def test_autodiscovery(monkeypatch, tmp_path):
    for name, text in {"found": "loaded = True\n", "none": None, "broken": "import not_there\n"}.items():
        package = tmp_path / f"umbel_test_{name}"
        package.mkdir()
        (package / "__init__.py").write_text("")
        if text is not None:
            (package / "tasks.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with make_app(include=["umbel_test_none"]) as app:
        app.autodiscover_tasks(lambda: ["umbel_test_found", "umbel_test_none"])
        assert "umbel_test_found.tasks" not in sys.modules
        app.loader.import_default_modules()
        assert "umbel_test_found.tasks" in sys.modules
        assert "umbel_test_none" in app.loader.task_modules
        with pytest.raises(ModuleNotFoundError, match="not_there"):
            app.autodiscover_tasks(["umbel_test_broken"], force=True)
        with pytest.raises(ModuleNotFoundError):
            app.autodiscover_tasks(["umbel_test_missing"], force=True)
        signals.import_modules.receivers.clear()


def test_pickling():
    with make_app(main="pickled", task_default_queue="q", namespace=None) as app:
        copy = pickle.loads(pickle.dumps(app))
        with copy:
            assert (copy.main, copy.conf.task_default_queue) == ("pickled", "q")


def test_closing_forgets(app):
    with make_app(set_as_current=True, main="closed") as closed:
        assert umbel.state.current_app_or_none() is closed
    assert umbel.state.current_app_or_none() is not closed
    closed.close()


def test_send_task_warns_when_eager(app):
    app.conf.task_always_eager = True
    with pytest.warns(AlwaysEagerIgnored):
        app.send_task("t")


def test_purge(app):
    app.send_task("t")
    app.send_task("t")
    assert app.control.purge() == 2
    assert app.control.purge() == 0


def test_revoke_needs_a_broker_that_can_broadcast(app, monkeypatch):
    monkeypatch.setattr(type(app.broker), "capabilities", Capabilities(False, False, True))
    with pytest.raises(ImproperlyConfigured, match="cannot broadcast"):
        app.control.revoke("id")


def test_without_workers_nobody_answers(app):
    assert app.control.revoke("id") is None
    assert app.control.revoke(["id"], reply=True, timeout=0.01) == []
    assert app.AsyncResult("id").revoke(wait=True, timeout=0.01) == []
    with pytest.raises(ValueError, match="list or tuple"):
        app.control.revoke("id", destination="w1@host")


def test_worker_main_wants_the_worker_command(app):
    with pytest.raises(ValueError, match="worker"):
        app.worker_main(["beat"])


def test_fixups_are_called():
    seen = []
    with make_app(fixups=[seen.append]) as app:
        assert seen == [app]


def test_queues(app):
    assert list(app.amqp.queues) == ["celery"]
    queue = app.amqp.queues["celery"]
    assert (queue.exchange.name, queue.routing_key) == ("celery", "celery")
    app.select_queues("a")
    assert list(app.amqp.queues.consume_from) == ["a"]
    assert app.amqp.default_queue is queue


def test_times(app):
    assert app.timezone.utcoffset(None).total_seconds() == 0
    app.conf.timezone = "Europe/Oslo"
    assert str(app.timezone) == "Europe/Oslo"
    assert app.now().tzinfo is not None


def test_the_machines_time_zone_where_utc_is_off():
    with make_app(enable_utc=False) as app:
        assert app.now().utcoffset() is not None


def test_either(app):
    assert app.either("worker_concurrency", None, 0) == 0
    assert app.either("task_serializer", None) == "json"


def test_a_table_of_queues_of_ones_own_takes_the_rest_from_the_settings(app):
    app.conf.task_queue_max_priority = 5
    queues = app.amqp.Queues({"mine": {}}, create_missing=False)
    assert queues["mine"].queue_arguments == {"x-max-priority": 5}
    with pytest.raises(KeyError):
        queues["other"]
    assert list(app.amqp.Queues()) == ["celery"]
