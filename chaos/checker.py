"""Does it add up? Pure: what was confirmed, what ran, what was done and what is left go in, the verdict comes out.

What is promised of everything that the broker has confirmed, with late acknowledgement:

- it runs to its end, every attempt and every member of a workflow, and its result is stored;
- it runs again only where a fault ended its process, or took the broker from its worker, before it was settled; on a
  broker that cannot pass a message on in one step, also where a fault met the passing on;
- whoever waits for its result gets it;
- nothing is left in the broker when there is nothing to be done any more.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from chaos.excuses import Fault, fault_under
from chaos.journal import Records, Run
from chaos.workload import KINDS, POISON_MARKS, POISONS, expected

#: Seconds after its end in which an attempt may still be unsettled, while its worker reaches its broker.
WINDOW = 2.0
#: Seconds from the end of an outage until a worker has settled what it could not meanwhile: its back-off grows.
_RECONNECT = 8.0
_POISONED = 5.0  #: seconds from the begin of a poison to the end of its process, at the most


class Dead(NamedTuple):
    """A dead letter: its task id, and the whole numbers among its arguments, of which one is its mark."""

    id: str
    numbers: frozenset[int] = frozenset()


@dataclass
class Evidence:
    """All that is known in the end."""

    records: Records
    faults: Sequence[Fault]
    documents: Mapping[str, Any]  #: results by task id
    left: int = 0  #: messages that the broker still has
    dead: Collection[Dead] = ()
    atomic: bool = True  #: whether the broker passes messages on in one step
    window: float = WINDOW


@dataclass
class Verdict:
    """The count, and in words what is not as promised."""

    confirmed: int = 0  #: pieces of work; a workflow is one
    unsure: int = 0  #: pieces that were sent without a confirmation that came
    executed: int = 0  #: attempts that were begun
    lost: int = 0  #: tasks that did not run to their end, and are nowhere
    duplicated: int = 0  #: attempts that were made again
    #: Attempts that a fault met while they ran, and repeats of those that had ended a moment before, each once.
    duplicates_allowed: int = 0
    duplicates_unexplained: int = 0  #: attempts made again that no fault explains
    stuck: int = 0  #: messages that never came out of the broker, and poisons without an end
    dead_lettered: int = 0
    #: Pieces of work that were given up, as said to their sender and kept among the dead letters, because a task of
    #: theirs was lost with its process, by faults, as often as ``task_quarantine_after`` allows.
    quarantined: int = 0
    results_missing: int = (
        0  #: work that was done and whose result is not there, or wrong, or never reached its waiter
    )
    chords_broken: int = 0  #: chords whose body did not give its result
    wrong: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every promise was kept."""
        unkept = self.lost + self.stuck + self.results_missing + self.chords_broken
        return not unkept and not self.duplicates_unexplained and self.duplicated <= self.duplicates_allowed


