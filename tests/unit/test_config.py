"""``app.conf``: names, layers, laziness, and what it says about mistakes."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from umbel.config import Settings
from umbel.errors import ImproperlyConfigured

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BASELINE = """
broker_url = 'redis://redis-prod:6379/0'
result_backend = 'redis://redis-prod:6379/1'
broker_transport_options = {
 'visibility_timeout': 3600,
 'max_connections': 100,
}
broker_pool_limit = 50
broker_heartbeat = 30
broker_connection_retry_on_startup = True
result_expires = 86400
accept_content = ['json']
task_serializer = 'json'
result_serializer = 'json'
"""
ROUTING = """
task_routes = {
 'app.tasks.critical.*': {'queue': 'high_priority', 'routing_key': 'critical'},
 'app.tasks.background.*': {'queue': 'default', 'routing_key': 'background'},
 'app.tasks.tenant_*.process': {'queue': 'tenant_isolated', 'routing_key': 'tenant'},
}
task_default_queue = 'default'
task_default_exchange = 'celery'
task_default_exchange_type = 'direct'
task_queue_max_priority = 10
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BROKER_URL", "BROKER_READ_URL", "BROKER_WRITE_URL", "RESULT_BACKEND", "CONFIG_MODULE"):
        monkeypatch.delenv(f"CELERY_{name}", raising=False)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory whose modules are importable and forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def configured(source: object, namespace: str | None = None) -> Settings:
    conf = Settings()
    conf.read_from(source, namespace=namespace)
    return conf


# -- Sources


def test_a_configuration_baseline_loads(project: Path) -> None:
    (project / "celeryconfig.py").write_text(BASELINE)
    conf = configured("celeryconfig")

    assert conf.broker_url == "redis://redis-prod:6379/0"
    assert conf.result_backend == "redis://redis-prod:6379/1"
    assert conf.broker_transport_options == {"visibility_timeout": 3600, "max_connections": 100}
    assert (conf.broker_pool_limit, conf.broker_heartbeat, conf.result_expires) == (50, 30, 86400)
    assert conf.broker_connection_retry_on_startup is True
    assert conf.accept_content == ["json"]
    assert conf.notes() == []


def test_a_routing_matrix_loads(project: Path) -> None:
    (project / "celeryconfig.py").write_text(ROUTING)
    conf = configured("celeryconfig")

    assert conf.task_routes["app.tasks.critical.*"] == {"queue": "high_priority", "routing_key": "critical"}
    assert (conf.task_default_queue, conf.task_default_exchange) == ("default", "celery")
    assert conf.task_default_routing_key == "default"
    assert conf.task_queue_max_priority == 10


def test_settings_of_a_hardened_application_load() -> None:
    conf = Settings()
    conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_send_task_events=True,
        task_send_sent_event=True,
    )

    assert (conf.task_acks_late, conf.task_reject_on_worker_lost) == (True, True)
    assert (conf.worker_send_task_events, conf.task_send_sent_event) == (True, True)


def test_helpers_and_imports_of_a_configuration_module_are_no_settings(project: Path) -> None:
    (project / "celeryconfig.py").write_text(
        "import os\nfrom datetime import timedelta\n"
        "def task_route(name, *args, **kwargs): return {'queue': 'q'}\n"
        "class Worker: pass\nredis_url = 'redis://x'\nbroker_redis_url = redis_url\nbroker_url_staging = 'y'\n"
        "task_routes = (task_route,)\nresult_expires = timedelta(hours=1)\n"
    )
    conf = configured("celeryconfig")

    assert conf.result_expires == timedelta(hours=1)
    assert conf.redis_url == "redis://x"
    assert [note.split()[0] for note in conf.notes()] == [
        "broker_redis_url",
        "broker_url_staging",
        "redis_url",
    ]
    assert set(conf.without_defaults()) == {
        "redis_url",
        "broker_redis_url",
        "broker_url_staging",
        "task_routes",
        "result_expires",
        "deprecated_settings",
    }


def test_a_path_names_a_module_or_something_in_one(project: Path) -> None:
    (project / "settings_here.py").write_text("class Production:\n    task_track_started = True\n")

    assert configured("settings_here:Production").task_track_started is True
    assert configured("settings_here.Production").task_track_started is True


