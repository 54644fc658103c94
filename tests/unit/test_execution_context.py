"""``self.request`` and the stack of running attempts."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.execution_fakes import FakeTask, payload_of
from umbel.core.message import Embed
from umbel.core.protocol import decode_body, read_envelope
from umbel.execution.context import (
    Context,
    context_of,
    current,
    current_task,
    current_worker_task,
    depth_of,
    message_context,
    pop,
    push,
)

NOTHING: Embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def received(redelivered: bool = False, **call: Any) -> Context:
    envelope = read_envelope(payload_of("app.add", 1, 2, **call))
    args, kwargs, embed = decode_body(envelope, frozenset({"application/json"}))
    return message_context(
        envelope.headers, envelope.properties, args, kwargs, embed, "w@h", "held", redelivered
    )


class TestFields:
    def test_the_message_is_in_it(self) -> None:
        request = received(
            task_id="t", root_id="r", parent_id="p", group_id="g", group_index=2, retries=1, time_limit=30,
            soft_time_limit=20, reply_to="oid", shadow="s", origin="gen1@h", priority=4,
            chain=[{"task": "x", "args": []}],
        )  # fmt: skip
        assert (request.id, request.task, list(request.args), request.kwargs) == ("t", "app.add", [1, 2], {})
        assert (request.root_id, request.parent_id, request.group, request.group_index) == ("r", "p", "g", 2)
        assert (request.timelimit, request.time_limit, request.soft_time_limit) == ([30, 20], 30, 20)
        assert (request.retries, request.shadow, request.origin, request.hostname) == (
            1,
            "s",
            "gen1@h",
            "w@h",
        )
        assert (request.correlation_id, request.reply_to) == ("t", "oid")
        assert (request.called_directly, request.is_eager) == (False, False)
        assert request.chain == [{"task": "x", "args": []}]
        assert request.delivery_info == {
            "exchange": "", "routing_key": "celery", "priority": 4, "redelivered": False
        }  # fmt: skip
        assert received(redelivered=True).delivery_info["redelivered"] is True

    def test_custom_headers_are_attributes_and_in_headers(self) -> None:
        request = received(custom_headers={"tenant": "acme", "x-death": [1]})
        assert request.tenant == "acme"
        assert request.headers == {"tenant": "acme", "x-death": [1]}
        assert request.as_execution_options()["headers"] == {"tenant": "acme"}
        assert received().headers is None

    def test_a_message_that_does_not_say_its_way_came_from_the_deliverys_queue(self) -> None:
        request = message_context({"id": "t"}, {}, (), {}, NOTHING, "w@h", "held", redelivered=False)
        assert request.delivery_info == {
            "exchange": "", "routing_key": "held", "priority": None, "redelivered": False
        }  # fmt: skip
        assert request.headers is None

    def test_defaults_are_those_of_a_direct_call(self) -> None:
        request = Context()
        assert (request.id, request.called_directly, request.retries, request.delivery_info) == (
            None,
            True,
            0,
            None,
        )
        assert request.get("nothing", 5) == 5
        assert request.get("retries") == 0
        with pytest.raises(AttributeError):
            request.nothing  # noqa: B018

    def test_children_are_each_requests_own(self) -> None:
        one, other = Context(), Context()
        one.children.append(1)
        assert (one.children, other.children) == ([1], [])

    def test_update_and_clear(self) -> None:
        request = Context({"id": "a"}, task="t")
        request.update({"timelimit": [3, 2]}, retries=5)
        assert (request.time_limit, request.soft_time_limit, request.retries) == (3, 2, 5)
        request.update(timelimit=None)
        assert (request.time_limit, request.soft_time_limit) == (None, None)
        request.clear()
        assert (request.id, request.retries) == (None, 0)
        assert repr(Context(id="a")) == "<Context: {'id': 'a'}>"

    def test_stamps_travel_with_a_retry(self) -> None:
        request = received(stamped_headers=["mon"], stamps={"mon": "abc", "stray": 1})
        options = request.as_execution_options()
        assert (options["stamped_headers"], options["mon"]) == (["mon"], "abc")
        assert "stray" not in options

    @given(st.dictionaries(st.text(min_size=1), st.none() | st.integers() | st.text()))
    def test_no_header_breaks_it(self, headers: dict[str, Any]) -> None:
        request = message_context(dict(headers), {}, (), {}, NOTHING, "w@h", "q", redelivered=False)
        assert isinstance(request.as_execution_options(), dict)
        assert request.hostname == "w@h"


class TestStack:
    def test_each_task_finds_its_own_request(self) -> None:
        outer, inner = FakeTask(object, name="outer"), FakeTask(object, name="inner")
        first, second, direct = Context(id="1", called_directly=False), Context(id="2"), Context(id="3")
        push(outer, first)
        push(inner, second)
        push(outer, direct)
        assert (current(), current_task()) == (direct, outer)
        assert (context_of(outer), context_of(inner), depth_of(outer)) == (direct, second, 2)
        assert current_worker_task() is outer
        assert (pop(), pop(), pop(), pop()) == (direct, second, first, None)
        assert (current(), current_task(), current_worker_task(), context_of(outer)) == (
            None,
            None,
            None,
            None,
        )

    def test_threads_have_stacks_of_their_own(self) -> None:
        task, seen = FakeTask(object), []
        push(task, Context(id="1"))
        try:
            thread = threading.Thread(target=lambda: seen.append(current()))
            thread.start()
            thread.join()
        finally:
            pop()
        assert seen == [None]
