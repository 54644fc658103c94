"""The worker's decisions that need no broker and no process: admission, pace, rates, options, holding."""

from __future__ import annotations

import asyncio
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.brokers.base import Delivery
from umbel.core.protocol import Header
from umbel.worker.admission import Drop, Hold, Run, admit
from umbel.worker.holding import Holding
from umbel.worker.ledger import Ledger
from umbel.worker.options import available_cpus, concurrency, expand, names, node_name
from umbel.worker.pace import Pace
from umbel.worker.rates import TokenBucket, parse_rate

NOW = 1_800_000_000.0


def iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


class TestAdmission:
    def test_a_plain_job_runs(self) -> None:
        assert admit(Header(id="a", task="t"), NOW, set()) == Run()

    def test_a_revoked_job_is_dropped_whatever_its_time(self) -> None:
        assert admit(Header(id="a", task="t", eta=iso(NOW + 60)), NOW, {"a"}) == Drop("revoked")

    def test_an_expired_job_is_dropped_even_when_it_is_not_due(self) -> None:
        header = Header(id="a", task="t", eta=iso(NOW + 60), expires=iso(NOW - 1))
        assert admit(header, NOW, set()) == Drop("expired")

    @given(st.floats(min_value=-1e6, max_value=1e6))
    def test_a_job_is_held_exactly_until_its_eta(self, offset: float) -> None:
        header = Header(id="a", task="t", eta=iso(NOW + offset))
        due = datetime.fromisoformat(iso(NOW + offset)).timestamp()
        assert admit(header, NOW, set()) == (Hold(due) if due > NOW else Run())

    @pytest.mark.parametrize("eta", ["", "soon", "2026-13-01T00:00:00", "99999-01-01T00:00:00+00:00"])
    def test_an_eta_that_is_no_instant_is_invalid_and_named(self, eta: str) -> None:
        decision = admit(Header(id="a", task="t", eta=eta), NOW, set())
        assert isinstance(decision, Drop)
        assert decision.reason == "invalid"
        assert repr(eta) in decision.detail

    def test_a_rate_limit_holds_and_takes_no_token_from_expired_jobs(self) -> None:
        asked: list[str] = []

        def delay(task: str, now: float) -> float:
            asked.append(task)
            return 2.0

        assert admit(Header(id="a", task="t"), NOW, set(), delay) == Hold(NOW + 2.0)
        assert admit(Header(id="a", task="t", expires=iso(NOW - 1)), NOW, set(), delay) == Drop("expired")
        assert asked == ["t"]


class TestRates:
    @pytest.mark.parametrize(
        ("text", "rate"),
        [("10/s", 10.0), ("60/m", 1.0), ("3600/h", 1.0), ("5", 5.0), (2, 2.0), (None, 0), (0, 0)],
    )
    def test_celerys_forms(self, text: str | float | None, rate: float) -> None:
        assert parse_rate(text) == rate

    def test_an_odd_rate_says_what_is_accepted(self) -> None:
        with pytest.raises(ValueError, match=r'like "10/s".*got \'10/d\''):
            parse_rate("10/d")

    @given(
        st.floats(min_value=0.1, max_value=1000), st.lists(st.floats(min_value=0, max_value=5), min_size=1)
    )
    def test_never_more_than_the_rate_and_one(self, rate: float, steps: list[float]) -> None:
        bucket, now, passed = TokenBucket(rate), NOW, 0
        for step in steps:
            now += step
            passed += bucket.delay(now) == 0
        assert passed <= 1 + rate * (now - NOW) + 1e-6 * len(steps)


