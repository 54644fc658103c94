"""How far a call has to go to become a message: a budget, so that the path stays one that can be read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import umbel
from tests.unit.app_support import make_app
from umbel.client.client import Client

_HOME = str(Path(umbel.__file__).parent)


class _Hops:
    """Counts the calls of our own functions, from the program to the publisher."""

    def __init__(self) -> None:
        self.calls = 0
        self.functions: set[tuple[str, str]] = set()
        self.files: set[str] = set()
        self.depth = 0
        self._depth = 0

    def arrive(self, publications, *, timeout):
        self.depth = self._depth

    def __call__(self, frame, event, argument):
        code = frame.f_code
        if not code.co_filename.startswith(_HOME):
            return
        if event == "call":
            self._depth += 1
            self.calls += 1
            self.functions.add((code.co_filename, code.co_qualname))
            self.files.add(code.co_filename)
        elif event == "return":
            self._depth -= 1


def _hops(client: Client, call) -> _Hops:
    hops = _Hops()
    # Where the path ends: what a broker and its client library do is their own.
    client._send = hops.arrive
    call()
    sys.setprofile(hops)
    try:
        call()
    finally:
        sys.setprofile(None)
    return hops


@pytest.mark.parametrize(
    ("way", "calls", "functions", "files"),
    [("plain", 60, 35, 12), ("options", 80, 55, 20)],
)
def test_enqueue(way, calls, functions, files):
    with make_app(backend="disabled://") as app:

        @app.task
        def add(x, y): ...

        ways = {
            "plain": lambda: add.delay(2, 2),
            "options": lambda: add.apply_async((2, 2), countdown=5, queue="other", priority=3),
        }
        hops = _hops(app.sender.client, ways[way])
    assert 0 < hops.calls <= calls
    assert len(hops.functions) <= functions
    assert len(hops.files) <= files
    assert 0 < hops.depth <= 6