def test_a_file_name_is_no_module_name(project: Path) -> None:
    (project / "celeryconfig.py").write_text("")
    with pytest.raises(ModuleNotFoundError, match=r"without '\.py': 'celeryconfig'"):
        configured("celeryconfig.py").finalize()


def test_a_missing_module_is_an_error_unless_silent() -> None:
    with pytest.raises(ModuleNotFoundError):
        configured("no_such_module_here").get("task_serializer")
    conf = Settings()
    conf.read_from("no_such_module_here", silent=True)
    assert conf.task_serializer == "json"


def test_an_error_in_the_configuration_module_is_the_one_shown(project: Path) -> None:
    (project / "celeryconfig.py").write_text("import module_that_is_not_there\n")
    with pytest.raises(ModuleNotFoundError, match="module_that_is_not_there"):
        configured("celeryconfig").get("task_serializer")
    (project / "otherconfig.py").write_text("import os\nbroker_url = os.environ['SURELY_NOT_SET']\n")
    with pytest.raises(KeyError, match="SURELY_NOT_SET"):
        configured("otherconfig").get("task_serializer")


def test_the_environment_names_the_module(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "envconfig.py").write_text("task_default_queue = 'fromenv'\n")
    monkeypatch.setenv("MY_CONFIG", "envconfig")
    conf = Settings()
    assert conf.read_from_environment("MY_CONFIG")
    assert conf.task_default_queue == "fromenv"

    monkeypatch.setenv("CELERY_CONFIG_MODULE", "envconfig")
    assert Settings().task_default_queue == "fromenv"


def test_an_unset_variable_is_an_error_unless_silent() -> None:
    with pytest.raises(ImproperlyConfigured, match="'SURELY_NOT_SET' is not set"):
        Settings().read_from_environment("SURELY_NOT_SET")
    assert not Settings().read_from_environment("SURELY_NOT_SET", silent=True)


# -- Names


def test_old_and_new_names_read_the_same() -> None:
    conf = configured({"CELERY_ALWAYS_EAGER": True, "CELERYD_CONCURRENCY": 3, "BROKER_URL": "redis://x"})

    assert conf.task_always_eager is conf["task_always_eager"] is conf.CELERY_ALWAYS_EAGER is True
    assert conf["CELERYD_CONCURRENCY"] == conf.worker_concurrency == 3
    assert conf["BROKER_URL"] == conf.broker_url == "redis://x"
    assert conf.deprecated_settings == {"CELERY_ALWAYS_EAGER", "CELERYD_CONCURRENCY", "BROKER_URL"}
    assert conf.changes["deprecated_settings"] == conf.deprecated_settings
    with pytest.warns(
        DeprecationWarning, match="use task_always_eager instead|broker_url|worker_concurrency"
    ):
        assert conf.maybe_warn_deprecated_settings()


def test_old_and_new_names_do_not_mix() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"CELERY_ALWAYS_EAGER +-> task_always_eager"):
        configured({"task_serializer": "json", "CELERY_ALWAYS_EAGER": True}).finalize()
    with pytest.raises(ImproperlyConfigured, match=r"worker_agent +-> CELERYD_AGENT"):
        configured({"worker_agent": "x", "CELERY_ALWAYS_EAGER": 1, "CELERYD_CONCURRENCY": 2}).finalize()


def test_both_names_of_one_setting_may_be_given_and_the_new_one_wins() -> None:
    conf = configured({"task_always_eager": True, "CELERY_ALWAYS_EAGER": False})

    assert conf.task_always_eager is True


def test_changes_made_before_the_source_is_known_may_not_mix_either() -> None:
    conf = Settings()
    conf.task_default_queue = "q"
    conf.CELERYD_CONCURRENCY = 3
    for _ in range(2):
        with pytest.raises(ImproperlyConfigured, match="CELERYD_CONCURRENCY"):
            conf.get("task_default_queue")


def test_constructor_arguments_do_not_count_as_mixing() -> None:
    conf = Settings()
    conf.preset(broker_url="redis://x", result_backend=None)
    conf.update(CELERY_ALWAYS_EAGER=4, CELERY_DEFAULT_DELIVERY_MODE=63)

    assert (conf.broker_url, conf.task_always_eager, conf.task_default_delivery_mode) == ("redis://x", 4, 63)


