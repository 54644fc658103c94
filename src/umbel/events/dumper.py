"""``umbel events --dump``: every event as a line."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any

from umbel.events.receiver import Receiver

if TYPE_CHECKING:
    from umbel.events.receiver import WatchableApp

__all__ = ["Dumper", "evdump"]

_WORDS = {
    "worker-online": "started",
    "worker-offline": "shutdown",
    "worker-heartbeat": "heartbeat",
}


class Dumper:
    """Writes events as lines, a task's with the name that an earlier event gave it."""

    def __init__(self, out: IO[str] | None = None, most_names: int = 10_000) -> None:
        self.out = out or sys.stdout
        self._names: dict[str, str] = {}
        self._most_names = most_names

    def say(self, line: str) -> None:
        """Write a line at once."""
        print(line, file=self.out, flush=True)

    def on_event(self, event: dict[str, Any]) -> None:
        """Write an event."""
        told = dict(event)
        at = datetime.fromtimestamp(told.pop("timestamp"), UTC)
        type_, hostname = told.pop("type").lower(), told.pop("hostname")
        if not type_.startswith("task-"):
            said = {"worker-elect", "worker-elect-ack"}
            fields = f" {_fields(told)}" if type_ in said or type_ not in _WORDS else ""
            self.say(f"{hostname} [{at}] {_WORDS.get(type_, type_)}{fields}")
            return
        uuid = told.pop("uuid")
        if type_ in {"task-received", "task-sent"}:
            name = f"{told.pop('name')}({uuid}) args={told.pop('args', '')} kwargs={told.pop('kwargs', '')}"
            self._names[uuid] = name
            if len(self._names) > self._most_names:
                del self._names[next(iter(self._names))]
        else:
            name = self._names.get(uuid, "")
        self.say(f"{hostname} [{at}] {type_.replace('-', ' ')}: {name or uuid} {_fields(told)}")


def _fields(told: dict[str, Any]) -> str:
    return ", ".join(f"{name}={told[name]}" for name in sorted(told))


def evdump(app: WatchableApp, out: IO[str] | None = None) -> None:
    """Write the events of the fleet until interrupted."""
    dumper = Dumper(out)
    dumper.say("-> evdump: starting capture...")
    try:
        Receiver(app=app, handlers={"*": dumper.on_event}).capture()
    except (KeyboardInterrupt, SystemExit):
        return
