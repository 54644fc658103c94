"""Result handles: asking, waiting, families, and Celery's ways of using them."""

from __future__ import annotations

import asyncio
import copy
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.unit.execution_fakes import FakeApp, FakeBackend
from umbel import Umbel
from umbel.core.records import ResultRecord
from umbel.errors import (
    ContentDisallowed,
    IncompleteStream,
    TaskRevokedError,
    TimeoutError,
)
from umbel.execution.context import Context
from umbel.results.documents import DocumentWriter
from umbel.results.handles import (
    AsyncResult,
    EagerResult,
    GroupResult,
    ResultSet,
    allow_join_result,
    denied_join_result,
    result_from_tuple,
)


def record(task_id: str, state: str = "SUCCESS", value: Any = None, **context: Any) -> ResultRecord:
    request = Context({"id": task_id, **context})
    writer = DocumentWriter(extended="task" in context)
    return ResultRecord(task_id, state, writer.write(task_id, state, value, None, request))


@pytest.fixture
def app() -> FakeApp:
    return FakeApp()


def handle(app: FakeApp, task_id: str = "a", **options: Any) -> AsyncResult[Any]:
    return AsyncResult(task_id, app=app, **options)


class TestAsking:
    def test_an_unknown_task_is_pending(self, app: FakeApp) -> None:
        result = handle(app)
        assert (result.state, result.status, result.result, result.traceback) == (
            "PENDING",
            "PENDING",
            None,
            None,
        )
        assert [result.ready(), result.successful(), result.failed(), result.exists()] == [False] * 4

    def test_a_success_is_read_once(self, app: FakeApp) -> None:
        app.backend.save([record("a", value=5)])
        result = handle(app)
        assert (result.ready(), result.successful(), result.result, result.info, result.get()) == (
            True, True, 5, 5, 5
        )  # fmt: skip
        assert app.backend.loads == 1
        assert isinstance(result.date_done, datetime)
        assert result.date_done.tzinfo is not None
        assert abs((datetime.now(UTC) - result.date_done).total_seconds()) < 60

    def test_a_state_on_the_way_is_read_anew(self, app: FakeApp) -> None:
        app.backend.save([record("a", "PROGRESS", {"done": 1})])
        result = handle(app)
        assert result.info == {"done": 1}
        app.backend.save([record("a", "PROGRESS", {"done": 2})])
        assert result.info == {"done": 2}

    def test_extended_fields(self, app: FakeApp) -> None:
        delivery = {"routing_key": "q"}
        fields = {"task": "app.add", "args": [1], "kwargs": {}, "hostname": "w@h", "retries": 2}
        app.backend.save([record("a", value=1, **fields, delivery_info=delivery)])
        result = handle(app)
        assert (result.name, result.args, result.kwargs, result.worker, result.retries, result.queue) == (
            "app.add", [1], {}, "w@h", 2, "q"
        )  # fmt: skip

    def test_an_id_is_needed(self) -> None:
        with pytest.raises(ValueError, match="valid id, not <class 'NoneType'>"):
            AsyncResult(None)  # type: ignore[arg-type]