def test_a_namespace() -> None:
    source = SimpleNamespace(
        CELERY_BROKER_URL="redis://x",
        CELERY_TASK_ACKS_LATE="true",
        CELERY_RESULT_BACKEND="redis://y",
        CELERY_REDBEAT_REDIS_URL="redis://z",
        CELERYD_CONCURRENCY=5,
        SECRET_KEY="django's own",
        TASK_SERIALISER="some other program's",
        TIME_ZONE="Europe/Bucharest",
    )
    conf = configured(source, namespace="CELERY")

    assert (conf.broker_url, conf.task_acks_late, conf.result_backend) == ("redis://x", True, "redis://y")
    assert conf.CELERY_TASK_ACKS_LATE is conf["CELERY_TASK_ACKS_LATE"] is True
    assert conf.worker_concurrency == 5
    assert conf.redbeat_redis_url == conf["CELERY_REDBEAT_REDIS_URL"] == "redis://z"
    assert conf.timezone == "Europe/Bucharest"
    assert conf.SECRET_KEY == "django's own"
    assert conf.prefix == "CELERY_"
    assert conf.notes() == []
    with pytest.raises(KeyError, match=r"'nothing'.*'CELERY_nothing'"):
        conf["nothing"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("task_acks_latte", "task_acks_late"),
        ("task_ack_late", "task_acks_late"),
        ("worker_concurency", "worker_concurrency"),
        ("broker_ur", "broker_url"),
        ("brokr_url", "broker_url"),
        ("tasks_routes", "task_routes"),
        ("wroker_pool", "worker_pool"),
        ("broker_urls", "broker_url"),
        ("result_backnd", "result_backend"),
        ("task_serialiser", "task_serializer"),
        ("task_soft_limit", "task_soft_time_limit"),
        ("worker_max_task_per_child", "worker_max_tasks_per_child"),
        ("timezon", "timezone"),
        ("accept_contents", "accept_content"),
        ("enable_uct", "enable_utc"),
        ("CELERY_ALWAYS_EAGR", "CELERY_ALWAYS_EAGER"),
        ("CELERYD_CONCURENCY", "CELERYD_CONCURRENCY"),
        ("BROKER_ULR", "BROKER_URL"),
    ],
)
def test_a_misspelling_is_an_error_that_names_the_nearest(name: str, meant: str) -> None:
    expected = f"^{name}: there is no such setting; did you mean {meant}\\?$"
    with pytest.raises(ImproperlyConfigured, match=expected):
        configured({name: 1}).finalize()
    with pytest.raises(ImproperlyConfigured, match=expected):
        Settings().update({name: 1})
    with pytest.raises(ImproperlyConfigured, match=expected):
        Settings()[name] = 1


def test_a_misspelling_in_a_namespace() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"did you mean CELERY_TASK_ACKS_LATE\?"):
        configured({"CELERY_TASK_ACK_LATE": True}, namespace="CELERY").finalize()


@pytest.mark.parametrize(
    "name",
    [
        "redbeat_redis_url",
        "redbeat_lock_timeout",
        "beat_dburi",
        "flower_basic_auth",
        "DJANGO_CELERY_BEAT_TZ_AWARE",
        "CELERY_DB_REUSE_MAX",
        "CELERY_TASK_ALWAYS_EAGER",
        "CELERY_AMQP_TASK_RESULT_EXPIRES",
        "CELERYD_LOG_FILE",
        "ONCE",
        "foo",
        "my_own_url",
        "tasks_module",
        "results_dir",
        "tasks",
        "DATABASE_URL",
        "_private",
    ],
)
def test_names_of_others_survive_without_a_remark(name: str) -> None:
    conf = configured({name: "value"})

    assert conf[name] == getattr(conf, name) == conf.get(name) == "value"
    assert name in conf
    assert conf.value_set_for(name)
    assert conf.notes() == []


def test_a_stranger_in_a_family_is_kept_and_reported_once() -> None:
    conf = configured({"task_default_wisdom": 42})

    assert conf.task_default_wisdom == 42
    assert [note.partition(";")[0] for note in conf.notes()] == ["task_default_wisdom is no setting"]
    assert conf.notes() == []


