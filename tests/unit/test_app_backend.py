"""``app.backend`` as Celery's users know it."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest

from tests.unit.app_support import make_app, sent
from umbel import Umbel
from umbel.core.ids import new_id
from umbel.core.records import ResultRecord
from umbel.errors import ChordError, TaskRevokedError, TimeoutError
from umbel.execution.context import Context


@pytest.fixture
def app() -> Umbel:
    app = make_app()

    @app.task(name="told", shared=False)
    def told(task_id: str) -> None:
        pass

    return app


def told(**options: Any) -> dict[str, Any]:
    return {
        "task": "told",
        "args": [],
        "kwargs": {},
        "options": options,
        "subtask_type": None,
        "immutable": False,
    }


class TestStates:
    def test_what_is_stored_is_read(self, app: Umbel) -> None:
        backend = app.backend
        assert backend.get_state("a") == backend.get_status("a") == "PENDING"
        assert not backend.task_result_exists("a")
        assert backend.store_result("a", {"x": 1}, "SUCCESS") == {"x": 1}
        assert backend.get_result("a") == {"x": 1}
        assert backend.get_task_meta("a")["task_id"] == "a"
        assert backend.get_children("a") is None
        assert backend.task_result_exists("a")
        assert app.AsyncResult("a").get(timeout=5) == {"x": 1}
        backend.forget("a")
        assert backend.get_state("a") == "PENDING"

    def test_each_mark_has_its_state(self, app: Umbel) -> None:
        backend = app.backend
        backend.mark_as_started("a", pid=3)
        assert (backend.get_state("a"), backend.get_result("a")) == ("STARTED", {"pid": 3})
        backend.mark_as_retry("a", KeyError("k"), "traceback")
        assert (backend.get_state("a"), backend.get_traceback("a")) == ("RETRY", "traceback")
        backend.mark_as_revoked("a", "terminated")
        assert isinstance(backend.get_result("a"), TaskRevokedError)
        backend.mark_as_failure("a", ValueError("v"), "traceback")
        assert backend.get_result("a").args == ("v",)
        backend.mark_as_done("a", 7)
        backend.mark_as_failure("a", ValueError("late"))
        assert backend.get_result("a") == 7

    def test_a_failure_tells_what_was_to_follow_and_its_error_callbacks(self, app: Umbel) -> None:
        request = Context(id="a", chain=[told(task_id="next")], errbacks=[told()], properties={})
        app.backend.mark_as_failure("a", ValueError("v"), request=request)
        assert app.backend.get_state("next") == "FAILURE"
        [message] = sent(app, "celery")
        assert (message.headers["task"], message.args) == ("told", ["a"])

    def test_the_exception_in_hand_becomes_the_failure(self, app: Umbel) -> None:
        try:
            raise KeyError("here")
        except KeyError:
            einfo = app.backend.fail_from_current_stack("a")
        assert "KeyError" in einfo.traceback
        assert "KeyError" in str(app.backend.get_traceback("a"))

    def test_results_are_remembered_within_their_limit(self) -> None:
        app = make_app(result_cache_max=2)
        backend = app.backend
        for task_id in "abc":
            backend.store_result(task_id, task_id, "SUCCESS")
            assert backend.get_result(task_id) == task_id
        assert [backend.is_cached(task_id) for task_id in "abc"] == [False, True, True]
        backend.adapter.forget(["b", "c"])
        assert app.AsyncResult("c").get(timeout=1) == "c"
        backend.reload_task_result("c")
        assert backend.get_task_meta("c")["status"] == "PENDING"

    def test_nothing_is_remembered_by_default(self, app: Umbel) -> None:
        app.backend.store_result("a", 1, "SUCCESS")
        assert app.backend.get_result("a") == 1
        assert not app.backend.is_cached("a")

    def test_waiting(self, app: Umbel) -> None:
        with pytest.raises(TimeoutError):
            app.backend.wait_for("a", timeout=0.01)
        timer = threading.Timer(0.02, lambda: app.backend.store_result("a", 1, "SUCCESS"))
        timer.start()
        assert app.backend.wait_for("a", timeout=5)["result"] == 1
        assert app.backend.wait_for("a", timeout=5)["result"] == 1
        assert dict(app.backend.get_many(["a"], timeout=5))["a"]["status"] == "SUCCESS"
        timer.join()


class TestKeysAndForms:
    def test_celerys_keys(self, app: Umbel) -> None:
        backend = app.backend
        backend.store_result("a", 1, "SUCCESS")
        key = backend.get_key_for_task("a")
        assert key == b"celery-task-meta-a"
        assert backend.get_key_for_group("g", ".j") == b"celery-taskset-meta-g.j"
        assert backend.get_key_for_chord("g") == b"chord-unlock-g"
        document = backend.get(key)
        assert document is not None
        assert backend.decode_result(document)["result"] == 1
        assert backend.mget([key, b"celery-task-meta-b"]) == [document, None]
        backend.delete(key)
        assert backend.get(key) is None
        with pytest.raises(ValueError, match="must not be empty"):
            backend.get_key_for_task("")
        with pytest.raises(NotImplementedError):
            backend.get(b"another")

    def test_a_prefix_is_part_of_every_key(self) -> None:
        app = make_app(result_backend_transport_options={"global_keyprefix": "mine"})
        assert app.backend.get_key_for_task("a") == b"mine_celery-task-meta-a"

    def test_values_there_and_back(self, app: Umbel) -> None:
        backend = app.backend
        assert backend.decode(backend.encode({"x": [1]})) == {"x": [1]}
        stored = backend.encode_result(KeyError("k"), "FAILURE")
        assert repr(backend.exception_to_python(stored)) == "KeyError('k')"
        assert backend.meta_from_decoded({"status": "FAILURE", "result": stored})["result"].args == ("k",)
        assert backend.prepare_value(app.AsyncResult("a")) == (("a", None), None)
        assert backend.exception_to_python(None) is None

    def test_it_is_the_applications_own_wherever_it_is_pickled(self, app: Umbel) -> None:
        assert pickle.loads(pickle.dumps(app.backend)).as_uri().startswith("memory://")

    def test_its_url_hides_the_password(self) -> None:
        app = make_app(backend="redis://:secret@localhost/1")
        assert "secret" not in app.backend.as_uri()
        assert "secret" in app.backend.as_uri(include_password=True)


class TestChords:
    def test_parts_that_are_told_of_complete_a_chord(self, app: Umbel) -> None:
        backend = app.backend
        backend.ensure_chords_allowed()
        backend.set_chord_size("g", 2)
        backend.add_to_chord("g", None)
        for index in range(3):
            request = {"id": f"p{index}", "group": "g", "group_index": index, "chord": told()}
            backend.on_chord_part_return(request, "SUCCESS", index)
            assert len(backend.chord_entries("g")) == (index + 1) % 3
        assert [message.args for message in sent(app, "celery")] == [[[0, 1, 2]]]

    def test_a_part_counts_where_nobody_knows_the_body(self, app: Umbel) -> None:
        for index, chord in enumerate([None, {}]):
            request = {"id": f"p{index}", "group": "g", "group_index": index, "chord": chord}
            app.backend.on_chord_part_return(request, "SUCCESS", index)
        assert len(app.backend.chord_entries("g")) == 2

    def test_a_part_counts_with_its_mark(self, app: Umbel) -> None:
        for index, mark in enumerate(
            (
                lambda request: app.backend.mark_as_done("p0", 1, request=request),
                lambda request: app.backend.mark_as_failure("p1", KeyError(), request=request),
                lambda request: app.backend.mark_as_revoked("p2", request=request),
            )
        ):
            mark(Context(id=f"p{index}", group="g", group_index=index, chord=told(), properties={}))
        assert len(app.backend.chord_entries("g")) == 3

    @pytest.mark.parametrize("where", ["memory", pytest.param("redis", marks=pytest.mark.redis)])
    def test_a_chord_that_is_complete_here_is_completed_here(
        self, where: str, request: pytest.FixtureRequest
    ) -> None:
        """At once, though no worker runs."""
        group = new_id()
        url = f"memory://{group}" if where == "memory" else request.getfixturevalue("redis_url")
        with make_app(broker=url, backend="cache+memory://" if where == "memory" else url) as app:
            app.backend.set_chord_size(group, 2)
            for index in range(2):
                part = Context(
                    id=f"{group}-{index}", group=group, group_index=index, chord=told(), properties={}
                )
                app.backend.mark_as_done(f"{group}-{index}", index, part)
            assert [message.args for message in sent(app, "celery")] == [[[0, 1]]]
            assert app.backend.chord_entries(group) == []

    def test_a_body_is_failed_with_its_error_callbacks(self, app: Umbel) -> None:
        body = app.tasks["told"].s().set(link_error=[told()], task_id="body")
        app.backend.chord_error_from_stack(body, ChordError("why"))
        assert app.backend.get_result("body").args == ("why",)
        assert [message.args for message in sent(app, "celery")] == [["body"]]

    def test_a_header_with_groups_is_saved(self, app: Umbel) -> None:
        inner = app.GroupResult("i", [app.AsyncResult("b")])
        app.backend.apply_chord(("g", [app.AsyncResult("a"), inner]), None)
        assert app.backend.restore_group("g").results[1] == inner
        app.backend.delete_group("g")
        assert app.backend.restore_group("g") is None

    def test_without_a_backend_chords_are_refused_in_celerys_words(self) -> None:
        app = make_app(backend="disabled://")
        with pytest.raises(NotImplementedError, match="Starting chords requires a result backend"):
            app.backend.ensure_chords_allowed()


def test_the_contract_goes_through(app: Umbel) -> None:
    backend = app.backend
    backend.save([ResultRecord("a", "SUCCESS", b"{}"), ResultRecord("b", "SUCCESS", b"{}")])
    assert backend.load(["a", "b"]) == [b"{}", b"{}"]
    backend.forget(["a", "b"])
    assert backend.load(["a", "b"]) == [None, None]
