"""How fast tasks are sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.report import Figure
from scripts.environments import say

if TYPE_CHECKING:
    from benchmarks.options import Options
    from benchmarks.rig import Rig

_FIRST_GUESS = 500
_MOST = 400_000


class Enqueue:
    """One process sends tasks one at a time, then in bulk where the system has a way to; no worker runs.

    A task counts as sent when the call that sends it has returned.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._tasks: dict[tuple[str, bool], int] = {}

    def calibrate(self, rig: Rig) -> None:
        """Find out how many tasks a run takes."""
        for bulk in self._ways(rig):
            tasks = self._options.tasks
            if not tasks:
                speed = self._send(rig, bulk, _FIRST_GUESS * (40 if bulk else 1))[0].value
                tasks = min(_MOST, max(1000, int(speed * self._options.seconds)))
            self._tasks[rig.system.name, bulk] = tasks
            say(f"{rig.system.name}: {tasks} tasks a run {'in bulk' if bulk else 'one by one'}")

    def measure(self, rig: Rig) -> list[Figure]:
        """One run of each way."""
        return [
            figure
            for bulk in self._ways(rig)
            for figure in self._send(rig, bulk, self._tasks[rig.system.name, bulk])
        ]

    @staticmethod
    def _ways(rig: Rig) -> list[bool]:
        return [False, True] if rig.abilities["send_bulk"] else [False]

    @staticmethod
    def _send(rig: Rig, bulk: bool, tasks: int) -> list[Figure]:
        rig.prepare(tasks)
        server_cpu = rig.store.cpu_seconds()
        sent = rig.drive("send", tasks=tasks, bulk=bulk)
        server_cpu = rig.store.cpu_seconds() - server_cpu
        way = "in bulk" if bulk else "one by one"
        return [
            Figure(f"sending {way}", "messages/s", sent["sent"] / sent["seconds"]),
            Figure(f"sender CPU {way}", "us/message", sent["cpu"] / sent["sent"] * 1e6),
            *([Figure(f"server CPU {way}", "us/message", server_cpu / tasks * 1e6)] if server_cpu else []),
        ]