def test_a_bad_value_is_an_error_when_loaded_and_when_set() -> None:
    expected = "worker_concurrency: expected an int or \"auto\", got 'many'"
    with pytest.raises(ImproperlyConfigured, match=expected):
        configured({"worker_concurrency": "many"}).finalize()
    conf = Settings()
    with pytest.raises(ImproperlyConfigured, match=expected):
        conf.update(task_serializer="yaml", worker_concurrency="many")
    assert conf.task_serializer == "json"


# -- Layers


def test_what_was_set_before_the_source_is_read_is_kept_and_wins() -> None:
    conf = Settings()
    conf.read_from({"task_serializer": "yaml", "worker_concurrency": 2})
    conf.worker_concurrency = 8
    conf.update({"task_track_started": True})
    conf.setdefault("task_default_queue", "q")

    assert not conf.configured
    assert conf.worker_concurrency == 8
    assert conf.configured
    assert (conf.task_serializer, conf.task_track_started, conf.task_default_queue) == ("yaml", True, "q")
    conf.setdefault("task_default_queue", "other")
    assert conf.task_default_queue == "q"


def test_asking_for_a_key_does_not_read_the_source_but_reading_does() -> None:
    conf = configured({"foo": 1})

    assert "foo" not in conf
    assert not conf.configured
    assert conf.foo == 1
    assert "foo" in conf


def test_added_defaults_lie_between_changes_and_source() -> None:
    conf = configured({"foo": "source", "bar": "source", "task_serializer": "yaml"})
    conf.add_defaults(lambda: {"foo": "lazy", "task_serializer": "msgpack"})
    assert not conf.configured
    assert (conf.foo, conf.bar, conf.task_serializer) == ("lazy", "source", "msgpack")
    later = {"foo": "later"}
    conf.add_defaults(later)
    assert conf.foo == "later"
    assert later in conf.defaults
    conf.foo = "changed"
    assert conf.foo == "changed"
    del conf.foo
    assert conf.foo == "later"
    assert conf.maps[0] is conf.changes


def test_a_source_replaces_the_one_before_and_keeps_what_was_set_before_it() -> None:
    conf = configured({"task_default_queue": "one"})
    conf.worker_concurrency = 3
    assert conf.task_default_queue == "one"
    conf.task_track_started = True
    conf.read_from({"task_serializer": "yaml"})

    assert (conf.task_default_queue, conf.task_serializer, conf.worker_concurrency) == ("celery", "yaml", 3)
    assert conf.task_track_started is False


def test_changes_can_be_taken_back() -> None:
    conf = configured({"task_serializer": "yaml"})
    conf["CELERY_TASK_SERIALIZER"] = "json"
    assert conf.task_serializer == "json"
    assert conf.pop("task_serializer") == "json"
    assert conf.task_serializer == "yaml"
    conf.task_serializer = "msgpack"
    conf.clear()
    assert conf.task_serializer == "yaml"
    with pytest.raises(KeyError, match="not found in the first mapping"):
        conf.pop("task_serializer")
    assert conf.pop("task_serializer", None) is None


def test_defaults_are_not_shared_between_applications() -> None:
    one, other = Settings(), Settings()
    one.beat_schedule["nightly"] = {"task": "t"}

    assert one.beat_schedule == {"nightly": {"task": "t"}}
    assert other.beat_schedule == {}


def test_writing_through_the_layers_is_seen() -> None:
    conf = Settings()
    assert conf.task_track_started is False
    conf.changes["task_track_started"] = True
    assert conf.task_track_started is True


def test_what_was_derived_from_settings_can_tell_that_it_is_stale() -> None:
    conf = Settings()
    assert conf.task_routes is None
    before = conf.generation
    assert conf.task_serializer == "json"
    assert conf.generation == before
    conf.task_routes = {"a": "b"}
    assert conf.generation != before


@pytest.mark.parametrize("duplicate", [copy, Settings.copy])
def test_a_copy_reads_the_same_and_changes_apart(duplicate) -> None:  # type: ignore[no-untyped-def]
    conf = configured({"CELERY_TASK_ALWAYS_EAGER": True}, namespace="CELERY")
    conf.add_defaults(lambda: {"copy_default": "custom"})
    copied = duplicate(conf)

    assert copied.copy_default == "custom"
    assert dict(copied) == dict(conf)
    copied.task_always_eager = False
    assert (copied.task_always_eager, conf.task_always_eager) == (False, True)