class TestWaiting:
    def test_get_waits_and_passes_progress_on(self, app: FakeApp) -> None:
        app.backend.arrivals = [record("a", "PROGRESS", 1), record("a", value="done")]
        states: list[str] = []
        assert handle(app).get(on_message=lambda meta: states.append(meta["status"])) == "done"
        assert states == ["PROGRESS", "SUCCESS"]

    def test_errors_are_raised_or_returned(self, app: FakeApp) -> None:
        app.backend.save([record("a", "FAILURE", ValueError("boom"))])
        with pytest.raises(ValueError, match="boom"):
            handle(app).get()
        assert isinstance(handle(app).get(propagate=False), ValueError)
        assert handle(app).failed()

    def test_time_runs_out(self, app: FakeApp) -> None:
        result = handle(app)
        with pytest.raises(TimeoutError, match="The operation timed out"):
            result.get(timeout=0.01)
        with pytest.raises(result.TimeoutError):
            result.get(timeout=0)

    def test_the_callback_gets_id_and_value(self, app: FakeApp) -> None:
        app.backend.save([record("a", value=5)])
        seen: list[Any] = []
        handle(app).get(callback=lambda task_id, value: seen.append((task_id, value)))
        assert seen == [("a", 5)]

    def test_on_interval_is_called_while_nothing_comes(self, app: FakeApp) -> None:
        calls: list[int] = []

        def interval() -> None:
            calls.append(1)
            if len(calls) == 3:
                app.backend.arrivals.append(record("a", value=5))

        assert handle(app).get(interval=0.01, on_interval=interval) == 5
        assert len(calls) == 3

    def test_an_ignored_result_is_none_at_once(self, app: FakeApp) -> None:
        result = handle(app)
        result.ignored = True
        assert result.get() is None

    def test_waiting_in_a_task_is_refused(self, app: FakeApp) -> None:
        app.backend.save([record("a", value=5)])
        with denied_join_result():
            with pytest.raises(RuntimeError, match="Never call result"):
                handle(app).get()
            with pytest.raises(RuntimeError, match="Never call result"):
                ResultSet([handle(app)]).get()
            assert handle(app).get(disable_sync_subtasks=False) == 5
            with allow_join_result():
                assert handle(app).get() == 5

    def test_a_parents_error_ends_the_wait(self, app: FakeApp) -> None:
        app.backend.arrivals = [record("first", "FAILURE", KeyError("first"))]
        result = handle(app, "second", parent=handle(app, "first"))
        with pytest.raises(KeyError):
            result.get()

    def test_parents_are_not_followed_on_request(self, app: FakeApp) -> None:
        app.backend.save([record("first", "FAILURE", KeyError("first")), record("second", value=2)])
        result = handle(app, "second", parent=handle(app, "first"))
        assert result.get(follow_parents=False) == 2

    @pytest.mark.timeout(20)
    def test_a_part_that_failed_ends_the_wait_for_the_body(self, app: FakeApp) -> None:
        app.backend.save([record("bad", "REVOKED", TaskRevokedError("revoked"))])
        header = GroupResult("header", [handle(app, "slow"), handle(app, "bad")], app=app)
        body = handle(app, "body", parent=header)
        with pytest.raises(TaskRevokedError):
            body.get(timeout=15)
        with pytest.raises(TimeoutError):
            body.get(timeout=0)
        with pytest.raises(TimeoutError):
            body.get(timeout=1, follow_parents=False)
        app.backend.save([record("body", value=3)])
        assert handle(app, "body", parent=header).get(timeout=15) == 3

    async def test_aget(self, app: FakeApp) -> None:
        app.backend.arrivals = [record("a", "PROGRESS", 1), record("a", value="done")]
        assert await handle(app).aget() == "done"
        app.backend.save([record("b", "FAILURE", ValueError("boom"))])
        with pytest.raises(ValueError, match="boom"):
            await handle(app, "b").aget()
        with pytest.raises(TimeoutError):
            await handle(app, "c").aget(timeout=0.01)

    def test_then_is_told_once_the_end_is_known(self, app: FakeApp) -> None:
        told: list[Any] = []
        result = handle(app)
        assert result.then(told.append) is result
        assert told == []
        app.backend.save([record("a", value=5)])
        result.get()
        result.get()
        assert told == [result]
        result.then(told.append)
        assert told == [result, result]

    def test_then_is_told_of_errors(self, app: FakeApp) -> None:
        app.backend.save([record("a", "FAILURE", ValueError("boom"))])
        errors: list[Any] = []
        handle(app).then(lambda _: None, on_error=errors.append).ready()
        result = handle(app)
        result.then(lambda _: None, on_error=errors.append)
        assert result.ready()
        assert [str(error) for error in errors] == ["boom", "boom"]

    def test_a_serializer_that_is_not_accepted_is_refused(self) -> None:
        app = FakeApp(backend=FakeBackend("pickle"))
        app.backend.documents["a"] = DocumentWriter("pickle").write("a", "SUCCESS", 5)
        with pytest.raises(ContentDisallowed):
            handle(app).get()
        app.conf.accept_content = ["json", "pickle"]
        assert handle(app).get() == 5


class TestFamily:
    def test_children_and_collect(self, app: FakeApp) -> None:
        children = [AsyncResult("b"), GroupResult("g", [AsyncResult("c"), AsyncResult("d")])]
        app.backend.save([record("a", value=1, _children=children)])
        app.backend.save([record("b", value=2), record("c", value=3), record("d", value=4)])
        result = handle(app)
        assert result.children == children
        assert [value for _, value in result.collect()] == [1, 2, [3, 4], 3, 4]
        assert result.get_leaf() == 4
        assert result.graph[result] == children

    def test_a_tree_that_is_not_complete_says_so(self, app: FakeApp) -> None:
        with pytest.raises(IncompleteStream):
            list(handle(app).iterdeps())
        assert [node for _, node in handle(app).iterdeps(intermediate=True)] == ["a"]

    def test_tuples_and_lists(self, app: FakeApp) -> None:
        result = handle(app, "b", parent=handle(app, "a"))
        assert result.as_tuple() == (("b", (("a", None), None)), None)
        assert result.as_list() == ["b", "a"]
        assert result_from_tuple([["b", [["a", None], None]], None], app).parent == "a"
        group = result_from_tuple([["g", None], [[["x", None], None]]], app)
        assert isinstance(group, GroupResult)
        assert group.results == ["x"]
        assert result_from_tuple(group) is group
        assert result_from_tuple(["plain", None]).id == "plain"


