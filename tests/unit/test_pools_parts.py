"""The parts of pools that need no process: frames, permits, limits, deadlines, names."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.errors import ImproperlyConfigured, SoftTimeLimitExceeded, TimeLimitExceeded
from umbel.pools import frames, memory
from umbel.pools.async_pool import AsyncioPool
from umbel.pools.base import Report, Work
from umbel.pools.deadlines import Deadlines
from umbel.pools.frames import FrameReader, FrameWriter
from umbel.pools.inbox import Inbox, Outbox
from umbel.pools.limits import AlarmLimit, ThreadLimit, Timekeeper
from umbel.pools.member import Member, Phase
from umbel.pools.pace import Pace
from umbel.pools.permits import Permits
from umbel.pools.prefork import PreforkPool
from umbel.pools.process import describe_exitcode
from umbel.pools.registry import make_pool
from umbel.pools.solo import SoloPool
from umbel.pools.threads import ThreadsPool
from umbel.testing.contracts.pool_jobs import ScriptedRunner
from umbel.testing.contracts.support import eventually


@given(
    bodies=st.lists(st.tuples(st.integers(1, 22), st.binary(max_size=300)), max_size=20),
    cuts=st.lists(st.integers(1, 97), min_size=1, max_size=50),
)
def test_frames_survive_any_cutting(bodies: list[tuple[int, bytes]], cuts: list[int]) -> None:
    writer, reader = FrameWriter(), FrameReader()
    stream = b"".join(bytes(writer.frame(kind, body)) for kind, body in bodies)
    read: list[tuple[int, bytes]] = []
    at, turn = 0, 0
    while at < len(stream):
        until = at + cuts[turn % len(cuts)]
        for kind, view in reader.feed(stream[at:until]):
            read.append((kind, msgspec.msgpack.decode(view, type=bytes)))
        at, turn = until, turn + 1
    assert read == bodies


@pytest.mark.parametrize("eventfd", [True, False])
def test_permits_are_taken_once(eventfd: bool) -> None:
    permits = Permits.create(eventfd=eventfd)
    other_end = Permits(permits.read_fd, eventfd=eventfd)
    assert not other_end.take()
    permits.give(3)
    permits.give(2)
    assert other_end.take()
    assert permits.left() == 4
    assert permits.take_all() == 4
    assert permits.left() == 0
    assert not other_end.take()
    permits.close()
    permits.close()


@pytest.fixture
def wire() -> Iterator[tuple[socket.socket, Permits, Inbox]]:
    ours, theirs = socket.socketpair()
    permits = Permits.create()
    yield ours, permits, Inbox(theirs, permits, Outbox(theirs), lambda slots: None)
    ours.close()
    theirs.close()
    permits.close()


def works(*seqs: int) -> list[Work]:
    return [Work(seq, b"", "q") for seq in seqs]


def test_jobs_without_a_permit_are_dropped_up_to_the_reset(
    wire: tuple[socket.socket, Permits, Inbox],
) -> None:
    link, permits, inbox = wire
    writer = FrameWriter()
    permits.give(1)
    link.sendall(writer.frame(frames.JOBS, works(1, 2, 3)))
    link.sendall(writer.frame(frames.JOBS, works(4)))
    link.sendall(writer.frame(frames.RESET, None))
    link.sendall(writer.frame(frames.JOBS, works(5)))
    link.sendall(writer.frame(frames.LEAVE, None))
    first = inbox.next()
    assert first is not None
    assert first.seq == 1
    assert inbox.next() is None
    ((kind, _),) = FrameReader().feed(link.recv(100))
    assert kind == frames.WAS_RESET
    inbox.told_to_leave = False
    # Job 5 had no permit either: the supervisor sends none before it has read that acknowledgement.
    permits.give(1)
    link.sendall(writer.frame(frames.RESET, None))
    link.sendall(writer.frame(frames.JOBS, works(6)))
    later = inbox.next()
    assert later is not None
    assert later.seq == 6


def test_the_end_of_the_link_is_time_to_leave(wire: tuple[socket.socket, Permits, Inbox]) -> None:
    link, _, inbox = wire
    link.close()
    assert inbox.next() is None


@pytest.fixture
def alarm() -> Iterator[AlarmLimit]:
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGALRM, signal.SIGUSR1)}
    limit = AlarmLimit()
    limit.install()
    yield limit
    signal.setitimer(signal.ITIMER_REAL, 0)
    for signum, handler in before.items():
        signal.signal(signum, handler)


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)
    spin(10)


def test_an_alarm_interrupts_the_body_and_nothing_after_it(alarm: AlarmLimit) -> None:
    with pytest.raises(SoftTimeLimitExceeded), alarm(0.02):
        spin(10)
    with alarm(0.02):
        pass
    spin(0.04)
    os.kill(os.getpid(), signal.SIGALRM)
    os.kill(os.getpid(), signal.SIGUSR1)
    spin(0.001)


def test_an_alarm_meant_for_the_last_body_is_ignored(alarm: AlarmLimit) -> None:
    with alarm(60.0):
        os.kill(os.getpid(), signal.SIGALRM)
        spin(0.001)


def test_sigusr1_interrupts_a_body_that_has_no_limit(alarm: AlarmLimit) -> None:
    with pytest.raises(SoftTimeLimitExceeded), alarm(None):
        interrupt()


def test_a_body_is_interrupted_once(alarm: AlarmLimit) -> None:
    with alarm(None):
        with pytest.raises(SoftTimeLimitExceeded):
            interrupt()
        os.kill(os.getpid(), signal.SIGUSR1)
        spin(0.001)


def test_a_thread_is_interrupted_in_its_body_only() -> None:
    keeper = Timekeeper()
    limit = ThreadLimit(keeper)
    with pytest.raises(SoftTimeLimitExceeded), limit(0.02):
        spin(10)
    limit.hard(0.02)
    with pytest.raises(TimeLimitExceeded), limit(60.0):
        spin(10)
    for step in range(200):
        try:
            with limit(0.0005 + step * 1e-6):
                spin(0.0005)
        except SoftTimeLimitExceeded:
            continue
        finally:
            limit.clear()
    spin(0.01)
    keeper.end()


async def test_deadlines_ring_in_order_and_only_when_they_stand() -> None:
    rung: list[int] = []
    deadlines = Deadlines(rung.append)
    deadlines.set(1, 0.02)
    deadlines.set(2, 0.01)
    deadlines.set(3, 0.015)
    deadlines.set(4, 60.0)
    deadlines.drop(3)
    deadlines.drop(3)
    await eventually(lambda: rung == [2, 1])
    assert deadlines
    deadlines.drop(4)
    assert not deadlines


async def test_deadlines_do_not_pile_up() -> None:
    deadlines = Deadlines(lambda seq: None)
    deadlines.set(-1, 60.0)
    for seq in range(10_000):
        deadlines.set(seq, 60.0)
        deadlines.drop(seq)
    assert len(deadlines._heap) < 200
    deadlines.clear()
    await asyncio.sleep(0)


def test_depth_follows_how_long_jobs_take() -> None:
    pace = Pace(0.002)
    assert pace.depth() == 0
    pace.note(0.0001, 100)
    assert pace.depth() == 95  # 2 ms of jobs that take 1 us and cost their process 20
    pace.note(64 * 0.001, 64)
    assert pace.depth() == 1
    pace.note(64 * 0.01, 64)
    assert pace.depth() == 0


def test_depth_behind_many_slots_is_what_ends_in_all_of_them() -> None:
    pace = Pace(0.002, 1000)
    pace.note(64 * 0.5, 64)
    assert pace.depth() == 38  # in 20 ms; one ends every 0.5 ms, and costs 20 us
    pace.note(64 * 100.0, 64)
    assert pace.depth() == 0


def test_until_a_brief_job_has_ended_the_first_that_has_goes_for_them() -> None:
    """Those that are given out while none has ended would all wait for one another's ends to be told, a second time."""
    pace = Pace(0.002, 1000)
    assert pace.is_new
    pace.note_first(0.5)
    assert not pace.is_new
    assert pace.depth() == 38
    pace.note(64 * 100.0, 64)
    assert pace.depth() == 0