def test_hooks_run_around_loading_once_and_may_use_the_settings() -> None:
    seen: list[str] = []
    conf = Settings(
        before_load=lambda: (seen.append("before"), conf.update(task_default_queue="hooked")),
        after_load=lambda settings: seen.append(settings.task_default_queue),
    )
    conf.read_from({"task_serializer": "yaml"})
    assert (conf.task_serializer, conf.task_default_queue) == ("yaml", "hooked")
    assert seen == ["before", "hooked"]


def test_threads_that_ask_at_once_wait_for_one_loading() -> None:
    started, go_on = threading.Event(), threading.Event()
    loadings: list[int] = []

    def slow_defaults() -> dict[str, str]:
        loadings.append(1)
        started.set()
        assert go_on.wait(10)
        return {"task_default_queue": "late"}

    conf = Settings()
    conf.add_defaults(slow_defaults)
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(lambda: conf.task_default_queue)
        assert started.wait(10)
        others = [threads.submit(lambda: conf.task_default_queue) for _ in range(2)]
        go_on.set()
        assert [future.result(10) for future in (first, *others)] == ["late"] * 3
    assert loadings == [1]


# -- Environment and fallbacks


def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    conf = configured({"broker_url": "redis://conf", "result_backend": "redis://conf"})
    assert conf.broker_read_url == conf.broker_write_url == "redis://conf"
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://env")
    monkeypatch.setenv("CELERY_BROKER_READ_URL", "redis://read")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://results")

    assert conf.broker_url == conf["broker_url"] == conf["BROKER_URL"] == "redis://env"
    assert (conf.broker_read_url, conf.broker_write_url) == ("redis://read", "redis://env")
    assert conf.result_backend == conf.get("result_backend") == "redis://results"


def test_fallbacks() -> None:
    conf = Settings()
    assert conf.broker_url is None
    assert (conf.task_default_exchange, conf.task_default_routing_key) == ("celery", "celery")
    conf.task_default_queue = "q"
    assert (conf.task_default_exchange, conf.task_default_routing_key) == ("q", "q")
    conf.broker_host = "localhost"
    assert conf.broker_url == "localhost"
    assert conf.first("timezone", "task_default_queue") == "q"


# -- Questions


def test_whether_a_value_was_set_or_left() -> None:
    conf = configured({"CELERY_ALWAYS_EAGER": False})

    assert conf.value_set_for("task_always_eager")
    assert conf.value_set_for("CELERY_ALWAYS_EAGER")
    assert not conf.value_set_for("task_eager_propagates")
    assert not conf.value_set_for("nothing")


def test_settings_are_found_by_parts() -> None:
    conf = configured({"worker_disable_rate_limits": True})

    assert conf.get_by_parts("worker", "disable_rate_limits") is True
    assert conf.find_value_for_key("disable_rate_limits") is True
    assert conf.find_option("disable_rate_limits")[:2] == ("worker", "disable_rate_limits")


def test_secrets_are_masked_when_shown() -> None:
    conf = configured(
        {
            "broker_url": "redis://user:s3cr@t/x@host:6379/0",
            "broker_read_url": ["amqp://a:hidden@h1", "amqp://h2"],
            "result_backend": "sentinel://:hidden@h1:26379;sentinel://:hidden@h2:26379/0",
            "redis_password": "hidden",
            "broker_transport_options": {"sentinel_kwargs": {"password": "hidden"}, "sep": ":"},
            "my_api_token": "hidden",
            "task_serializer": "json",
        }
    )
    shown = conf.humanize()

    assert "hidden" not in shown
    assert "s3cr" not in shown
    assert "redis://user:********@host:6379/0" in shown
    assert "sentinel://:********@h1:26379;sentinel://:********@h2:26379/0" in shown
    assert "task_serializer: 'json'" in shown
    assert "deprecated_settings" not in shown
    assert "hidden" in conf.humanize(censored=False)
    assert len(conf.table(with_defaults=True)) > 200
    assert set(conf.table()) < set(conf.table(with_defaults=True))


def test_the_end_of_a_setting_is_announced() -> None:
    conf = configured({"task_acks_on_failure_or_timeout": False})

    assert conf.notes() == [
        "task_acks_on_failure_or_timeout goes in a later version; use task_acks_on_failure and task_acks_on_timeout"
    ]
