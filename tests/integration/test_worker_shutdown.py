"""How a worker ends: warm, soft, cold, restarted, and with the broker away."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.environments import ROOT
from tests.integration.apps.stage import APP, Stage, redis_stage, sqlite_stage
from tests.support.proxy import TcpProxy
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until
from umbel.errors import WorkerLostError

pytestmark = pytest.mark.processes


@pytest.fixture(params=["redis", "sqlite"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    if request.param == "redis":
        with redis_stage(tmp_path, request.getfixturevalue("redis_server")) as found:
            yield found
    else:
        with sqlite_stage(tmp_path) as found:
            yield found


@pytest.fixture(params=["redis", "sqlite", "rabbitmq"])
def every(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """A stage on each broker that keeps messages; with RabbitMQ, results are in Redis."""
    if request.param == "rabbitmq":
        urls = (request.getfixturevalue("rabbitmq_url"), request.getfixturevalue("redis_url"))
        with Stage(tmp_path, *urls) as found:
            yield found
    elif request.param == "redis":
        with redis_stage(tmp_path, request.getfixturevalue("redis_server")) as found:
            yield found
    else:
        with sqlite_stage(tmp_path) as found:
            yield found


#: Longer than any of these tests may take: nothing here waits for a lease to lapse.
PATIENT = {"worker_lease_duration": 300}


@pytest.mark.parametrize("how", ["warm", "soft", "cold"])
def test_what_is_not_finished_another_worker_takes_up_at_once(every: Stage, how: str) -> None:
    every.settings |= PATIENT | {"worker_prefetch_multiplier": 4}
    if how == "soft":
        every.settings |= {"worker_soft_shutdown_timeout": 0.5}
    leaving = every.worker("-c1", env={"REMAP_SIGTERM": "" if how == "warm" else "SIGQUIT"})
    running = every.send("late", "running")
    every.wait_for("begun", "running")
    waiting = [every.send("note", mark) for mark in range(5)]
    leaving.wait_for_line(rf"{waiting[2].id}\] received")
    leaving.signal(signal.SIGTERM)
    if how == "warm":
        # What only waited is free while the other still runs.
        leaving.wait_for_line("Warm shutdown")
        heir = every.worker("-c1")
        assert [result.get(timeout=30) for result in waiting] == list(range(5))
        every.open()
        assert leaving.wait(timeout=30) == 0
        assert running.get(timeout=30) == "running"
        assert [line[-1] for line in every.lines("begun")] == ["False"]
    else:
        assert leaving.wait(timeout=30) == 1
        every.open()
        heir = every.worker("-c1")
        assert running.get(timeout=30) == "running"
        assert [result.get(timeout=30) for result in waiting] == list(range(5))
        assert [line[-1] for line in every.lines("begun")] == ["False", "True"]
    assert heir.terminate(timeout=30) == 0


def test_a_third_signal_cuts_short_what_the_second_began(every: Stage) -> None:
    every.settings |= PATIENT | {"worker_soft_shutdown_timeout": 600}
    worker = every.worker("-c1")
    every.send("late", "x")
    every.wait_for("begun")
    worker.signal(signal.SIGTERM)
    worker.wait_for_line("Warm shutdown")
    worker.signal(signal.SIGTERM)
    worker.wait_for_line("Initiating Soft Shutdown")
    worker.signal(signal.SIGTERM)
    assert worker.wait(timeout=30) == 1
    wait_until(lambda: every.broker.depth("celery") == 1, what="the message to be back in its queue")


@pytest.fixture
def redis(tmp_path: Path, redis_server: RedisServer) -> Iterator[Stage]:
    with redis_stage(tmp_path, redis_server) as found:
        yield found


class Pod:
    """A worker in a container as the documentation has it, and what Kubernetes does to end it."""

    def __init__(self, stage: Stage, grace: float, env: dict[str, str] | None = None) -> None:
        self._stage = stage
        self._grace = grace
        self._deadline = 0.0
        [text] = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/reliability.md").read_text(), re.DOTALL)
        self.spec: dict[str, Any] = yaml.safe_load(text)["spec"]
        [container] = self.spec["containers"]
        assert container["command"][:4] == ["umbel", "-A", "shop", "worker"]
        if env is None:
            env = {each["name"]: each["value"] for each in container["env"]}
        self._hook: list[str] = container["lifecycle"]["preStop"]["exec"]["command"]
        self.worker = stage.worker("-c1", *container["command"][4:], env=env)

    def leave_with_work(self) -> tuple[Any, list[Any]]:
        """Run the hook with one task running and five waiting, and give their results."""
        stage = self._stage
        running = stage.send("late", "running")
        stage.wait_for("begun", "running")
        waiting = [stage.send("note", mark) for mark in range(5)]
        self.worker.wait_for_line(rf"{waiting[2].id}\] received")
        self.run_hook()
        self.worker.wait_for_line("Warm shutdown")
        return running, waiting

    def run_hook(self) -> None:
        """The preStop hook, to its end; the grace period runs already."""
        self._deadline = time.monotonic() + self._grace
        command = [word.replace("shop", APP.stem) for word in self._hook]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        python_path = os.pathsep.join([str(APP.parent), str(ROOT)])
        environment = self._stage.variables() | {"PATH": path, "PYTHONPATH": python_path}
        done = subprocess.run(
            command,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=self._grace,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def send_sigterm(self) -> None:
        """What comes when the hook has ended."""
        self.worker.signal(signal.SIGTERM)

    def await_end(self) -> bool:
        """Wait for the end of the grace period at the most, and kill it then; says whether it had ended by itself."""
        try:
            self.worker.wait(timeout=self._deadline - time.monotonic())
        except AssertionError:
            self.worker.kill9()
            return False
        return True


def test_what_is_documented_for_kubernetes_leaves_time_for_a_soft_shutdown(redis: Stage) -> None:
    pod = Pod(redis, 30)
    [container] = pod.spec["containers"]
    assert container["command"][4:] == ["-n", "worker@%h"]
    text = (ROOT / "docs/reliability.md").read_text()
    [soft] = re.findall(r"shop\.conf\.worker_soft_shutdown_timeout = (\d+)", text)
    assert int(soft) < pod.spec["terminationGracePeriodSeconds"]
    assert f"worker@{socket.gethostname()} ready" in pod.worker.output


@pytest.mark.parametrize("in_time", [True, False])
def test_kubernetes_hook_and_sigterm_leave_nothing_that_has_to_be_waited_for(
    every: Stage, in_time: bool
) -> None:
    soft = 60.0 if in_time else 1.0
    every.settings |= PATIENT | {"worker_prefetch_multiplier": 4, "worker_soft_shutdown_timeout": soft}
    pod = Pod(every, 60)
    leaving = pod.worker
    running, waiting = pod.leave_with_work()
    heir = every.worker("-c1", "-nheir@here")
    # What only waited is free as soon as the hook has spoken, and what comes now is not this worker's.
    waiting.append(every.send("note", 5))
    assert [result.get(timeout=30) for result in waiting] == list(range(6))
    pod.send_sigterm()
    leaving.wait_for_line("Initiating Soft Shutdown")
    if in_time:
        every.open()
    assert pod.await_end(), leaving.output
    every.open()
    assert running.get(timeout=30) == "running"
    assert [line[-1] for line in every.lines("begun")] == (["False"] if in_time else ["False", "True"])
    every.wait_empty()
    assert heir.terminate() == 0


def test_killed_when_its_time_is_over_it_holds_nothing_but_what_ran(every: Stage) -> None:
    """Without what the documentation says SIGTERM is warm, and a long task outlasts the grace period."""
    on_rabbitmq = every.broker_url.startswith("amqp")
    every.settings |= {"worker_prefetch_multiplier": 4, "worker_lease_duration": 300 if on_rabbitmq else 6}
    pod = Pod(every, 8, env={})
    running, waiting = pod.leave_with_work()
    pod.send_sigterm()
    wait_until(
        lambda: (every.broker.depth("celery"), every.broker.held_depth()) in {(5, 1), (5, 0)},
        what="all that waited back in the queue",
    )
    assert not pod.await_end()
    heir = every.worker("-c1", "-nheir@here")
    every.open()
    assert [result.get(timeout=30) for result in waiting] == list(range(5))
    assert running.get(timeout=30) == "running"
    assert [line[-1] for line in every.lines("begun")] == ["False", "True"]
    every.wait_empty()
    assert heir.terminate() == 0


def test_warm_what_runs_ends_and_what_waits_goes_back_in_order(stage: Stage) -> None:
    worker = stage.worker("-c2")
    running = [stage.send("hold", mark) for mark in ("a", "b")]
    stage.wait_for("begun", count=2)
    waiting = [stage.send("note", mark).id for mark in range(12)]
    worker.wait_for_line(rf"{waiting[5]}\] received")
    worker.signal(signal.SIGTERM)
    worker.wait_for_line(r"worker: Warm shutdown \(MainProcess\)")
    wait_until(lambda: stage.broker.depth("celery") == 12, what="all that waited back in the queue")
    late = stage.send("note", "came later")
    stage.open()
    assert worker.wait() == 0
    assert [result.get(timeout=10) for result in running] == ["a", "b"]
    assert stage.broker.held_depth() == 0
    stage.worker("-c1")
    late.get(timeout=10)
    assert [line[1] for line in stage.lines("note")] == [*map(str, range(12)), "came"]
    assert stage.lines("signal", "worker_shutting_down")[0][2:] == [
        worker_name(worker.output),
        "SIGTERM",
        "Warm",
        "0",
    ]
    assert len(stage.lines("signal", "worker_shutdown")) == 1


def test_what_is_on_its_way_to_the_worker_comes_after_what_waits_in_it(
    redis: Stage, redis_server: RedisServer
) -> None:
    redis.settings |= PATIENT
    with TcpProxy(redis_server.port) as proxy:
        far = proxy.url("redis", "0")
        worker = redis.worker("-c1", env={"BROKER": far, "BACKEND": far})
        redis.send("hold", "running")
        redis.wait_for("begun", "running")
        proxy.slow_down(latency=0.2)
        worker.wait_for_line(rf"{redis.send('note', 0).id}\] received")
        held = redis.broker.held_depth()
        redis.send("note", 1)
        wait_until(lambda: redis.broker.held_depth() > held, what="the server to have handed it out")
        worker.signal(signal.SIGTERM)
        wait_until(lambda: redis.broker.depth("celery") == 2, what="both back in the queue")
        redis.worker("-c1", "-nheir@here")
        redis.wait_for("note", count=2)
        assert [line[1] for line in redis.lines("note")] == ["0", "1"]
        redis.open()
        assert worker.wait() == 0


def worker_name(output: str) -> str:
    return next(line for line in output.splitlines() if line.endswith("ready.")).split()[-2]


def test_idle_it_ends_at_once(stage: Stage) -> None:
    worker = stage.worker("-c1")
    begun = time.monotonic()
    assert worker.terminate() == 0
    assert time.monotonic() - begun < 5  # some tenths of a second, on a machine that is not busy


@pytest.mark.parametrize(
    "signals",
    [
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGTERM, signal.SIGQUIT),
        (signal.SIGQUIT,),
        (signal.SIGINT, signal.SIGINT),
    ],
)
def test_cold_what_runs_and_was_not_acknowledged_goes_back_at_once(
    redis: Stage, signals: tuple[signal.Signals, ...]
) -> None:
    worker = redis.worker("-c2")
    again, lost = redis.send("late", "late"), redis.send("hold", "early")
    redis.wait_for("begun", count=2)
    redis.send("note", "waited")
    worker.signal(signals[0])
    if len(signals) > 1:
        worker.wait_for_line("Warm shutdown")
        worker.signal(signals[1])
    worker.wait_for_line("Cold shutdown")
    assert worker.wait() == 1
    assert (redis.broker.depth("celery"), redis.broker.held_depth()) == (2, 0)
    with pytest.raises(WorkerLostError):  # nobody runs it any more, and whoever waits is told
        lost.get(timeout=10)
    redis.open()
    redis.worker("-c1")
    assert again.get(timeout=10) == "late"
    assert [line[-1] for line in redis.lines("begun", "late")] == ["False", "True"]
    assert len(redis.lines("begun", "early")) == 1


@pytest.mark.parametrize("gate_opens", [True, False])
def test_soft_it_waits_for_what_runs_but_not_for_ever(redis: Stage, gate_opens: bool) -> None:
    redis.settings["worker_soft_shutdown_timeout"] = 60 if gate_opens else 0.5
    worker = redis.worker("-c1")
    result = redis.send("late", "x")
    redis.wait_for("begun")
    worker.signal(signal.SIGQUIT)
    worker.wait_for_line("Initiating Soft Shutdown, terminating in")
    if gate_opens:
        redis.open()
    assert worker.wait() == 1
    if gate_opens:
        assert result.get(timeout=10) == "x"
    assert redis.broker.depth("celery") == (0 if gate_opens else 1)


def test_soft_can_be_cut_short(redis: Stage) -> None:
    redis.settings["worker_soft_shutdown_timeout"] = 60
    worker = redis.worker("-c1")
    redis.send("late", "x")
    redis.wait_for("begun")
    worker.signal(signal.SIGQUIT)
    worker.wait_for_line("Initiating Soft Shutdown")
    worker.signal(signal.SIGQUIT)
    assert worker.wait() == 1
    assert redis.broker.depth("celery") == 1


def test_remapped_sigterm_is_cold(redis: Stage) -> None:
    worker = redis.worker("-c1", env={"REMAP_SIGTERM": "SIGQUIT"})
    worker.signal(signal.SIGTERM)
    worker.wait_for_line("Cold shutdown")
    assert worker.wait() == 1


def test_ctrl_c_is_warm_and_says_so_in_the_exit_status(redis: Stage) -> None:
    worker = redis.worker("-c1")
    result = redis.send("hold", "x")
    redis.wait_for("begun")
    worker.signal(signal.SIGINT)
    worker.wait_for_line("Warm shutdown")
    redis.open()
    assert worker.wait() == 1  # as Celery's
    assert result.get(timeout=10) == "x"


def test_hangup_starts_it_anew(redis: Stage) -> None:
    worker = redis.worker("-c1")
    before, pid = worker.line_count, worker.pid
    worker.signal(signal.SIGHUP)
    worker.wait_for_line(r"Restarting worker \(", since=before)
    worker.wait_for_line(r"ready\.", since=before)
    assert worker.pid == pid
    assert redis.send("nothing", 1).get(timeout=10) == 1
    assert worker.terminate() == 0


def test_usr1_shows_what_every_thread_does(redis: Stage) -> None:
    worker = redis.worker("-c1")
    worker.signal(signal.SIGUSR1)
    worker.wait_for_line("Thread MainThread")
    worker.wait_for_line("log_stacks")
    assert worker.alive


def test_purge_deletes_what_waits(stage: Stage) -> None:
    for mark in range(7):
        stage.send("note", mark)
    worker = stage.worker("-c1", "--purge")
    worker.wait_for_line(r"purge: Erased 7 messages from the queue\.")
    assert stage.send("nothing", 1).get(timeout=10) == 1
    assert stage.lines("note") == []


@pytest.fixture
def fragile(tmp_path: Path) -> Iterator[tuple[Stage, RedisServer]]:
    """A stage whose server the test may kill."""
    with RedisServer(aof="always") as server, redis_stage(tmp_path, server, worker_lease_duration=3) as stage:
        yield stage, server


@pytest.mark.parametrize("how", ["kill9", "freeze"])
def test_it_ends_though_the_broker_is_away(fragile: tuple[Stage, RedisServer], how: str) -> None:
    stage, server = fragile
    worker = stage.worker("-c1")
    stage.send("late", "x")
    stage.wait_for("begun")
    getattr(server, how)()
    worker.signal(signal.SIGTERM)
    worker.wait_for_line("Warm shutdown")
    stage.open()
    stage.wait_for("ended")
    worker.wait(timeout=40)
    if how == "freeze":
        server.thaw()


def test_it_can_be_stopped_while_it_waits_for_the_broker(tmp_path: Path) -> None:
    with Stage(tmp_path, "redis://127.0.0.1:1/0") as stage:
        worker = stage.worker("-c1", ready=False)
        worker.wait_for_line("Cannot connect to redis://127.0.0.1:1/0")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0


def test_a_broker_that_is_not_to_be_waited_for_ends_it_with_one_line(tmp_path: Path) -> None:
    with Stage(tmp_path, "redis://127.0.0.1:1/0", broker_connection_retry_on_startup=False) as stage:
        worker = stage.worker("-c1", ready=False)
        assert worker.wait() == 1
        assert "broker_connection_retry_on_startup=False" in worker.output
        assert "Traceback" not in worker.output


def test_no_process_outlives_a_killed_supervisor(redis: Stage) -> None:
    worker = redis.worker("-c2")
    redis.send("late", "x")
    redis.wait_for("begun")
    children = worker.children()
    assert len(children) >= 2
    worker.kill9(whole_tree=False)
    wait_until(
        lambda: not any(_runs(pid) for pid in children), timeout=10, what="the end of the pool processes"
    )


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
