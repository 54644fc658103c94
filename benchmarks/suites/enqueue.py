"""How fast tasks are sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from benchmarks.report import Figure
from scripts.environments import say

if TYPE_CHECKING:
    from benchmarks.options import Options
    from benchmarks.rig import Rig

_FIRST_GUESS = 500
_MOST = 400_000


class _Way(NamedTuple):
    """How its figures are called, and how many times faster than one by one it may be."""

    told: str
    at_once: int


#: By the function of a system's file that sends so.
_WAYS = {
    "send": _Way("one by one", 1),
    "send_bulk": _Way("in bulk", 40),
    "send_by_threads": _Way("by 50 threads", 4),
    "send_by_coroutines": _Way("by 50 coroutines", 4),
}


class Enqueue:
    """One process sends tasks, in each way that its system has; no worker runs.

    One at a time, in bulk, and one at a time by many threads or coroutines at once. A task counts as sent when the
    call that sends it has returned.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._tasks: dict[tuple[str, str], int] = {}

    def calibrate(self, rig: Rig) -> None:
        """Find out how many tasks a run takes."""
        for way in self._ways(rig):
            tasks = self._options.tasks
            if not tasks:
                speed = self._send(rig, way, _FIRST_GUESS * _WAYS[way].at_once)[0].value
                tasks = min(_MOST, max(1000, int(speed * self._options.seconds)))
            self._tasks[rig.system.name, way] = tasks
            say(f"{rig.system.name}: {tasks} tasks a run {_WAYS[way].told}")

    def measure(self, rig: Rig) -> list[Figure]:
        """One run of each way."""
        return [
            figure
            for way in self._ways(rig)
            for figure in self._send(rig, way, self._tasks[rig.system.name, way])
        ]

    @staticmethod
    def _ways(rig: Rig) -> list[str]:
        return [way for way in _WAYS if way == "send" or rig.abilities[way]]

    @staticmethod
    def _send(rig: Rig, way: str, tasks: int) -> list[Figure]:
        rig.prepare(tasks)
        server_cpu = rig.store.cpu_seconds()
        sent = rig.drive("send", tasks=tasks, way=way)
        server_cpu = rig.store.cpu_seconds() - server_cpu
        told = _WAYS[way].told
        return [
            Figure(f"sending {told}", "messages/s", sent["sent"] / sent["seconds"]),
            Figure(f"sender CPU {told}", "us/message", sent["cpu"] / sent["sent"] * 1e6),
            *([Figure(f"server CPU {told}", "us/message", server_cpu / tasks * 1e6)] if server_cpu else []),
        ]
