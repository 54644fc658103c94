"""Does it add up? Pure: what was confirmed, what ran and what was killed go in, the judgement comes out.

The promises, by kind of acknowledgement:

late    runs to its end and succeeds, whatever is killed. It runs again only if its run was not settled when its process
        was ended (or its worker was out of touch for longer than its lease).
early   begins exactly once, and succeeds unless its process was ended under it. It runs again only if that happened
        before its acknowledgement, which goes out when it has begun, had reached the broker.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chaos.excuses import Fault, fault_under
from chaos.journal import Records, Run
from tests.integration.faults.load import KINDS, answer


@dataclass
class Verdict:
    """What was found; ``wrong`` is what may never be, in words."""

    confirmed: int = 0
    runs: int = 0
    late_again: int = 0  #: late-acknowledged attempts that ran again because they were unsettled when killed
    early_again: int = 0  #: early-acknowledged attempts that did
    abandoned: int = 0  #: early-acknowledged tasks that ended with their process and did not run again
    unsure: int = 0  #: sent without a confirmation that came
    longest_window: float = (
        0.0  #: seconds from an attempt's end to the fault that had it run again, at the most
    )
    early_window: float = 0.0  #: seconds from an early-acknowledged attempt's begin to that fault
    wrong: list[str] = field(default_factory=list)
    by_kind: Counter[str] = field(default_factory=Counter)  #: of what ran again or was abandoned

    def __str__(self) -> str:
        return (
            f"confirmed {self.confirmed}, runs {self.runs}, wrong {len(self.wrong)}, again: late {self.late_again}, "
            f"early {self.early_again}; abandoned early {self.abandoned}; unsure {self.unsure}; "
            f"windows {self.longest_window * 1000:.0f} ms after the end, {self.early_window * 1000:.0f} ms after the "
            f"begin; {dict(self.by_kind)}"
        )


class Judge:
    """Compares the records with the faults.

    ``window`` is how many seconds after its end an attempt may still be unsettled.
    """

    def __init__(
        self, records: Records, faults: Sequence[Fault], documents: Mapping[int, Any], window: float = 1.0
    ) -> None:
        self._records = records
        self._faults = faults
        self._documents = documents
        self._window = window
        self._found = Verdict(confirmed=len(records.confirmed))

    def judge(self) -> Verdict:
        """The verdict on everything that was sent."""
        records, found = self._records, self._found
        for mark, name in records.tried.items():
            runs = records.runs.get(mark, [])
            found.runs += len(runs)
            if mark in records.confirmed:
                self._judge_runs(mark, name, runs)
                self._judge_result(mark, name, runs)
            else:
                found.unsure += 1
                if runs:
                    self._judge_runs(mark, name, runs)
        for mark in records.runs.keys() - records.tried.keys():
            found.wrong.append(f"{mark} ran and was never sent")
        return found

    def _judge_runs(self, mark: int, name: str, runs: Sequence[Run]) -> None:
        attempts: dict[int, list[Run]] = {}
        for run in runs:
            attempts.setdefault(run.attempt, []).append(run)
        for number, same in attempts.items():
            # Who was cut off may begin what it was given first, when its successor has begun it, before it notices.
            handed_out = sorted(same, key=lambda run: run.redelivered)
            for earlier, later in itertools.pairwise(handed_out):
                fault = self._fault_under(earlier) or self._fault_at_sending(name, attempts, number)
                self._judge_again(name, earlier, later, fault)

    def _fault_at_sending(
        self, name: str, attempts: Mapping[int, Sequence[Run]], number: int
    ) -> Fault | None:
        """The fault that met an attempt while it was passed on, so that it is there twice, under one id.

        Where no step does both, the next attempt is published first and the one before it ended then. It is published
        a second time when the confirmation was lost, or when the one before ran again; both copies run when their time
        has come, which may be long after the fault.
        """
        if number == 0:
            return None
        before = attempts.get(number - 1, ())
        met = [fault for run in before if (fault := self._fault_under(run)) is not None and fault.doubles]
        return next(iter(met), None)

    def _judge_again(self, name: str, earlier: Run, later: Run, fault: Fault | None) -> None:
        found = self._found
        if fault is None:
            found.wrong.append(f"{name} ran TWICE without a reason: {earlier}, {later}")
            return
        if not later.redelivered and not self._may_be_unmarked(name, fault):
            found.wrong.append(f"{name} ran again and was not marked redelivered: {earlier}, {later}")
        found.by_kind[f"{name} again"] += 1
        if earlier.ended is not None:
            found.longest_window = max(found.longest_window, fault.since - earlier.ended)
        if KINDS[name].late:
            found.late_again += 1
        else:
            found.early_again += 1
            found.early_window = max(found.early_window, fault.since - earlier.began)

    @staticmethod
    def _may_be_unmarked(name: str, fault: Fault) -> bool:
        kind = KINDS[name]
        return fault.forgets or (fault.doubles and (kind.countdown is not None or kind.attempts > 1))

    def _judge_result(self, mark: int, name: str, runs: Sequence[Run]) -> None:
        document = self._documents.get(mark) or {}
        if document.get("status") == "SUCCESS" and document.get("result") == answer(mark):
            self._judge_completeness(mark, name, runs)
        elif not KINDS[name].late and self._was_ended(runs, document):
            self._found.abandoned += 1
            self._found.by_kind[f"{name} abandoned"] += 1
        else:
            self._found.wrong.append(f"{name} {mark} LOST: its result is {document}, its runs {runs}")

    def _was_ended(self, runs: Sequence[Run], document: Mapping[str, Any]) -> bool:
        """Whether its process was ended under it; a result may say so of a job that had not come to its first line."""
        if runs:
            return self._fault_under(runs[-1]) is not None
        result = document.get("result")
        told = isinstance(result, dict) and result.get("exc_type") == "WorkerLostError"
        return told and any(fault.ends_pool and fault.pids for fault in self._faults)

    def _judge_completeness(self, mark: int, name: str, runs: Sequence[Run]) -> None:
        ended = {run.attempt for run in runs if run.ended is not None}
        if ended != set(range(KINDS[name].attempts)):
            self._found.wrong.append(f"{name} {mark} succeeded without its attempts: {runs}")

    def _fault_under(self, run: Run) -> Fault | None:
        """The fault that ended the process, or cut off the worker, before the run was settled."""
        return fault_under(run, self._faults, self._window)
