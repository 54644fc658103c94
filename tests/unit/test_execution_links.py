"""What follows a task: callbacks, chains, groups, and both kinds of error callback."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.unit.execution_fakes import FakeApp, FakeBackend, FakeTask, signature_of, work_of
from umbel.core.json_types import loads_json
from umbel.core.protocol import decode_body, peek, read_envelope
from umbel.execution.links import derived_id
from umbel.execution.runner import Runner
from umbel.pools.base import Report


def run(task: FakeTask, app: FakeApp | None = None, **call: Any) -> tuple[Report, FakeApp]:
    app = app or FakeApp(task)
    return Runner(app, "w@here").run(work_of(task.name, **call)), app


class CountingBackend(FakeBackend):
    """One that counts the parts of chords."""

    native_chords = True

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[tuple[str, int]] = []

    def ensure_chords_allowed(self) -> None:
        pass

    def apply_chord(self, results: Any, body: Any, **options: Any) -> None:
        assert body["options"]["task_id"]

    def set_chord_size(self, group_id: str, size: int) -> None:
        self.opened.append((group_id, size))


class LookingBackend(FakeBackend):
    """One whose chords are completed by a task that looks at the results."""

    def ensure_chords_allowed(self) -> None:
        pass


def children(report: Report) -> Any:
    assert report.result is not None
    return loads_json(report.result.document)["children"]


class TestCallbacks:
    def test_the_result_comes_before_the_arguments(self) -> None:
        report, _ = run(FakeTask(lambda: 5), callbacks=[signature_of("fakes.next", "own")])
        envelope = read_envelope(report.publish[0].payload)
        args, kwargs, _ = decode_body(envelope, frozenset({"application/json"}))
        assert (list(args), kwargs) == ([5, "own"], {})
        assert envelope.headers["root_id"] == "id-1"
        assert envelope.headers["parent_id"] == "id-1"

    def test_an_immutable_signature_keeps_its_arguments(self) -> None:
        _, app = run(FakeTask(lambda: 5), callbacks=[signature_of("fakes.next", "own", immutable=True)])
        assert app.prepared[0]["args"] == ("own",)

    def test_the_root_is_the_messages(self) -> None:
        _, app = run(FakeTask(lambda: 5), callbacks=[signature_of("fakes.next")], root_id="root")
        assert app.prepared[0]["options"]["root_id"] == "root"

    def test_ids_are_the_same_for_every_run_of_one_attempt(self) -> None:
        links = [
            signature_of("fakes.next"),
            signature_of("fakes.next"),
            signature_of("fakes.next", task_id="mine"),
        ]
        runs = [run(FakeTask(lambda: 5), callbacks=links)[0] for _ in range(2)]
        ids = [[peek(publication.payload).id for publication in report.publish] for report in runs]
        assert ids[0] == ids[1]
        assert len(set(ids[0])) == 3
        assert ids[0][2] == "mine"

    def test_what_follows_is_in_the_trail(self) -> None:
        report, _ = run(FakeTask(lambda: 5), callbacks=[signature_of("fakes.next", task_id="next")])
        assert children(report) == [[["next", None], None]]

    def test_a_task_without_a_trail_has_none(self) -> None:
        report, _ = run(
            FakeTask(lambda: 5, trail=False), callbacks=[signature_of("fakes.next", task_id="next")]
        )
        assert children(report) == []

    def test_nothing_follows_a_failure(self) -> None:
        report, _ = run(FakeTask(lambda: int("x")), callbacks=[signature_of("fakes.next")])
        assert report.publish == []

    @pytest.mark.parametrize(("inherits", "priority"), [(True, 6), (False, None)])
    def test_the_priority_is_inherited_on_request(self, inherits: bool, priority: int | None) -> None:
        task = FakeTask(lambda: 5)
        app = FakeApp(task, task_inherit_parent_priority=inherits)
        run(task, app, callbacks=[signature_of("fakes.next")], priority=6)
        assert app.prepared[0]["options"].get("priority") == priority

    def test_an_option_of_a_group_member_is_kept(self) -> None:
        _, app = run(FakeTask(lambda: 5), callbacks=[signature_of("fakes.next", group_id="mine", queue="q")])
        assert app.prepared[0]["options"]["group_id"] == "mine"
        assert app.prepared[0]["options"]["queue"] == "q"


class TestChains:
    def test_the_last_element_is_next(self) -> None:
        chain = [signature_of("fakes.third", task_id="c"), signature_of("fakes.second", task_id="b")]
        report, app = run(FakeTask(lambda: 5), chain=chain)
        step = app.prepared[0]
        assert (step["task"], step["args"], step["options"]["task_id"]) == ("fakes.second", (5,), "b")
        assert [later["task"] for later in step["options"]["chain"]] == ["fakes.third"]
        assert children(report) == [[["b", None], None]]

    def test_a_group_starts_all_its_members(self) -> None:
        group = {
            "task": "celery.group", "args": [], "options": {"task_id": "g"}, "subtask_type": "group",
            "kwargs": {"tasks": [signature_of("fakes.a", task_id="a"), signature_of("fakes.b", task_id="b")]},
        }  # fmt: skip
        report, app = run(FakeTask(lambda: 5), callbacks=[group])
        assert [(step["task"], step["args"]) for step in app.prepared] == [
            ("fakes.a", (5,)),
            ("fakes.b", (5,)),
        ]
        assert [step["options"]["group_index"] for step in app.prepared] == [0, 1]
        assert children(report) == [[["g", None], [[["a", None], None], [["b", None], None]]]]

    def test_a_chain_starts_with_its_first(self) -> None:
        nested = {
            "task": "celery.chain", "args": [], "subtask_type": "chain",
            "options": {"link": [signature_of("fakes.l")], "link_error": [signature_of("fakes.e")]},
            "kwargs": {"tasks": [signature_of("fakes.a"), signature_of("fakes.b"), signature_of("fakes.c")]},
        }  # fmt: skip
        _, app = run(FakeTask(lambda: 5), chain=[signature_of("fakes.z", task_id="z"), nested])
        (step,) = app.prepared
        assert step["task"] == "fakes.a"
        later = step["options"]["chain"]
        assert [one["task"] for one in later] == ["fakes.z", "fakes.c", "fakes.b"]
        assert [one["task"] for one in later[1]["options"]["link"]] == ["fakes.l"]
        assert all(one["options"]["link_error"] for one in later[1:])
        assert all(one["options"]["task_id"] for one in later)

    def test_a_chord_is_opened_and_its_header_sent(self) -> None:
        chord = {
            "task": "celery.chord", "args": [], "options": {}, "subtask_type": "chord", "immutable": False,
            "kwargs": {
                "kwargs": {},
                "header": [signature_of("fakes.a"), signature_of("fakes.b")],
                "body": signature_of("fakes.body"),
            },
        }  # fmt: skip
        task = FakeTask(lambda: 5)
        runs = [run(task, FakeApp(task, backend=CountingBackend()), callbacks=[chord]) for _ in range(2)]
        report, app = runs[0]
        assert [(step["task"], step["args"]) for step in app.prepared] == [
            ("fakes.a", (5,)),
            ("fakes.b", (5,)),
        ]
        (group_id,) = {step["options"]["group_id"] for step in app.prepared}
        assert isinstance(app.backend, CountingBackend)
        assert app.backend.opened == [(group_id, 2)]
        assert all(step["options"]["chord"]["task"] == "fakes.body" for step in app.prepared)
        assert app.prepared == runs[1][1].prepared, "a repeated attempt names what follows alike"
        assert children(report)[0][0][0] == group_id

    def test_a_chord_that_nobody_counts_goes_out_with_the_task_that_looks_at_it(self) -> None:
        chord = {
            "task": "celery.chord", "args": [], "options": {}, "subtask_type": "chord", "immutable": False,
            "kwargs": {
                "kwargs": {},
                "header": [signature_of("fakes.a"), signature_of("fakes.b")],
                "body": signature_of("fakes.body"),
            },
        }  # fmt: skip
        task = FakeTask(lambda: 5)
        first, again = (
            run(task, FakeApp(task, backend=LookingBackend()), callbacks=[chord])[1] for _ in range(2)
        )
        names = [step["task"] for step in first.prepared]
        assert sorted(names) == ["celery.chord_unlock", "fakes.a", "fakes.b"]
        unlock = first.prepared[names.index("celery.chord_unlock")]
        group_id, body = unlock["args"]
        assert {step["options"]["group_id"] for step in first.prepared if step is not unlock} == {group_id}
        assert body["task"] == "fakes.body"
        assert len(unlock["kwargs"]["result"]) == 2
        assert [step["options"]["task_id"] for step in first.prepared] == [
            step["options"]["task_id"] for step in again.prepared
        ]

    def test_a_group_that_something_follows_is_a_chord(self) -> None:
        group = {
            "task": "celery.group", "args": [], "options": {"task_id": "g"}, "subtask_type": "group",
            "kwargs": {"tasks": [signature_of("fakes.a", task_id="a"), signature_of("fakes.b", task_id="b")]},
        }  # fmt: skip
        app = FakeApp(FakeTask(lambda: 5), backend=CountingBackend())
        run(
            FakeTask(lambda: 5),
            app,
            chain=[signature_of("fakes.z", task_id="z"), signature_of("y", task_id="y"), group],
        )
        assert [step["options"]["chord"]["options"]["task_id"] for step in app.prepared] == ["y", "y"]
        body = app.prepared[0]["options"]["chord"]
        assert [step["options"]["task_id"] for step in body["options"]["chain"]] == ["z"]


class TestErrorCallbacks:
    def failing(self, **options: Any) -> FakeTask:
        return FakeTask(lambda: int("x"), **options)

    def test_one_that_is_not_here_is_sent_the_id(self) -> None:
        report, app = run(self.failing(), errbacks=[signature_of("elsewhere.handle", "own")])
        assert app.prepared[0]["args"] == ("id-1", "own")
        assert app.prepared[0]["options"]["parent_id"] == "id-1"
        assert len(report.publish) == 1

    def test_one_that_takes_the_error_is_called_here(self) -> None:
        calls: list[Any] = []

        def handle(request: Any, error: Any, traceback: Any) -> None:
            calls.append((request.id, error, traceback))

        task, handler = self.failing(), FakeTask(handle, name="fakes.handle")
        handler.__header__ = handle  # type: ignore[attr-defined]
        report, _ = run(task, FakeApp(task, handler), errbacks=[signature_of("fakes.handle")])
        assert report.publish == []
        assert (calls[0][0], type(calls[0][1])) == ("id-1", ValueError)
        assert calls[0][2].startswith("Traceback")

    @pytest.mark.parametrize("header", [None, lambda task_id: None, partial(lambda self, a, b, c: None, 1)])
    def test_old_ones_bound_ones_and_classes_are_sent_the_id(self, header: Any) -> None:
        task, handler = self.failing(), FakeTask(lambda task_id: None, name="fakes.handle")
        handler.__header__ = header  # type: ignore[attr-defined]
        report, _ = run(task, FakeApp(task, handler), errbacks=[signature_of("fakes.handle")])
        assert len(report.publish) == 1

    def test_an_error_of_an_error_callback_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        def handle(request: Any, error: Any, traceback: Any) -> None:
            raise RuntimeError("worse")

        task, handler = self.failing(), FakeTask(handle, name="fakes.handle")
        handler.__header__ = handle  # type: ignore[attr-defined]
        report, _ = run(task, FakeApp(task, handler), errbacks=[signature_of("fakes.handle")])
        assert report.state == "FAILURE"
        assert "Errback 'fakes.handle' raised an exception" in caplog.text


def test_derived_ids_look_like_ids_and_differ() -> None:
    ids = {derived_id("parent", f"link/{n}") for n in range(50)}
    assert len(ids) == 50
    assert all([len(part) for part in one.split("-")] == [8, 4, 4, 4, 12] for one in ids)
