"""The application under fault: every task says in its journal when it began and when it ended.

Environment: ``BROKER`` and ``BACKEND`` (URLs; without the latter results go where messages do), ``JOURNAL``
(a directory), ``SETTINGS`` (JSON).
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from chaos import journal
from tests.integration.faults.load import answer
from umbel import Umbel, signals

DIRECTORY = Path(os.environ["JOURNAL"])

app = Umbel("faults", broker=os.environ["BROKER"], backend=os.environ.get("BACKEND", os.environ["BROKER"]))
app.conf.update(json.loads(os.environ.get("SETTINGS", "{}")))


@signals.worker_ready.connect
def _ready(sender: Any, **_: Any) -> None:
    journal.write(DIRECTORY, f"ready {sender.hostname}")


def _run(task: Any, mark: int, seconds: float = 0.0, failures: int = 0) -> int:
    request = task.request
    redelivered = bool(request.delivery_info.get("redelivered"))
    journal.began(DIRECTORY, mark, request.retries, request.hostname, redelivered)
    if seconds:
        time.sleep(seconds)
    journal.ended(DIRECTORY, mark, request.retries)
    if request.retries < failures:
        raise task.retry(countdown=0.05)
    return answer(mark)


def _define(name: str, **work: Any) -> None:
    def early(self: Any, mark: int) -> int:
        return _run(self, mark, **work)

    def late(self: Any, mark: int) -> int:
        return _run(self, mark, **work)

    app.task(bind=True, name=f"{name}_early")(early)
    app.task(bind=True, name=f"{name}_late", acks_late=True, reject_on_worker_lost=True)(late)


_define("noop")
_define("short", seconds=0.005)
_define("long", seconds=0.05)
_define("retry", failures=1)


@app.task(bind=True, name="wait", acks_late=True, reject_on_worker_lost=True)
def wait(self: Any, mark: int, seconds: float) -> int:
    """Take so many seconds."""
    return _run(self, mark, seconds)


@app.task(name="echo")
def echo(*args: Any) -> Any:
    """Give back what was sent."""
    return args[0] if args else None
