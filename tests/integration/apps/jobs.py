"""The application of the worker tests. What a task does it writes to a journal; what it waits for is a file.

Environment: ``BROKER`` and ``BACKEND`` (URLs), ``STAGE`` (a directory), ``SETTINGS`` (JSON), ``REVOKED`` (ids),
``CLOCK`` (a file with the seconds by which the time of day is off).
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from umbel import Umbel, signals
from umbel.errors import Ignore, Reject, SoftTimeLimitExceeded
from umbel.logs import get_task_logger

STAGE = Path(os.environ["STAGE"])

app = Umbel("jobs", broker=os.environ["BROKER"], backend=os.environ["BACKEND"])
app.conf.update(json.loads(os.environ.get("SETTINGS", "{}")))
logger = get_task_logger("jobs")
if "ROOT_LOG" in os.environ:
    logging.basicConfig(filename=STAGE / "root.log")


def _shift_clock(file: Path) -> None:
    """Have the time of day be as many seconds off as the file says; other clocks go on, as when a real one is set.

    libfaketime does this for whole programs, but breaks ``time.sleep`` while it does.
    """
    machine = time.time
    time.time = lambda: machine() + float(file.read_text())


if "CLOCK" in os.environ:
    _shift_clock(Path(os.environ["CLOCK"]))


def write(*words: object) -> None:
    """Add a line to the journal: one write, so that lines of several processes do not mix."""
    with open(STAGE / "journal", "ab", buffering=0) as file:
        file.write((" ".join(str(word) for word in words) + "\n").encode())


def await_gate(name: str) -> None:
    """Wait until a test opens a gate: makes a file of this name."""
    while not (STAGE / name).exists():
        time.sleep(0.005)


@app.task(bind=True)
def note(self: Any, mark: object) -> object:
    write("note", mark)
    return mark


@app.task
def chime(mark: object) -> None:
    """Say when it is, by a clock that no test shifts."""
    write("chime", mark, time.monotonic())


@app.task(bind=True, acks_late=True)
def twice(self: Any, mark: object, countdown: float) -> None:
    """Send what is due after a time, and come again after that time."""
    if self.request.retries:
        write("again", mark, time.monotonic())
        return
    write("once", mark, time.monotonic())
    chime.apply_async((mark,), countdown=countdown)
    raise self.retry(countdown=countdown)


@app.task
def nothing(mark: object) -> object:
    return mark


@app.task
async def async_nothing(mark: object) -> object:
    await asyncio.sleep(0.01)
    return mark


@app.task(bind=True)
def hold(self: Any, mark: object, gate: str = "gate") -> object:
    write("begun", mark, os.getpid(), self.request.delivery_info["redelivered"])
    await_gate(gate)
    write("ended", mark)
    return mark


@app.task(bind=True, acks_late=True)
def late(self: Any, mark: object, gate: str = "gate") -> object:
    write("begun", mark, os.getpid(), self.request.delivery_info["redelivered"])
    await_gate(gate)
    write("ended", mark)
    return mark


@app.task(bind=True)
def usually_brief(self: Any, mark: object, gate: str = "") -> object:
    write("begun", mark)
    if gate:
        await_gate(gate)
    return mark


def _die(how: str) -> None:
    if how == "SEGV":
        ctypes.string_at(0)
    elif how == "KILL":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "EXIT":
        os._exit(3)
    elif how == "SYSTEMEXIT":
        sys.exit(4)
    elif how == "MEMORY":
        raise MemoryError("no more")


@app.task(bind=True)
def die(self: Any, mark: object, how: str) -> None:
    write("dies", mark, self.request.delivery_info["redelivered"])
    _die(how)


@app.task(bind=True, acks_late=True)
def die_late(self: Any, mark: object, how: str) -> None:
    write("dies", mark, self.request.delivery_info["redelivered"])
    _die(how)


@app.task(bind=True, acks_late=True, acks_on_failure_or_timeout=False)
def die_refused(self: Any, mark: object, how: str) -> None:
    write("dies", mark, self.request.delivery_info["redelivered"])
    _die(how)


@app.task(bind=True, acks_late=True, reject_on_worker_lost=True)
def die_once(self: Any, mark: object, how: str) -> str:
    redelivered = self.request.delivery_info["redelivered"]
    write("dies", mark, redelivered)
    if not redelivered:
        _die(how)
    return "survived"


@app.task(bind=True, retry_on_worker_lost=True, default_retry_delay=0.2, max_retries=1)
def die_then_retry(self: Any, mark: object, how: str, times: int) -> str:
    write("dies", mark, self.request.retries)
    if self.request.retries < times:
        _die(how)
    return "survived"


class SelfishHandler(app.Task):  # type: ignore[misc, name-defined]
    def on_failure(self, *_: object) -> None:
        write("on_failure")
        sys.exit(1)


@app.task(base=SelfishHandler)
def die_with_handler(how: str) -> None:
    _die(how)


class StuckHandler(app.Task):  # type: ignore[misc, name-defined]
    def on_failure(self, *_: object) -> None:
        write("stuck")
        await_gate("never")


@app.task(base=StuckHandler)
def die_with_stuck_handler(how: str) -> None:
    _die(how)


@app.task
def fail(text: str) -> None:
    raise ValueError(text)


@app.task(acks_late=True, acks_on_failure=False)
def fail_refused(text: str) -> None:
    raise ValueError(text)


@app.task(acks_late=True)
def refuse(requeue: bool) -> None:
    raise Reject("not this one", requeue=requeue)


@app.task(bind=True, acks_late=True)
def refuse_once(self: Any) -> str:
    if not self.request.delivery_info["redelivered"]:
        raise Reject("later", requeue=True)
    return "second time"


@app.task
def ignore() -> None:
    raise Ignore


@app.task(bind=True, max_retries=3)
def retry(self: Any, times: int, mark: str, countdown: float = 0.1) -> int:
    write("attempt", mark, self.request.retries, time.time())
    if self.request.retries < times:
        raise self.retry(countdown=countdown, exc=ValueError("not yet"))
    return int(self.request.retries)


@app.task(bind=True, autoretry_for=(KeyError,), retry_backoff=0.2, retry_jitter=False, max_retries=3)
def back_off(self: Any, mark: str) -> int:
    write("attempt", mark, self.request.retries, time.time())
    if self.request.retries < 2:
        raise KeyError("not yet")
    return int(self.request.retries)


@app.task
def spin(seconds: float) -> str:
    """Works in Python for so long, interruptibly."""
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.01)
    except SoftTimeLimitExceeded:
        return "soft"
    return "whole"


@app.task(soft_time_limit=0.3)
def spin_soft(seconds: float) -> str:
    return str(spin.run(seconds))


@app.task(time_limit=0.5)
def spin_hard(seconds: float) -> str:
    return str(spin.run(seconds))


@app.task(bind=True, acks_late=True, time_limit=0.5, acks_on_timeout=False)
def spin_again(self: Any, seconds: float) -> str:
    redelivered = self.request.delivery_info["redelivered"]
    write("spin", redelivered)
    return "again" if redelivered else str(spin.run(seconds))


@app.task(rate_limit="10/s")
def paced(mark: object) -> None:
    write("paced", mark, time.time())


@app.task
def pid() -> int:
    return os.getpid()


def _sabotage(part: str) -> None:
    """Make a part of the worker fail: what such a failure would be is not known, what follows from it is."""
    # Only here: pool processes of ordinary tests need none of it.
    from umbel.worker.completion import Completion
    from umbel.worker.leases import Leases
    from umbel.worker.settlement import Settlement

    async def fail_later(self: Any) -> None:
        await asyncio.to_thread(await_gate, "sabotage")
        raise RuntimeError("sabotage")

    def fail_now(self: Any, reports: Any) -> None:
        if reports:
            raise RuntimeError("sabotage")

    match part:
        case "leases":
            Leases.run = fail_later  # type: ignore[method-assign]
        case "settlement":
            Settlement.run = fail_later  # type: ignore[method-assign]
        case "settle":
            from umbel.worker.link import BrokerLink

            settle = BrokerLink.settle

            async def die_before(self: Any, batch: Any) -> Any:
                if any(disposition.tag for disposition in batch):
                    os.kill(os.getpid(), signal.SIGKILL)
                return await settle(self, batch)

            BrokerLink.settle = die_before  # type: ignore[method-assign]
        case "fetch":
            from umbel.brokers.redis.consumer import RedisConsumer

            fetch = RedisConsumer.fetch

            async def hang_once(self: Any, *args: Any) -> Any:
                RedisConsumer.fetch = fetch  # type: ignore[method-assign]
                await asyncio.Event().wait()

            RedisConsumer.fetch = hang_once  # type: ignore[method-assign]
        case "every fetch":
            from umbel.brokers.redis.consumer import RedisConsumer

            fetch_at_last = RedisConsumer.fetch

            async def hang(self: Any, *args: Any) -> Any:
                await asyncio.to_thread(await_gate, "sabotage")
                return await fetch_at_last(self, *args)

            RedisConsumer.fetch = hang  # type: ignore[method-assign]
        case "reports":
            Completion.on_reports = fail_now  # type: ignore[method-assign]


if "SABOTAGE" in os.environ:
    _sabotage(os.environ["SABOTAGE"])

_kept: list[bytes] = []


@app.task
def swell(megabytes: int) -> int:
    _kept.append(b"x" * (megabytes << 20))
    return os.getpid()


@app.task(bind=True)
def talk(self: Any) -> None:
    logger.info("said by the task")
    logging.warning("said to the root logger")  # noqa: LOG015 - that is the point
    print("printed by the task")


@app.task
def threads() -> str:
    return threading.current_thread().name


def _on(name: str, signal_: Any) -> None:
    def receiver(sender: object = None, **arguments: Any) -> None:
        request = arguments.get("request")
        words = [name, type(sender).__name__ if not isinstance(sender, str) else sender]
        if request is not None:
            words += [request.name, request.id, request.hostname, request.delivery_info["routing_key"]]
        if name == "celeryd_init" and str(sender).startswith("fair@"):
            arguments["conf"].worker_prefetch_multiplier = 1
        if name == "task_received" and request.name == "jobs.note":
            words += [len(request.errbacks or ())]
        if name == "task_revoked":
            words += [arguments["terminated"], arguments["signum"], arguments["expired"]]
        if name == "worker_shutting_down":
            words += [arguments["sig"], arguments["how"], arguments["exitcode"]]
        if name == "worker_init":
            sender.revoked.update(os.environ.get("REVOKED", "").split())  # type: ignore[union-attr]
        write("signal", *words)

    signal_.connect(receiver, weak=False)


for _name in (
    "worker_init",
    "worker_ready",
    "worker_process_init",
    "worker_shutting_down",
    "worker_shutdown",
    "task_received",
    "task_revoked",
    "task_rejected",
    "task_unknown",
    "celeryd_init",
    "celeryd_after_setup",
):
    _on(_name, getattr(signals, _name))


@app.task(bind=True, acks_late=True, quarantine_after=2)
def suspect(self: Any, mark: object) -> None:
    """Runs until its worker is gone."""
    write("begun", mark, self.request.delivery_info["redelivered"])
    await_gate("never")


@app.task(acks_late=True, reject_on_worker_lost=True)
def die_always(mark: object, how: str) -> None:
    write("dies", mark)
    _die(how)


@app.task(acks_late=True, reject_on_worker_lost=True)
def steady(mark: object, seconds: float) -> object:
    write("steady", mark)
    time.sleep(seconds)
    return mark


@app.task(acks_late=True, reject_on_worker_lost=True)
def die_after(mark: object, seconds: float) -> None:
    write("dies", mark)
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(dead_letter_failed=True)
def fail_kept(text: str) -> None:
    raise ValueError(text)


@app.task(dead_letter_expired=True)
def note_kept(mark: object) -> None:
    write("note", mark)