class TestPace:
    def test_a_task_is_not_brief_before_it_was_seen(self) -> None:
        assert not Pace(0.001, 0.02).is_brief("t")
        assert not Pace(0.001, 0.02, 10_000).is_brief("t")
        assert Pace(0.001, 0.02, 10_000).reserve(10_000) == 0

    def test_where_many_run_abreast_longer_tasks_are_brief(self) -> None:
        pace = Pace(0.001, 0.05, 1000)
        for _ in range(200):
            pace.observe("wait", 0.1)
        assert pace.is_brief("wait")
        assert 400 < pace.reserve(1000) <= 500
        pace.forget()
        assert pace.reserve(1000) == 0

    def test_brief_tasks_make_a_reserve_and_long_ones_do_not(self) -> None:
        pace = Pace(0.001, 0.02)
        for _ in range(200):
            pace.observe("short", 0.00002)
        assert pace.is_brief("short")
        assert pace.reserve(2) > 100
        for _ in range(50):
            pace.observe("long", 0.5)
        assert not pace.is_brief("long")
        assert pace.is_brief("short")
        assert pace.reserve(2) == 0


class TestOptions:
    def test_names(self) -> None:
        assert names(" a, b,,c ") == ("a", "b", "c")
        assert names(["a", "b"]) == ("a", "b")
        assert names(None) == ()

    def test_node_names_are_filled_in(self) -> None:
        host = socket.gethostname()
        assert node_name(None) == f"celery@{host}"
        assert node_name("w1") == "celery@w1"
        assert node_name("w1@") == f"w1@{host}"
        assert node_name("w1@%h") == f"w1@{host}"
        assert node_name("w1@elsewhere") == "w1@elsewhere"

    def test_templates(self) -> None:
        assert expand("%n/%d/%h/%%n", "w1@a.example.org") == "w1/example.org/a.example.org/%n"
        assert expand("%n%I.%i.log", "w1@a") == "w1.0.log"
        assert expand("%n%I.%i.log", "w1@a", 3) == "w1-3.3.log"

    @pytest.mark.parametrize("value", ["many", "0", 0, "-1"])
    def test_an_odd_concurrency_says_what_is_accepted(self, value: str | int) -> None:
        with pytest.raises(ValueError, match=r'expected a positive number or "auto"'):
            concurrency(value)

    @pytest.mark.parametrize(
        ("content", "limit"), [("150000 100000", 1), ("max 100000", None), ("50000 100000", 1)]
    )
    def test_auto_respects_a_control_group(self, tmp_path: Path, content: str, limit: int | None) -> None:
        (tmp_path / "cpu.max").write_text(content)
        assert available_cpus(str(tmp_path)) == (limit or concurrency(None))

    def test_auto_respects_the_older_control_groups(self, tmp_path: Path) -> None:
        (tmp_path / "cpu").mkdir()
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("100000")
        (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
        assert available_cpus(str(tmp_path)) == 1


class TestHolding:
    async def test_jobs_come_back_at_their_time_in_order(self, late_task: object) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        released: list[int] = []
        done = asyncio.Event()

        def release(jobs: list[object]) -> None:
            released.extend(job.seq for job in jobs)  # type: ignore[attr-defined]
            if len(released) == 3:
                done.set()

        holding = Holding(3, release, lambda: NOW + loop.time() - start)  # type: ignore[arg-type]
        ledger = Ledger()
        for offset in (0.03, 0.01, 0.02):
            job = ledger.add(Delivery(b"t", "q", b""), Header(), late_task)  # type: ignore[arg-type]
            holding.keep(job, NOW + offset, loop)
        assert holding.full()
        await asyncio.wait_for(done.wait(), 5)
        assert released == [2, 3, 1]
        assert len(holding) == 0

    async def test_clear_gives_everything_back_at_once(self, late_task: object) -> None:
        holding = Holding(3, lambda jobs: None, lambda: NOW)
        job = Ledger().add(Delivery(b"t", "q", b""), Header(), late_task)  # type: ignore[arg-type]
        holding.keep(job, NOW + 100, asyncio.get_running_loop())
        assert holding.clear() == [job]
        assert holding.clear() == []


@pytest.fixture
def late_task() -> object:
    class LateTask:
        acks_late = True

    return LateTask()
