"""One attempt, from its payload to its report: order of hooks, endings, and what never kills a worker."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from traceback import extract_tb
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.execution_fakes import FakeApp, FakeBackend, FakeTask, payload_of, signature_of, work_of
from umbel import signals
from umbel.core.json_types import loads_json
from umbel.core.outcome import Failed, Succeeded
from umbel.core.protocol import peek, read_envelope
from umbel.core.repeats import REPEATED, mark_repeated
from umbel.errors import Ignore, Reject, Retry, SoftTimeLimitExceeded
from umbel.execution.context import Context, context_of, current, current_task, current_worker_task
from umbel.execution.run import run_task
from umbel.execution.runner import Runner
from umbel.pools.base import Report, Work
from umbel.results.documents import read_document
from umbel.results.waiting import task_join_will_block

TRACE = "celery.app.trace"


@pytest.fixture
def hear() -> Iterator[Callable[..., list[tuple[str, dict[str, Any]]]]]:
    """Connect to signals by name; gives the list of what they said."""
    heard: list[tuple[str, dict[str, Any]]] = []
    connected: list[tuple[signals.Signal, Callable[..., Any]]] = []

    def listen(*names: str) -> list[tuple[str, dict[str, Any]]]:
        for name in names:
            signal = getattr(signals, name)

            def receive(_name: str = name, **said: Any) -> None:
                heard.append((_name, said))

            signal.connect(receive, weak=False)
            connected.append((signal, receive))
        return heard

    yield listen
    for signal, receiver in connected:
        signal.disconnect(receiver)


def raising(error: BaseException) -> Callable[..., Any]:
    def body(*args: Any, **kwargs: Any) -> Any:
        raise error

    return body


def run(task: FakeTask, *args: Any, app: FakeApp | None = None, **call: Any) -> Report:
    app = app or FakeApp(task)
    return Runner(app, "w@here").run(work_of(task.name, *args, **call))


def stored(report: Report) -> dict[str, Any]:
    assert report.result is not None
    return read_document(report.result.document)


class TestSuccess:
    def test_the_result_is_stored_and_the_delivery_acknowledged(self) -> None:
        report = run(FakeTask(lambda x, y: x + y), 1, 2)
        assert (report.seq, report.state, report.action, report.publish) == (7, "SUCCESS", "ack", [])
        assert stored(report)["result"] == 3
        assert report.runtime > 0

    def test_signals_and_handlers_are_told_in_celerys_order(self, hear: Any) -> None:
        heard = hear("task_prerun", "task_success", "task_postrun")
        task = FakeTask(lambda x: x * 2).listen()
        order: list[str] = []
        for name in ("before_start", "on_success", "after_return"):
            setattr(task, name, lambda *_, _name=name: order.append(f"{_name} after {len(heard)}"))
        run(task, 4)
        assert [name for name, _ in heard] == ["task_prerun", "task_success", "task_postrun"]
        assert order == ["before_start after 1", "on_success after 1", "after_return after 2"]
        said = heard[-1][1]
        assert (said["task_id"], said["retval"], said["state"]) == ("id-1", 8, "SUCCESS")

    def test_the_request_is_current_until_the_last_signal(self, hear: Any) -> None:
        seen: list[Any] = []

        def body() -> None:
            seen.append((current_task(), context_of(task), current_worker_task()))

        def at_the_end(**_: Any) -> None:
            seen.append(current())

        task = FakeTask(body)
        signals.task_postrun.connect(at_the_end, weak=False)
        try:
            run(task)
        finally:
            signals.task_postrun.disconnect(at_the_end)
        assert seen[0][0] is task
        assert seen[0][2] is task
        assert seen[0][1] is seen[1]
        assert current() is None

    def test_an_ignored_result_is_not_stored(self) -> None:
        assert run(FakeTask(object), ignore_result=True).result is None
        assert run(FakeTask(lambda: 1), ignore_result=False).result is not None

    def test_the_message_decides_over_the_task_about_its_result(self) -> None:
        assert run(FakeTask(lambda: 1, ignore_result=True), ignore_result=False).result is not None

    def test_nothing_is_written_for_a_disabled_backend(self) -> None:
        task = FakeTask(object)
        report = run(task, app=FakeApp(task, backend=FakeBackend(stores_results=False)))
        assert (report.state, report.result) == ("SUCCESS", None)

    def test_an_overridden_call_is_called(self) -> None:
        class Special(FakeTask):
            custom_call = True

            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                return ("around", self.run(*args, **kwargs))

        assert stored(run(Special(lambda: 1)))["result"] == ["around", 1]

    def test_few_frames_of_ours_stand_above_the_body(self) -> None:
        names: list[str] = []

        def body() -> None:
            frame = inspect.currentframe()
            while frame is not None:
                names.append(str(frame.f_globals.get("__name__")))
                frame = frame.f_back

        run(FakeTask(body))
        assert sum(name.startswith("umbel.") for name in names) <= 8

    def test_started_is_stored_at_once_when_the_task_asks(self) -> None:
        app = FakeApp()

        def body() -> str:
            return read_document(app.backend.documents["id-1"])["status"]

        task = FakeTask(body, track_started=True)
        app.tasks[task.name] = task
        report = run(task, app=app)
        assert stored(report)["result"] == "STARTED"
        document = loads_json(app.backend.saved[0].document)
        assert document["result"]["hostname"] == "w@here"
        assert document["date_done"] is None

    def test_extended_documents_say_what_was_called(self) -> None:
        task = FakeTask(lambda x: x, name="fakes.extended")
        report = run(task, 1, app=FakeApp(task, result_extended=True), parent_id="p", group_id="g")
        assert list(loads_json(report.result.document)) == [
            "status", "result", "traceback", "children", "date_done", "group_id", "parent_id",
            "name", "args", "kwargs", "worker", "retries", "queue", "task_id",
        ]  # fmt: skip
        assert loads_json(report.result.document)["queue"] == "celery"


class TestFailure:
    def test_the_exception_is_stored_and_the_message_acknowledged(self) -> None:
        report = run(FakeTask(raising(ValueError("boom", 3))))
        assert (report.state, report.action) == ("FAILURE", "ack")
        assert report.error == "ValueError('boom', 3)"
        document = stored(report)
        assert isinstance(document["result"], ValueError)
        assert document["result"].args == ("boom", 3)
        assert "raising" not in document["traceback"]
        assert document["traceback"].startswith("Traceback (most recent call last):")

    def test_the_traceback_begins_with_the_tasks_own_function(self) -> None:
        report = run(FakeTask(raising(KeyError("k"))))
        assert "umbel/execution" not in stored(report)["traceback"]

    def test_wrong_arguments_are_a_failure(self) -> None:
        report = run(FakeTask(lambda x: x), 1, 2, 3)
        assert isinstance(stored(report)["result"], TypeError)

    def test_handlers_and_signals_are_told_in_celerys_order(self, hear: Any) -> None:
        heard = hear("task_failure", "task_postrun")
        task = FakeTask(raising(ValueError("no"))).listen()
        run(task)
        assert [told[0] for told in task.told] == ["before_start", "on_failure", "after_return"]
        einfo = task.told[1][2]
        assert (einfo.type, str(einfo), einfo.traceback) == (ValueError, einfo.traceback, einfo.traceback)
        assert task.told[2][1] == "FAILURE"
        assert [name for name, _ in heard] == ["task_failure", "task_postrun"]
        assert isinstance(heard[0][1]["exception"], ValueError)

    @pytest.mark.parametrize("error", [ValueError("no"), Retry("again")], ids=["failed", "retried"])
    def test_who_is_told_of_an_error_finds_it_in_hand(self, error: BaseException) -> None:
        """As in an ``except`` block: trackers such as Elastic APM take what ``sys.exc_info()`` gives."""
        found: list[tuple[BaseException | None, list[str]]] = []

        def receive(*_: Any, **__: Any) -> None:
            found.append((sys.exc_info()[1], [frame.name for frame in extract_tb(sys.exc_info()[2])]))

        task = FakeTask(raising(error)).listen()
        task.on_failure = task.on_retry = receive  # type: ignore[method-assign]
        signals.task_failure.connect(receive, weak=False)
        signals.task_retry.connect(receive, weak=False)
        try:
            run(task)
        finally:
            signals.task_failure.disconnect(receive)
            signals.task_retry.disconnect(receive)
        assert found == [(error, ["body"])] * 2
        assert sys.exc_info()[1] is None

    def test_telling_of_an_error_leaves_it_as_it_was(self) -> None:
        def body() -> None:
            try:
                raise KeyError("first")
            except KeyError:
                raise ValueError("second")  # noqa: B904 -- the context is what is looked at

        try:
            raise RuntimeError("around an eager call")
        except RuntimeError:
            outcome = run_task(FakeTask(body), Context(id="e", is_eager=True), (), {}, _Silent())
        assert isinstance(outcome, Failed)
        error = outcome.error
        assert isinstance(error.__context__, KeyError)
        assert [frame.name for frame in extract_tb(error.__traceback__)] == ["body"]

    def test_an_error_in_before_start_fails_the_task(self) -> None:
        task = FakeTask(object).listen()
        task.before_start = raising(RuntimeError("not yet"))  # type: ignore[method-assign]
        assert isinstance(stored(run(task))["result"], RuntimeError)

    @pytest.mark.parametrize("handler", ["on_success", "after_return"])
    def test_an_error_in_a_handler_changes_nothing(
        self, handler: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        task = FakeTask(lambda: 5).listen()
        setattr(task, handler, raising(RuntimeError("handler")))
        with caplog.at_level(logging.ERROR, TRACE):
            assert stored(run(task))["result"] == 5
        assert f"fakes.task[id-1] {handler} handler raised" in caplog.text

    def test_an_error_in_on_failure_changes_nothing(self) -> None:
        task = FakeTask(raising(ValueError("first"))).listen()
        task.on_failure = raising(RuntimeError("second"))  # type: ignore[method-assign]
        assert isinstance(stored(run(task))["result"], ValueError)

    def test_a_receiver_that_raises_changes_nothing(self) -> None:
        def receive(**_: Any) -> None:
            raise RuntimeError("receiver")

        for signal in (signals.task_prerun, signals.task_success, signals.task_postrun):
            signal.connect(receive, weak=False)
        try:
            assert run(FakeTask(object), ignore_result=True).state == "SUCCESS"
        finally:
            for signal in (signals.task_prerun, signals.task_success, signals.task_postrun):
                signal.disconnect(receive)

    def test_a_refusal_by_a_handler_refuses_the_message(self) -> None:
        task = FakeTask(lambda: 5).listen()
        task.on_success = raising(Reject("later", requeue=True))  # type: ignore[method-assign]
        report = run(task)
        assert (report.state, report.action, report.reason) == ("SUCCESS", "requeue", "later")

    def test_a_result_that_cannot_be_written_is_a_failure_that_says_so(self) -> None:
        task = FakeTask(object).listen()
        report = run(task)
        assert report.state == "FAILURE"
        document = loads_json(report.result.document)
        assert (document["result"]["exc_type"], document["result"]["exc_module"]) == (
            "EncodeError",
            "kombu.exceptions",
        )
        assert "object" in document["result"]["exc_message"][0]
        assert [told[0] for told in task.told] == ["before_start", "on_failure", "after_return"]

    def test_arguments_of_an_exception_that_cannot_be_written_are_shown(self) -> None:
        marker = object()
        report = run(FakeTask(raising(ValueError(marker))))
        assert stored(report)["result"].args == (repr(marker),)

    def test_an_exception_that_cannot_even_be_shown_is_stored(self) -> None:
        class Sly(Exception):
            def __repr__(self) -> str:
                raise RuntimeError("not me")

            __str__ = __repr__

        report = run(FakeTask(raising(Sly("x"))))
        assert loads_json(report.result.document)["result"]["exc_type"].endswith("Sly")

    @pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit(), MemoryError("all of it")])
    def test_no_other_exception_ends_the_process(self, error: BaseException) -> None:
        assert run(FakeTask(raising(error))).state == "FAILURE"

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
    def test_an_exit_is_the_processs_affair(self, error: BaseException, hear: Any) -> None:
        heard = hear("task_postrun")
        with pytest.raises(type(error)):
            run(FakeTask(raising(error)))
        assert (heard[0][1]["state"], heard[0][1]["retval"]) == (None, None)
        assert current() is None

    def test_an_expected_error_is_logged_without_its_traceback(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO, TRACE):
            run(FakeTask(raising(KeyError("gone")), throws=(KeyError,)))
        record = caplog.records[-1]
        assert record.getMessage() == "Task fakes.task[id-1] raised expected: KeyError('gone')"
        assert (record.levelno, record.exc_info) == (logging.INFO, None)

    def test_errors_of_an_ignored_task_are_stored_where_asked(self) -> None:
        quiet = FakeTask(raising(ValueError("x")), ignore_result=True)
        loud = FakeTask(raising(ValueError("x")), ignore_result=True, store_errors_even_if_ignored=True)
        assert run(quiet, ignore_result=True).result is None
        assert run(loud, ignore_result=True).result is not None

    @pytest.mark.parametrize(
        ("options", "action"),
        [
            ({}, "ack"),
            ({"acks_late": True}, "ack"),
            ({"acks_late": True, "acks_on_failure": False}, "dead_letter"),
            ({"acks_late": True, "acks_on_failure_or_timeout": False}, "dead_letter"),
            ({"acks_late": False, "acks_on_failure": False}, "ack"),
        ],
    )
    def test_how_the_delivery_ends(self, options: dict[str, Any], action: str) -> None:
        assert run(FakeTask(raising(ValueError("x")), **options)).action == action

    def test_the_steps_of_a_chain_that_will_not_run_fail_too(self) -> None:
        chain = [signature_of("fakes.task", task_id="last"), signature_of("fakes.task", task_id="next")]
        report = run(FakeTask(raising(ValueError("x"))), chain=chain)
        assert {record.task_id for record in report.followers} == {"last", "next"}
        assert all(
            isinstance(read_document(record.document)["result"], ValueError) for record in report.followers
        )

    def test_failures_leave_nothing_behind(self) -> None:
        def body() -> None:
            try:
                int("x")
            except ValueError as error:
                raise KeyError("chained") from error

        task = FakeTask(body)
        runner = Runner(FakeApp(task), "w@here")
        work = work_of(task.name)
        logging.getLogger(TRACE).disabled = True
        try:
            for _ in range(20):
                runner.run(work)
            gc.collect()
            gc.disable()
            before = len(gc.get_objects())
            for _ in range(500):
                runner.run(work)
            assert len(gc.get_objects()) - before < 100
        finally:
            gc.enable()
            logging.getLogger(TRACE).disabled = False


class TestPredicates:
    def test_ignore_stores_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        task = FakeTask(raising(Ignore())).listen()
        with caplog.at_level(logging.INFO, TRACE):
            report = run(task)
        assert (report.state, report.action, report.result) == ("IGNORED", "ack", None)
        assert caplog.records[-1].getMessage() == "Task fakes.task[id-1] ignored"
        assert [told[0] for told in task.told] == ["before_start"]

    def test_reject_dead_letters_and_stores_a_failure(self, caplog: pytest.LogCaptureFixture) -> None:
        report = run(FakeTask(raising(Reject("bad")), acks_late=True))
        assert (report.state, report.action, report.reason) == ("REJECTED", "dead_letter", "bad")
        assert loads_json(report.result.document)["result"] == {
            "exc_type": "Reject", "exc_message": ["bad", False], "exc_module": "celery.exceptions"
        }  # fmt: skip
        assert caplog.records[-1].getMessage() == "Task fakes.task[id-1] reject requeue=False: bad"
        assert caplog.records[-1].levelno == logging.WARNING

    def test_reject_with_requeue_puts_the_message_back(self) -> None:
        report = run(FakeTask(raising(Reject("busy", requeue=True)), acks_late=True))
        assert (report.state, report.action, report.result) == ("REJECTED", "requeue", None)

    def test_what_was_acknowledged_early_cannot_be_refused(self) -> None:
        assert run(FakeTask(raising(Reject("busy", requeue=True)))).action == "ack"

    def test_retry_makes_the_next_attempt(self, hear: Any, caplog: pytest.LogCaptureFixture) -> None:
        heard = hear("task_retry")
        eta = "2040-01-01T00:00:00+00:00"
        again = signature_of("fakes.task", 1, task_id="id-1", retries=1, eta=eta)
        error = Retry(exc=KeyError("why"), when=3, sig=again)
        task = FakeTask(raising(error)).listen()
        with caplog.at_level(logging.INFO, TRACE):
            report = run(task, 1)
        assert (report.state, report.action) == ("RETRY", "retry_later")
        header = peek(report.payload)
        assert (header.id, header.retries, header.eta) == ("id-1", 1, eta)
        assert report.due == 2208988800.0
        assert [told[0] for told in task.told] == ["before_start", "on_retry"]
        assert isinstance(task.told[1][1], KeyError)
        assert heard[0][1]["reason"] is error
        assert isinstance(stored(report)["result"], KeyError)
        assert caplog.records[-1].getMessage() == "Task fakes.task[id-1] retry: Retry in 3s: KeyError('why')"

    def test_retry_on_another_queue_is_sent_there(self) -> None:
        again = signature_of("fakes.task", task_id="id-1", retries=1, queue="slow")
        report = run(FakeTask(raising(Retry(when=3, sig=again))))
        assert (report.action, report.payload) == ("ack", None)
        assert report.publish[0].destination.queue == "slow"

    def test_a_bare_retry_only_changes_the_state(self) -> None:
        report = run(FakeTask(raising(Retry("by hand"))))
        assert (report.state, report.action, report.payload) == ("RETRY", "ack", None)
        assert stored(report)["result"] is None


class TestLogLines:
    def test_success(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, TRACE):
            for _ in range(2):
                run(FakeTask(lambda x: {"a": [x]}), 5)
        for record in caplog.records:
            assert isinstance(record.args, dict)
            assert record.msg == "Task %(name)s[%(id)s] succeeded in %(runtime)ss: %(return_value)s"
            assert record.getMessage().endswith("s: {'a': [5]}")
            assert record.__dict__["data"] == record.args
            assert record.args["args"] == "[5]" or record.args["args"] == "(5,)"
            assert (record.threadName, record.levelname, record.name) == (
                threading.current_thread().name, "INFO", TRACE
            )  # fmt: skip
        assert caplog.records[1].created >= caplog.records[0].created

    def test_a_record_factory_is_respected(self, caplog: pytest.LogCaptureFixture) -> None:
        class Special(logging.LogRecord):
            pass

        logging.setLogRecordFactory(Special)
        try:
            with caplog.at_level(logging.INFO, TRACE):
                run(FakeTask(lambda: None))
        finally:
            logging.setLogRecordFactory(logging.LogRecord)
        assert type(caplog.records[-1]) is Special

    def test_failure_has_the_traceback_and_the_shadow(self, caplog: pytest.LogCaptureFixture) -> None:
        run(FakeTask(raising(ValueError("x"))), shadow="other.name")
        record = caplog.records[-1]
        assert record.getMessage() == "Task other.name[id-1] raised unexpected: ValueError('x')"
        assert record.exc_info is not None
        assert record.__dict__["data"]["internal"] is False

    def test_nothing_is_built_that_nobody_wants(self, caplog: pytest.LogCaptureFixture) -> None:
        class Costly:
            def __repr__(self) -> str:
                raise AssertionError("the result was shown")

        caplog.set_level(logging.WARNING, TRACE)
        run(FakeTask(Costly), ignore_result=True)


class TestRefusals:
    def test_an_unknown_task_is_a_failure_and_a_dead_letter(self) -> None:
        report = Runner(FakeApp(), "w@here").run(work_of("fakes.unknown"))
        assert (report.state, report.action) == ("FAILURE", "dead_letter")
        assert "fakes.unknown" in report.reason
        assert loads_json(report.result.document)["result"]["exc_type"] == "NotRegistered"

    def test_a_refused_content_type_is_a_dead_letter(self) -> None:
        task = FakeTask(object)
        payload = payload_of(task.name).replace(b"application/json", b"application/x-python-serialize")
        report = Runner(FakeApp(task), "w@here").run(Work(1, payload, "celery"))
        assert report.action == "dead_letter"
        assert "untrusted content" in report.reason

    @pytest.mark.parametrize(
        "payload", [b"", b"{", b"junk", b"[]", b'{"headers":{"task":["a"]},"properties":{}}']
    )
    def test_junk_is_a_dead_letter(self, payload: bytes) -> None:
        report = Runner(FakeApp(), "w@here").run(Work(1, payload, "celery"))
        assert (report.state, report.action, report.result) == ("FAILURE", "dead_letter", None)

    def test_protocol_1_runs(self) -> None:
        body = {"task": "fakes.task", "id": "old", "args": [1, 2], "kwargs": {}}
        payload = msgspec.json.encode(
            {"body": msgspec.json.encode(body).decode(), "headers": {}, "properties": {"correlation_id": "old"},
             "content-type": "application/json", "content-encoding": "utf-8"}
        )  # fmt: skip
        report = Runner(FakeApp(FakeTask(lambda x, y: x + y)), "w@here").run(Work(1, payload, "celery"))
        assert (report.result.task_id, stored(report)["result"]) == ("old", 3)

    def test_null_retries_of_other_writers_count_as_none(self) -> None:
        task = FakeTask(lambda: context_of(task).retries)
        payload = payload_of(task.name).replace(b'"retries":0', b'"retries":null')
        assert stored(Runner(FakeApp(task), "w@here").run(Work(1, payload, "celery")))["result"] == 0

    def test_an_error_of_a_link_is_an_internal_error_and_a_failure(self, hear: Any) -> None:
        heard = hear("task_internal_error")
        report = run(FakeTask(lambda: 1), callbacks=[{"no": "task"}])
        assert report.state == "FAILURE"
        assert isinstance(heard[0][1]["exception"], KeyError)


class TestLimits:
    def test_the_tightest_place_that_sets_limits_wins(self) -> None:
        seen: list[Any] = []

        @contextmanager
        def limit(seconds: float | None) -> Iterator[None]:
            seen.append(seconds)
            yield

        task = FakeTask(object, soft_time_limit=30, time_limit=60, ignore_result=True)
        runner = Runner(FakeApp(task), "w@here")
        runner.soft_limit, runner.hard_limit = limit, lambda seconds: seen.append(("hard", seconds))
        runner.run(work_of(task.name, ignore_result=True))
        runner.run(work_of(task.name, ignore_result=True, time_limit=6, soft_time_limit=3))
        work = work_of(task.name, ignore_result=True, time_limit=6, soft_time_limit=3)
        work.time_limit, work.soft_time_limit = 2, 1
        runner.run(work)
        assert seen == [("hard", 60), 30, ("hard", 6), 3, 1]

    def test_running_out_of_time_is_a_failure(self, caplog: pytest.LogCaptureFixture) -> None:
        report = run(FakeTask(raising(SoftTimeLimitExceeded(3))), soft_time_limit=3)
        assert "Soft time limit (3s) exceeded for fakes.task[id-1]" in caplog.messages
        assert loads_json(report.result.document)["result"]["exc_module"] == "billiard.exceptions"


class TestAsyncTasks:
    def test_one_loop_serves_all_jobs_of_a_thread(self) -> None:
        loops: list[Any] = []

        async def body(x: int) -> int:
            await asyncio.sleep(0)
            loops.append(asyncio.get_running_loop())
            assert current_task() is task
            return x + 1

        task = FakeTask(body)
        runner = Runner(FakeApp(task), "w@here")
        assert [stored(runner.run(work_of(task.name, n)))["result"] for n in (1, 2)] == [2, 3]
        assert loops[0] is loops[1]
        runner.slot_exit()
        runner.slot_exit()
        assert loops[0].is_closed()

    def test_an_error_of_an_async_body_is_a_failure(self) -> None:
        async def body() -> None:
            raise ValueError("async")

        task = FakeTask(body)
        runner = Runner(FakeApp(task), "w@here")
        assert isinstance(stored(runner.run(work_of(task.name)))["result"], ValueError)
        runner.process_exit(0)

    async def test_an_eager_call_from_async_code_runs_beside_its_loop(self) -> None:
        async def body() -> str:
            return threading.current_thread().name

        task = FakeTask(body)
        outcome = run_task(task, Context(id="e", is_eager=True, called_directly=False), (), {}, _Silent())
        assert outcome == Succeeded("umbel-eager")


class _Silent:
    def started(self, task: Any, context: Context) -> None:
        """Nothing to do."""

    def ended(self, task: Any, context: Context, outcome: Any, runtime: float) -> None:
        """Nothing to do."""


class TestEager:
    def test_errors_propagate_on_request_without_handlers(self) -> None:
        task = FakeTask(raising(ValueError("x"))).listen()
        with pytest.raises(ValueError, match="x"):
            run_task(task, Context(id="e"), (), {}, _Silent(), propagate=True)
        assert [told[0] for told in task.told] == ["before_start"]
        assert current() is None

    def test_handlers_errors_reach_eager_callers(self) -> None:
        task = FakeTask(lambda: 1).listen()
        task.on_success = raising(RuntimeError("handler"))  # type: ignore[method-assign]
        with pytest.raises(RuntimeError, match="handler"):
            run_task(task, Context(id="e", is_eager=True), (), {}, _Silent())

    def test_an_eager_call_inside_a_job_has_its_own_request(self) -> None:
        inner = FakeTask(lambda: context_of(inner).id, name="fakes.inner")

        def body() -> Any:
            outcome = run_task(inner, Context(id="nested", is_eager=True), (), {}, _Silent())
            return [outcome.value, context_of(task).id]

        task = FakeTask(body)
        assert stored(run(task))["result"] == ["nested", "id-1"]

    def test_eager_failures_keep_nothing_alive_once_collected(self) -> None:
        task = FakeTask(lambda: int("x"))
        logging.getLogger(TRACE).disabled = True
        try:
            gc.collect()
            before = len(gc.get_objects())
            for _ in range(500):
                assert isinstance(run_task(task, Context(id="e"), (), {}, _Silent()), Failed)
            gc.collect()
            assert len(gc.get_objects()) - before < 100
        finally:
            logging.getLogger(TRACE).disabled = False


class TestJoining:
    def test_waiting_is_denied_inside_a_job(self) -> None:
        answers: list[bool] = []
        task = FakeTask(lambda: answers.append(task_join_will_block()))

        thread = threading.Thread(target=run, args=(task,))
        thread.start()
        thread.join()
        assert answers == [True]
        assert task_join_will_block() is False


class TestDeduplication:
    def make(self) -> tuple[FakeTask, FakeApp]:
        task = FakeTask(lambda: "ran", acks_late=True)
        return task, FakeApp(task, worker_deduplicate_successful_tasks=True)

    def test_a_redelivered_job_that_succeeded_is_not_run_again(self) -> None:
        task, app = self.make()
        task.run = lambda: "first"
        first = run(task, app=app)
        app.backend.save([first.result])
        task.run = raising(AssertionError("ran again"))
        link = signature_of("fakes.next")
        report = Runner(app, "w@here").run(work_of(task.name, redelivered=True, callbacks=[link]))
        assert (report.state, report.action, report.result) == ("SUCCESS", "ack", None)
        assert app.prepared[-1]["args"] == ("first",)

    def test_a_redelivered_job_that_did_not_succeed_runs(self) -> None:
        task, app = self.make()
        report = Runner(app, "w@here").run(work_of(task.name, redelivered=True))
        assert stored(report)["result"] == "ran"

    def test_what_follows_from_a_job_that_may_have_run_is_known_for_a_repetition(self) -> None:
        """The broker takes it for new; it has the mark, and so has what follows from it."""
        task, app = self.make()
        link = signature_of("fakes.next")
        report = Runner(app, "w@here").run(work_of(task.name, redelivered=True, callbacks=[link]))
        [followed] = report.publish
        assert read_envelope(followed.payload).headers[REPEATED] is True
        first = run(task, app=app)
        app.backend.save([first.result])
        task.run = raising(AssertionError("ran again"))
        again = work_of(task.name, callbacks=[link])
        again.payload = mark_repeated(again.payload)
        report = Runner(app, "w@here").run(again)
        assert (report.state, report.action, report.result) == ("SUCCESS", "ack", None)
        assert read_envelope(report.publish[0].payload).headers[REPEATED] is True

    def test_what_follows_from_any_other_job_has_no_mark(self) -> None:
        task, app = self.make()
        report = Runner(app, "w@here").run(work_of(task.name, callbacks=[signature_of("fakes.next")]))
        assert REPEATED not in read_envelope(report.publish[0].payload).headers


_scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_names = st.sampled_from(
    ["task", "id", "retries", "timelimit", "shadow", "root_id", "parent_id", "group", "stamps", "stamped_headers",
     "ignore_result", "eta", "expires", "compression", "headers", "children", "_children", "args", "hostname"]
)  # fmt: skip
_signatures = st.lists(
    st.fixed_dictionaries({"task": _values, "options": _values, "args": _values}), max_size=2
)


class TestNoMessageEndsTheWorker:
    runner = Runner(
        FakeApp(
            FakeTask(lambda *args, **kwargs: 1, acks_late=True, track_started=True), result_extended=True
        ),
        "w@here",
    )

    @pytest.fixture(autouse=True)
    def quiet(self) -> Iterator[None]:
        logging.disable(logging.CRITICAL)
        yield
        logging.disable(logging.NOTSET)

    @given(st.binary(max_size=200))
    def test_bytes(self, payload: bytes) -> None:
        report = self.runner.run(Work(1, payload, "celery"))
        assert (report.state, report.action) == ("FAILURE", "dead_letter")

    @given(st.dictionaries(_names, _values), _values, _values, _values, _signatures)
    def test_strange_headers_and_bodies(
        self, headers: Any, properties: Any, args: Any, kwargs: Any, links: Any
    ) -> None:
        body = [args, kwargs, {"callbacks": links, "errbacks": links, "chain": links}]
        document = {
            "headers": {"task": "fakes.task", "id": "t", **headers},
            "properties": properties,
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "body": json.dumps(body),
        }
        report = self.runner.run(Work(1, json.dumps(document).encode(), "celery"))
        assert report.action in {"ack", "dead_letter"}
        # What the supervisor reads of the frame is checked by type.
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(report), type=Report) == report
        assert current() is None

    def test_a_refusal_quotes_what_is_no_valid_text(self) -> None:
        document = {
            "headers": {"task": "fakes.task", "id": "t"},
            "content-type": "\ud800",
            "content-encoding": "utf-8",
            "body": "[]",
        }
        report = self.runner.run(Work(1, json.dumps(document).encode(), "celery"))
        assert "\\ud800" in report.reason
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(report), type=Report) == report

    def test_an_error_whose_text_is_not_valid(self) -> None:
        report = run(FakeTask(raising(ValueError("\udce9")), acks_late=True))
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(report), type=Report) == report
