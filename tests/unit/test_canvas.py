"""Chains, groups and chords as values: how they are written, joined, frozen, linked, stamped and sent."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import umbel
from tests.unit.canvas_expressions import expressions, form_of
from umbel import Signature, Task, Umbel, chain, chord, group, signature
from umbel.brokers import memory
from umbel.canvas import GroupStampingVisitor, StampingVisitor, _chain
from umbel.canvas.lazy import Regen
from umbel.client.client import Client
from umbel.core.protocol import decode_body, read_envelope
from umbel.core.serializers import accept_set
from umbel.errors import CPendingDeprecationWarning, Ignore, ImproperlyConfigured
from umbel.results.handles import GroupResult

CELERY = json.loads(Path(__file__).with_name("test_canvas_celery_5_7.json").read_text())


@pytest.fixture
def app() -> Iterator[Umbel]:
    with Umbel("t", broker="memory://", backend="memory://") as made:

        @made.task(name="t.add")
        def add(x: Any, y: Any = 0) -> Any:
            return x + y

        @made.task(name="t.tsum")
        def tsum(numbers: list[Any]) -> Any:
            return sum(numbers)

        @made.task(name="t.ident")
        def ident(value: Any) -> Any:
            return value

        @made.task(name="t.on_error")
        def on_error(*args: Any) -> None:
            """Told of errors."""

        @made.task(name="t.fail")
        def fail(*args: Any) -> None:
            raise ValueError("no")

        yield made


def add(app: Umbel) -> Task[..., Any]:
    return app.tasks["t.add"]


def tsum(app: Umbel) -> Task[..., Any]:
    return app.tasks["t.tsum"]


class Sent:
    """What an application has sent, in how many round trips."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trips: list[list[bytes]] = []
        original = Client.send_packed

        def send_packed(client: Client, publications: Any, options: Any) -> None:
            self.trips.append([publication.payload for publication in publications])
            original(client, publications, options)

        monkeypatch.setattr(Client, "send_packed", send_packed)

    @property
    def payloads(self) -> list[bytes]:
        return [payload for trip in self.trips for payload in trip]

    @property
    def messages(self) -> list[tuple[dict[str, Any], Any, Any]]:
        """Headers, arguments and what is embedded, of each message."""
        envelopes = [read_envelope(payload) for payload in self.payloads]
        bodies = [decode_body(envelope, accept_set(["json"])) for envelope in envelopes]
        return [
            (envelope.headers, body[0], body[2]) for envelope, body in zip(envelopes, bodies, strict=True)
        ]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    return Sent(monkeypatch)


@pytest.mark.parametrize("text", CELERY)
def test_the_mapping_is_celerys(app: Umbel, text: str) -> None:
    tasks = [app.tasks[f"t.{name}"] for name in ("add", "tsum", "on_error")]
    made = expressions(umbel, *tasks)[text]()
    assert form_of(made) == CELERY[text]
    again = signature(json.loads(json.dumps(made)))
    assert isinstance(made, type(again)) or made["subtask_type"] is None


