"""A worker whose tasks are greenlets. Needs gevent or eventlet, which are optional."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.integration.apps.stage import Stage, redis_stage
from tests.support.servers import RedisServer
from umbel.errors import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module", params=["gevent", "eventlet"])
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer
) -> Iterator[Stage]:
    if find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    with redis_stage(tmp_path_factory.mktemp(request.param), redis_server, database=5) as found:
        found.worker("-P", request.param, "-c", "200")
        yield found


def test_many_wait_at_once_in_one_process(stage: Stage) -> None:
    begun = time.monotonic()
    results = [stage.send("hold", mark, "together") for mark in range(150)]
    stage.wait_for("begun", 149)
    stage.open("together")
    assert [result.get(timeout=20) for result in results] == list(range(150))
    assert time.monotonic() - begun < 15
    # The tests before this one may have ended a process.
    begun_in = Counter(words[2] for words in stage.lines("begun") if words[1].isdigit())
    assert len(begun_in) == 1, begun_in


def test_limits_and_revocation_reach_those_that_wait(stage: Stage) -> None:
    with pytest.raises(SoftTimeLimitExceeded):
        stage.send("hold", "soft", "never", soft_time_limit=0.2).get(timeout=10)
    neighbour, revoked = stage.send("hold", "neighbour", "later"), stage.send("hold", "revoked", "never")
    stage.wait_for("begun", "neighbour")
    stage.wait_for("begun", "revoked")
    revoked.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        revoked.get(timeout=10)
    stage.open("later")
    assert neighbour.get(timeout=10) == "neighbour"


def test_a_hard_limit_ends_the_process_and_it_is_replaced(stage: Stage) -> None:
    with pytest.raises(TimeLimitExceeded):
        stage.send("spin", 60, time_limit=0.4).get(timeout=15)
    assert stage.send("nothing", "on").get(timeout=15) == "on"


def test_rate_limits_hold(stage: Stage) -> None:
    (answer,) = stage.app.control.rate_limit("jobs.nothing", "4/s", reply=True, timeout=5, limit=1)
    assert "ok" in next(iter(answer.values()))
    results = [stage.send("nothing", mark) for mark in range(9)]
    begun = time.monotonic()
    assert [result.get(timeout=40) for result in results] == list(range(9))
    # The first may use what had gathered; then one each quarter of a second.
    assert time.monotonic() - begun > 0.9
    stage.app.control.rate_limit("jobs.nothing", 0, reply=True, timeout=5, limit=1)


def test_async_tasks(stage: Stage) -> None:
    results = [stage.send("async_nothing", mark) for mark in range(20)]
    assert [result.get(timeout=20) for result in results] == list(range(20))
