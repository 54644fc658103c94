"""The fault harness' own decisions: the schedule, the command line, and a checker that can say no."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from chaos import journal, options
from chaos.checker import Checker, Dead, Evidence, Verdict
from chaos.clocks import Clocks
from chaos.crew import merged
from chaos.excuses import EVERYBODY, Fault
from chaos.faults import KINDS as FAULTS
from chaos.journal import Records
from chaos.schedule import plan
from chaos.workload import KINDS, POISON_MARKS, expected
from chaos.world import Left, RabbitChaos, count_left

KILL = Fault("worker-kill", since=100.0, until=100.1, pids=frozenset([7]), host="w7")
CUT = Fault("cut", since=100.0, until=100.0, host=EVERYBODY, ends_pool=False)
PID = 7


class Log:
    """Journals as processes write them, and what the broker and the backend have in the end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.documents: dict[str, Any] = {}

    def write(self, pid: int, *lines: str) -> None:
        with (self.directory / f"{pid}.journal").open("a") as file:
            file.writelines(f"{line}\n" for line in lines)

    def send(self, mark: int, kind: str, at: float = 90.0) -> None:
        self.write(1, f"tried {mark} {kind}", f"confirmed {mark} id-{mark} {at}")

    def run(
        self, mark: int, attempt: int = 0, pid: int = PID, began: float = 99.0, ended: float | None = 99.5
    ) -> None:
        self.write(pid, f"began {mark} {attempt} {began} w{pid} 0")
        if ended is not None:
            self.write(pid, f"ended {mark} {attempt} {ended}")

    def succeed(self, mark: int, kind: str) -> None:
        self.documents[f"id-{mark}"] = {"status": "SUCCESS", "result": expected(kind, mark)}

    def do_all(self, mark: int, kind: str, **more: Any) -> None:
        """Everything as it should be."""
        self.send(mark, kind)
        for member in range(mark, mark + KINDS[kind].members):
            for attempt in range(KINDS[kind].attempts):
                self.run(member, attempt, **more)
        self.succeed(mark, kind)

    def judge(self, *faults: Fault, **more: Any) -> Verdict:
        evidence = Evidence(journal.read(self.directory), faults, self.documents, **more)
        return Checker(evidence).verdict()


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_what_ran_to_its_end_holds(log: Log, kind: str) -> None:
    log.do_all(100, kind)
    found = log.judge()
    assert (found.confirmed, found.wrong, found.holds) == (1, [], True)
    assert found.executed == KINDS[kind].members * KINDS[kind].attempts


@pytest.mark.parametrize("kind", KINDS)
def test_a_confirmed_id_that_never_ran_is_lost(log: Log, kind: str) -> None:
    log.send(100, kind)
    found = log.judge(KILL)
    assert not found.holds
    parts_and_body = KINDS[kind].members
    assert (found.lost, found.chords_broken) == (
        (parts_and_body - 1, 1) if kind == "chord" else (parts_and_body, 0)
    )


def test_what_was_not_confirmed_is_not_lost(log: Log) -> None:
    log.write(1, "tried 100 plain")
    found = log.judge()
    assert (found.unsure, found.lost, found.holds) == (1, 0, True)


def test_what_the_broker_still_has_is_stuck_and_not_lost(log: Log) -> None:
    log.send(100, "plain")
    found = log.judge(left=1)
    assert (found.stuck, found.lost, found.holds) == (1, 0, False)


def test_a_killed_job_that_did_not_run_again_is_lost(log: Log) -> None:
    log.send(100, "plain")
    log.run(100, ended=None)
    assert log.judge(KILL).lost == 1


def test_an_attempt_or_a_step_that_is_missing_is_lost(log: Log) -> None:
    log.do_all(100, "plain")
    log.send(200, "retry")
    log.run(200, 0)
    log.succeed(200, "retry")
    log.send(300, "chain")
    log.run(300)
    log.run(302)
    log.succeed(300, "chain")
    found = log.judge()
    assert (found.lost, found.confirmed) == (2, 3)


def test_work_without_its_result_is_told(log: Log) -> None:
    log.do_all(100, "plain")
    log.do_all(200, "plain")
    log.documents.clear()
    log.succeed(100, "plain")
    found = log.judge()
    assert (found.results_missing, found.lost, found.holds) == (1, 0, False)
    log.documents["id-200"] = {"status": "SUCCESS", "result": -1}
    assert log.judge().results_missing == 1