class TestWriting:
    def test_calls_are_shown_as_they_would_be_written(self, app: Umbel) -> None:
        a = add(app).s
        assert repr(a(1) | group(a(2), a(3)) | tsum(app).s()) == "t.add(1) | %tsum([add(2), add(3)])"
        assert repr(group(a(1), a(2))) == "group([t.add(1), add(2)])"
        assert repr(group()) == "group(<empty>)"
        assert repr(chord([a(1)])) == "<chord without body: [t.add(1)]>"
        assert repr(add(app).map([1, 2])) == "[t.add(x) for x in [1, 2]]"
        assert repr(add(app).starmap([(1, 2)])) == "[t.add(*x) for x in [(1, 2)]]"

    def test_a_workflow_can_be_pickled(self, app: Umbel) -> None:
        for made in (
            chain(add(app).s(1), add(app).s(2)),
            group(add(app).s(1)),
            chord([add(app).s(1)], tsum(app).s()),
        ):
            again = pickle.loads(pickle.dumps(made))
            assert type(again) is type(made) or isinstance(again, type(made))
            assert again == made

    def test_what_cannot_follow_a_task_is_refused(self, app: Umbel) -> None:
        with pytest.raises(TypeError):
            chain(add(app).s(1), object())
        with pytest.raises(TypeError):
            add(app).s(1) | 3

    def test_a_clone_shares_nothing_that_sending_changes(self, app: Umbel) -> None:
        written = chord(
            [add(app).s(1), chain(add(app).s(2), group(add(app).s(3)))], chain(tsum(app).s(), add(app).s(4))
        )
        before = json.dumps(written)
        written.clone().freeze()
        written.apply_async()
        assert json.dumps(written) == before

    def test_a_signature_that_is_there_twice_is_two_tasks(self, app: Umbel) -> None:
        one = add(app).si(1, 1)
        last = _chain(one, one).freeze()
        assert last.id != last.parent.id
        one = add(app).si(1, 1)
        for results in (group([one, one]).freeze(), chord([one, one], tsum(app).s()).freeze().parent):
            first, second = results
            assert first.id != second.id


class TestResults:
    def test_a_chains_result_has_those_before_it(self, app: Umbel) -> None:
        result = chain(
            add(app).s(1), group(add(app).s(2), add(app).s(3)), tsum(app).s(), add(app).s(4)
        ).apply_async()
        kinds = []
        node = result
        while node is not None:
            kinds.append(isinstance(node, GroupResult))
            node = node.parent
        assert kinds == [False, False, True, False]

    def test_a_group_has_one_for_each_task(self, app: Umbel) -> None:
        result = group(add(app).s(1, 1), group(add(app).s(2, 2), add(app).s(3, 3)), chain()).apply_async()
        assert isinstance(result, GroupResult)
        assert len(result.results) == 3

    def test_an_empty_group_is_done(self, app: Umbel) -> None:
        result = group([]).apply_async()
        assert isinstance(result, GroupResult)
        assert (list(result), result.get(timeout=1)) == ([], [])

    def test_an_empty_chain_does_nothing(self, app: Umbel) -> None:
        assert chain()() is None
        assert chain(app=app).apply_async() is None

    def test_the_id_of_a_chain_is_that_of_its_last_task(self, app: Umbel) -> None:
        assert chain(add(app).s(1), add(app).s(2)).apply_async(task_id="mine").id == "mine"
        assert chord([add(app).s(1)], tsum(app).s()).apply_async(task_id="mine").id == "mine"
        assert group(add(app).s(1)).apply_async(task_id="mine").id == "mine"


