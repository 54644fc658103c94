"""Remote control: whom orders are for, what is remembered of revoked ids, and what strangers may send."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.app_support import make_app
from umbel.brokers.base import Disposition
from umbel.core.destination import Destination
from umbel.core.pidbox import is_for, read_control, write_control
from umbel.core.records import Publication
from umbel.core.stamps import read_stamps, write_stamps
from umbel.errors import ContentDisallowed, DecodeError
from umbel.lamport import LogicalClock
from umbel.testing.contracts.support import eventually
from umbel.worker.commands import COMMANDS, CommandInfo
from umbel.worker.commands.revoking import signal_number
from umbel.worker.control import ControlListener
from umbel.worker.link import ConnectionPolicy
from umbel.worker.revoked import RevokedIds, RevokedStamps


class TestWhomItIsFor:
    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            ({}, True),
            ({"destination": None, "pattern": None, "matcher": None}, True),
            ({"destination": []}, True),
            ({"destination": ["w1@host"]}, True),
            ({"destination": ["w2@host", "w3@host"]}, False),
            ({"destination": "w1@host"}, True),
            ({"destination": "w1@host and more"}, False),
            ({"destination": ["w2@host"], "pattern": "*", "matcher": "glob"}, False),
            ({"pattern": "w1*", "matcher": "glob"}, True),
            ({"pattern": "w2*", "matcher": "glob"}, False),
            ({"pattern": r"w\d@", "matcher": "pcre"}, True),
            ({"pattern": r"host", "matcher": "pcre"}, False),
            ({"pattern": "w2*"}, True),
        ],
    )
    def test_names_and_patterns(self, body: dict[str, Any], expected: bool) -> None:
        assert is_for("w1@host", body) is expected

    @pytest.mark.parametrize(("pattern", "matcher"), [("w1", "sql"), ("(", "pcre")])
    def test_what_cannot_be_matched_is_an_error(self, pattern: str, matcher: str) -> None:
        with pytest.raises(ValueError, match=r"matcher|pattern"):
            is_for("w1@host", {"pattern": pattern, "matcher": matcher})


class TestSignals:
    @pytest.mark.parametrize(
        ("given_as", "expected"),
        [
            (None, 15),
            ("", 15),
            ("TERM", 15),
            ("SIGTERM", 15),
            ("kill", 9),
            (9, 9),
            ("9", 9),
            ("SIGUSR1", signal.SIGUSR1),
        ],
    )
    def test_names_and_numbers(self, given_as: object, expected: int) -> None:
        assert signal_number(given_as) == expected

    @pytest.mark.parametrize("given_as", ["SIGNOTHING", 4711, -1, "0", [1], "1e3"])
    def test_others_are_refused(self, given_as: object) -> None:
        with pytest.raises(ValueError, match="name or number of a signal"):
            signal_number(given_as)


class TestRevokedIds:
    @given(
        st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 4)), max_size=60), st.integers(1, 6)
    )
    def test_it_is_a_set_of_the_newest(self, steps: list[tuple[str, int]], most: int) -> None:
        clock = 0.0
        ids = RevokedIds(most, 10.0, lambda: clock)
        model: dict[str, float] = {}
        for task_id, pause in steps:
            clock += pause
            ids.add(task_id)
            model.pop(task_id, None)
            model[task_id] = clock
            model = dict(list({k: at for k, at in model.items() if clock - at < 10.0}.items())[-most:])
            assert list(ids) == list(model)
        assert len(ids) == len(model)
        assert all(task_id in ids for task_id in model)

    def test_many_at_once_are_bounded(self) -> None:
        ids = RevokedIds(100)
        ids.update(str(number) for number in range(10_000))
        assert list(ids) == [str(number) for number in range(9_900, 10_000)]

    def test_the_bounds_are_celerys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CELERY_WORKER_REVOKES_MAX", "2")
        ids = RevokedIds.of_process()
        ids.clear()
        ids.update("abc")
        assert list(ids) == ["b", "c"]
        ids.discard("b")
        ids.discard("z")
        assert list(ids) == ["c"]

    def test_programs_see_the_ids_of_the_workers_of_their_process(self) -> None:
        from umbel.compat.celery.worker import state

        before = time.monotonic()
        ids = RevokedIds.of_process()
        ids.update(["told to the worker"])
        assert "told to the worker" in state.revoked
        assert before <= state.revoked.as_dict()["told to the worker"] <= time.monotonic()
        state.revoked.add("told by the program")
        assert "told by the program" in ids
        state.revoked.clear()
        assert not list(ids)

    def test_what_is_kept_for_longer_is_remembered_for_longer(self) -> None:
        now = [0.0]
        ids = RevokedIds(expires=100, now=lambda: now[0])
        ids.update(["long"], 1000)
        ids.recall({"recalled": 500.0})
        for at, left in ((101.0, {"long", "recalled"}), (501.0, {"long"}), (1001.0, set())):
            now[0] = at
            ids.purge()
            assert set(ids) == left

    def test_the_table_stays_the_same(self) -> None:
        ids = RevokedIds(2)
        table = ids.table
        ids.update("abc")
        assert table is ids.table
        assert "a" not in table


class TestStamps:
    def test_what_is_kept_for_a_time_is_forgotten_and_the_rest_is_not(self) -> None:
        now = [0.0]
        stamps = RevokedStamps(now=lambda: now[0])
        try:
            stamps.add({"customer": ["x"]})
            stamps.add({"customer": ["y"], "order": [1]}, kept=10)
            stamps.recall(dict.fromkeys(write_stamps({"customer": ["x"], "order": [2]}), 5.0))
            assert stamps.table == {"customer": ["x", "y"], "order": [1, 2]}
            now[0] = 5.0
            stamps.add({"customer": ["z"]}, kept=1)
            assert stamps.table == {"customer": ["x", "y", "z"], "order": [1]}
            now[0] = 10.0
            stamps.add({})
            assert stamps.table == {"customer": ["x"]}
            assert stamps.matching({"customer": ["x", "y"], "order": 1}) == {"customer": ["x"]}
        finally:
            stamps.table.clear()

    def test_what_is_nothing_for_json_is_told_and_left_out(self, caplog: pytest.LogCaptureFixture) -> None:
        assert read_stamps(write_stamps({"a": [1, object()], "b": ["ß"]})) == {"a": [1], "b": ["ß"]}
        assert read_stamps(["[]", "7", "garbage"]) == {}
        assert caplog.text.count("is revoked") == 1
        assert caplog.text.count("A revoked stamp cannot be read") == 3


class Worker:
    """What a command sees of a worker, as far as these tests go."""

    def __init__(self) -> None:
        self.hostname = "w1@host"
        self.clock = LogicalClock()
        self.stopped = 0

    def shut_down(self) -> None:
        self.stopped += 1


class Outbox:
    def __init__(self) -> None:
        self.sent: list[Publication] = []

    def add(self, disposition: Disposition) -> None:
        assert disposition.unheld
        self.sent += disposition.publish


class Listening:
    """A listener on the memory broker, with commands of its own beside the real ones."""

    def __init__(self) -> None:
        self.app = make_app()
        self.worker, self.outbox, self.told = Worker(), Outbox(), []
        self.subscription = self.app.broker.subscriber("celery.pidbox")
        self.listener = ControlListener(
            subscription=self.subscription,
            commander=self.worker,  # type: ignore[arg-type]
            commands={
                **COMMANDS,
                "note": CommandInfo("note", "control", self.note, builtin=True),
                "break": CommandInfo("break", "control", self.break_, builtin=True),
                "own": CommandInfo("own", "inspect", self.own),
            },
            broker=self.app.broker,
            settlement=self.outbox,  # type: ignore[arg-type]
            policy=ConnectionPolicy(on_startup=True, later=True, max_retries=None),
            accept=self.app.accept,
            serializer="json",
        )

    async def note(self, worker: Worker, **arguments: Any) -> dict[str, Any]:
        self.told.append(arguments)
        return {"ok": len(self.told)}

    def own(self, worker: Worker, **arguments: Any) -> dict[str, Any]:
        return {"ok": threading.current_thread() is threading.main_thread()}

    async def break_(self, worker: Worker) -> None:
        raise LookupError("broken")

    async def hear(self, method: Any, arguments: Any = None, **body: Any) -> None:
        await self.listener.hear(self.pack({"method": method, "arguments": arguments, **body}))

    def pack(self, body: Any, serializer: str = "json", **headers: Any) -> bytes:
        envelope = write_control(body, headers, serializer, delivery_mode=2)
        return self.app.broker.pack(envelope, Destination("celery.pidbox", "", None, "fanout"))

    def answers(self) -> list[tuple[Destination, dict[str, Any], dict[str, Any]]]:
        return [(sent.destination, *read_control(sent.payload, self.app.accept)) for sent in self.outbox.sent]


@pytest_asyncio.fixture
async def listening() -> AsyncIterator[Listening]:
    found = Listening()
    yield found
    await found.listener.close()
    found.app.close()


class TestListener:
    async def test_it_hears_what_the_application_sends(self, listening: Listening) -> None:
        await listening.listener.open()
        running = asyncio.create_task(listening.listener.run())
        listening.app.control.broadcast("note", {"a": 1}, b=2)
        listening.app.control.broadcast("note", {"not": "for us"}, destination=["w2@host"])
        listening.app.control.broadcast("note", {"last": True}, pattern="w?@*", matcher="glob")
        await eventually(lambda: len(listening.told) == 2)
        assert listening.told == [{"a": 1, "b": 2}, {"last": True}]
        running.cancel()

    async def test_a_lost_subscription_is_opened_again(self, listening: Listening) -> None:
        running = asyncio.create_task(listening.listener.run())
        for number in range(3):
            await eventually(lambda: listening.listener.listener.listens)
            await asyncio.sleep(0)
            listening.app.control.broadcast("note")
            await eventually(lambda: len(listening.told) == number + 1)  # noqa: B023 - waited for at once
            await listening.subscription.close()
            await eventually(lambda: not listening.listener.listener.listens)
        running.cancel()

    async def test_a_ping_is_answered_where_the_caller_says(self, listening: Listening) -> None:
        reply_to = {"exchange": "reply.celery.pidbox", "routing_key": "oid", "type": "fanout"}
        await listening.hear("ping", {}, ticket="t-1", reply_to=reply_to)
        await listening.hear("ping")
        [(to, headers, body)] = listening.answers()
        assert (to.exchange, to.routing_key, to.queue) == ("reply.celery.pidbox", "oid", None)
        assert headers["ticket"] == "t-1"
        assert body == {"w1@host": {"ok": "pong"}}

    async def test_settings_name_every_module_that_tasks_came_from(self, listening: Listening) -> None:
        @listening.app.task(name="made.here")
        def made() -> None: ...

        listening.app.conf.include = ["asked.for"]
        listening.worker.app = listening.app  # type: ignore[attr-defined]
        told = await COMMANDS["conf"].run(listening.worker)
        assert {"asked.for", __name__, "umbel.app.builtins"} <= set(told["include"])

    @pytest.mark.parametrize(
        "reply_to",
        [
            "oid",
            {},
            {"exchange": "x"},
            {"exchange": 1, "routing_key": "k"},
            {"exchange": "x", "routing_key": "k"},
            {"exchange": "x", "routing_key": "k", "type": "headers"},
            {"exchange": "x", "routing_key": "k", "type": ["fanout"]},
        ],
    )
    async def test_where_no_answer_can_go_none_is_sent(self, listening: Listening, reply_to: Any) -> None:
        # memory:// has no direct subscriptions: trying again for ever would help nobody.
        await listening.hear("ping", reply_to=reply_to)
        assert listening.outbox.sent == []

    async def test_an_applications_own_command_does_not_run_in_the_loop(self, listening: Listening) -> None:
        await listening.hear("own", reply_to={"exchange": "r", "routing_key": "k", "type": "fanout"})
        [(_, _, body)] = listening.answers()
        assert body == {"w1@host": {"ok": False}}

    async def test_shutdown(self, listening: Listening, caplog: pytest.LogCaptureFixture) -> None:
        await listening.hear("shutdown")
        assert listening.worker.stopped == 1
        assert "Got shutdown from remote" in caplog.text

    @pytest.mark.parametrize("method", ["dance", None, 7, ["ping"]])
    async def test_unknown_orders_are_logged_and_ignored(
        self, listening: Listening, caplog: pytest.LogCaptureFixture, method: Any
    ) -> None:
        await listening.hear(method, reply_to={"exchange": "x", "routing_key": "k", "type": "fanout"})
        assert f"No such control command: {method!r}" in caplog.text
        assert listening.outbox.sent == []

    @pytest.mark.parametrize(
        ("method", "arguments"), [("break", {}), ("break", {"wrong": 1}), ("revoke", {}), ("note", 5)]
    )
    async def test_a_command_that_fails_tells_its_caller(
        self, listening: Listening, caplog: pytest.LogCaptureFixture, method: str, arguments: Any
    ) -> None:
        reply_to = {"exchange": "r", "routing_key": "k", "type": "fanout"}
        await listening.hear(method, arguments, reply_to=reply_to)
        assert "Control command error: " in caplog.text
        [(_, _, body)] = listening.answers()
        assert set(body["w1@host"]) == {"error"}

    async def test_garbage_is_logged_once(
        self, listening: Listening, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        hostile = listening.pack({"method": "note", "arguments": {}}, "pickle")
        for payload in (b"", b"\xff" * 40, os.urandom(100), b"{}", hostile, listening.pack({"pattern": "("})):
            await listening.listener.hear(payload)
        await listening.listener.hear(listening.pack({"pattern": "(", "matcher": "pcre", "method": "note"}))
        assert caplog.text.count("Cannot decode control message") == 1
        assert listening.told == []
        await listening.hear("note")
        assert listening.told == [{}]

    @given(st.binary(max_size=200))
    def test_reading_raises_nothing_else(self, payload: bytes) -> None:
        with contextlib.suppress(DecodeError, ContentDisallowed):
            read_control(payload, frozenset({"application/json"}))

    async def test_clocks_go_forward(self, listening: Listening) -> None:
        body = {
            "method": "ping",
            "ticket": "t",
            "reply_to": {"exchange": "r", "routing_key": "k", "type": "fanout"},
        }
        for clock in (41, 7, "strange"):
            await listening.listener.hear(listening.pack(body, clock=clock))
        assert [headers["clock"] for _, headers, _ in listening.answers()] == [42, 43, 44]