class Checker:
    """Compares the records with the faults."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._records = evidence.records
        self._faults = [*evidence.faults, *_poisonings(evidence.records)]
        outages = (fault for fault in evidence.faults if not fault.ends_pool)
        self._outages = sorted(outages, key=lambda fault: fault.since)
        self._dead_ids = {letter.id for letter in evidence.dead}
        self._dead_marks = {number for letter in evidence.dead for number in letter.numbers}
        self._found = Verdict(dead_lettered=len(evidence.dead), stuck=evidence.left)

    def verdict(self) -> Verdict:
        """What is found about everything that was sent."""
        found = self._found
        missing: list[str] = []
        for mark, kind in self._records.tried.items():
            confirmed = mark in self._records.confirmed
            found.confirmed += confirmed
            found.unsure += not confirmed
            if kind in POISONS:
                found.executed += len(self._records.runs.get(mark, ()))
                if confirmed:
                    self._judge_poison(mark, kind)
                continue
            for member in range(mark, mark + KINDS[kind].members):
                self._judge_runs(mark, kind, member)
            if confirmed:
                missing += self._judge_end(mark, kind)
        # Of what did not run, so much is still in the broker; that is told as stuck.
        found.lost = max(0, len(missing) - self._evidence.left)
        found.wrong += missing
        self._judge_strangers()
        return found

    def _judge_runs(self, mark: int, kind: str, member: int) -> None:
        attempts: dict[int, list[Run]] = {}
        for run in self._records.runs.get(member, ()):
            self._found.executed += 1
            attempts.setdefault(run.attempt, []).append(run)
        for same in attempts.values():
            for run in same:
                self._found.duplicates_allowed += self._ran_under_fault(run)
            for earlier, later in itertools.pairwise(same):
                self._judge_again(mark, kind, earlier, later)

    def _judge_again(self, mark: int, kind: str, earlier: Run, later: Run) -> None:
        found = self._found
        found.duplicated += 1
        if self._ran_under_fault(earlier):
            return
        if self._fault_under(earlier) is not None or self._was_doubled(mark, kind, later):
            found.duplicates_allowed += 1
            return
        found.duplicates_unexplained += 1
        found.wrong.append(f"{kind} {mark} ran AGAIN without a reason: {earlier}, {later}")

    def _ran_under_fault(self, run: Run) -> bool:
        """Whether it ran at the very time."""
        return fault_under(run, self._faults, 0.0) is not None

    def _fault_under(self, run: Run) -> Fault | None:
        return fault_under(run, self._faults, self._unsettled(run))

    def _unsettled(self, run: Run) -> float:
        """Seconds after its end in which an attempt may be unsettled: without a broker it is settled afterwards."""
        window = self._evidence.window
        if run.ended is None:
            return window
        settled = run.ended + window
        for outage in self._outages:
            if outage.since <= settled and outage.until + _RECONNECT > settled:
                settled = outage.until + _RECONNECT
        return settled - run.ended

    def _was_doubled(self, mark: int, kind: str, later: Run) -> bool:
        """Whether it was being passed on, not in one step, while something was done."""
        if self._evidence.atomic or not KINDS[kind].passed_on:
            return False
        since = self._records.confirmed_at.get(mark, 0.0) - self._evidence.window
        return any(fault.since <= later.began and fault.until >= since for fault in self._faults)

    def _judge_end(self, mark: int, kind: str) -> Iterator[str]:
        """Count what is wrong with the end of a piece of work; gives its tasks that did not run to theirs."""
        undone = list(self._undone(mark, kind))
        if self._was_quarantined(mark, kind):
            self._found.quarantined += 1
            return
        document = self._evidence.documents.get(self._records.confirmed[mark]) or {}
        right = document.get("status") == "SUCCESS" and document.get("result") == expected(kind, mark)
        if kind == "chord" and not right:
            self._found.chords_broken += 1
            self._found.wrong.append(f"{kind} {mark} is BROKEN: its body's result is {_short(document)}")
            undone = [member for member in undone if member != mark + KINDS[kind].members - 1]
        elif not right and not undone:
            self._found.results_missing += 1
            self._found.wrong.append(f"{kind} {mark} has no right RESULT: {_short(document)}")
        for member in undone:
            runs = self._records.runs.get(member, [])
            told = "; it is among the dead letters" if member in self._dead_marks else ""
            yield f"{kind} {mark} LOST: task {member} has run {runs}, its result is {_short(document)}{told}"
        self._judge_waiter(mark, kind)

    def _was_quarantined(self, mark: int, kind: str) -> bool:
        """Whether a task was given up after as many losses as it may have, all of them by faults.

        It may have come to its end each time, and be lost before its process could say so.
        """
        for member in range(mark, mark + KINDS[kind].members):
            runs = self._records.runs.get(member, ())
            if member in self._dead_marks and runs and all(map(self._fault_under, runs)):
                return True
        return False

    def _undone(self, mark: int, kind: str) -> Iterator[int]:
        """The members whose attempts did not all come to their end."""
        wanted = set(range(KINDS[kind].attempts))
        for member in range(mark, mark + KINDS[kind].members):
            ended = {run.attempt for run in self._records.runs.get(member, ()) if run.ended is not None}
            if not wanted <= ended:
                yield member

    def _judge_waiter(self, mark: int, kind: str) -> None:
        pid, answer = self._records.awaited.get(mark, (0, "right"))
        killed = any(pid in fault.pids for fault in self._faults)
        if answer != "right" and not (answer == "waits" and killed):
            self._found.results_missing += 1
            self._found.wrong.append(f"{kind} {mark}: who waited for its RESULT has {answer!r}")

    def _judge_poison(self, mark: int, kind: str) -> None:
        task_id = self._records.confirmed[mark]
        document = self._evidence.documents.get(task_id) or {}
        if document.get("status") != "FAILURE" and task_id not in self._dead_ids:
            self._found.stuck += 1
            self._found.wrong.append(f"{kind} {mark} is STUCK: its result is {_short(document)}")

    def _judge_strangers(self) -> None:
        sent = {
            member
            for mark, kind in self._records.tried.items()
            for member in range(mark, mark + (KINDS[kind].members if kind in KINDS else 1))
        }
        for mark in self._records.runs.keys() - sent:
            self._found.duplicates_unexplained += 1
            self._found.wrong.append(f"{mark} ran and was never sent")


def _poisonings(records: Records) -> Iterator[Fault]:
    """Each attempt at a poison has ended its process, and with it what else ran there."""
    for mark, runs in records.runs.items():
        if mark >= POISON_MARKS:
            for run in runs:
                until = run.began + _POISONED
                yield Fault("poison", run.began, until, pids=frozenset([run.pid]), host=run.host)


def _short(document: Mapping[str, Any]) -> str:
    text = (
        str({key: document.get(key) for key in ("status", "result", "date_done")}) if document else "missing"
    )
    return text if len(text) < 300 else f"{text[:300]}…"