class TestActing:
    def test_forget_deletes_the_family(self, app: FakeApp) -> None:
        app.backend.save([record("a", value=1), record("b", value=2)])
        result = handle(app, "b", parent=handle(app, "a"))
        assert result.get() == 2
        result.forget()
        assert app.backend.documents == {}
        assert result.state == "PENDING"

    def test_revoke_goes_through_control(self, app: FakeApp) -> None:
        handle(app).revoke(terminate=True, signal="KILL", wait=True, timeout=2)
        ResultSet([handle(app, "x"), handle(app, "y")]).revoke()
        (one, options), (many, _) = app.control.revoked
        assert (one, many) == ("a", ["x", "y"])
        assert (options["terminate"], options["signal"], options["reply"], options["timeout"]) == (
            True, "KILL", True, 2
        )  # fmt: skip


class TestValues:
    def test_results_equal_their_ids(self, app: FakeApp) -> None:
        assert handle(app) == handle(app)
        assert handle(app) == "a"
        assert handle(app) != handle(app, "b")
        assert handle(app) != 1
        assert (str(handle(app)), repr(handle(app)), hash(handle(app))) == (
            "a",
            "<AsyncResult: a>",
            hash("a"),
        )

    def test_copies_and_pickles(self, app: FakeApp) -> None:
        result = handle(app, "b", parent=handle(app, "a"))
        assert copy.copy(result).parent == "a"
        again = pickle.loads(pickle.dumps(result))
        assert (again.id, again.parent.id) == ("b", "a")
        group = pickle.loads(pickle.dumps(GroupResult("g", [result])))
        assert (group.id, group.results) == ("g", ["b"])
        eager = pickle.loads(pickle.dumps(EagerResult("e", 5, "SUCCESS", name="n")))
        assert (eager.get(), eager.name) == (5, "n")

    def test_making_one_touches_nothing(self) -> None:
        AsyncResult("a")


class TestEager:
    def test_a_value(self) -> None:
        result: EagerResult[int] = EagerResult("e", 5, "SUCCESS")
        assert (result.get(), result.wait(), result.ready(), result.state, result.successful()) == (
            5, 5, True, "SUCCESS", True
        )  # fmt: skip
        assert repr(result) == "<EagerResult: e>"
        result.forget()
        assert asyncio.run(result.aget()) == 5

    def test_an_error(self) -> None:
        result: EagerResult[int] = EagerResult("e", KeyError("x"), "FAILURE", "Traceback…")
        with pytest.raises(KeyError):
            result.get()
        assert isinstance(result.get(propagate=False), KeyError)
        assert result.traceback == "Traceback…"

    def test_revoked(self) -> None:
        result: EagerResult[int] = EagerResult("e", 5, "SUCCESS")
        result.revoke()
        with pytest.raises(TaskRevokedError):
            result.get()

    def test_other_states_have_no_value(self) -> None:
        assert EagerResult("e", "x", "RETRY").get() is None

    def test_waiting_for_it_in_a_task_is_refused_too(self) -> None:
        with denied_join_result(), pytest.raises(RuntimeError):
            EagerResult("e", 5, "SUCCESS").get()


