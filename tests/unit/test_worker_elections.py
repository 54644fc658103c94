"""Elections among workers: who is elected, whoever hears what first, and what it costs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.testing.contracts.support import eventually
from umbel.worker import elections
from umbel.worker.elections import ACK, ELECT, Candidate, Elections, elected


def candidate(clock: int, node: str, acks_before: int = 0) -> Candidate:
    return Candidate(clock, node, acks_before)


def among(*candidates: Candidate) -> str | None:
    leader = elected({each.node: each for each in candidates})
    return leader.node if leader else None


class TestTheLeader:
    def test_has_the_lowest_clock_and_of_these_the_first_name(self) -> None:
        assert among() is None
        assert among(candidate(5, "a.1")) == "a.1"
        assert among(candidate(5, "b.1"), candidate(7, "a.1")) == "b.1"
        assert among(candidate(5, "b.1"), candidate(5, "a.2"), candidate(5, "a.1")) == "a.1"

    def test_is_none_who_stood_after_celerys_workers_had_decided(self) -> None:
        early = candidate(5, "a.1"), candidate(6, "b.1", 1)
        assert among(*early, candidate(1, "late.1", 2)) == "a.1"
        assert among(*early, candidate(1, "in time.1", 1)) == "in time.1"

    @given(st.lists(st.sampled_from(["elect", "ack"]), max_size=40), st.randoms())
    def test_is_the_one_that_a_celery_worker_takes_that_heard_the_same(
        self, kinds: list[str], random: Any
    ) -> None:
        heard: dict[str, Candidate] = {}
        acks = 0
        for number, kind in enumerate(kinds):
            if kind == "ack":
                acks += 1
            else:
                node = f"w{number}.1"
                heard[node] = candidate(random.randrange(5), node, acks)
        # As Celery's do it: when as many acknowledgements have come as there are others, who is known by then.
        others, requests, replies, theirs = max(len(heard) - 1, 1), [], 0, None
        for number, kind in enumerate(kinds):
            if kind == "elect":
                requests.append((heard[f"w{number}.1"].clock, f"w{number}.1"))
            else:
                replies += 1
                if replies == others and requests:
                    theirs = min(requests)[1]
        leader = elected(heard)
        if theirs is not None and leader is not None:
            assert leader.node == theirs


class Sent:
    """A worker's events, as far as elections send some: everybody hears them, in one order."""

    def __init__(self, hearers: list[Elections], pid: int, name: str, told: list[str]) -> None:
        self.pid = pid
        self.clock = pid
        self._hearers = hearers
        self._name = name
        self._told = told

    def beat(self) -> None:
        self._told.append("worker-heartbeat")

    def worker(self, type_: str, **fields: Any) -> None:
        self._told.append(type_)
        event = {"type": type_, "hostname": self._name, "pid": self.pid, "clock": self.clock, **fields}
        for hearer in self._hearers:
            asyncio.get_running_loop().call_soon(hearer.hear, event)


class Fleet:
    def __init__(self, size: int) -> None:
        self.told: list[str] = []
        self.acted: list[tuple[str, Any]] = []
        self.members: list[Elections] = []
        for number in range(size):
            name = f"w{number}@here"
            events = Sent(self.members, number + 1, name, self.told)
            handlers = {"task": lambda action, name=name: self.acted.append((name, action))}
            self.members.append(Elections(name, events, handlers))  # type: ignore[arg-type]

    def order(self, topic: str = "task", action: Any = "do") -> None:
        for member in self.members:
            member.stand("e1", topic, action)

    def foreign(self, type_: str, node: str = "c@here", clock: int = 50) -> None:
        event = {
            "type": type_,
            "hostname": node,
            "pid": 9,
            "clock": clock,
            "id": "e1",
            "topic": "task",
            "action": "do",
        }
        for member in self.members:
            member.hear(event)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elections, "_SETTLED", 0.02)
    monkeypatch.setattr(elections, "_SILENCE", 0.06)


async def test_one_of_the_fleet_acts_and_nobody_needs_acknowledgements() -> None:
    fleet = Fleet(5)
    fleet.order()
    await eventually(lambda: fleet.acted != [])
    assert fleet.acted == [("w0@here", "do")]
    assert sorted(fleet.told) == [ELECT] * 5 + ["worker-heartbeat"] * 5


async def test_one_that_was_held_up_does_not_act_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    fleet = Fleet(3)
    for member in fleet.members[1:]:
        member.stand("e1", "task", "do")
    late = fleet.members.pop(0)  # it hears nothing, and stands when the others have decided
    await eventually(lambda: fleet.acted == [("w1@here", "do")])
    fleet.members.append(late)
    late.stand("e1", "task", "do")
    await eventually(lambda: not late._races)
    assert fleet.acted == [("w1@here", "do")]
    assert caplog.text.count("node w1@here.2 elected for 'e1'") >= 2


async def test_celerys_workers_are_acknowledged_and_elected(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    fleet = Fleet(2)
    fleet.order()
    fleet.foreign(ELECT, clock=0)
    await eventually(lambda: fleet.told.count(ACK) == 6)  # each acknowledges all three
    await eventually(lambda: caplog.text.count("node c@here.9 elected for 'e1'") == 2)
    assert fleet.acted == []
    assert fleet.told.count(ACK) == 6


async def test_who_is_left_out_only_listens() -> None:
    fleet = Fleet(3)
    fleet.members[0].close()
    for member in fleet.members[1:]:
        member.stand("e1", "task", "do")
    await eventually(lambda: fleet.acted != [])
    assert fleet.acted == [("w1@here", "do")]


async def test_a_topic_that_nobody_knows_and_an_action_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    fleet = Fleet(1)
    fleet.order("dance")
    await eventually(lambda: "Unknown election topic 'dance'" in caplog.text)

    def fail(action: Any) -> None:
        raise LookupError(action)

    fleet.members[0].election_handlers["fail"] = fail
    fleet.order("fail", "this")
    await eventually(lambda: "Could not call task: 'this'" in caplog.text)


async def test_strangers_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elections, "_MOST", 10)
    [member] = Fleet(1).members
    for number in range(30):
        member.hear({"type": ELECT, "id": str(number), "hostname": "x", "pid": 1, "clock": "late"})
        member.hear({"type": ACK, "id": str(number)})
    member.hear({"type": ELECT, "id": ["no"]})
    assert len(member._races) == 10
    await eventually(lambda: not member._races)