def test_a_waiter_that_never_heard_is_told_unless_it_was_killed(log: Log) -> None:
    log.do_all(100, "plain")
    log.write(50, "waits 100")
    assert log.judge().results_missing == 1
    assert log.judge(Fault("producer-kill", 95.0, 95.1, pids=frozenset([50]))).holds
    log.write(50, "awaited 100 right")
    assert log.judge().holds
    log.write(50, "awaited 100 never TimeoutError")
    assert log.judge(Fault("producer-kill", 95.0, 95.1, pids=frozenset([50]))).results_missing == 1


def test_a_chord_without_its_body_is_broken(log: Log) -> None:
    log.do_all(100, "chord")
    log.documents.clear()
    found = log.judge()
    assert (found.chords_broken, found.lost, found.holds) == (1, 0, False)


def test_a_job_that_was_killed_may_run_again_once(log: Log) -> None:
    log.send(100, "plain")
    log.run(100, ended=None)
    log.run(100, pid=8, began=101.0, ended=101.1)
    log.succeed(100, "plain")
    found = log.judge(KILL)
    assert (found.duplicated, found.duplicates_allowed, found.holds) == (1, 1, True)
    log.run(100, pid=9, began=102.0, ended=102.1)
    found = log.judge(KILL)
    assert (found.duplicated, found.duplicates_allowed, found.duplicates_unexplained) == (2, 1, 1)
    assert not found.holds


@pytest.mark.parametrize("faults", [(), (KILL,)])
def test_what_nothing_was_done_to_may_not_run_again(log: Log, faults: tuple[Fault, ...]) -> None:
    log.do_all(100, "plain", pid=3)
    log.run(100, pid=8, began=101.0, ended=101.1)
    found = log.judge(*faults)
    assert (found.duplicated, found.duplicates_unexplained, found.holds) == (1, 1, False)


def test_what_had_ended_is_unsettled_for_a_moment_or_while_the_broker_is_away(log: Log) -> None:
    log.do_all(100, "plain", began=90.0, ended=90.5)
    log.run(100, pid=8, began=101.0, ended=101.1)
    assert not log.judge(KILL).holds
    assert log.judge(KILL, Fault("broker-kill", 90.0, 99.0, ends_pool=False)).holds
    assert not log.judge(KILL, Fault("broker-kill", 95.0, 99.0, ends_pool=False)).holds


def test_what_is_passed_on_in_two_steps_may_be_doubled_by_a_fault(log: Log) -> None:
    log.do_all(100, "later", pid=3, began=104.0, ended=104.1)
    log.run(100, pid=8, began=104.5, ended=104.6)
    assert log.judge(KILL, atomic=False).holds
    assert not log.judge(KILL).holds
    assert not log.judge(atomic=False).holds


def test_a_connection_that_was_cut_excuses_what_ran_on_it(log: Log) -> None:
    log.do_all(100, "plain", began=99.0, ended=100.5)
    log.run(100, pid=8, began=100.2, ended=100.9)
    assert log.judge(CUT).holds


def test_a_poison_has_to_end_too_and_takes_its_process_along(log: Log) -> None:
    poison = POISON_MARKS + 1
    log.send(poison, "segfault")
    log.run(poison, began=99.2, ended=None)
    log.send(100, "plain")
    log.run(100, ended=None)
    log.run(100, pid=8, began=101.0, ended=101.1)
    log.succeed(100, "plain")
    found = log.judge()
    assert (found.stuck, found.lost, found.duplicates_unexplained) == (1, 0, 0)
    assert log.judge(dead=[Dead(f"id-{poison}")]).holds
    log.documents[f"id-{poison}"] = {"status": "FAILURE", "result": {}}
    assert log.judge().holds


def test_what_was_lost_with_its_process_again_and_again_is_given_up_and_not_lost(log: Log) -> None:
    log.send(100, "plain")
    log.run(100, ended=None)
    letter = Dead("id-100", frozenset([100, 0]))
    found = log.judge(KILL, dead=[letter])
    assert (found.quarantined, found.lost, found.holds) == (1, 0, True)
    assert log.judge(KILL).lost == 1
    found = log.judge(dead=[letter])  # nobody had touched it
    assert (found.quarantined, found.lost, found.holds) == (0, 1, False)


def test_what_was_never_sent_is_found(log: Log) -> None:
    log.run(100)
    assert not log.judge().holds


def test_a_line_that_is_half_written_is_left_for_later(log: Log) -> None:
    reader, file = journal.Reader(log.directory), log.directory / "1.journal"
    file.write_text("tried 1 plain\nconfirmed 1 id-")
    before = reader.records()
    with file.open("a") as growing:
        growing.write("x 2.5\nbegan 1 0 3.5 w 0\n")
    assert (len(before.tried), before.confirmed, dict(before.runs)) == (1, {}, {})
    assert reader.records().confirmed == {1: "id-x"}
    assert reader.records() == journal.read(log.directory)
    assert isinstance(before, Records)


