"""The table of settings: complete, consistent, and exact about what it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.config.settings import BY_NAME, SETTINGS, find_setting
from umbel.config.values import seconds
from umbel.errors import ImproperlyConfigured

#: What Celery 5.7 says of its settings: the old upper-case name, and how the default is written.
CELERY_5_7 = json.loads(Path(__file__).with_name("test_settings_celery_5_7.json").read_text())


class SomeClass:
    pass


def test_every_setting_of_celery_is_there_with_its_old_name_and_default() -> None:
    celerys = {s.name: [s.old, repr(s.default)] for s in SETTINGS if not s.ours and not s.unlisted}

    assert celerys == CELERY_5_7


def test_settings_read_by_celery_without_being_listed_are_there() -> None:
    unlisted = {setting.name for setting in SETTINGS if setting.unlisted}

    assert {"result_backend_thread_safe", "override_backends", "worker_logfile", "beat_pidfile"} <= unlisted
    assert not any(setting.old for setting in SETTINGS if setting.unlisted)


def test_names_are_unique_and_documented() -> None:
    assert len(BY_NAME) == len(SETTINGS)
    assert all(setting.doc and "\n" not in setting.doc for setting in SETTINGS)
    assert all(setting.name.islower() for setting in SETTINGS)


def test_every_default_is_a_value_the_setting_takes() -> None:
    assert all(setting.to_python(setting.default) == setting.default for setting in SETTINGS)


def test_rows_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        BY_NAME["task_acks_late"].default = True  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "given_value", "value"),
    [
        ("task_acks_late", "yes", True),
        ("task_acks_late", "0", False),
        ("task_acks_late", 4, 4),
        ("task_acks_late", None, None),
        ("worker_concurrency", "8", 8),
        ("worker_concurrency", "AUTO", "auto"),
        ("worker_concurrency", 0, 0),
        ("worker_log_color", None, None),
        ("task_time_limit", timedelta(minutes=2), 120.0),
        ("task_time_limit", "30", 30.0),
        ("task_soft_time_limit", Decimal("1.5"), Decimal("1.5")),
        ("result_expires", timedelta(days=2), timedelta(days=2)),
        ("result_expires", 0, 0),
        ("result_expires", None, None),
        ("result_backend_max_retries", float("inf"), float("inf")),
        ("broker_url", ["redis://a", "redis://b"], ["redis://a", "redis://b"]),
        ("broker_url", "redis://a;redis://b", "redis://a;redis://b"),
        ("broker_use_ssl", {"ssl_cert_reqs": 0}, {"ssl_cert_reqs": 0}),
        ("broker_use_ssl", True, True),
        ("broker_heartbeat", 0.5, 0.5),
        ("broker_transport_options", '{"visibility_timeout": 60}', {"visibility_timeout": 60}),
        ("broker_transport_options", [("sep", ":")], {"sep": ":"}),
        ("task_queues", {"a": {"exchange": "b"}}, {"a": {"exchange": "b"}}),
        ("task_queues", [SomeClass], [SomeClass]),
        ("task_routes", "proj.routing:route", "proj.routing:route"),
        ("task_routes", [("a.*", {"queue": "b"})], [("a.*", {"queue": "b"})]),
        ("task_routes", print, print),
        ("task_annotations", [{"*": {"rate_limit": "1/s"}}], [{"*": {"rate_limit": "1/s"}}]),
        ("task_default_rate_limit", "100/m", "100/m"),
        ("task_default_rate_limit", 5, 5),
        ("task_default_delivery_mode", "transient", "transient"),
        ("task_default_priority", "5", 5),
        ("task_protocol", "1", 1),
        ("worker_pool", "proj.pool:Pool", "proj.pool:Pool"),
        ("worker_pool", SomeClass, SomeClass),
        ("worker_redirect_stdouts_level", 30, 30),
        ("worker_state_db", Path("state.db"), Path("state.db")),
        ("accept_content", "json, pickle", ("json", "pickle")),
        ("accept_content", {"json"}, {"json"}),
        ("imports", "proj.tasks", ("proj.tasks",)),
        ("security_key_password", b"x", b"x"),
        ("result_backend", SomeClass, SomeClass),
        ("redis_backend_use_ssl", False, False),
        ("beat_schedule_filename", Path("beat"), Path("beat")),
    ],
)
def test_what_celery_takes_is_taken(name: str, given_value: object, value: object) -> None:
    assert BY_NAME[name].to_python(given_value) == value


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("worker_concurrency", "many", "worker_concurrency: expected an int or \"auto\", got 'many'"),
        ("worker_prefetch_multiplier", "four", "worker_prefetch_multiplier: expected an int, got 'four'"),
        ("task_time_limit", [1], "task_time_limit: expected a number of seconds or a timedelta, got [1]"),
        ("task_time_limit", float("nan"), "task_time_limit: expected a number of seconds"),
        ("task_acks_late", "perhaps", "task_acks_late: expected a yes or no"),
        ("task_acks_late", [], "task_acks_late: expected a yes or no"),
        ("task_default_queue", 1, "task_default_queue: expected a str, got 1"),
        ("task_protocol", 3, "task_protocol: expected 1 or 2, got 3"),
        ("task_default_rate_limit", "5/day", "task_default_rate_limit: expected a number, or a str such as"),
        ("task_routes", 1, "task_routes: expected a dict, a list, a function"),
        ("task_queues", "a", "task_queues: expected a list of Queue objects"),
        ("beat_schedule", 5, "beat_schedule: expected a dict, got 5"),
        ("broker_transport_options", "[1]", "broker_transport_options: expected a dict, got '[1]'"),
        ("broker_url", [1], "broker_url: expected a URL or a list of URLs, got [1]"),
        ("accept_content", 1, "accept_content: expected a list of serializer names"),
        ("worker_pool", 4, "worker_pool: expected a name, a 'module:Class' path"),
        (
            "worker_pool_start_method",
            "thread",
            "worker_pool_start_method: expected 'fork', 'spawn' or 'forkserver'",
        ),
    ],
)
def test_a_bad_value_names_setting_expectation_and_value(name: str, value: object, expected: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        BY_NAME[name].to_python(value)

    assert str(caught.value).startswith(expected)
    assert repr(value) in str(caught.value)


@given(
    st.sampled_from(SETTINGS),
    st.one_of(st.text(), st.integers(), st.floats(), st.lists(st.integers()), st.none()),
)
def test_a_value_is_taken_or_refused_and_taking_it_twice_changes_nothing(setting, value) -> None:  # type: ignore[no-untyped-def]
    try:
        once = setting.to_python(value)
    except ImproperlyConfigured:
        return
    assert repr(setting.to_python(once)) == repr(once)


def test_a_setting_is_found_by_its_name_and_by_its_name_in_a_family() -> None:
    assert find_setting("disable_rate_limits")[:2] == ("worker", "disable_rate_limits")
    assert find_setting("acks_late", "task")[:2] == ("task", "acks_late")
    assert find_setting("task_default_exchange")[:2] == (None, "task_default_exchange")
    assert find_setting("timezone")[:2] == (None, "timezone")
    with pytest.raises(KeyError):
        find_setting("nothing_of_the_kind")


def test_durations_are_given_in_seconds() -> None:
    assert seconds(timedelta(minutes=1)) == 60.0
    assert seconds(2.5) == 2.5
    assert seconds(None) is None


def test_the_settings_need_nothing_heavy() -> None:
    # The package itself imports more (test_public_api); what the settings import is kept apart from that.
    heavy = "{'asyncio', 'sqlite3', 'dataclasses', 'difflib', 'socket', 'inspect'}"
    code = (
        "import sys; sys.modules['typing_extensions'] = None; before = set(sys.modules); import umbel.config\n"
        f"print({heavy} & (set(sys.modules) - before) or set())"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "set()"
