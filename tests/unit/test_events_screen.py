"""The picture of the fleet, without a terminal: what tasks say is shown, and not obeyed."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from tests.unit.app_support import make_app
from umbel.events.screen import Screen, read_keys
from umbel.events.state import State


def heard(type_: str, number: int = 1, **fields: object) -> dict[str, object]:
    common = {
        "hostname": "w@here",
        "timestamp": float(number),
        "local_received": float(number),
        "clock": number,
    }
    return {"type": type_, "pid": 1, **common, **fields}


def shown(screen: Screen, height: int = 24) -> str:
    console = Console(file=StringIO(), width=100, height=height, force_terminal=False)
    with console.capture() as captured:
        console.print(screen.picture(height))
    return captured.get()


def test_what_a_task_says_is_no_order_to_the_terminal_and_no_markup() -> None:
    state = State()
    name = "[bold]name[/bold]"
    state.event(heard("task-received", 1, uuid="id", name=name, args="('\x1b[2J',)"))
    evil = "Traceback\n\x1b]0;title\x07\x1b[31m\r\x9b5A"
    state.event(heard("task-failed", 2, uuid="id", exception="E('[red]')", traceback=evil))
    with make_app() as app:
        screen = Screen(app, state)
        pages = [shown(screen)]
        for key in "itr":
            screen.press(key)
            pages.append(shown(screen))
            screen.press("x")
    assert all(character.isprintable() or character == "\n" for page in pages for character in page)
    assert name in pages[0]
    assert "·]0;title··[31m··5A" in pages[2]
    assert "E('[red]')" in pages[3]


def test_a_large_fleet_leaves_room_for_tasks() -> None:
    state = State()
    for number in range(2000):
        state.event(heard("worker-online", number, hostname=f"w{number}@here", freq=2.0))
    for number in range(100):
        state.event(heard("task-received", number, uuid=f"id-{number}", name="t", hostname="w1@here"))
    with make_app() as app:
        lines = shown(Screen(app, state)).splitlines()
    assert len(lines) <= 24
    assert sum("id-" in line for line in lines) >= 8
    assert any("more" in line for line in lines)


def test_keys_as_terminals_send_them() -> None:
    assert read_keys("jJ\x1b[A\x1bOB\r\n\x7f\x1b[5~\x1b") == [
        *("j", "J", "up", "down", "enter", "enter", "backspace", "other", "escape"),
    ]