class TestSets:
    def make(self, app: FakeApp, *task_ids: str) -> ResultSet:
        return ResultSet([handle(app, task_id) for task_id in task_ids])

    def test_all_are_awaited_in_one_wait_and_given_in_order(self, app: FakeApp) -> None:
        app.backend.arrivals = [record("b", value=2), record("a", value=1)]
        results = self.make(app, "a", "b")
        assert results.get() == [1, 2]
        assert app.backend.waits == [["a", "b"]]
        assert results.join() == results.join_native() == [1, 2]
        assert len(app.backend.waits) == 1

    def test_the_first_error_is_raised(self, app: FakeApp) -> None:
        app.backend.arrivals = [record("b", "FAILURE", KeyError("b")), record("a", value=1)]
        with pytest.raises(KeyError):
            self.make(app, "a", "b").get()
        app.backend.arrivals = [record("a", value=1)]
        values = self.make(app, "a", "b").get(propagate=False)
        assert (values[0], type(values[1])) == (1, KeyError)

    def test_callbacks_get_values_as_they_come(self, app: FakeApp) -> None:
        app.backend.arrivals = [record("b", value=2), record("a", value=1)]
        seen: list[Any] = []
        self.make(app, "a", "b").get(callback=lambda task_id, value: seen.append((task_id, value)))
        assert seen == [("b", 2), ("a", 1)]

    def test_iterating_as_they_come(self, app: FakeApp) -> None:
        app.backend.arrivals = [record("b", value=2), record("a", value=1)]
        assert list(self.make(app, "a", "b").iterate()) == [2, 1]
        native = self.make(app, "a", "b").iter_native()
        assert {task_id: meta["result"] for task_id, meta in native} == {"a": 1, "b": 2}

    def test_time_runs_out_for_all_together(self, app: FakeApp) -> None:
        app.backend.arrivals = [record("a", value=1)]
        with pytest.raises(TimeoutError):
            self.make(app, "a", "b").get(timeout=0.05)

    def test_questions(self, app: FakeApp) -> None:
        app.backend.save([record("a", value=1)])
        results = self.make(app, "a", "b")
        assert (results.ready(), results.waiting(), results.completed_count()) == (False, True, 1)
        app.backend.save([record("b", "FAILURE", KeyError("b"))])
        assert (results.ready(), results.failed(), results.successful(), results.completed_count()) == (
            True, True, False, 1
        )  # fmt: skip
        with pytest.raises(KeyError):
            results.maybe_throw()
        results.forget()
        assert app.backend.documents == {}

    def test_members(self, app: FakeApp) -> None:
        results = self.make(app, "a")
        results.add(handle(app, "a"))
        results.add(handle(app, "b"))
        results.update([handle(app, "b"), handle(app, "c")])
        assert [result.id for result in results] == ["a", "b", "c"]
        results.discard(handle(app, "z"))
        results.remove("b")
        with pytest.raises(KeyError):
            results.remove("b")
        assert (len(results), results[1]) == (2, "c")
        assert results == self.make(app, "a", "c")
        assert repr(results) == "<ResultSet: [a, c]>"
        results.clear()
        assert (len(results), results.get()) == (0, [])

    def test_groups_within_sets(self, app: FakeApp) -> None:
        app.backend.arrivals = [record("a", value=1), record("b", value=2), record("c", value=3)]
        group = GroupResult("g", [handle(app, "b"), handle(app, "c")])
        assert ResultSet([handle(app, "a"), group]).get() == [1, [2, 3]]

    def test_eager_results_within_sets(self, app: FakeApp) -> None:
        app.backend.save([record("a", value=1)])
        assert ResultSet([handle(app, "a"), EagerResult("e", 2, "SUCCESS")]).get() == [1, 2]
        assert ResultSet([EagerResult("e", 2, "SUCCESS")]).get() == [2]

    async def test_aget(self, app: FakeApp) -> None:
        app.backend.arrivals = [record("b", value=2), record("a", value=1)]
        assert await self.make(app, "a", "b").aget() == [1, 2]

    def test_then_is_told_when_all_have_ended(self, app: FakeApp) -> None:
        told: list[Any] = []
        app.backend.arrivals = [record("b", value=2), record("a", value=1)]
        results = self.make(app, "a", "b")
        results.then(told.append)
        results.get()
        assert told == [results]


class TestGroups:
    def test_as_values(self, app: FakeApp) -> None:
        group = GroupResult("g", [handle(app)], parent=handle(app, "p"), app=app)
        assert group.as_tuple() == (("g", (("p", None), None)), [(("a", None), None)])
        assert (group.children, str(group), hash(group)) == ([handle(app)], "g", hash("g"))
        assert group == GroupResult("g", [handle(app)], parent=handle(app, "p"))
        assert group == "g"
        assert not GroupResult()
        assert repr(group) == "<GroupResult: g [a]>"

    def test_a_saved_group_is_restored_with_its_family_until_it_is_deleted(self) -> None:
        app = Umbel("groups", broker="memory://groups", backend="memory://groups", set_as_current=False)
        inner = GroupResult("inner", [AsyncResult("b", app=app)], app=app)
        group = GroupResult("outer", [AsyncResult("a", app=app), inner], AsyncResult("first", app=app), app)
        assert group.save() is group
        assert GroupResult.restore("outer", app=app) == group
        assert GroupResult.restore("outer", backend=app.backend) == group
        group.delete()
        assert GroupResult.restore("outer", app=app) is None

    def test_a_plain_set_cannot_be_stored(self) -> None:
        with pytest.raises(TypeError, match="GroupResult"):
            ResultSet([]).as_tuple()
