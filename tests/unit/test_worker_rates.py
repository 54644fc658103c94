"""Rate limits as instants: who waits here, who is sent back to the broker, and until when."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from umbel.worker.rates import TokenBucket

NOW = 1_800_000_000.0

rates = st.floats(min_value=0.01, max_value=1000)


@given(rates, st.integers(min_value=1, max_value=200))
def test_jobs_that_may_wait_get_instants_of_their_own(rate: float, count: int) -> None:
    bucket = TokenBucket(rate)
    instants = [bucket.delay(NOW, most=1e9) for _ in range(count)]
    assert instants[0] == 0
    assert all(later - earlier >= 1 / rate - 1e-5 for earlier, later in pairwise(instants))


@given(rates, st.integers(min_value=1, max_value=500))
def test_those_that_would_wait_too_long_are_told_a_time_within_a_minute_of_the_next_instant(
    rate: float, count: int
) -> None:
    bucket = TokenBucket(rate)
    delays = [bucket.delay(NOW, most=5) for _ in range(count)]
    here = [delay for delay in delays if delay <= 5]
    assert len(here) <= 5 * rate + 2
    parked = [delay for delay in delays if delay > 5]
    assert all(delay <= 5 + 1 / rate + 60 + 1e-5 for delay in parked)


@given(rates, st.floats(min_value=1, max_value=1e7))
def test_a_clock_that_is_set_back_makes_nobody_wait_longer(rate: float, back: float) -> None:
    bucket = TokenBucket(rate)
    assert bucket.delay(NOW) == 0
    assert bucket.delay(NOW - back, most=1e9) <= 1 / rate + 1e-5
