"""What delay, apply_async and their kin put on the broker."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.app_support import make_app, sent, sent_one
from umbel import signals
from umbel.core.queues import Exchange, Queue
from umbel.errors import EncodeError, QueueNotFound
from umbel.execution.context import Context, pop, push


@pytest.fixture
def app():
    with make_app() as app:
        yield app


@pytest.fixture
def add(app):
    @app.task
    def add(x, y=0):
        return x + y

    return add


def test_a_plain_call_is_protocol_2(app, add):
    result = add.delay(2, 2)
    message = sent_one(app)
    assert message.headers == {
        "lang": "py",
        "task": f"{__name__}.add",
        "id": result.id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": result.id,
        "parent_id": None,
        "argsrepr": "(2, 2)",
        "kwargsrepr": "{}",
        "origin": f"gen{os.getpid()}@{socket.gethostname()}",
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    assert message.properties["correlation_id"] == result.id
    assert message.properties["reply_to"] == app.thread_oid
    assert message.properties["delivery_mode"] == 2
    assert message.properties["priority"] == 0
    assert (message.args, message.kwargs) == ([2, 2], {})
    assert message.embed == {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def test_options_reach_the_message(app, add):
    result = add.apply_async(
        (1,),
        {"y": 2},
        task_id="my-id",
        priority=6,
        time_limit=30,
        soft_time_limit=20,
        shadow="other.name",
        headers={"x-my": "1"},
        queue="other",
        ignore_result=True,
        link=add.s(5),
        link_error=[add.si(1), {"task": "t", "args": [], "kwargs": {}, "options": {}}],
        root_id="root",
        parent_id="parent",
        group_id="g",
        group_index=0,
        retries=1,
        app_id="1234",
    )
    message = sent_one(app, "other")
    assert result.id == "my-id"
    assert result.ignored is True
    assert message.headers["timelimit"] == [30, 20]
    assert message.headers["shadow"] == "other.name"
    assert message.headers["x-my"] == "1"
    assert message.headers["ignore_result"] is True
    assert (message.headers["root_id"], message.headers["parent_id"]) == ("root", "parent")
    assert (message.headers["group"], message.headers["group_index"]) == ("g", 0)
    assert message.headers["retries"] == 1
    assert message.properties["priority"] == 6
    assert message.properties["app_id"] == "1234"
    assert [link["args"] for link in message.embed["callbacks"]] == [[5]]
    assert [link["task"] for link in message.embed["errbacks"]] == [add.name, "t"]


def test_celerys_connections_are_taken_and_left_alone(app, add):
    add.apply_async((1,), producer=object(), connection=object(), publisher=object())
    assert "connection" not in sent_one(app).properties


def test_countdown_becomes_an_aware_eta(app, add):
    before = datetime.now(UTC)
    add.apply_async((1,), countdown=0.0001)
    eta = datetime.fromisoformat(sent_one(app).headers["eta"])
    assert before < eta <= datetime.now(UTC) + timedelta(seconds=0.0001)


def test_a_naive_eta_is_in_the_applications_time_zone():
    with make_app(timezone="Asia/Tokyo") as app:

        @app.task
        def job(): ...

        job.apply_async(eta=datetime(2001, 2, 3, 4, 5))  # noqa: DTZ001
        assert sent_one(app).headers["eta"] == "2001-02-03T04:05:00+09:00"


def test_an_aware_eta_stays(app, add):
    eta = datetime(2001, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    add.apply_async((1,), eta=eta)
    assert sent_one(app).headers["eta"] == eta.isoformat()


@pytest.mark.parametrize("expires", [300, 300.0, timedelta(minutes=5)])
def test_expires_as_a_duration(app, add, expires):
    add.apply_async((1,), expires=expires)
    message = sent_one(app)
    left = datetime.fromisoformat(message.headers["expires"]) - datetime.now(UTC)
    assert timedelta(seconds=290) < left <= timedelta(seconds=300)
    assert 299_000 <= int(message.properties["expiration"]) <= 300_000


def test_expires_as_an_instant(app, add):
    moment = datetime.now(UTC) + timedelta(hours=1)
    add.apply_async((1,), expires=moment)
    add.apply_async((1,), expires=moment.isoformat())
    assert [m.headers["expires"] for m in sent(app)] == [moment.isoformat()] * 2


def test_expired_already_is_sent_with_a_warning(app, add, caplog):
    add.apply_async((1,), expires=-5)
    assert sent_one(app).properties["expiration"] == "0"
    assert "expiration date in the past" in caplog.text


def test_eta_in_seconds_is_refused_with_a_hint(add):
    with pytest.raises(TypeError, match="countdown"):
        add.apply_async((1,), eta=5)


def test_soft_limit_above_the_hard_one_is_refused(app, add):
    with pytest.raises(ValueError, match="soft_time_limit must be less than or equal to time_limit"):
        add.apply_async((1,), time_limit=1, soft_time_limit=2)
    assert sent(app) == []


def test_arguments_are_checked_before_sending(app, add):
    with pytest.raises(TypeError, match=r"add\(\) missing 1 required positional argument: 'x'"):
        add.delay()
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        add.delay(1, z=3)
    assert sent(app) == []


def test_arguments_of_a_bound_task_are_checked_without_the_task(app):
    @app.task(bind=True)
    def bound(self, x, /, *rest, key): ...

    bound.delay(1, 2, 3, key=4)
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'key'"):
        bound.delay(1)


def test_typing_can_be_turned_off(app):
    @app.task(typing=False)
    def anything(x): ...

    anything.delay(1, 2, 3)
    with make_app(strict_typing=False) as loose:

        @loose.task
        def other(x): ...

        other.delay()
        assert len(sent(loose)) == 1


def test_task_attributes_are_defaults_of_its_messages(app):
    @app.task(queue="video", priority=4, time_limit=9, serializer="json", ignore_result=True, expires=60)
    def encode(): ...

    encode.delay()
    encode.apply_async(priority=1, queue="other", expires=None)
    (first,), (second,) = sent(app, "video"), sent(app, "other")
    assert (first.queue, first.properties["priority"], first.headers["timelimit"]) == ("video", 4, [9, None])
    assert first.headers["ignore_result"] is True
    assert first.headers["expires"]
    assert (second.queue, second.properties["priority"], second.headers["expires"]) == ("other", 1, None)


def test_settings_changed_later_count(app, add):
    add.delay(1)
    app.conf.task_default_queue = "elsewhere"
    add.delay(1)
    assert len(sent(app, "celery")) == len(sent(app, "elsewhere")) == 1


def test_compression_and_serializer(app, add):
    app.conf.accept_content = ["json", "msgpack"]
    add.apply_async((1,), compression="zlib", serializer="msgpack")
    message = sent_one(app)
    assert message.headers["compression"] == "application/x-gzip"
    assert message.args == [1]


def test_arguments_that_cannot_be_written(app, add):
    with pytest.raises(EncodeError):
        add.delay(object())
    assert sent(app) == []


def test_shadow_name(app):
    @app.task(shadow_name=lambda task, args, kwargs, options: f"{task.name}:{args[0]}")
    def work(x): ...

    work.delay(7)
    assert sent_one(app).headers["shadow"] == f"{work.name}:7"


def test_send_task_by_name(app, add):
    app.send_task("unknown.task", (1,), {"a": 2}, queue="q", task_id="i")
    message = sent_one(app, "q")
    assert (message.headers["task"], message.headers["id"]) == ("unknown.task", "i")
    assert (message.args, message.kwargs) == ([1], {"a": 2})


def test_send_task_takes_the_options_of_a_task_it_knows(app):
    @app.task(queue="mine", name="known")
    def known(): ...

    app.send_task("known")
    app.send_task("known", queue="celery")
    assert len(sent(app, "mine")) == len(sent(app, "celery")) == 1


def test_args_must_be_a_sequence(app):
    with pytest.raises(TypeError, match="list or tuple"):
        app.send_task("t", "text")
    with pytest.raises(TypeError, match="mapping"):
        app.send_task("t", (), [1])


def test_a_queue_that_is_not_declared():
    with make_app(task_create_missing_queues=False) as app, pytest.raises(QueueNotFound, match="'no'"):
        app.send_task("t", queue="no")


def test_a_queue_object_and_its_exchange():
    with make_app(task_queues=[Queue("a", Exchange("x", "topic"), "a.#")], task_default_queue="a") as app:
        route = app.amqp.router.route({"routing_key": "a.b"}, "t")
        assert (route.destination.exchange, route.destination.routing_key) == ("x", "a.b")
        assert route.destination.exchange_type == "topic"


def test_children_know_their_family(app, add):
    context = Context(id="p", root_id="r", called_directly=False, delivery_info={"priority": 8})
    app.conf.task_inherit_parent_priority = True
    add.delay(0)
    push(add, context)
    try:
        result = add.delay(1)
        add.apply_async((2,), add_to_parent=False, priority=1)
    finally:
        pop()
    first, second = sorted(sent(app), key=lambda m: m.args)[1:]
    assert (first.headers["root_id"], first.headers["parent_id"]) == ("r", "p")
    assert [m.properties["priority"] for m in (first, second)] == [8, 1]
    assert context.children == [result]


def test_live_messages_for_before_task_publish(app, add):
    seen = []

    def mark(sender, headers, properties, body, **rest):
        seen.append((sender, body[0], rest["exchange"], rest["routing_key"]))
        headers["mark"] = properties["mark"] = "yes"

    def after(sender, headers, **rest):
        seen.append(headers["mark"])

    signals.before_task_publish.connect(mark, sender=add.name)
    signals.after_task_publish.connect(after, sender=add.name)
    try:
        add.delay(3)
        add.delay_many([(4,)])
    finally:
        signals.before_task_publish.disconnect(mark, sender=add.name)
        signals.after_task_publish.disconnect(after, sender=add.name)
    assert seen == [(add.name, (3,), "", "celery"), "yes", (add.name, (4,), "", "celery"), "yes"]
    for message in sent(app):
        assert message.headers["mark"] == message.properties["mark"] == "yes"


def test_many(app, add):
    results = add.delay_many([(1, 2), [3], ((4,), {"y": 5}), add.s(6, 7)])
    messages = sent(app)
    assert [(m.args, m.kwargs) for m in messages] == [([1, 2], {}), ([3], {}), ([4], {"y": 5}), ([6, 7], {})]
    assert [m.headers["id"] for m in messages] == [r.id for r in results]


def test_many_with_options_and_more_than_a_chunk(app, add):
    add.delay_many(((n,) for n in range(1203)), queue="bulk", priority=3)
    messages = sent(app, "bulk")
    assert [m.args[0] for m in messages] == list(range(1203))
    assert {m.properties["priority"] for m in messages} == {3}


def test_many_of_which_some_need_the_long_way(app, add):
    moment = datetime(2024, 5, 1, tzinfo=UTC)
    calls = [(n,) if n % 3 else (moment,) for n in range(1203)]
    results = add.delay_many(calls)
    messages = sent(app)
    assert [m.args[0] for m in messages] == [call[0] for call in calls]
    assert [m.headers["id"] for m in messages] == [r.id for r in results]
    assert len({r.id for r in results}) == 1203


def test_many_are_checked_before_the_first_is_sent(app, add):
    with pytest.raises(TypeError, match="missing"):
        add.delay_many([(1,), ()])
    with pytest.raises(TypeError, match="expected a tuple of arguments"):
        add.delay_many([7])
    assert sent(app) == []


def test_many_signatures_of_different_tasks(app, add):
    results = app.send_many([add.s(1), app.signature("other", args=(2,), queue="q2")])
    (first,), (second,) = sent(app, "celery"), sent(app, "q2")
    assert (first.headers["task"], second.headers["task"]) == (add.name, "other")
    assert [r.id for r in results] == [first.headers["id"], second.headers["id"]]


async def test_from_coroutines(app, add):
    one = await add.adelay(1)
    two = await add.aapply_async((2,), queue="other", task_id="two")
    three = await app.asend_task("three", (3,))
    more = await add.adelay_many([(4,), (5,)])
    consumer = app.broker.consumer("c", 60.0)
    await consumer.open()
    assert app.broker.depth("celery") == 4
    assert app.broker.depth("other") == 1
    assert len({one.id, two.id, three.id, *(r.id for r in more)}) == 5
    await consumer.close()


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("form", ["native", "kombu"])
@given(args=st.lists(_json, max_size=3), kwargs=st.dictionaries(st.text(), _json, max_size=2))
def test_the_short_way_writes_what_the_long_way_writes(form, args, kwargs):
    from umbel.client.stencil import cut_stencil
    from umbel.core.envelope import pack_kombu, pack_native
    from umbel.core.message import Call
    from umbel.core.protocol import build_message, encode, read_envelope

    def pack(envelope, destination):
        return pack_native(envelope) if form == "native" else pack_kombu(envelope, destination)

    class Form:
        def pack(self, envelope, destination):
            return pack(envelope, destination)

    with make_app() as app:
        work = app.sender.make("t%b", (), {}, {"priority": 3, "headers": {"é": "100%"}})
        stencil = cut_stencil(Form(), work.options, work.call)
        short = stencil.fill("id-1", tuple(args), kwargs, "me")
        call = Call(
            "t%b",
            "id-1",
            tuple(args),
            kwargs,
            origin=work.call.origin,
            reply_to="me",
            priority=3,
            custom_headers={"é": "100%"},
        )
        long = pack(encode(build_message(call), "json", None), work.options.destination)
    if short is not None:
        mine, theirs = read_envelope(short), read_envelope(long)
        for envelope in (mine, theirs):
            envelope.properties.pop("delivery_tag", None)
        assert mine == theirs
        assert list(mine.headers) == list(theirs.headers)