@given(slots=st.integers(1, 4), held=st.integers(0, 300), depth=st.integers(0, 64), left=st.integers(0, 20))
def test_room_keeps_to_the_allowance(slots: int, held: int, depth: int, left: int) -> None:
    member = Member(slots, left, lambda member: None)
    assert member.vacancies() == member.room(depth) == 0
    member.phase = Phase.OPEN
    member.held = dict.fromkeys(range(held), True)
    assert 0 <= member.vacancies() <= member.room(depth) <= left
    member.resetting = True
    assert member.vacancies() == member.room(depth) == 0


def test_ends_are_told_in_celerys_words() -> None:
    assert describe_exitcode(3) == "exitcode 3"
    assert describe_exitcode(-9) == "signal 9 (SIGKILL)"
    assert describe_exitcode(-250) == "signal 250"


def test_memory_is_measured() -> None:
    # In a process of its own: this one may have room for the ballast from what was freed before.
    program = """
from umbel.pools import memory
before = memory.private()
ballast = b"\\1" * (32 * 1024 * 1024)
assert memory.private() - before > 30 * 1024
assert memory.resident() >= memory.private() > 0
assert memory.MemoryWatch(2**40).excess() is None
watch = memory.MemoryWatch(1)
assert (watch.excess() or 0) > 30 * 1024
assert watch.excess() is None  # too early to look again
"""
    subprocess.run([sys.executable, "-c", program], timeout=20, check=True)