def test_the_same_seed_gives_the_same_schedule_of_every_kind() -> None:
    kinds = list(FAULTS)
    first = plan(7, 600.0, kinds, 3.0)
    assert first == plan(7, 600.0, kinds, 3.0) != plan(8, 600.0, kinds, 3.0)
    assert 150 < len(first) < 250
    assert {fault.kind for fault in first[: len(kinds)]} == set(kinds)
    assert all(0 <= fault.pick < 1 and 0 <= fault.size < 1 for fault in first)
    assert plan(7, 600.0, [], 3.0) == []


def test_faults_are_named_by_kind_or_group_and_left_out_with_a_minus() -> None:
    parse: Callable[..., options.Options] = lambda *words: options.parse(words)  # noqa: E731
    assert parse("--faults", "worker-kill,pool").faults == (
        "pool-kill",
        "pool-term",
        "pool-stop",
        "worker-kill",
    )
    everything = parse("--broker", "rabbitmq").faults
    assert "close" in everything
    assert "disk" not in everything
    without = parse("--broker", "rabbitmq", "--faults", "all,-clock,-poison").faults
    assert set(everything) - set(without) == {"clock", "segfault", "spin", "memory"}
    assert "cut" not in parse("--broker", "sqlite").faults
    watched = set(parse("--broker", "sentinel").faults)
    assert watched > {"failover", "failover-stop", "replica-kill", "worker-kill"}
    assert watched.isdisjoint({"broker-kill", "cut"})  # no proxy stands between


def test_the_type_of_rabbitmqs_queues_is_a_setting_of_the_run() -> None:
    assert options.parse(["--broker", "rabbitmq"]).queue_type == "classic"
    assert options.parse(["--broker", "rabbitmq", "--queue-type", "quorum"]).queue_type == "quorum"
    with ExitStack() as ending:
        world = RabbitChaos(durable=True, queue_type="quorum")
        ending.push(world)
        assert world.settings()["task_default_queue_type"] == "quorum"


def test_a_queue_that_cannot_say_is_told_apart_from_one_that_has_messages() -> None:
    every = {"celery": 5, "celery_delayed_1": 2, "celery_delayed_2": -1, "umbel.q": 1}
    ready = {"celery": 3, "celery_delayed_1": 2, "celery_delayed_2": 0, "umbel.q": 1}
    left = count_left(every, ready)
    assert left == Left(waiting=3, delayed=2, held=2, unknown=1)
    assert left.messages == 7
    assert any(count_left({"celery": -1}, {}))  # the queues are looked at again
    assert not any(count_left({"celery": 0}, {"celery": 0}))


def test_settings_of_a_world_join_those_of_the_library() -> None:
    ours = {"task_acks_late": True, "broker_transport_options": {"socket_timeout": 5}, "rate": 1}
    more = {
        "broker_transport_options": {"master_name": "m"},
        "result_transport": {"master_name": "m"},
        "rate": 2,
    }
    assert merged(ours, more) == {
        "task_acks_late": True,
        "broker_transport_options": {"socket_timeout": 5, "master_name": "m"},
        "result_transport": {"master_name": "m"},
        "rate": 2,
    }


def test_what_a_promoted_replica_may_have_forgotten_is_excused_and_nothing_else(log: Log) -> None:
    forgotten = Fault("failover", 100.0, 102.0, host=EVERYBODY, ends_pool=False)
    log.do_all(100, "plain", began=98.0, ended=99.5)
    log.run(100, pid=8, began=103.0, ended=103.1)
    assert log.judge(forgotten).holds
    log.do_all(200, "plain", began=90.0, ended=95.0)
    log.run(200, pid=8, began=103.0, ended=103.1)
    found = log.judge(forgotten)
    assert (found.duplicated, found.duplicates_unexplained) == (2, 1)
    log.send(300, "plain")  # confirmed, and on no replica
    assert log.judge(forgotten).lost == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--faults", "earthquake"], "unknown fault 'earthquake': known are all, backend-kill"),
        (["--subject", "celery", "--broker", "sqlite"], "Celery cannot use sqlite: choose redis or rabbitmq"),
        (["--seconds", "0"], "a number above 0 is expected, not 0"),
    ],
)
def test_wrong_words_are_told(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options.parse(words)
    assert message in capsys.readouterr().err


def test_processes_of_one_machine_share_a_clock(tmp_path: Path) -> None:
    clocks = Clocks(tmp_path, shared=True)
    clocks.jump("one", -3600)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["-3600\n"]
    clocks = Clocks(tmp_path, shared=False)
    clocks.jump("one", 5)
    assert (tmp_path / "one.clock").read_text() == "+5\n"
