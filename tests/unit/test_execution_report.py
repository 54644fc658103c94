"""Reports of jobs that did not end by themselves, as the supervisor asks for them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.execution_fakes import FakeApp, FakeTask, payload_of, signature_of
from umbel.core.json_types import loads_json
from umbel.core.protocol import peek
from umbel.execution.context import context_of
from umbel.execution.report import Reporter
from umbel.pools.base import Report


def lost(task: FakeTask, cause: str, **call: Any) -> Report:
    reporter = Reporter(FakeApp(task), "w@here")
    return reporter.lost_report(
        7, task, payload_of(task.name, 1, **call), cause, "signal 9 (SIGKILL)", limit=30
    )


def written(report: Report) -> Any:
    assert report.result is not None
    return loads_json(report.result.document)["result"]


class TestLost:
    def test_a_lost_process_is_a_failure(self) -> None:
        task = FakeTask(object).listen()
        report = lost(task, "worker_lost")
        assert (report.state, report.action) == ("FAILURE", "ack")
        assert written(report) == {
            "exc_type": "WorkerLostError",
            "exc_message": ["Worker exited prematurely: signal 9 (SIGKILL)."],
            "exc_module": "billiard.exceptions",
        }
        assert task.told[0][0] == "on_failure"

    @pytest.mark.parametrize(
        ("options", "action"),
        [
            ({"acks_late": True}, "ack"),
            ({"acks_late": True, "acks_on_failure": False}, "dead_letter"),
            ({"acks_late": True, "reject_on_worker_lost": True}, "requeue"),
            ({"acks_late": False, "reject_on_worker_lost": True}, "ack"),
        ],
    )
    def test_policy_says_how_the_delivery_ends(self, options: dict[str, Any], action: str) -> None:
        report = lost(FakeTask(object, **options), "worker_lost")
        assert report.action == action
        assert (report.result is None) is (action == "requeue")

    def test_it_is_retried_on_request(self) -> None:
        task = FakeTask(object, retry_on_worker_lost=True).listen()
        report = lost(task, "worker_lost", retries=1)
        assert (report.state, report.action) == ("RETRY", "retry_later")
        assert peek(report.payload).retries == 2
        assert task.told[0][0] == "on_retry"

    def test_it_is_not_retried_for_ever(self) -> None:
        assert lost(FakeTask(object, retry_on_worker_lost=True), "worker_lost", retries=3).state == "FAILURE"

    @pytest.mark.parametrize(
        ("options", "action"),
        [({"acks_late": True}, "ack"), ({"acks_late": True, "acks_on_timeout": False}, "requeue")],
    )
    def test_a_hard_limit_is_a_failure(self, options: dict[str, Any], action: str) -> None:
        report = lost(FakeTask(object, **options), "time_limit")
        assert (report.state, report.action) == ("FAILURE", action)
        assert written(report)["exc_type"] == "TimeLimitExceeded"
        assert written(report)["exc_message"] == [30]

    def test_error_callbacks_are_called(self) -> None:
        assert len(lost(FakeTask(object), "worker_lost", errbacks=[signature_of("elsewhere.e")]).publish) == 1

    def test_handlers_have_the_request(self) -> None:
        seen: list[Any] = []
        task = FakeTask(object).listen()
        task.on_failure = lambda *_: seen.append(context_of(task).id)  # type: ignore[method-assign]
        lost(task, "worker_lost")
        assert seen == ["id-1"]
        assert context_of(task) is None

    def test_a_terminated_job_is_revoked(self) -> None:
        report = lost(FakeTask(object), "terminated")
        assert (report.state, report.action, written(report)["exc_message"]) == (
            "REVOKED",
            "ack",
            ["terminated"],
        )

    def test_a_bystander_is_run_again(self) -> None:
        report = lost(FakeTask(object), "bystander")
        assert (report.action, report.result) == ("requeue", None)


class TestNeverBegun:
    @pytest.mark.parametrize("reason", ["revoked", "expired"])
    def test_revoked_and_expired(self, reason: str) -> None:
        task = FakeTask(object)
        reporter = Reporter(FakeApp(task), "w@here")
        payload = payload_of(task.name)
        report = (
            reporter.expired_report(7, payload, task)
            if reason == "expired"
            else reporter.revoked_payload_report(7, payload, reason, task)
        )
        assert (report.state, report.action) == ("REVOKED", "ack")
        assert written(report) == {
            "exc_type": "TaskRevokedError", "exc_message": [reason], "exc_module": "celery.exceptions"
        }  # fmt: skip

    def test_unknown(self) -> None:
        report = Reporter(FakeApp(), "w@here").unknown_report(7, payload_of("fakes.unknown"))
        assert (report.state, report.action) == ("FAILURE", "dead_letter")
        assert written(report)["exc_message"] == ["fakes.unknown"]

    def test_an_unreadable_body_does_not_hide_whose_result_it_is(self) -> None:
        task = FakeTask(object)
        payload = payload_of(task.name).replace(b"application/json", b"application/x-python-serialize")
        report = Reporter(FakeApp(task), "w@here").expired_report(7, payload, task)
        assert report.result is not None
        assert report.result.task_id == "id-1"

    def test_what_is_no_message_has_no_result(self) -> None:
        assert Reporter(FakeApp(), "w@here").unknown_report(7, b"junk").result is None

    def test_the_caller_that_awaits_a_reply_is_named(self) -> None:
        report = Reporter(FakeApp(), "w@here").unknown_report(7, payload_of("fakes.unknown", reply_to="me"))
        assert report.result is not None
        assert report.result.reply_to == "me"
