"""The judge of the fault tests: what it must find, and what it must let pass."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.excuses import Fault
from chaos.journal import Records, Run
from tests.integration.faults.load import answer
from tests.integration.faults.verdict import Judge, Verdict

KILL = Fault("worker", since=100.0, until=100.1, pids=frozenset([7]), host="w1")
FREEZE = Fault("frozen", since=100.0, until=103.0, host="w1", ends_pool=False)


def run(pid: int = 7, began: float = 99.0, ended: float | None = 99.5, **more: Any) -> Run:
    return Run(1, more.pop("attempt", 0), pid, began, f"w{pid}", more.pop("redelivered", False), ended)


def judge(
    kind: str, *runs: Run, status: str = "SUCCESS", fault: Fault = KILL, confirmed: bool = True
) -> Verdict:
    records = Records(tried={1: kind}, confirmed={1: "id"} if confirmed else {})
    if runs:
        records.runs[1] = list(runs)
    document = {"status": status, "result": answer(1)}
    return Judge(records, [fault], {1: document} if status else {}).judge()


AGAIN = run(8, 101.0, 101.5, redelivered=True)


@pytest.mark.parametrize("kind", ["noop_late", "noop_early"])
def test_what_ran_once_and_succeeded_is_right(kind: str) -> None:
    assert judge(kind, run()).wrong == []


def test_a_retried_task_has_all_its_attempts() -> None:
    assert judge("retry_late", run(), run(attempt=1, began=99.6)).wrong == []
    assert "without its attempts" in judge("retry_late", run()).wrong[0]


@pytest.mark.parametrize("kind", ["noop_late", "noop_early"])
def test_what_never_ran_is_lost(kind: str) -> None:
    assert "LOST" in judge(kind, status="").wrong[0]
    assert judge(kind, status="", confirmed=False).wrong == []


def test_a_late_task_that_was_killed_and_did_not_run_again_is_lost() -> None:
    assert "LOST" in judge("noop_late", run(ended=None), status="").wrong[0]


def test_an_early_task_that_was_killed_is_abandoned_not_lost() -> None:
    verdict = judge("noop_early", run(ended=None), status="")
    assert (verdict.wrong, verdict.abandoned) == ([], 1)
    assert "LOST" in judge("noop_early", run(pid=9, ended=None), status="").wrong[0]  # nobody killed it


def test_a_job_may_end_with_its_process_before_its_first_line() -> None:
    lost = {"status": "FAILURE", "result": {"exc_type": "WorkerLostError"}}
    for kind, wrong in ("noop_early", 0), ("noop_late", 1):
        records = Records(tried={1: kind}, confirmed={1: "id"})
        assert len(Judge(records, [KILL], {1: lost}).judge().wrong) == wrong
        assert Judge(records, [FREEZE], {1: lost}).judge().wrong  # nothing was killed


def test_a_wrong_result_is_wrong() -> None:
    assert judge("noop_late", run(), status="FAILURE").wrong


@pytest.mark.parametrize("ended", [None, 99.5])
def test_what_was_unsettled_when_killed_may_run_again(ended: float | None) -> None:
    verdict = judge("noop_late", run(ended=ended), AGAIN)
    assert (verdict.wrong, verdict.late_again) == ([], 1)
    assert judge("noop_early", run(ended=ended), AGAIN).early_again == 1


def test_what_was_settled_or_not_killed_may_not_run_again() -> None:
    assert "TWICE" in judge("noop_late", run(began=90, ended=91), AGAIN).wrong[0]
    assert "TWICE" in judge("noop_late", run(pid=9), AGAIN).wrong[0]
    assert (
        "TWICE" in judge("noop_late", run(began=105, ended=106), run(8, 107, 108, redelivered=True)).wrong[0]
    )


@pytest.mark.parametrize("kind", ["retry_early", "retry_late"])
def test_the_next_attempt_may_be_there_twice_where_it_was_passed_on_under_a_fault(kind: str) -> None:
    """Both copies may run long after the fault; the attempt before them is what it met."""
    first = run(pid=9, began=99.0, ended=100.05)
    copies = run(pid=9, attempt=1, began=108.0, ended=108.1), run(pid=9, attempt=1, began=109.0, ended=109.1)
    cut = Fault("cut", since=100.0, until=101.0, host="w9", ends_pool=False, doubles=True)
    assert judge(kind, first, *copies, fault=cut).wrong == []
    atomic = Fault("frozen", since=100.0, until=101.0, host="w9", ends_pool=False)
    assert "TWICE" in judge(kind, first, *copies, fault=atomic).wrong[0]
    settled = run(pid=9, began=90.0, ended=90.5)
    assert "TWICE" in judge(kind, settled, *copies, fault=cut).wrong[0]
    elsewhere = run(pid=8, began=99.0, ended=100.05)
    assert "TWICE" in judge(kind, elsewhere, *copies, fault=cut).wrong[0]


def test_what_runs_again_says_so() -> None:
    assert "not marked" in judge("noop_late", run(), run(8, 101.0, 101.5)).wrong[0]


def test_a_worker_out_of_touch_may_have_its_jobs_run_elsewhere() -> None:
    first = Run(1, 0, 7, 99.9, "w1", redelivered=False, ended=100.2)
    assert judge("noop_late", first, AGAIN, fault=FREEZE).late_again == 1
    after = Run(1, 0, 7, 105.0, "w1", redelivered=False, ended=105.2)
    assert "TWICE" in judge("noop_late", after, run(8, 106, 107, redelivered=True), fault=FREEZE).wrong[0]


def test_who_was_cut_off_may_begin_after_its_successor() -> None:
    """What it was given first is not marked, and it had not noticed yet that it is not its own any more."""
    cut = Fault("cut", since=100.0, until=101.0, host="w9", ends_pool=False)
    successor = run(8, 100.15, 100.2, redelivered=True)
    assert judge("long_early", successor, run(9, 100.17, 100.22), fault=cut).early_again == 1
    assert "TWICE" in judge("long_early", successor, run(7, 100.17, 100.22), fault=cut).wrong[0]
    assert (
        "not marked" in judge("long_early", run(9, 100.1, 100.2), run(8, 100.17, 100.22), fault=cut).wrong[0]
    )


def test_what_was_never_sent_is_found() -> None:
    records = Records()
    records.runs[5] = [run()]
    assert "never sent" in Judge(records, [], {}).judge().wrong[0]