def test_what_is_shared_is_measured_anew_only_where_it_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    process = SimpleNamespace(own=100, shared=900, now=0.0)
    looks: list[int] = []

    def private(pid: int | None = None) -> int:
        looks.append(process.own)
        return int(process.own)

    monkeypatch.setattr(memory, "resident", lambda pid=None: process.own + process.shared)
    monkeypatch.setattr(memory, "private", private)
    monkeypatch.setattr(time, "monotonic", lambda: process.now)

    def excess(watch: memory.MemoryWatch, own: int) -> int | None:
        process.own = own
        process.now += 1.0
        return watch.excess()

    watch = memory.MemoryWatch(500)
    assert [excess(watch, own) for own in (100, 200, 300, 499)] == [None] * 4
    assert looks == [100]
    process.shared = 1000  # it reads files: what it uses itself is not more
    assert excess(watch, 450) is None
    assert excess(watch, 501) == 501
    assert looks == [100, 450, 501]
    heavier = watch.next(501)
    assert heavier is not None
    assert [excess(heavier, own) for own in (999, 1001)] == [None, 1001]
    assert looks == [100, 450, 501, 1001]


@pytest.mark.parametrize(
    ("name", "kind", "size"),
    [
        ("prefork", PreforkPool, 3),
        ("processes", PreforkPool, 3),
        ("threads", ThreadsPool, 3),
        ("solo", SoloPool, 1),
        ("asyncio", AsyncioPool, 300),
    ],
)
def test_pools_by_name(name: str, kind: type[object], size: int) -> None:
    pool = make_pool(name, ScriptedRunner, 3, max_tasks_per_child=5)
    assert isinstance(pool, kind)
    assert pool.size == size


@pytest.mark.parametrize(
    ("name", "match"),
    [("custom", "not available in this version"), ("preforc", "no pool called 'preforc'")],
)
def test_names_of_no_pool(name: str, match: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=match):
        make_pool(name, ScriptedRunner, 1)


def test_solo_needs_a_factory_to_call() -> None:
    with pytest.raises(ImproperlyConfigured, match="runs in this process"):
        make_pool("solo", "somewhere:runner", 1)


def test_reports_cross_the_wire_as_they_are() -> None:
    report = Report(7, "SUCCESS", "ack", 0.5, payload=b"x", error="why")
    ((kind, body),) = FrameReader().feed(bytes(FrameWriter().frame(frames.REPORT, report)))
    assert kind == frames.REPORT
    assert msgspec.msgpack.decode(body, type=Report) == report


def test_a_limit_that_came_too_late_leaves_the_interpreter_as_it_was() -> None:
    # CPython 3.11 stands still in a profiled thread while it looks for an exception that was taken back with None.
    program = """
import sys, threading
from umbel.errors import SoftTimeLimitExceeded
from umbel.pools.limits import ThreadLimit, Timekeeper
keeper = Timekeeper()
alarm = keeper.set(3600, SoftTimeLimitExceeded, ThreadLimit(keeper))
alarm.fired = True
keeper.cancel(alarm)
def profiled(): pass
sys.setprofile(lambda *event: None)
profiled()
sys.setprofile(None)
keeper.end()
"""
    subprocess.run([sys.executable, "-c", program], timeout=20, check=True)
