"""What a part says of its chord, and what completing one sends or stores."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.app_support import make_app
from umbel import Umbel
from umbel.core.records import ChordEnd, DueChord, ResultRecord
from umbel.errors import ChordError, SecurityError
from umbel.execution.chords import PartWriter, chord_realm, read_plan, unreached
from umbel.execution.context import Context
from umbel.execution.joining import ChordJoiner
from umbel.execution.report import Reporter
from umbel.pools.base import Report, Work
from umbel.results.documents import DocumentWriter, read_document
from umbel.results.handles import AsyncResult, GroupResult


def signature(name: str, kind: str | None = None, *, kwargs: Any = None, **options: Any) -> dict[str, Any]:
    return {
        "task": name,
        "args": [],
        "kwargs": kwargs or {},
        "options": options,
        "subtask_type": kind,
        "immutable": False,
    }


@pytest.fixture
def app() -> Umbel:
    app = make_app()

    @app.task(name="body", shared=False)
    def body(values: list[Any]) -> None:
        pass

    @app.task(name="told", shared=False)
    def told(task_id: str) -> None:
        pass

    return app


def context(index: int | None = 0, body: Any = None, **more: Any) -> Context:
    return Context(
        id=f"part-{index}",
        group="g",
        group_index=index,
        chord=body or signature("body", task_id="body-id", group_id="g"),
        root_id="root",
        properties={"priority": 5},
        _queue="q",
        **more,
    )


def writer(app: Umbel) -> PartWriter:
    return PartWriter(app, DocumentWriter())  # type: ignore[arg-type]


def end(app: Umbel, *parts: tuple[str, Any], body: Any = None) -> Report:
    """Count parts and complete the chord."""
    app.backend.open_chord("g", len(parts))
    due = None
    for index, (state, value) in enumerate(parts):
        request = context(index, body)
        record = ResultRecord(str(request.id), state, b"", chord=writer(app).part_of(request, state, value))
        due = app.backend.save([record])
    assert due
    return complete(app, due[0])


def complete(app: Umbel, due: DueChord) -> Report:
    joiner = ChordJoiner(app, Reporter(app, "w@here"))  # type: ignore[arg-type]
    return joiner.complete(Work(7, due.body, "q", chord="g"))


def sent(report: Report) -> list[tuple[dict[str, Any], list[Any]]]:
    """Headers and arguments of what a report publishes."""
    from umbel.core.protocol import read_envelope

    found = []
    for publication in report.publish:
        envelope = read_envelope(publication.payload)
        found.append((envelope.headers, json.loads(envelope.body)[0]))
    return found


class TestParts:
    def test_the_entry_is_celerys(self, app: Umbel) -> None:
        part = writer(app).part_of(context(3), "SUCCESS", {"x": 1})
        assert part is not None
        assert json.loads(part.entry) == [1, "part-3", "SUCCESS", {"x": 1}]
        assert (part.group_id, part.index) == ("g", 3)
        assert part.realm == chord_realm(app, "q")  # type: ignore[arg-type]

    def test_errors_are_written_as_in_documents(self, app: Umbel) -> None:
        part = writer(app).part_of(context(), "FAILURE", KeyError("k"))
        assert part is not None
        assert json.loads(part.entry)[3] == {
            "exc_type": "KeyError",
            "exc_message": ["k"],
            "exc_module": "builtins",
        }

    def test_who_is_no_part_counts_nothing(self, app: Umbel) -> None:
        assert writer(app).part_of(Context(id="x", group="g"), "SUCCESS", 1) is None
        assert writer(app).part_of(Context(id="x", chord=signature("body")), "SUCCESS", 1) is None

    def test_realms_tell_queues_and_brokers_apart(self) -> None:
        apps = [Umbel(broker=f"redis://{host}/0", backend="redis://results/1") for host in ("one", "two")]
        realms = {chord_realm(app, queue) for app in apps for queue in "qr"}  # type: ignore[arg-type]
        assert len(realms) == 4

    def test_where_messages_and_results_are_in_one_store_its_name_does_not_matter(self) -> None:
        """A host has many names, and a worker by another way must complete what one by this way has left."""
        apps = [Umbel(broker=f"redis://{host}/0", backend=f"redis://{host}/0") for host in ("one", "two")]
        assert len({chord_realm(app, "q") for app in apps}) == 1  # type: ignore[arg-type]
        prefixed = Umbel(
            broker="redis://one/0",
            backend="redis://one/0",
            broker_transport_options={"global_keyprefix": "pre:"},
        )
        assert chord_realm(prefixed, "q") != chord_realm(apps[0], "q")  # type: ignore[arg-type]

    def test_a_pickled_plan_is_read_only_where_pickle_is_accepted(self) -> None:
        import pickle

        data = pickle.dumps({"body": {}})
        assert read_plan(data, frozenset({"application/x-python-serialize"})) == {"body": {}}
        with pytest.raises(SecurityError):
            read_plan(data, frozenset({"application/json"}))


class TestSending:
    def test_the_body_gets_the_values_in_order_and_follows_the_last_part(self, app: Umbel) -> None:
        report = end(app, ("SUCCESS", 1), ("SUCCESS", [2]), ("SUCCESS", None))
        [(headers, args)] = sent(report)
        assert (report.state, args) == ("SUCCESS", [[1, [2], None]])
        assert (headers["id"], headers["group"]) == ("body-id", "g")
        assert (headers["parent_id"], headers["root_id"]) == ("part-2", "root")

    async def test_one_that_a_peer_has_completed_meanwhile_is_not_sent_again_without_its_values(
        self, app: Umbel
    ) -> None:
        app.backend.open_chord("g", 1)
        request = context(0)
        part = writer(app).part_of(request, "SUCCESS", 1)
        [due] = app.backend.save([ResultRecord(str(request.id), "SUCCESS", b"", chord=part)])
        assert sent(complete(app, due))[0][1] == [[1]]
        await app.backend.aend_chords([ChordEnd("g", due.token, due.realm)])
        report = complete(app, due)
        assert (report.state, report.publish) == ("RETRY", [])
        assert "its parts are not there" in report.error

    def test_one_whose_last_part_is_not_to_be_seen_is_not_sent(self, app: Umbel) -> None:
        """A primary that does not know yet that it was replaced shows the parts that there were at that time."""
        app.backend.open_chord("g", 2)
        first, last = (writer(app).part_of(context(index), "SUCCESS", index) for index in range(2))
        app.backend.save([ResultRecord("part-0", "SUCCESS", b"", chord=first)])
        assert last is not None
        report = complete(app, DueChord("g", b"token", last.body, last.realm))
        assert (report.state, report.publish) == ("RETRY", [])

    def test_one_of_which_a_part_in_the_middle_is_not_to_be_seen_is_not_sent(self, app: Umbel) -> None:
        """The part that was counted last on the new primary may have been counted on the old one too."""
        app.backend.open_chord("g", 3)
        for index in (0, 2):
            part = writer(app).part_of(context(index), "SUCCESS", index)
            app.backend.save([ResultRecord(f"part-{index}", "SUCCESS", b"", chord=part)])
        assert part is not None
        report = complete(app, DueChord("g", b"token", part.body, part.realm))
        assert (report.state, report.publish) == ("RETRY", [])

    def test_groups_of_the_header_are_lists(self, app: Umbel) -> None:
        inner = GroupResult("inner", [AsyncResult("part-1"), AsyncResult("part-2")])
        app.GroupResult("g", [AsyncResult("part-0"), inner]).save()
        report = end(app, *(("SUCCESS", index) for index in range(3)))
        assert sent(report)[0][1] == [[0, [1, 2]]]

    def test_a_result_that_was_no_part_is_waited_for(self, app: Umbel) -> None:
        app.backend.store_result("elsewhere", 9, "SUCCESS")
        app.GroupResult("g", [AsyncResult("part-0"), GroupResult("i", [AsyncResult("elsewhere")])]).save()
        assert sent(end(app, ("SUCCESS", 1)))[0][1] == [[1, [9]]]

    def test_one_that_does_not_come_in_time_fails_the_body(self, app: Umbel) -> None:
        app.conf.result_chord_join_timeout = 0.01
        app.GroupResult("g", [AsyncResult("part-0"), AsyncResult("never")]).save()
        report = end(app, ("SUCCESS", 1))
        assert report.state == "FAILURE"
        assert "Join error" in report.error

    def test_a_body_that_cannot_be_sent_fails(self, app: Umbel) -> None:
        body = signature("body", task_id="body-id", queue={"no": "queue"})
        report = end(app, ("SUCCESS", 1), body=body)
        assert (report.state, report.publish) == ("FAILURE", [])
        assert read_document(report.followers[0].document)["result"].args[0].startswith("Callback error")


class TestFailing:
    def failures(self, report: Report) -> dict[str, BaseException]:
        return {each.task_id: read_document(each.document)["result"] for each in report.followers}

    @pytest.mark.parametrize("state", ["FAILURE", "REVOKED"])
    def test_the_first_failed_part_is_the_reason(self, app: Umbel, state: str) -> None:
        report = end(app, ("SUCCESS", 1), (state, KeyError("a")), ("FAILURE", KeyError("b")))
        [(task_id, error)] = self.failures(report).items()
        assert (report.state, task_id, type(error)) == ("FAILURE", "body-id", ChordError)
        assert error.args == ("Dependency part-1 raised KeyError('a')",)

    def test_error_callbacks_of_the_body_are_sent(self, app: Umbel) -> None:
        body = signature("body", task_id="body-id", link_error=[signature("told")])
        report = end(app, ("FAILURE", KeyError("a")), body=body)
        assert [(headers["task"], args) for headers, args in sent(report)] == [("told", ["body-id"])]

    def test_every_member_of_a_group_gets_the_parts_own_error(self, app: Umbel) -> None:
        members = [signature("body", task_id=name, link_error=[signature("told")]) for name in "ab"]
        body = signature("celery.group", "group", kwargs={"tasks": members}, task_id="group-id")
        report = end(app, ("FAILURE", KeyError("x")), body=body)
        assert {name: repr(error) for name, error in self.failures(report).items()} == dict.fromkeys(
            ("group-id", "a", "b"), "KeyError('x')"
        )
        assert [args for _, args in sent(report)] == [["a"], ["b"]]

    def test_a_body_that_is_a_part_itself_fails_its_own_chord(self, app: Umbel) -> None:
        outer = signature("body", task_id="outer-id")
        body = signature("body", task_id="body-id", group_id="outer", group_index=4, chord=outer)
        report = end(app, ("FAILURE", KeyError("x")), body=body)
        [record] = report.followers
        assert record.chord is not None
        assert (record.chord.group_id, record.chord.index) == ("outer", 4)

    def test_what_an_outer_chord_will_call_is_left_to_it(self, app: Umbel) -> None:
        outer = signature("body", task_id="outer-id", link_error=[signature("told")])
        body = signature(
            "body", task_id="body-id", group_id="outer", chord=outer, link_error=[signature("told")]
        )
        assert end(app, ("FAILURE", KeyError("x")), body=body).publish == []

    def test_what_follows_the_body_fails_too(self, app: Umbel) -> None:
        body = signature("body", task_id="body-id", chain=[signature("body", task_id="later")])
        report = end(app, ("FAILURE", KeyError("x")), body=body)
        assert self.failures(report).keys() == {"body-id", "later"}


def test_what_is_never_reached_is_named_with_all_its_members() -> None:
    member = signature("t", task_id="m", chord={"task": "outer"})
    chord = signature("c", "chord", kwargs={"body": signature("t", task_id="body")}, task_id="chord-id")
    chain = signature("celery.chain", "chain", kwargs={"tasks": [signature("t", task_id="s1"), chord]})
    group = signature("g", "group", kwargs={"tasks": [member, chain]}, task_id="gid", chord={"task": "outer"})
    found = dict(unreached([signature("t", task_id="t1"), group]))
    assert list(found) == ["t1", "gid", "m", "s1", "chord-id", "body"]
    assert [name for name, options in found.items() if "chord" in options] == ["m"]