class TestSending:
    def test_a_large_group_goes_out_in_few_round_trips(
        self, app: Umbel, sent: Sent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("umbel.task.outbox.monotonic", lambda: 0.0)
        result = group([add(app).si(1, 1)] * 1200).apply_async()
        assert [len(trip) for trip in sent.trips] == [500, 500, 200]
        assert [headers["id"] for headers, _, _ in sent.messages] == [one.id for one in result]
        assert [headers["group_index"] for headers, _, _ in sent.messages] == list(range(1200))
        assert {headers["group"] for headers, _, _ in sent.messages} == {result.id}

    def test_a_chain_is_one_message_that_carries_the_rest(self, app: Umbel, sent: Sent) -> None:
        chain(*[add(app).s(number) for number in range(5)]).apply_async()
        ((_, args, embed),) = sent.messages
        assert args == [0]
        assert [step["args"] for step in embed["chain"]] == [[4], [3], [2], [1]]

    def test_a_generator_is_read_one_task_ahead_of_what_is_asked(self, app: Umbel) -> None:
        read: list[int] = []

        def tasks() -> Iterator[Signature]:
            for number in range(5):
                read.append(number)
                yield add(app).s(number)

        made = group(tasks())
        assert read == []
        assert made.tasks[0].args == (0,)
        assert read == [0, 1]
        assert made.app is app
        assert bool(made.tasks)
        assert read == [0, 1]
        assert len(made.tasks) == len(read) == 5

    def test_a_generators_first_tasks_are_sent_while_it_makes_others(
        self, app: Umbel, sent: Sent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = iter(range(1000))
        monkeypatch.setattr("umbel.task.outbox.monotonic", lambda: float(next(now)))
        already: list[int] = []

        def tasks() -> Iterator[Signature]:
            for number in range(4):
                already.append(len(sent.payloads))
                yield add(app).s(number)

        chord(tasks(), tsum(app).s()).apply_async()
        # One is held back, for the last of them goes out when the number of all is known.
        assert already == [0, 0, 1, 2]
        assert len(sent.payloads) == 4

    def test_a_generators_first_task_is_sent_though_it_was_made_at_once(
        self, app: Umbel, sent: Sent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = [0.0]
        monkeypatch.setattr("umbel.task.outbox.monotonic", lambda: clock[0])
        already: list[int] = []

        def tasks() -> Iterator[Signature]:
            for number in range(3):
                clock[0] += number // 2
                already.append(len(sent.payloads))
                yield add(app).s(number)

        made = chord(tasks(), tsum(app).s())
        assert made.tasks[0].args == (0,)  # reads two
        made()
        assert already == [0, 0, 1]
        assert len(sent.payloads) == 3

    def test_a_chord_is_opened_before_its_last_part_is_sent(
        self, app: Umbel, sent: Sent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened: list[tuple[str, int, int]] = []
        backend = app.backend
        monkeypatch.setattr(
            backend,
            "set_chord_size",
            lambda group_id, size: opened.append((group_id, size, len(sent.payloads))),
        )
        header = [
            add(app).s(1),
            group(add(app).s(2), add(app).s(3)),
            chain(add(app).s(4), group(add(app).s(5), add(app).s(6))),
        ]
        result = chord(header, tsum(app).s()).apply_async()
        assert opened == [(result.parent.id, 5, 0)]
        assert [headers["group_index"] for headers, _, _ in sent.messages if headers["group"]] == [0, 1, 2]

    def test_a_part_carries_the_body_and_the_body_what_follows_it(self, app: Umbel, sent: Sent) -> None:
        chain(group(add(app).s(1, 1), add(app).s(2, 2)), tsum(app).s(), add(app).s(3)).apply_async(
            countdown=1
        )
        for headers, _, embed in sent.messages:
            assert headers["eta"]
            assert [step["task"] for step in embed["chord"]["kwargs"]["tasks"]] == ["t.tsum", "t.add"]

    def test_an_empty_header_starts_the_body(self, app: Umbel, sent: Sent) -> None:
        chord([], tsum(app).s()).apply_async()
        ((headers, args, _),) = sent.messages
        assert (headers["task"], args) == ("t.tsum", [[]])

    def test_a_task_with_a_way_of_its_own_is_sent_that_way(self, app: Umbel) -> None:
        taken: list[Any] = []

        class Careful(Task[..., Any]):
            name = "t.careful"

            def run(self, x: int) -> int:
                return x

            def apply_async(self, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
                taken.append((args, options["group_index"]))
                return super().apply_async(args, kwargs, *rest, **options)

        careful = app.register_task(Careful())
        group(careful.s(1), careful.s(2)).apply_async()
        assert taken == [((1,), 0), ((2,), 1)]

    def test_arguments_that_do_not_fit_are_refused_before_anything_is_sent(
        self, app: Umbel, sent: Sent
    ) -> None:
        with pytest.raises(TypeError):
            group(add(app).s(1), add(app).s(1, 2, 3)).apply_async()
        assert sent.payloads == []

    @pytest.mark.parametrize("given", ["to the sending", "to the workflow"])
    def test_ignore_result_reaches_the_tasks_that_are_sent_and_the_body(
        self, app: Umbel, sent: Sent, given: str
    ) -> None:
        """As with Celery: a chain's later steps keep what they say themselves."""
        s = add(app).si
        for flow, parts in ((group(s(1), s(2)), 2), (chord([s(1), s(2)], s(3)), 2), (chain(s(1), s(2)), 1)):
            sent.trips.clear()
            if given == "to the sending":
                flow.apply_async(ignore_result=True)
            else:
                flow.set(ignore_result=True).apply_async()
            messages = sent.messages
            assert [headers["ignore_result"] for headers, *_ in messages] == [True] * parts
            embedded = messages[0][2]
            if embedded["chord"]:
                assert embedded["chord"]["options"]["ignore_result"] is True
            assert ["ignore_result" in step["options"] for step in embedded["chain"] or ()] == (
                [False] if flow.kind == "chain" else []
            )

    def test_where_no_result_is_kept_a_chord_is_refused(self, sent: Sent) -> None:
        with (
            Umbel("none", broker="memory://", backend="disabled://", set_as_current=False) as app,
            pytest.raises(NotImplementedError),
        ):
            chord([signature("a", app=app)], signature("b", app=app), app=app).apply_async()
        assert sent.payloads == []

    def test_where_no_result_is_kept_a_chain_is_refused_that_has_a_chord_further_on(self, sent: Sent) -> None:
        with Umbel("none", broker="memory://", backend="disabled://", set_as_current=False) as app:
            first, second, third, last = (signature(name, app=app) for name in "abcd")
            made = chain(first, group(second, third, app=app), last, app=app)
            with pytest.raises(NotImplementedError):
                made.apply_async()
        assert sent.payloads == []

    @pytest.mark.parametrize("shape", ["groups", "chords", "bodies", "headers"])
    def test_messages_grow_with_the_size_of_the_workflow_and_not_with_its_depth(
        self, app: Umbel, sent: Sent, shape: str
    ) -> None:
        assert self.bytes_of(app, sent, shape, 6) < 70_000
        # Twice the depth of as many tasks each is no more than twice as much for each message.
        assert self.largest_of(app, sent, shape, 12) < 2 * self.largest_of(app, sent, shape, 6)

    @pytest.mark.parametrize("shape", ["groups", "chords", "bodies", "headers"])
    def test_all_messages_of_a_nested_workflow_are_small_together(
        self, app: Umbel, monkeypatch: pytest.MonkeyPatch, shape: str
    ) -> None:
        """Those that workers send on the way count too."""
        published: list[int] = []
        original = memory._publish

        def publish(store: Any, publications: Any) -> None:
            published.extend(len(publication.payload) for publication in publications)
            original(store, publications)

        monkeypatch.setattr(memory, "_publish", publish)
        app.broker.purge("celery")  # what other tests have sent
        with app.worker(pool="solo"):
            result = self.nested(app, shape, 6).apply_async()
            assert result.get(timeout=30) == ([0] * 10 if shape == "groups" else 0)
        assert len(published) >= 60
        assert sum(published) < 90_000

    def bytes_of(self, app: Umbel, sent: Sent, shape: str, depth: int) -> int:
        sent.trips.clear()
        self.nested(app, shape, depth).apply_async()
        return sum(map(len, sent.payloads))

    def largest_of(self, app: Umbel, sent: Sent, shape: str, depth: int) -> int:
        self.bytes_of(app, sent, shape, depth)
        return max(map(len, sent.payloads))

    @staticmethod
    def nested(app: Umbel, shape: str, depth: int) -> Any:
        def ten() -> list[Any]:
            return [add(app).si(0) for _ in range(10)]

        if shape == "groups":
            return chain(*[group(ten()) for _ in range(depth)])
        if shape == "chords":
            return chain(*[chord(ten(), add(app).si(0)) for _ in range(depth)])
        made = add(app).si(0)
        for _ in range(depth):
            made = chord(ten(), made) if shape == "bodies" else chord([made, *ten()[1:]], add(app).si(0))
        return made


class TestLinks:
    def test_what_is_linked_to_a_group_is_linked_to_its_first_task(self, app: Umbel) -> None:
        made = group(add(app).s(1), add(app).s(2))
        made.link(add(app).s(9))
        assert made.tasks[0].options["link"] == [add(app).si(9)]
        assert "link" not in made.tasks[1].options

    def test_a_group_takes_no_links_when_it_is_sent(self, app: Umbel) -> None:
        for option in ("link", "link_error"):
            with pytest.raises(TypeError, match="Cannot add link to group"):
                group(add(app).s(1)).apply_async(**{option: add(app).s(2)})

    def test_an_error_callback_of_a_chord_is_its_bodys_and_on_request_its_headers(self, app: Umbel) -> None:
        errback = app.tasks["t.on_error"].s()
        made = chord([add(app).s(1), add(app).s(2)], tsum(app).s())
        with pytest.warns(CPendingDeprecationWarning, match="task_allow_error_cb_on_chord_header"):
            assert made.link_error(errback) == errback
        assert made.body.options["link_error"] == [errback]
        assert all("link_error" not in task.options for task in made.tasks)
        app.conf.task_allow_error_cb_on_chord_header = True
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            made.link_error(errback)
        assert all(task.options["link_error"] == [errback.clone(immutable=True)] for task in made.tasks)

    def test_links_of_a_sending_join_the_bodys_and_leave_the_chord_as_it_was(
        self, app: Umbel, sent: Sent
    ) -> None:
        made = chord([add(app).s(1, 1)], tsum(app).s())
        made.body.link(add(app).s(1))
        made.apply_async(link=add(app).s(2), link_error=app.tasks["t.on_error"].s())
        ((_, _, embed),) = sent.messages
        assert [link["args"] for link in embed["chord"]["options"]["link"]] == [[1], [2]]
        assert [link["task"] for link in embed["chord"]["options"]["link_error"]] == ["t.on_error"]
        assert embed["callbacks"] is None
        assert made.body.options["link"] == [add(app).s(1)]

    def test_every_step_of_a_chain_has_the_chains_error_callback(self, app: Umbel, sent: Sent) -> None:
        errback = app.tasks["t.on_error"].s()
        made = chain(add(app).s(1), chord([add(app).s(2)], tsum(app).s()), add(app).s(3))
        with pytest.warns(CPendingDeprecationWarning):
            made.apply_async(link_error=errback)
        ((_, _, embed),) = sent.messages
        last, middle = embed["chain"]
        for step in (last["options"], middle["kwargs"]["body"]["options"], {"link_error": embed["errbacks"]}):
            assert [link["task"] for link in step["link_error"]] == ["t.on_error"]


class TestInPlace:
    def test_ignored_and_rejected_tasks_end_a_chain(self, app: Umbel) -> None:
        @app.task(name="t.ignored")
        def ignored(x: Any) -> None:
            raise Ignore

        result = chain(add(app).s(1, 1), ignored.s(), add(app).s(1)).apply()
        assert result.state == "IGNORED"

    def test_eager_applications_run_workflows_when_they_are_sent(self, app: Umbel) -> None:
        app.conf.task_always_eager = True
        made = add(app).s(1) | group(add(app).s(1), add(app).s(2)) | tsum(app).s() | add(app).s(10)
        assert made.apply_async().get() == 15
        assert chord([add(app).s(1, 1)], tsum(app).s()).delay().get() == 2
        assert group(add(app).s(1, 1)).delay().get() == [2]
        assert add(app).chunks([(1, 1), (2, 2), (3, 3)], 2).apply_async().get() == [[2, 4], [6]]
        assert add(app).starmap([(1, 1), (2, 2)]).apply_async().get() == [2, 4]

    def test_what_is_linked_to_an_eager_task_runs_whatever_it_is(self, app: Umbel) -> None:
        app.conf.task_always_eager = True
        seen: list[Any] = []

        @app.task(name="t.seen")
        def see(value: Any) -> None:
            seen.append(value)

        parts = [add(app).s(1), add(app).s(2)]
        links = [see.s(), chain(add(app).s(1), see.s()), group(see.s(), see.s()), chord(parts, see.s())]
        add(app).apply_async((1, 1), link=links)
        assert seen == [2, 3, 2, 2, [3, 4]]
        app.tasks["t.fail"].apply_async(link_error=[chain(see.s(), see.s())])
        assert len(seen) == 7

    def test_a_group_of_one_stands_for_its_task_in_a_chain(self, app: Umbel) -> None:
        assert chain(add(app).s(1, 1), group(add(app).s(1))).apply().get() == 3
        assert _chain(group(add(app).s(1, 1)), add(app).s(1)).apply().get() == 3
        assert chord([add(app).s(1, 1)], group(tsum(app).s())).apply().get() == [2]

    @pytest.mark.parametrize("kind", ["task", "chain", "group", "chord", "chain that ends in a group"])
    def test_a_task_is_replaced(self, app: Umbel, kind: str) -> None:
        a = add(app)
        replacements = {
            "task": (lambda: a.si(1, 1), 2),
            "chain": (lambda: chain(a.si(1, 1), a.s(1)), 3),
            "group": (lambda: group(a.si(1, 1), a.si(2, 2)), [2, 4]),
            "chord": (lambda: chord([a.si(1, 1)], tsum(app).s()), 2),
            "chain that ends in a group": (lambda: _chain(a.si(1, 1), group(a.s(1), a.s(2))), [3, 4]),
        }
        make, wanted = replacements[kind]

        @app.task(bind=True, name="t.replaced")
        def replaced(self: Task[..., Any]) -> Any:
            return self.replace(make())

        assert replaced.s().apply().get() == wanted
        assert chain(replaced.s(), app.tasks["t.ident"].s()).apply().get() == wanted

    def test_what_cannot_take_a_tasks_place_is_refused(self, app: Umbel) -> None:
        task = add(app)
        with pytest.raises(ImproperlyConfigured, match="must not be part of a chord"):
            task.replace(task.s(1).set(chord=tsum(app).s()))
        with pytest.raises(ImproperlyConfigured, match="empty chain"):
            task.replace(chain())
        with pytest.raises(ValueError, match="not member of any chord"):
            task.add_to_chord(task.s(1))


class Colours(StampingVisitor):
    """Stamps with what was reached."""

    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return {"signature": sig.task}

    def on_group_start(self, group: Any, **headers: Any) -> dict[str, Any]:
        return {"in_group": True}

    def on_chord_body(self, sig: Any, **header: Any) -> dict[str, Any]:
        return {"body": True}

    def on_callback(self, callback: Any, **header: Any) -> dict[str, Any]:
        return {"callback": True}


class TestStamps:
    def test_a_visitor_stamps_what_it_reaches(self, app: Umbel, sent: Sent) -> None:
        made = chord([add(app).s(1, 1).set(link=add(app).s(2))], tsum(app).s())
        made.stamp(Colours(), every="one")
        made.apply_async()
        ((headers, _, embed),) = sent.messages
        assert headers["stamps"] == {"every": "one", "in_group": True, "signature": "t.add"}
        assert set(headers["stamped_headers"]) == set(headers["stamps"])
        assert embed["callbacks"][0]["options"]["callback"] is True
        assert embed["chord"]["options"]["body"] is True

    def test_the_ids_of_groups_can_be_stamped(self, app: Umbel) -> None:
        made = group(add(app).s(1), add(app).s(2))
        made.stamp(GroupStampingVisitor())
        assert [task.options["groups"] for task in made.tasks] == [[made.id], [made.id]]

    def test_the_tasks_of_a_generator_are_stamped_when_they_are_read(self, app: Umbel) -> None:
        read: list[int] = []
        made = group(read.append(number) or add(app).s(number) for number in range(3))
        made.stamp(colour="red")
        assert isinstance(made.tasks, Regen)
        assert read == []
        assert [task.options["colour"] for task in made.tasks] == ["red"] * 3

    def test_stamps_do_not_change_when_a_task_is_sent(self, app: Umbel, sent: Sent) -> None:
        stamped = add(app).s(1)
        stamped.stamp(colour="red")
        stamped.apply_async(colour="blue", stamped_headers=["other"])
        ((headers, _, _),) = sent.messages
        assert headers["stamps"] == {"colour": "red"}
