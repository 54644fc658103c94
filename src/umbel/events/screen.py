"""``umbel events``: the fleet on a terminal: its workers and its latest tasks, as events tell. Keys are Celery's."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from umbel.core import states
from umbel.events.receiver import Receiver
from umbel.events.state import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rich.console import RenderableType

    from umbel.events.members import Task
    from umbel.events.receiver import WatchableApp

__all__ = ["Screen", "evtop"]

#: Seconds between two pictures.
_PERIOD: Final = 1.0
_COLOURS: Final = {
    "SUCCESS": "green",
    "FAILURE": "red",
    "REVOKED": "magenta",
    "STARTED": "yellow",
    "RETRY": "yellow",
}
_HELP: Final = "j:down k:up i:info t:traceback r:result c:revoke l:rate limit q:quit"
_PAGE_HELP: Final = "j:down k:up, any other key: back"
#: Lines beside the rows of both tables: their heads, what is chosen, the help.
_FRAME: Final = 8
#: What terminals send for keys that are no character.
_SEQUENCES: Final = {"A": "up", "B": "down"}
_KEYS: Final = {"\r": "enter", "\n": "enter", "\x7f": "backspace", "\b": "backspace", "\x1b": "escape"}
_KEY: Final = re.compile(r"\x1b[\[O][0-9;]*([A-Za-z~])|.", re.DOTALL)
#: Control characters, which a terminal would obey: tasks choose what their tracebacks say.
_CONTROLS: Final = {code: "·" for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in {0x0A, 0x09}}


class Screen:
    """What is shown: a picture of the state, and what a key does."""

    def __init__(self, app: WatchableApp, state: State) -> None:
        self._app = app
        self._state = state
        self._chosen: str | None = None
        self._first = 0  # of the tasks that are shown
        self._page: tuple[str, list[str]] | None = None
        self._page_first = 0
        self._typed: str | None = None  # a rate limit, while one is asked for
        self.quit = False

    def picture(self, height: int = 24) -> RenderableType:
        """The whole screen, as high as the terminal."""
        if self._page is not None:
            return self._page_picture(height, *self._page)
        room = max(4, height - _FRAME)
        workers = self._workers(room // 2)
        tasks = self._tasks(room - workers.row_count)
        return Group(workers, tasks, self._selected(), self._last_line())

    def _page_picture(self, height: int, title: str, lines: list[str]) -> RenderableType:
        room = max(1, height - 3)
        self._page_first = max(0, min(self._page_first, len(lines) - room))
        shown = lines[self._page_first : self._page_first + room]
        body = [_line(line) for line in shown] + [Text()] * (room - len(shown))
        return Group(_line(title, "bold underline"), Text(), *body, _line(_PAGE_HELP, "dim"))

    def _workers(self, room: int) -> Table:
        state = self._state
        every = sorted(state.workers.values(), key=lambda each: (not each.alive, each.hostname or ""))
        alive = sum(worker.alive for worker in every)
        title = f"events: {state.event_count} tasks: {state.task_count} workers: {alive}/{len(every)}"
        table = _table(title, worker=-1, state=7, active=6, processed=9, load=16)
        shown = every if len(every) <= room else every[: room - 1]
        for worker in shown:
            load = " ".join(f"{each:.2f}" for each in worker.loadavg or ())
            cells = (worker.hostname, worker.status_string, worker.active, worker.processed, load)
            table.add_row(*map(_cell, cells), style=None if worker.alive else "dim")
        if len(shown) < len(every):
            table.add_row(_cell(f"… and {len(every) - len(shown)} more"), style="dim")
        return table

    def _tasks(self, room: int) -> Table:
        table = _table(None, task=-3, name=-2, worker=-2, time=8, state=8)
        tasks = self._newest()
        ids = [uuid for uuid, _ in tasks]
        if self._chosen not in self._state.tasks:
            self._chosen = ids[0] if ids else None
        at = ids.index(self._chosen) if self._chosen in ids else 0
        self._first = max(min(self._first, at, len(ids) - room), at - room + 1, 0)
        for uuid, task in tasks[self._first : self._first + room]:
            when = f"{datetime.fromtimestamp(task.timestamp, UTC):%H:%M:%S}" if task.timestamp else ""
            state = Text(task.state, style=_COLOURS.get(task.state, ""))
            worker = task.worker.hostname if task.worker is not None else ""
            style = "reverse" if uuid == self._chosen else None
            table.add_row(*map(_cell, (uuid, task.name, worker, when)), state, style=style)
        return table

    def _selected(self) -> Text:
        task = self._task()
        if task is None:
            return _line("No task selected", "dim")
        told = " ".join(f"{name}={value}" for name, value in task.info().items())
        return _line(f"Selected: {told}")

    def _last_line(self) -> Text:
        task = self._task()
        if self._typed is not None and task is not None:
            return _line(f"New rate limit for {task.name}: {self._typed}_", "bold")
        return _line(_HELP, "dim")

    def _newest(self) -> list[tuple[str, Task]]:
        return list(self._state.tasks_by_time())

    def _task(self) -> Task | None:
        return self._state.tasks.get(self._chosen or "")

    def press(self, key: str) -> None:
        """Do what a key stands for: a character, or ``up``, ``down``, ``enter``, ``escape``, ``backspace``."""
        if self._typed is not None:
            self._type(key)
            return
        key = key.lower()
        step = {"j": 1, "down": 1, "k": -1, "up": -1}.get(key, 0)
        if self._page is not None:
            if step:
                self._page_first += step
            else:
                self._page = None
        elif step:
            self._choose(step)
        elif key == "q":
            self.quit = True
        elif (task := self._task()) is not None:
            self._act(key, task)

    def _choose(self, step: int) -> None:
        ids = [uuid for uuid, _ in self._state.freeze_while(self._newest)]
        if ids:
            at = ids.index(self._chosen) + step if self._chosen in ids else 0
            self._chosen = ids[max(0, min(len(ids) - 1, at))]

    def _act(self, key: str, task: Task) -> None:
        match key:
            case "i" | "enter":
                told = task.info(extra=["state"])
                self._show("Task details for", task, [f"{name}: {value}" for name, value in told.items()])
            case "t" if task.state in states.EXCEPTION_STATES:
                self._show("Task exception traceback for", task, [task.traceback or "no traceback"])
            case "r":
                self._show("Task result for", task, [task.result or task.exception or "no result"])
            case "c":
                self._answers(self._app.control.revoke(task.uuid, reply=True))
            case "l" if task.name:
                self._typed = ""

    def _type(self, key: str) -> None:
        typed, task = self._typed or "", self._task()
        match key:
            case "enter":
                self._typed = None
                if typed.strip() and task is not None:
                    self._answers(self._app.control.rate_limit(task.name, typed.strip(), reply=True))
            case "escape":
                self._typed = None
            case "backspace":
                self._typed = typed[:-1]
            case _ if len(key) == 1 and key.isprintable():
                self._typed = typed + key

    def _show(self, title: str, task: Task, texts: Iterable[str]) -> None:
        self._turn_to(f"{title} {task.uuid}", texts)

    def _answers(self, replies: list[dict[str, Any]] | None) -> None:
        told = [
            f"{node}: {answer.get('error', answer.get('ok', answer))}"
            for reply in replies or ()
            for node, answer in reply.items()
        ]
        self._turn_to("Remote control command replies", told or ["No replies received in 1s deadline."])

    def _turn_to(self, title: str, texts: Iterable[str]) -> None:
        lines = [line for text in texts for line in str(text).split("\n")]
        self._page, self._page_first = (title, lines), 0


def _table(title: str | None, **columns: int) -> Table:
    """An empty table; a column is as wide as is said, or, below 0, has so many parts of what is left."""
    table = Table(expand=True, title=title, box=SIMPLE_HEAD, show_edge=False)
    for name, width in columns.items():
        fixed, parts = (width, None) if width > 0 else (None, -width)
        table.add_column(name, no_wrap=True, overflow="ellipsis", width=fixed, ratio=parts)
    return table


def _cell(value: object) -> Text:
    return _line("" if value is None else str(value))


def _line(text: str, style: str = "") -> Text:
    shown = text.replace("\n", " ").expandtabs(4).translate(_CONTROLS)
    return Text(shown, style, no_wrap=True, overflow="ellipsis")


def evtop(app: WatchableApp) -> None:
    """Show the fleet until ``q`` is pressed, or until interrupted."""
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
    shown = Live(console=console, screen=True, auto_refresh=False)
    with contextlib.suppress(KeyboardInterrupt), _keys() as keys, shown:
        while not screen.quit and not failures:
            shown.update(state.freeze_while(screen.picture, console.height), refresh=True)
            for key in keys(_PERIOD):
                screen.press(key)
    if failures:
        raise failures[0]


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], list[str]]]:
    """Give a function that waits for keys so many seconds at the most. Without a terminal none ever come."""
    if not sys.stdin.isatty():
        yield _no_keys
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def wait(timeout: float) -> list[str]:
        ready, _, _ = select.select([descriptor], [], [], timeout)
        if not ready:
            return []
        # Nothing to read is the terminal's end.
        return read_keys(os.read(descriptor, 1024).decode(errors="replace")) or ["q"]

    try:
        tty.setcbreak(descriptor)
        yield wait
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _no_keys(timeout: float) -> list[str]:
    time.sleep(timeout)
    return []


def read_keys(text: str) -> list[str]:
    """The keys that were pressed, from what a terminal sends."""
    return [
        _SEQUENCES.get(match[1], "other") if match[1] else _KEYS.get(match[0], match[0])
        for match in _KEY.finditer(text)
    ]
