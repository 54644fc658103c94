"""Where messages go: every shape of task_routes and task_queues."""

from __future__ import annotations

import re

import pytest

from umbel.core.bindings import Binding
from umbel.core.queues import Exchange, Queue, QueueTable, binding
from umbel.core.routing import Router, prepare_routes
from umbel.errors import ImproperlyConfigured, QueueNotFound


def _router(routes=None, queues=None, load=None, **table):
    table.setdefault("default_exchange", Exchange("celery", "direct"))
    table.setdefault("default_routing_key", "celery")
    queues = [Queue("celery", Exchange("celery"), "celery")] if queues is None else queues
    return Router(QueueTable(queues, **table), prepare_routes(routes, load or _refuse))


def _refuse(path):
    raise AssertionError(path)


def _target(router, name="t", **options):
    destination = router.route(options, name).destination
    return destination.exchange, destination.routing_key, destination.queue


def test_the_default_queue_is_reached_through_the_anonymous_exchange():
    assert _target(_router()) == ("", "celery", "celery")


def test_a_queue_that_nobody_declared_is_made():
    router = _router()
    assert _target(router, queue="new") == ("", "new", "new")
    assert router.queues["new"].exchange.name == "new"


@pytest.mark.parametrize(
    "routes",
    [
        {"proj.video.*": {"queue": "video"}},
        {"proj.video.*": "video"},
        [("proj.video.encode", "video")],
        [[("proj.other", "x"), (re.compile(r"proj\.(video|audio)\..*"), {"queue": "video"})]],
        ({"nothing": "x"}, {"proj.video.encode": {"queue": "video"}}),
        lambda name, args, kwargs, options, task=None, **kw: {"queue": "video"} if "video" in name else None,
        [lambda name, *args, **kw: "video" if "video" in name else None],
    ],
)
def test_shapes_of_routes(routes):
    if isinstance(routes, list) and isinstance(routes[0], tuple):
        routes = [routes]
    router = _router(routes)
    assert _target(router, "proj.video.encode") == ("", "video", "video")
    assert _target(router, "proj.mail") == ("", "celery", "celery")


def test_routes_by_dotted_path_and_of_the_old_kind():
    class Old:
        def route_for_task(self, task, args=None, kwargs=None):
            return {"queue": "old"} if task == "a" else None

    loaded = {"pkg.route": lambda name, *a, **k: "path" if name == "b" else None, "pkg.Old": Old}
    router = _router(["pkg.route", "pkg.Old"], load=loaded.__getitem__)
    assert _target(router, "a")[2] == "old"
    assert _target(router, "b")[2] == "path"
    assert not router.fixed
    assert _router({"a": "b"}).fixed


def test_a_route_that_is_none_of_these():
    with pytest.raises(ImproperlyConfigured, match="task_routes"):
        _router([5])


def test_the_call_wins_over_the_route():
    router = _router({"t": {"queue": "routed", "priority": 3, "serializer": "yaml"}})
    route = router.route({"priority": 7, "queue": None}, "t")
    assert (route.destination.queue, route.destination.priority) == ("routed", 7)
    assert route.options == {"serializer": "yaml"}
    assert _target(router, "t", queue="mine")[2] == "mine"


def test_exact_names_win_over_patterns_and_patterns_go_in_order():
    router = _router({"a.*": "first", "a.b*": "second", "a.b": "exact"})
    assert [_target(router, name)[2] for name in ("a.b", "a.bc", "a.c")] == ["exact", "first", "first"]


def test_topic_and_named_exchanges():
    queues = [Queue("feeds", Exchange("media", "topic"), "feed.#"), Queue("d", Exchange("x"), "key")]
    router = _router(queues=queues)
    found = router.route({"queue": "feeds", "routing_key": "feed.new"}, "t").destination
    assert (found.exchange, found.routing_key, found.exchange_type) == ("media", "feed.new", "topic")
    assert _target(router, exchange="x", routing_key="key") == ("x", "key", None)
    assert _target(router, exchange="x", routing_key="unbound") == ("x", "unbound", None)
    assert _target(router, exchange=Exchange("f", "fanout"), routing_key="k") == ("f", "k", None)


