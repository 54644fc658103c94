"""A program that sends for ever, one by one and in bulk, and logs what was confirmed: ``producer.py RATE SEED``.

It ends its work when told to (SIGTERM): then everything that it says was confirmed is in the journal.
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
from tests.integration.faults.app import DIRECTORY, app
from tests.integration.faults.load import KINDS
from umbel.errors import OperationalError

#: Seconds between two portions, and of how many the last is sent in bulk.
_TICK = 0.02
_BULK_EVERY = 10


class Producer:
    """Sends marked tasks. A send that fails is not tried again here: nobody was told that it had succeeded."""

    def __init__(self, rate: float, seed: int) -> None:
        self.stopping = threading.Event()
        self._dice = random.Random(seed)
        self._marks = count(1)
        self._portion = max(1, round(rate * _TICK / 2))
        self._bulk = max(1, round(rate * _TICK * _BULK_EVERY / 2))
        self._weights = [kind.weight for kind in KINDS.values()]

    def run(self) -> None:
        """Send portions until told to stop."""
        at = time.monotonic()
        for number in count():
            if self.stopping.wait(max(0.0, at - time.monotonic())):
                break
            at = max(at + _TICK, time.monotonic() - 10 * _TICK)
            for _ in range(self._portion):
                self._send_one()
            if number % _BULK_EVERY == 0:
                self._send_many()
        journal.write(DIRECTORY, "idle")

    def _draw(self) -> str:
        return self._dice.choices(list(KINDS), self._weights)[0]

    def _send_one(self) -> None:
        mark, name = next(self._marks), self._draw()
        kind = KINDS[name]
        journal.write(DIRECTORY, f"tried {mark} {name}")
        try:
            task = app.tasks[kind.task]
            result = (
                task.delay(mark)
                if kind.countdown is None
                else task.apply_async((mark,), countdown=kind.countdown)
            )
        except OperationalError:
            return
        journal.write(DIRECTORY, f"confirmed {mark} {result.id}")

    def _send_many(self) -> None:
        name = self._draw()
        kind = KINDS[name]
        options: Any = {} if kind.countdown is None else {"countdown": kind.countdown}
        marks = [next(self._marks) for _ in range(self._bulk if "long" not in name else 3)]
        journal.write(DIRECTORY, *(f"tried {mark} {name}" for mark in marks))
        try:
            results = app.tasks[kind.task].delay_many([(mark,) for mark in marks], **options)
        except OperationalError:
            return
        pairs = zip(marks, results, strict=True)
        journal.write(DIRECTORY, *(f"confirmed {mark} {result.id}" for mark, result in pairs))


if __name__ == "__main__":
    producer = Producer(float(sys.argv[1]), int(sys.argv[2]))
    signal.signal(signal.SIGTERM, lambda *_: producer.stopping.set())
    producer.run()
    app.close()
