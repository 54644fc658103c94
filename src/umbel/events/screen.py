"""``umbel events``: the fleet on a terminal: its workers and its latest tasks, as events tell."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from umbel.events.receiver import Receiver
from umbel.events.state import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from umbel.events.receiver import WatchableApp

__all__ = ["Screen", "evtop"]

#: Seconds between two pictures.
_PERIOD = 1.0
_COLOURS = {
    "SUCCESS": "green",
    "FAILURE": "red",
    "REVOKED": "magenta",
    "STARTED": "yellow",
    "RETRY": "yellow",
}
_HELP = "j/k: choose   i: task   t: traceback   c: revoke   q: quit"


class Screen:
    """What is shown: a picture of the state, and what a key does."""

    def __init__(self, app: WatchableApp, state: State) -> None:
        self._app = app
        self._state = state
        self._chosen: str | None = None
        self._detail = ""
        self.quit = False

    def picture(self, height: int = 24) -> RenderableType:
        """The whole screen, as high as the terminal."""
        workers = self._workers()
        rows = max(3, height - workers.row_count - 9 - self._detail.count("\n"))
        return Group(workers, self._tasks(rows), Text(self._detail), Text(_HELP, style="dim"))

    def _workers(self) -> Table:
        table = Table("worker", "state", "active", "processed", "load", expand=True, title=str(self._state))
        for worker in sorted(self._state.workers.values(), key=lambda each: each.hostname or ""):
            load = " ".join(f"{each:.2f}" for each in worker.loadavg or ())
            style = None if worker.alive else "dim"
            table.add_row(
                str(worker.hostname),
                worker.status_string,
                _shown(worker.active),
                _shown(worker.processed),
                load,
                style=style,
            )
        return table

    def _tasks(self, rows: int) -> Table:
        table = Table("task", "name", "worker", "time", "state", expand=True)
        tasks = list(self._state.tasks_by_time(limit=rows))
        if self._chosen not in {uuid for uuid, _ in tasks}:
            self._chosen = tasks[0][0] if tasks else None
        for uuid, task in tasks:
            at = f"{datetime.fromtimestamp(task.timestamp, UTC):%H:%M:%S}" if task.timestamp else ""
            state = Text(task.state, style=_COLOURS.get(task.state, ""))
            worker = task.worker.hostname if task.worker is not None else ""
            style = "reverse" if uuid == self._chosen else None
            table.add_row(uuid, _shown(task.name), worker, at, state, style=style)
        return table

    def press(self, key: str) -> None:
        """Do what a key stands for."""
        match key:
            case "q":
                self.quit = True
            case "j" | "k":
                self._choose(1 if key == "j" else -1)
            case "i":
                self._show(lambda task: "\n".join(f"{name}: {value}" for name, value in task.info().items()))
            case "t":
                self._show(lambda task: str(task.traceback or "no traceback"))
            case "c":
                self._revoke()

    def _choose(self, step: int) -> None:
        ids = [uuid for uuid, _ in self._state.tasks_by_time()]
        if ids:
            at = ids.index(self._chosen) if self._chosen in ids else 0
            self._chosen = ids[max(0, min(len(ids) - 1, at + step))]
        self._detail = ""

    def _show(self, text: Any) -> None:
        task = self._state.tasks.get(self._chosen or "")
        self._detail = text(task) if task is not None else ""

    def _revoke(self) -> None:
        if self._chosen:
            self._app.control.revoke(self._chosen)
            self._detail = f"{self._chosen} is revoked"


def _shown(value: object) -> str:
    return "" if value is None else str(value)


def evtop(app: WatchableApp) -> None:
    """Show the fleet until ``q`` is pressed."""
    state = State()
    screen = Screen(app, state)
    receiver = Receiver(app=app, handlers={"*": state.event})
    failures: list[BaseException] = []

    def receive() -> None:
        try:
            receiver.capture()
        except BaseException as error:
            failures.append(error)

    threading.Thread(target=receive, name="umbel-events-state", daemon=True).start()
    console = Console()
    with _keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        while not screen.quit and not failures:
            live.update(state.freeze_while(screen.picture, console.height), refresh=True)
            ready, _, _ = select.select([keys] if keys is not None else [], [], [], _PERIOD)
            if ready:
                screen.press(os.read(sys.stdin.fileno(), 1).decode("latin-1").lower())
    if failures:
        raise failures[0]


@contextlib.contextmanager
def _keys() -> Iterator[int | None]:
    """Give each key as it is pressed; None where there is no terminal to read from."""
    if not sys.stdin.isatty():
        yield None
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
