"""The program that sends until told to stop (SIGTERM): ``producer NUMBER RATE ROLE SEED PATIENCE``.

The role ``sender`` sends so many pieces of work a second; ``waiter`` waits for the result of each, so many seconds at
the most, before the next one.
What was confirmed is in the journal before anything else is sent. A send that fails is not tried again here: nobody was
told that it had succeeded.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from itertools import count
from typing import Any

from chaos import journal
from chaos.app import DIRECTORY, app, library, step, total, work
from chaos.workload import KINDS, MARKS, expected

_TICK = 0.02  #: seconds between two portions
_PAUSE = 0.2  #: seconds between two attempts to ask for one


class Producer:
    """Sends marked work."""

    def __init__(self, number: int, rate: float, seed: int) -> None:
        self.stopping = threading.Event()
        self._dice = random.Random(seed + number)
        self._mark = number * MARKS
        self._rate = rate
        self._weights = [kind.weight for kind in KINDS.values()]

    def send_on(self) -> None:
        """Send portions until told to stop."""
        began = time.monotonic()
        sent = 0
        for number in count():
            if self.stopping.wait(max(0.0, began + number * _TICK - time.monotonic())):
                return
            # Who was stopped or kept waiting does not make up for all of it.
            due = self._rate * (time.monotonic() - began)
            sent = max(sent, int(due - self._rate))
            while sent < due and not self.stopping.is_set():
                self.send_one()
                sent += 1

    def wait_on(self, patience: float) -> None:
        """Send one, wait for its result, and so on until told to stop."""
        while not self.stopping.wait(1 / self._rate):
            sent = self.send_one(wait=True)
            if sent is not None:
                mark, kind, result = sent
                journal.write(DIRECTORY, f"awaited {mark} {_await(kind, mark, result, patience)}")

    def send_one(self, *, wait: bool = False) -> tuple[int, str, Any] | None:
        """Send one piece of work; None where that failed."""
        [kind] = self._dice.choices(list(KINDS), self._weights)
        mark = self._mark
        self._mark += KINDS[kind].members
        journal.write(DIRECTORY, f"tried {mark} {kind}")
        try:
            result = _send(kind, mark)
        except Exception:  # each library and each transport has errors of its own, and all mean the same here
            journal.write(DIRECTORY, "counted refused")
            return None
        journal.confirmed(DIRECTORY, mark, result.id)
        if wait:
            journal.write(DIRECTORY, f"waits {mark}")
        return mark, kind, result


def _send(name: str, mark: int) -> Any:
    kind = KINDS[name]
    match name:
        case "chain":
            first, *others = (mark + number for number in range(kind.members))
            return library.chain(step.s(0, first), *(step.s(other) for other in others)).apply_async()
        case "chord":
            parts = [work.s(mark + number) for number in range(kind.members - 1)]
            return library.chord(parts)(total.s(mark + len(parts)))
        case _:
            options = {"countdown": kind.countdown} if kind.countdown else {}
            return work.apply_async((mark, kind.seconds, kind.attempts - 1), **options)


def _await(kind: str, mark: int, result: Any, patience: float) -> str:
    """What became of it: "right", "wrong …" or "never"."""
    deadline = time.monotonic() + patience
    story = "never"
    while (left := deadline - time.monotonic()) > 0:
        try:
            value = result.get(timeout=left, interval=0.1)
        except Exception as error:  # the way to the backend may be cut; a failed task is told by the checker
            story = f"never {type(error).__name__}"
            time.sleep(_PAUSE)
            if result_failed(result):
                return f"wrong {type(error).__name__}"
            continue
        return "right" if value == expected(kind, mark) else f"wrong {value!r}"
    return story


def result_failed(result: Any) -> bool:
    """Whether the task itself has failed; False while nobody can say."""
    try:
        return bool(result.failed())
    except Exception:
        return False


def main(number: str, rate: str, role: str, seed: str, patience: str) -> None:
    """Run until told to stop."""
    app.conf.task_publish_retry = False
    producer = Producer(int(number), float(rate), int(seed))
    signal.signal(signal.SIGTERM, lambda *_: producer.stopping.set())
    if role == "waiter":
        producer.wait_on(float(patience))
    else:
        producer.send_on()
    journal.write(DIRECTORY, "idle")


if __name__ == "__main__":
    main(*sys.argv[1:])