def test_an_exchange_that_is_named_has_the_type_it_was_declared_with():
    queues = [
        Queue(
            "feeds", Exchange("media", "topic"), "feed.#", bindings=[binding(Exchange("more", "topic"), "m")]
        ),
        Queue("d", Exchange("x"), "key"),
    ]
    router = _router(queues=queues)
    for options, kind in [
        ({"exchange": "media", "routing_key": "feed.new"}, "topic"),
        ({"exchange": "more", "routing_key": "m", "queue": "d"}, "topic"),
        ({"exchange": "x", "routing_key": "key", "queue": "feeds"}, "direct"),
        ({"exchange": "unknown", "routing_key": "key", "queue": "feeds"}, "topic"),
        ({"exchange": "unknown", "routing_key": "key"}, "direct"),
        ({"exchange": "unknown", "routing_key": "key", "exchange_type": "topic"}, "topic"),
    ]:
        destination = router.route(options, "t").destination
        assert (destination.exchange, destination.exchange_type) == (options["exchange"], kind)
        assert destination.queue is None


def test_an_exchange_of_a_queues_own_name_needs_no_looking_up():
    router = _router(queues=[Queue("a", Exchange("a"), "a"), Queue("b", Exchange("b"), "b")])
    assert _target(router, exchange="a", routing_key="a") == ("a", "a", "a")
    router.queues.add(Queue("copy", Exchange("b"), "b"))
    assert _target(router, exchange="b", routing_key="b") == ("b", "b", None)


def test_the_table_knows_the_bindings_of_its_queues():
    more = [binding(Exchange("x"), "two"), binding(None, "nothing")]
    table = QueueTable([Queue("q", Exchange("x"), "one", bindings=more)], default_exchange=Exchange("d"))
    assert set(table.bindings()) == {Binding("q", "x", "direct", "one"), Binding("q", "x", "direct", "two")}
    table.add(Queue("late", Exchange("x", "topic"), "#"))
    assert table.bindings_to("x")[-1] == Binding("late", "x", "topic", "#")
    _ = table["missing"]
    assert table.bindings_to("missing") == (Binding("missing", "missing", "direct", "missing"),)
    assert table.bindings_to("nowhere") == ()


def test_delivery_mode():
    queues = [Queue("fleeting", Exchange("e", delivery_mode="transient"), "k")]
    router = _router(queues=queues)
    assert router.route({"queue": "fleeting"}, "t").delivery_mode == 1
    assert router.route({"queue": "other"}, "t").delivery_mode == 2
    assert router.route({"queue": "fleeting", "delivery_mode": 2}, "t").delivery_mode == 2


def test_missing_queues_can_be_refused():
    router = _router(create_missing=False)
    with pytest.raises(QueueNotFound, match="'nope'"):
        router.route({"queue": "nope"}, "t")


def test_queue_tables():
    table = QueueTable(
        {
            "a": {"exchange": "ea", "exchange_type": "topic", "binding_key": "a.#"},
            "b": {"queue_arguments": {"x": 1}},
        },
        default_exchange=Exchange("celery"),
        max_priority=9,
    )
    assert (table["a"].exchange.name, table["a"].exchange.type, table["a"].routing_key) == (
        "ea",
        "topic",
        "a.#",
    )
    assert (table["b"].exchange.name, table["b"].routing_key) == ("celery", "b")
    assert table["b"].queue_arguments == {"x-max-priority": 9, "x": 1}
    with pytest.raises(ImproperlyConfigured, match="unknown options \\['nonsense'\\]"):
        table.add("c", nonsense=1)
    with pytest.raises(ImproperlyConfigured, match="expected a Queue"):
        table.add(3)


def test_kombus_own_objects_are_taken():
    class KombuExchange:
        name, type, delivery_mode = "ke", "topic", None

    class KombuQueue:
        name, exchange, routing_key, alias, queue_arguments = "kq", KombuExchange(), "k.#", "short", None

    router = _router(queues=[KombuQueue()])
    assert _target(router, queue="short") == ("ke", "k.#", None)
    assert _target(router, queue=KombuQueue()) == ("ke", "k.#", None)


def test_quorum_queues_on_demand():
    table = QueueTable(missing_type="quorum", missing_exchange_type="topic")
    assert table["q"].queue_arguments == {"x-queue-type": "quorum"}
    assert table["q"].exchange.type == "topic"
    with pytest.raises(ImproperlyConfigured, match="'classic' or 'quorum'"):
        QueueTable(missing_type="other")["q"]


def test_choosing_what_to_consume():
    table = QueueTable([Queue("a"), Queue("b")])
    assert list(table.consume_from) == ["a", "b"]
    table.deselect("b")
    assert list(table.consume_from) == ["a"]
    table.select(["c", "a"])
    table.select_add("d")
    assert list(table.consume_from) == ["c", "a", "d"]
