"""Result backends that programs wrote for Celery: subclasses of ``celery.backends.base``, with a worker of Umbel's."""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType
from typing import Any

import pytest

from umbel import Umbel, chord, group
from umbel.app.loading import Loader
from umbel.compat.celery.backends.base import BaseBackend, BaseKeyValueStoreBackend, KeyValueStoreBackend
from umbel.compat.celery.backends.redis import RedisBackend
from umbel.core import states
from umbel.errors import BackendStoreError, ImproperlyConfigured
from umbel.results.memory import MemoryResultBackend
from umbel.state import get_current_app


class Shelf(KeyValueStoreBackend):
    """As Celery's documentation has one: keys and values, in a dict."""

    kept: dict[bytes, str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kept = {}

    def get(self, key: bytes) -> str | None:
        return self.kept.get(key)

    def set(self, key: bytes, value: str) -> None:
        self.kept[key] = value

    def delete(self, key: bytes) -> None:
        self.kept.pop(key, None)


class AskedForMany(Shelf):
    """One that gives several values at a time, as Celery's ``get_many`` asks."""

    def mget(self, keys: list[bytes]) -> dict[bytes, str]:
        return {key: self.kept[key] for key in keys if key in self.kept}


class Rows(BaseBackend):
    """Not of keys: it stores and reads what is known of a task, as django-celery-results does."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rows: dict[str, dict[str, Any]] = {}
        self.groups: dict[str, Any] = {}
        self.requests: list[Any] = []

    def _store_result(
        self, task_id: str, result: Any, status: str, traceback: Any = None, request: Any = None
    ) -> Any:
        self.requests.append(request)
        self.rows[task_id] = {"status": status, "result": result, "traceback": traceback}
        return result

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        row = self.rows.get(task_id, {"status": states.PENDING, "result": None})
        return self.meta_from_decoded(dict(row))

    def _forget(self, task_id: str) -> None:
        self.rows.pop(task_id, None)

    def _save_group(self, group_id: str, result: Any) -> Any:
        self.groups[group_id] = result
        return result

    def _restore_group(self, group_id: str) -> dict[str, Any] | None:
        return {"result": self.groups[group_id]} if group_id in self.groups else None

    def _delete_group(self, group_id: str) -> None:
        self.groups.pop(group_id, None)

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        raise AssertionError("chords are counted here, whatever a class brings for it")


def make_app(backend: Any, **settings: Any) -> Any:
    app = Umbel("foreign", broker="memory://", backend=backend, set_as_current=False, **settings)

    @app.task(name="add", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="fail", shared=False)
    def fail() -> None:
        raise KeyError("no such thing")

    @app.task(name="total", shared=False)
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    return app


@pytest.fixture(params=[Shelf, AskedForMany, Rows])
def app(request):
    app = make_app(request.param, result_chord_retry_interval=0.05)
    with app:
        yield app


def test_a_worker_stores_and_programs_read(app):
    add, fail, total = app.tasks["add"], app.tasks["fail"], app.tasks["total"]
    with app.worker(pool="threads", concurrency=2):
        assert add.delay(2, 3).get(timeout=30) == 5
        assert asyncio.run(add.delay(3, 3).aget(timeout=30)) == 6
        failed = fail.delay()
        with pytest.raises(KeyError, match="no such thing"):
            failed.get(timeout=30)
        assert failed.state == "FAILURE"
        assert "no such thing" in failed.traceback
        several = group(add.s(number, number) for number in range(3)).apply_async()
        assert several.get(timeout=30) == [0, 2, 4]
        header = [add.s(number, 1) for number in range(3)]
        assert chord(header)(total.s()).get(timeout=30) == 6
    failed.forget()
    assert failed.state == "PENDING"
    several.save()
    assert app.GroupResult.restore(several.id).results == several.results
    several.delete()
    assert app.GroupResult.restore(several.id) is None


def test_the_backend_is_the_class_itself_with_celerys_methods():
    app = make_app(Shelf)
    backend = app.backend
    assert type(backend) is Shelf
    backend.store_result("1", {"done": 5}, "PROGRESS")
    assert backend.get_task_meta("1")["result"] == {"done": 5}
    assert list(backend.kept) == [b"celery-task-meta-1"] == [backend.get_key_for_task("1")]
    assert backend.decode(backend.kept[b"celery-task-meta-1"])["status"] == "PROGRESS"
    backend.mark_as_done("1", 7)
    backend.mark_as_failure("1", ValueError("late"))
    assert backend.get_result("1") == 7  # nothing replaces a success
    assert backend.wait_for("1", timeout=30)["result"] == 7
    backend.forget("1")
    assert backend.get_state("1") == "PENDING"


def test_keys_have_the_prefixes_of_settings_and_class():
    class Named(Shelf):
        task_keyprefix = "mine-"

    app = make_app(Named, result_backend_transport_options={"global_keyprefix": "shop"})
    app.backend.mark_as_done("1", 7)
    assert list(app.backend.kept) == [b"shop_mine-1"]


def test_a_store_is_told_of_the_request():
    app = make_app(Rows)
    with app.worker(pool="solo", hostname="w@here"):
        app.tasks["add"].apply_async((1, 2), headers={"periodic_task_name": "often"}).get(timeout=30)
    request = app.backend.requests[-1]
    assert (request.task, request.hostname, request.argsrepr) == ("add", "w@here", "(1, 2)")
    assert request.periodic_task_name == "often"
    assert request.delivery_info["routing_key"] == "celery"
    assert request.get("args") is None  # which only result_extended asks for


@pytest.mark.parametrize(
    "setting", ["{module}:Shelf", "{module}.Shelf", "{module}:Shelf+shelf://here", "shelf"]
)
def test_it_is_found_as_celery_finds_it(setting, monkeypatch):
    monkeypatch.setattr(Loader, "override_backends", {"shelf": f"{__name__}:Shelf"})
    backend = make_app(setting.format(module=__name__)).backend
    assert isinstance(backend, sys.modules[__name__].Shelf)
    assert backend.url == ("shelf://here" if "+" in setting else None)


def test_an_application_class_may_bring_it():
    class Mine(Umbel):
        backend_cls = Shelf

    assert type(Mine(broker="memory://", backend="redis://", set_as_current=False).backend) is Shelf


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("no.such:Backend", "cannot be imported"),
        (f"{__name__}:make_app", "subclass of celery.backends.base"),
        ("written_for_celery:Backend", "umbel-celery"),
        ("nonesuch", "unknown scheme"),
    ],
)
def test_what_cannot_be_used_is_told(setting, words, monkeypatch, tmp_path):
    (tmp_path / "written_for_celery.py").write_text("from celery.backends.base import BaseBackend")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "celery", None)
    with pytest.raises(ImproperlyConfigured, match=words):
        make_app(setting).backend  # noqa: B018 - it is made here


def test_what_is_refused_is_stored_as_a_failure_that_says_so():
    class Narrow(Shelf):
        def set(self, key: bytes, value: str) -> None:
            if "much" in value and "Narrow" not in value and "refuses" not in value:
                raise ValueError("too much")
            super().set(key, value)

    app = make_app(Narrow)
    app.backend.mark_as_done("1", "much")
    assert app.backend.get_state("1") == "FAILURE"
    assert "refuses" in str(app.backend.get_result("1"))


def test_a_store_that_takes_nothing_is_an_outage_that_workers_wait_out():
    class Closed(Shelf):
        def set(self, key: bytes, value: str) -> None:
            raise OSError("closed")

    with pytest.raises(BackendStoreError, match="closed"):
        make_app(Closed).backend.mark_as_done("1", 7)


def test_what_may_pass_is_tried_again_as_the_settings_say():
    class Shaky(Shelf):
        failures = 3

        def exception_safe_to_retry(self, exc: Exception) -> bool:
            return isinstance(exc, OSError)

        def set(self, key: bytes, value: str) -> None:
            if self.failures:
                self.failures -= 1
                raise OSError("shaky")
            super().set(key, value)

    retrying = {"result_backend_always_retry": True, "result_backend_base_sleep_between_retries_ms": 1}
    app = make_app(Shaky, result_backend_max_retries=3, **retrying)
    app.backend.mark_as_done("1", 7)
    assert app.backend.get_result("1") == 7


def test_a_class_without_its_methods_says_which():
    backend = BaseBackend(app=make_app(None))
    with pytest.raises(BackendStoreError, match="must define _store_result"):
        backend.mark_as_done("1", 7)


def test_umbels_own_count_as_celerys_kinds():
    redis = make_app("redis://localhost:1/0").backend
    assert isinstance(redis, RedisBackend)
    assert isinstance(redis, BaseKeyValueStoreBackend)
    assert not isinstance(redis, Shelf)
    memory = make_app("cache+memory://").backend
    assert isinstance(memory.adapter, MemoryResultBackend)
    assert not isinstance(memory, RedisBackend)


def test_a_subclass_of_celerys_redis_backend_is_umbels_with_more():
    class Mine(RedisBackend):
        def shout(self) -> str:
            return f"{self.as_uri()}!"

    module = ModuleType("of_mine")
    module.Mine = Mine  # type: ignore[attr-defined]
    sys.modules["of_mine"] = module
    try:
        backend = make_app("of_mine:Mine+redis://:secret@localhost:1/3").backend
    finally:
        del sys.modules["of_mine"]
    assert backend.shout() == "redis://:**@localhost:1/3!"
    assert backend.native_chords
    assert get_current_app() is not backend.app
